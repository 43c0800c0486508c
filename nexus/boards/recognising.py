"""What is a task, what is a place where tasks stand, and what a map says about those in it.

One idea instead of a list of shapes. A map with an id and something that tasks have is a task, wherever it stands.
A map without an id is one if it says what is to be done, and either stands in a place that is named for tasks
(`tasks`, `contracts`, `task_board` …, the elements of the document itself) or has a status or a priority.
"""

from functools import lru_cache
from typing import Any, Final

from nexus.boards import vocabulary as words

_PLACES: Final = words.word_set(
    """
    tasks task_list task_board taskboard contracts components backlog directives delegations agent_assignments
    states task body
    """
)
"""Names of members whose elements are tasks."""

_ENDINGS: Final = ("_tasks", "_contracts", "_task")
NEVER: Final = words.word_set(
    """
    milestones objectives transitions history echo last_task properties themes examples closure_sequence
    """
)
"""Members that look like tasks and are not: plans, records of moves, echoes of a task in an answer."""

_FOREIGN: Final = words.word_set(
    """
    $schema proposal_id template_id consolidated_contract_id goal_id idea_id phase_id meeting_id mission_id
    message_id breakdown_id task_list_id episode_id transition_id prompt_mode
    """
)
"""A map with one of these and no id of a task is something else."""

_SIGNS: Final = words.word_set(
    """
    description task_description desc title contract_title name task objective directive intent summary todo action
    status state current_status priority prio task_type payload assigned_to assigned_agent assignee claimed_by
    completed_by file_path tags depends_on deadline retry_policy
    """
)
"""With an id, one of these makes a task."""

_WEAK_SIGNS: Final = frozenset({*words.FIELDS["status"], *words.FIELDS["priority"], *words.DEPENDENCIES})


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


def has_text(value: dict[str, Any]) -> bool:
    """Does it say what is to be done?"""
    return any(isinstance(value.get(name), str) and value[name].strip() for name in words.TEXT)


@lru_cache(maxsize=4096)
def is_place(name: str) -> bool:
    """Is a member of this name a place where tasks stand?"""
    bare = words.fold(name.split(" (", 1)[0])
    return bare in _PLACES or bare.endswith(_ENDINGS) or bare.startswith("tasks_for_")


def _holds_a_place(value: dict[str, Any]) -> bool:
    return any(isinstance(inner, dict | list) and is_place(name) for name, inner in value.items())


def is_task(value: Any, *, named: bool = False) -> bool:
    """Is this a task? `named`: it stands where tasks stand."""
    if not isinstance(value, dict) or "$schema" in value:
        return False
    if own_id(value) is not None:
        return named or any(name in value for name in _SIGNS)
    if named:
        return has_text(value) or any(_filled(value, name) for name in ("task_type", "payload", "status"))
    if any(name in value for name in _FOREIGN) or _holds_a_place(value):
        return False
    return any(
        isinstance(value.get(name), str) for name in words.TEXT if name != "name" or "description" in value
    ) and any(name in value for name in _WEAK_SIGNS)


def is_container(value: dict[str, Any]) -> bool:
    """Does this map, whatever else it says, hold a board? One with an id of its own is a task first."""
    if own_id(value) is not None:
        return False
    phases = value.get("phases")
    return any(
        isinstance(inner, dict | list) and is_place(name) and (inner or name in _PLACES) and _holds_maps(inner)
        for name, inner in value.items()
    ) or (isinstance(phases, list) and any(_holds_a_place(part) for part in phases if isinstance(part, dict)))


def _holds_maps(value: dict[str, Any] | list[Any]) -> bool:
    parts = value.values() if isinstance(value, dict) else value
    return not value or any(isinstance(part, dict | list) for part in parts)


def is_map_by_id(value: dict[str, Any]) -> bool:
    """Are its members tasks, under names that are neither agents nor places? A few others may stand among many."""
    tasks = sum(_is_task_under(name, part) for name, part in value.items())
    others = len(value) - tasks
    return tasks > 0 and (others == 0 or (tasks > 1 and tasks > others and not _holds_a_place(value)))


def _is_task_under(name: str, part: Any) -> bool:
    if not is_task(part, named=True) or is_container(part) or words.is_agent_name(name) or is_place(name):
        return False
    return name not in NEVER and not any(foreign in part for foreign in _FOREIGN)


def milestones_in(value: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What an episode's milestones say about its tasks, by id."""
    given = value.get("milestones")
    parts = given if isinstance(given, list) else []
    return {identity: part for part in parts if isinstance(part, dict) and (identity := own_id(part))}


def agent_in(value: dict[str, Any]) -> str | None:
    """Whose list this is."""
    for name in ("agent_id", "agent"):
        given = value.get(name)
        if isinstance(given, str):
            return words.agent_of(given)
    return None


def episode_in(value: dict[str, Any]) -> str | None:
    """The episode that a board belongs to, as its header says."""
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
