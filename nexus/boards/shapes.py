"""Where the tasks are in a document, whatever its shape.

A walk through maps and lists, to a bounded depth, that takes what `recognising` calls a task and remembers what the
place says about it. What is left over is named, so that nothing is passed over in silence.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from nexus.boards import vocabulary as words
from nexus.boards.reading import Document
from nexus.boards.recognising import (
    NEVER,
    agent_in,
    episode_in,
    has_text,
    is_container,
    is_map_by_id,
    is_place,
    is_task,
    milestones_in,
    own_id,
)
from nexus.boards.records import RawRecord, Source, check_rejects
from nexus.boards.times import one_line, shown
from nexus.states import TaskStatus

MARKER: Final = "nexus_board"
"""The member that marks an export of the nexus; its value is the version of the form."""


MAX_SEARCH_DEPTH: Final = 8
_NESTED: Final = ("tasks", "subtasks", "sub_tasks")
"""Members of a task that may hold tasks of their own."""


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
    if isinstance(value, dict) and MARKER in value:
        if document.line and "tasks" not in value:
            search.element(value, document.location, _Context(native=True), 0)
        else:
            search.export(value, document.location)
    elif isinstance(value, dict) and not document.line:
        search.map(value, document.location, context)
    elif isinstance(value, list) and not document.line:
        search.elements(value, document.location, context, named=True)
    else:
        search.element(value, document.location, context, 0)
    return search.found


class _Search:
    def __init__(self, file: str) -> None:
        self.file = file
        self.found = Found()

    def _source(self, place: str) -> Source:
        return Source(file=self.file, location=one_line(place))

    def _take(self, value: dict[str, Any], place: str, context: _Context, depth: int, key: str | None = None) -> None:
        """One task; tasks of its own, if it has any, become tasks beside it."""
        nested = [name for name in _NESTED if depth < MAX_SEARCH_DEPTH and _holds_only_tasks(value.get(name))]
        own = {name: inner for name, inner in value.items() if name not in nested}
        note = context.notes.get(own_id(value) or key or "")
        if note is not None and not has_text(own):
            own = {**{name: inner for name, inner in note.items() if name not in words.ID}, **own}
        self.found.records.append(
            RawRecord(
                value=own, source=self._source(place), key=key, listed_as=context.listed_as, agent=context.agent,
                episode_id=context.episode_id, parent_id=context.parent_id, native=context.native,
            )
        )  # fmt: skip
        below = _Context(episode_id=context.episode_id, parent_id=own_id(value))
        for name in nested:
            self.elements(value[name], f"{place}.{name}", below, named=True, depth=depth + 1)

    def _count(self) -> int:
        return len(self.found.records) + len(self.found.strays)

    def _stray(self, value: Any, place: str, reason: str) -> None:
        check_rejects(len(self.found.strays), self.file)
        self.found.strays.append(Stray(self._source(place), value, reason))

    def element(self, value: Any, place: str, context: _Context, depth: int) -> None:
        """One element of a place where only tasks stand."""
        if not isinstance(value, dict):
            self._stray(value, place, f"is {shown(value)}, not a task; a task is an object with an id or a description")
        elif context.native:
            self._take({name: inner for name, inner in value.items() if name != MARKER}, place, context, depth)
        elif is_task(value, named=True) and not is_container(value):
            self._take(value, place, context, depth)
        else:
            before = self._count()
            if depth < MAX_SEARCH_DEPTH:
                self.map(value, place, context, depth + 1)
            if self._count() == before:
                self._stray(
                    value, place, "is no task: it has neither an id (task_id) nor a description nor a task_type"
                )

    def export(self, value: dict[str, Any], place: str) -> None:
        """A board that the nexus wrote."""
        prefix = f"{place}." if place else ""
        tasks = value.get("tasks", [])
        if not isinstance(tasks, list):
            self._stray(tasks, f"{prefix}tasks", f"is {shown(tasks)}, not a list of tasks")
            return
        for number, task in enumerate(tasks):
            self.element(task, f"{prefix}tasks[{number}]", _Context(native=True), 0)
        self.found.left += [name for name in value if name not in (MARKER, "tasks")]

    def elements(self, values: list[Any], place: str, context: _Context, *, named: bool, depth: int = 0) -> None:
        """A list: of tasks, of things that hold tasks, or of neither."""
        tasks = [is_task(value, named=named) for value in values]
        some = any(tasks)
        plain = not any(isinstance(value, dict | list) for value in values)
        if named and plain and depth > 1:
            self.found.left.append(place)  # a list of ids or of sentences
            return
        for number, value in enumerate(values):
            here = f"{place}[{number}]"
            if named or tasks[number]:
                self.element(value, here, context, depth)
            elif some:
                self._stray(value, here, "is no task, as others in its list are: it has no id and status")
            elif isinstance(value, dict) and depth < MAX_SEARCH_DEPTH:
                self.map(value, here, context, depth + 1)
            elif isinstance(value, list) and depth < MAX_SEARCH_DEPTH:
                self.elements(value, here, context, named=False, depth=depth + 1)

    def map(self, value: dict[str, Any], place: str, context: _Context, depth: int = 0) -> None:
        """A map that is a task, or holds some."""
        if "$schema" in value:
            self.found.left.append(place or "$schema")
            return
        if not is_container(value) and is_task(value):
            self._take(value, place, context, depth)
            return
        inner = replace(
            context,
            agent=agent_in(value) or context.agent,
            episode_id=episode_in(value) or context.episode_id,
            notes=milestones_in(value) or context.notes,
        )
        if depth == 0 and is_map_by_id(value):
            self.members(value, place, inner, depth, only_tasks=True)
            return
        form = "proposal_id" in value or "template_id" in value  # a form or a plan: its tasks are none yet
        for name, part in value.items():
            here = f"{place}.{name}" if place else name
            known, left = self._count(), len(self.found.left)
            if name not in NEVER and not form and depth < MAX_SEARCH_DEPTH:
                self._member(name, part, here, inner, depth)
            if self._count() == known:
                del self.found.left[left:]  # nothing in it: its name says enough
                if part or isinstance(part, bool | int):
                    self.found.left.append(here)

    def _member(self, name: str, part: Any, place: str, context: _Context, depth: int) -> None:
        named = is_place(name)
        status = words.listed_as(name.split(" (", 1)[0]) or context.listed_as
        inner = replace(context, listed_as=status, agent=_agent_named(name) or context.agent)
        if isinstance(part, list):
            self.elements(part, place, inner, named=named, depth=depth + 1)
        elif isinstance(part, dict):
            wrapped = name in ("task", "body") and own_id(part) is not None
            if is_task(part, named=wrapped) and not is_container(part):
                self._take(part, place, inner, depth, key=None if words.is_agent_name(name) else name)
            elif named and depth < MAX_SEARCH_DEPTH:
                self.members(part, place, inner, depth, only_tasks=depth == 0 and name == "tasks")
            else:
                self.map(part, place, inner, depth + 1)
        elif depth == 0 and name == "tasks" and part is not None:
            self._stray(part, place, f"is {shown(part)}, not a list or map of tasks")

    def members(self, value: dict[str, Any], place: str, context: _Context, depth: int, *, only_tasks: bool) -> None:
        """A map by id, by agent or by group; `only_tasks`: whatever else stands there is a reject."""
        for name, part in value.items():
            here = f"{place}.{name}" if place else name
            before = self._count()
            if isinstance(part, dict) and is_task(part, named=True) and not is_container(part):
                inner = replace(context, agent=_agent_named(name) or context.agent)
                self._take(part, here, inner, depth, key=None if words.is_agent_name(name) else name)
            elif isinstance(part, dict | list):
                self._member(name, part, here, context, depth + 1)
                if only_tasks and isinstance(part, dict) and self._count() == before:
                    self._stray(
                        part, here, "is no task: it has neither an id (task_id) nor a description nor a task_type"
                    )
            elif only_tasks and place and part is not None:
                self._stray(part, here, f"is {shown(part)}, not a task; a task is an object")
            elif part is not None:
                self.found.left.append(here)


def _agent_named(name: str) -> str | None:
    return words.agent_of(name) if words.is_agent_name(name) else None


def _holds_only_tasks(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(is_task(part) and own_id(part) for part in value)
