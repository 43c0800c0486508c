"""Where the tasks are in a document, whatever its shape.

One idea instead of a list of shapes. A map with an id and something that tasks have is a task, wherever it
stands. A map without an id is one if it says what is to be done, and either stands in a place that is named
for tasks (`tasks`, `contracts`, `task_board` …, the elements of the document itself) or has a status or a
priority. Everything else is searched through, to a bounded depth; what is left over is named in a warning.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from nexus.boards import vocabulary as words
from nexus.boards.reading import Document
from nexus.boards.records import RawRecord, Source
from nexus.boards.times import shown
from nexus.states import TaskStatus

MARKER: Final = "nexus_board"
"""The member that marks an export of the nexus; its value is the version of the form."""

MAX_SEARCH_DEPTH: Final = 8

_PLACES: Final = frozenset({
    "tasks", "task_list", "task_board", "taskboard", "contracts", "components", "backlog", "directives",
    "delegations",
    "agent_assignments", "states", "task", "body",
})  # fmt: skip
"""Names of members whose elements are tasks."""

_ENDINGS: Final = ("_tasks", "_contracts", "_task")
_NESTED: Final = ("tasks", "subtasks", "sub_tasks")
"""Members of a task that may hold tasks of their own."""

_NEVER: Final = frozenset({
    "milestones", "objectives", "transitions", "history", "echo", "last_task", "properties", "themes",
    "examples",
    "closure_sequence",
})  # fmt: skip
"""Members that look like tasks and are not: plans, records of moves, echoes of a task in an answer."""

_FOREIGN: Final = frozenset({
    "$schema", "proposal_id", "template_id", "consolidated_contract_id", "goal_id", "idea_id", "phase_id",
    "meeting_id",
    "mission_id", "message_id", "breakdown_id", "task_list_id", "episode_id", "transition_id", "prompt_mode",
})  # fmt: skip
"""A map with one of these and no id of a task is something else."""

_SIGNS: Final = frozenset({
    "description", "task_description", "desc", "title", "contract_title", "name", "task", "objective",
    "directive", "intent",
    "summary", "todo", "action", "status", "state", "current_status", "priority", "prio", "task_type",
    "payload",
    "assigned_to", "assigned_agent", "assignee", "claimed_by", "completed_by", "file_path",
})  # fmt: skip
"""With an id, one of these makes a task."""

_WEAK_SIGNS: Final = frozenset({*words.FIELDS["status"], *words.FIELDS["priority"], *words.DEPENDENCIES})


@dataclass(slots=True)
class Stray:
    """An element of a list of tasks that is no task."""

    source: Source
    value: Any
    reason: str


@dataclass(slots=True)
class Found:
    """What one document holds."""

    records: list[RawRecord] = field(default_factory=list)
    strays: list[Stray] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    """Members that hold no task: the header of a board, a report."""


@dataclass(frozen=True, slots=True)
class _Context:
    """What a place says about the tasks in it."""

    listed_as: TaskStatus | None = None
    agent: str | None = None
    episode_id: str | None = None
    parent_id: str | None = None
    native: bool = False
    notes: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    """What an episode's milestones say about its tasks, by id."""


def find_records(document: Document, file: str, stem: str) -> Found:
    """The tasks of one document, in its order."""
    search = _Search(file)
    value = document.value
    context = _Context(listed_as=words.listed_as(stem))
    if document.line or not isinstance(value, dict):
        if isinstance(value, list) and not document.line:
            search.elements(value, document.location, context, named=True)
        else:
            search.element(
                value, document.location, context, native=isinstance(value, dict) and MARKER in value
            )
    elif MARKER in value:
        search.export(value, document.location)
    else:
        search.map(value, document.location, context, top=True)
    return search.found


def _filled(value: dict[str, Any], name: str) -> bool:
    return name in value and value[name] is not None and value[name] != ""


def id_member(value: dict[str, Any]) -> str | None:
    """The member under which a record gives itself an id."""
    for name in words.ID:
        given = value.get(name)
        if isinstance(given, str | int) and not isinstance(given, bool) and str(given).strip():
            return name
    return None


def own_id(value: dict[str, Any]) -> str | None:
    """The id that a record gives itself."""
    name = id_member(value)
    return None if name is None else str(value[name]).strip()


def _has_text(value: dict[str, Any]) -> bool:
    return any(isinstance(value.get(name), str) and value[name].strip() for name in words.TEXT)


def _is_place(name: str) -> bool:
    bare = words.fold(name.split(" (", 1)[0])
    return bare in _PLACES or bare.endswith(_ENDINGS) or bare.startswith("tasks_for_")


def _holds_a_place(value: dict[str, Any]) -> bool:
    return any(_is_place(name) and isinstance(inner, dict | list) for name, inner in value.items())


def is_task(value: Any, *, named: bool = False) -> bool:
    """Is this a task? `named`: it stands where tasks stand."""
    if not isinstance(value, dict) or "$schema" in value:
        return False
    if own_id(value) is not None:
        return any(name in value for name in _SIGNS) or (named and len(value) == 1)
    if named:
        return _has_text(value) or any(_filled(value, name) for name in ("task_type", "payload", "status"))
    if any(name in value for name in _FOREIGN) or _holds_a_place(value):
        return False
    return any(
        isinstance(value.get(name), str) for name in words.TEXT if name != "name" or "description" in value
    ) and any(name in value for name in _WEAK_SIGNS)


class _Search:
    def __init__(self, file: str) -> None:
        self.file = file
        self.found = Found()

    def _source(self, place: str) -> Source:
        return Source(file=self.file, location=place)

    def _take(self, value: dict[str, Any], place: str, context: _Context, key: str | None = None) -> None:
        """One task; tasks of its own, if it has any, become tasks beside it."""
        nested = [
            name for name in _NESTED
            if isinstance(value.get(name), list) and value[name] and all(is_task(part) and own_id(part) for part in value[name])
        ]  # fmt: skip
        own = {name: inner for name, inner in value.items() if name not in nested}
        note = context.notes.get(own_id(value) or key or "")
        if note is not None and not _has_text(own):
            own = {**{name: inner for name, inner in note.items() if name not in words.ID}, **own}
        self.found.records.append(
            RawRecord(
                value=own, source=self._source(place), key=key, listed_as=context.listed_as, agent=context.agent,
                episode_id=context.episode_id, parent_id=context.parent_id, native=context.native,
            )
        )  # fmt: skip
        below = _Context(episode_id=context.episode_id, parent_id=own_id(value))
        for name in nested:
            self.elements(value[name], f"{place}.{name}", below, named=True)

    def _stray(self, value: Any, place: str, reason: str) -> None:
        self.found.strays.append(Stray(self._source(place), value, reason))

    def element(self, value: Any, place: str, context: _Context, *, native: bool = False) -> None:
        """One element of a place where only tasks stand."""
        if not isinstance(value, dict):
            self._stray(
                value,
                place,
                f"is {shown(value)}, not a task; a task is an object with an id or a description",
            )
        elif native:
            self._take(
                {name: inner for name, inner in value.items() if name != MARKER}, place, _Context(native=True)
            )
        elif is_task(value, named=True) and not _is_container(value):
            self._take(value, place, context)
        else:
            before = len(self.found.records)
            self.map(value, place, context, top=False)
            if len(self.found.records) == before:
                self._stray(
                    value,
                    place,
                    "is no task: it has neither an id (task_id) nor a description nor a task_type",
                )

    def export(self, value: dict[str, Any], place: str) -> None:
        """A board that the nexus wrote."""
        prefix = f"{place}." if place else ""
        tasks = value.get("tasks", [])
        if not isinstance(tasks, list):
            self._stray(tasks, f"{prefix}tasks", f"is {shown(tasks)}, not a list of tasks")
            return
        for number, task in enumerate(tasks):
            self.element(task, f"{prefix}tasks[{number}]", _Context(), native=True)
        self.found.left += [name for name in value if name not in (MARKER, "tasks")]

    def elements(
        self, values: list[Any], place: str, context: _Context, *, named: bool, depth: int = 0
    ) -> None:
        """A list: of tasks, of things that hold tasks, or of neither."""
        tasks = [is_task(value, named=named) for value in values]
        plain = not any(isinstance(value, dict | list) for value in values)
        if named and plain and depth > 1:
            self.found.left.append(place)  # a list of ids or of sentences
            return
        for number, value in enumerate(values):
            here = f"{place}[{number}]"
            if named or tasks[number]:
                self.element(value, here, context)
            elif any(tasks):
                self._stray(value, here, "is no task, as others in its list are: it has no id and status")
            elif isinstance(value, dict) and depth < MAX_SEARCH_DEPTH:
                self.map(value, here, context, top=False, depth=depth + 1)
            elif isinstance(value, list) and depth < MAX_SEARCH_DEPTH:
                self.elements(value, here, context, named=False, depth=depth + 1)

    def map(self, value: dict[str, Any], place: str, context: _Context, *, top: bool, depth: int = 0) -> None:
        """A map that is a task, or holds some."""
        if "$schema" in value:
            self.found.left.append(place or "$schema")
            return
        if not _is_container(value) and is_task(value):
            self._take(value, place, context)
            return
        before = len(self.found.records), len(self.found.strays)
        inner = replace(
            context,
            agent=_agent_in(value) or context.agent,
            episode_id=_episode_in(value) or context.episode_id,
            notes=_milestones_in(value) or context.notes,
        )
        form = "proposal_id" in value or "template_id" in value
        if top and _is_map_by_id(value):
            self.members(value, place, inner, depth)
            return
        for name, part in value.items():
            here = f"{place}.{name}" if place else name
            known, left = (len(self.found.records), len(self.found.strays)), len(self.found.left)
            if name not in _NEVER and not form and depth < MAX_SEARCH_DEPTH:
                self._member(name, part, here, inner, top=top, depth=depth)
            if (len(self.found.records), len(self.found.strays)) == known:
                del self.found.left[left:]  # nothing in it: its name says enough
                if part or isinstance(part, bool | int):
                    self.found.left.append(here)
        if (
            top
            and before == (len(self.found.records), len(self.found.strays))
            and not _is_container(value)
            and is_task(value, named=False)
        ):
            self._take(value, place, context)

    def _member(self, name: str, part: Any, place: str, context: _Context, *, top: bool, depth: int) -> None:
        named = _is_place(name)
        status = words.listed_as(name.split(" (", 1)[0]) or context.listed_as
        agent = words.agent_of(name) if words.is_agent_name(name) else context.agent
        inner = replace(context, listed_as=status, agent=agent)
        if isinstance(part, list):
            self.elements(part, place, inner, named=named, depth=depth + 1)
        elif isinstance(part, dict):
            if is_task(
                part, named=name in ("task", "body") and own_id(part) is not None
            ) and not _is_container(part):
                self._take(part, place, inner, key=None if words.is_agent_name(name) else name)
            elif named and depth < MAX_SEARCH_DEPTH:
                self.members(part, place, inner, depth)
            else:
                self.map(part, place, inner, top=False, depth=depth + 1)
        elif top and name == "tasks" and part is not None:
            self._stray(part, place, f"is {shown(part)}, not a list or map of tasks")

    def members(self, value: dict[str, Any], place: str, context: _Context, depth: int) -> None:
        """A map by id, by agent or by group."""
        for name, part in value.items():
            here = f"{place}.{name}" if place else name
            if isinstance(part, dict) and is_task(part, named=True) and not _is_container(part):
                agent = words.agent_of(name) if words.is_agent_name(name) else context.agent
                key = None if words.is_agent_name(name) else name
                self._take(part, here, replace(context, agent=agent), key=key)
            elif isinstance(part, dict | list):
                self._member(name, part, here, context, top=False, depth=depth + 1)
            elif part is not None:
                self.found.left.append(here)


def _is_container(value: dict[str, Any]) -> bool:
    """Does this map, whatever else it says, hold a board? One with an id of its own is a task first."""
    if own_id(value) is not None:
        return False
    phases = value.get("phases")
    return any(
        _is_place(name)
        and isinstance(inner, dict | list)
        and (inner or name in _PLACES)
        and _holds_maps(inner)
        for name, inner in value.items()
    ) or (isinstance(phases, list) and any(_holds_a_place(part) for part in phases if isinstance(part, dict)))


def _holds_maps(value: dict[str, Any] | list[Any]) -> bool:
    parts = value.values() if isinstance(value, dict) else value
    return not value or any(isinstance(part, dict | list) for part in parts)


def _is_map_by_id(value: dict[str, Any]) -> bool:
    """Are all members tasks, under names that are neither agents nor places?"""
    return bool(value) and all(
        isinstance(part, dict) and is_task(part, named=True) and not _is_container(part) and not words.is_agent_name(name)
        and not _is_place(name) and not any(foreign in part for foreign in _FOREIGN) and name not in _NEVER
        for name, part in value.items()
    )  # fmt: skip


def _milestones_in(value: dict[str, Any]) -> dict[str, dict[str, Any]]:
    given = value.get("milestones")
    parts = given if isinstance(given, list) else []
    return {identity: part for part in parts if isinstance(part, dict) and (identity := own_id(part))}


def _agent_in(value: dict[str, Any]) -> str | None:
    for name in ("agent_id", "agent"):
        given = value.get(name)
        if isinstance(given, str):
            return words.agent_of(given)
    return None


def _episode_in(value: dict[str, Any]) -> str | None:
    for holder in (value, value.get("metadata"), value.get("episode_info"), value.get("episode")):
        if isinstance(holder, dict):
            for name in ("episode_id", "episode", "number"):
                given = holder.get(name)
                if (
                    isinstance(given, str | int)
                    and not isinstance(given, bool)
                    and (name != "number" or holder is not value)
                    and str(given).strip()
                ):
                    return str(given).strip()
    return None
