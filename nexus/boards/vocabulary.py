"""How boards of the field say what we say: member names, states, priorities, as data.

The tables come from a count over a fleet's real boards. Where a word could mean two things the cautious
reading is taken (a task that is offered again is seen; one that is lost is not), and the raw word is kept
in `extra`.
"""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import lru_cache
from typing import Final

from nexus.states import TaskStatus

_S = TaskStatus


def word_set(text: str) -> frozenset[str]:
    """The words of `text`."""
    return frozenset(text.split())


ID: Final = ("task_id", "id", "contract_id", "component_id")
"""Names for a task's own id, the surest first."""

TEXT: Final = (
    "description", "task_description", "desc", "title", "contract_title", "name", "task", "objective",
    "directive", "intent",
    "summary", "todo", "instructions", "content", "message", "action",
)  # fmt: skip
"""Names for what is to be done; the first that is filled becomes the description."""

FIELDS: Final[dict[str, tuple[str, ...]]] = {
    "status": ("status", "state", "current_status"),
    "priority": ("priority", "prio"),
    "task_type": ("task_type", "type", "contract_type"),
    "payload": ("payload", "params"),
    "tags": ("tags",),
    "required_capabilities": ("required_capabilities",),
    "assigned_to": (
        "assigned_to", "assigned_agent", "assigned_agent_id", "agent_assigned", "assignee", "target_agent",
        "to_agent",
        "owner", "agent", "agent_id",
    ),
    "claimed_by": ("claimed_by",),
    "completed_by": ("completed_by",),
    "created_at": (
        "created_at", "timestamp_created", "timestamp_created_utc", "created_timestamp", "created_date",
        "created",
        "injected_at", "timestamp", "timestamp_utc",
    ),
    "updated_at": (
        "updated_at", "timestamp_updated", "timestamp_updated_utc", "last_updated", "last_update",
        "last_updated_at",
        "last_updated_timestamp",
    ),
    "deadline": ("deadline", "due_date", "due"),
    "available_at": ("available_at", "not_before"),
    "result": ("result", "result_summary", "completion_summary"),
    "error": ("error", "failure_reason"),
    "reason": ("reason", "blocker_reason", "block_reason"),
    "related_task_id": ("related_task_id", "parent_task_id"),
    "episode_id": ("episode_id",),
}  # fmt: skip
"""Our field: the names it goes by. The first that is filled is taken; the others stay in `extra`."""

DEPENDENCIES: Final = ("depends_on", "dependencies", "deps", "blocked_by")
"""All of them together are what a task waits for."""

EASILY_MISSED: Final = (
    "depends_on", "on_dependency_failure", "required_capabilities", "requires_review",
    "retry_policy", "timeout_seconds", "idempotency_key",
)  # fmt: skip
"""Fields without which a task looks all right and is not: a misspelt one is pointed out."""

FINISHED_AT: Final = (
    "completed_at",
    "timestamp_completed_utc",
    "completion_date",
    "completion_time",
    "completion_timestamp",
)
OTHER_TIMES: Final = ("claimed_at", "timestamp_claimed_utc", "started_at", "assigned_at", "validated_at")
"""Times that no field of ours holds: they stay in `extra`, but an absurd one still rejects its record."""

SECTIONS: Final = ("contract_details", "contract_metadata", "meta")
"""Members that hold some of a task's fields one level down."""

ORIGIN_NAMES: Final = word_set(
    """
    action params assigned_agent assigned_agent_id target_agent completed_by injected_at injected_by
    timestamp_created timestamp_created_utc timestamp_updated timestamp_claimed_utc timestamp_completed_utc
    """
)
"""Names that only the origin's boards use: a record with one has ranks for whole-number priorities."""

RANKS: Final = {0: 0, 1: 0, 2: 10, 3: 20}
"""Rank to priority; every later rank is 30."""

_SAID: Final[dict[TaskStatus, str]] = {
    _S.PENDING: """
        available todo to_do reserved ready ready_for_assignment ready_for_execution ready_to_claim not_started reopened
        new open incomplete available_for_emergency_claiming future_improvement unread failed_attempt_pending urgent
        queued waiting backlog planned proposed draft scheduled""",
    _S.CLAIMED: "assigned instruction_sent",
    _S.IN_PROGRESS: "active executing working execution ongoing partial build running doing started inprogress",
    _S.BLOCKED: "awaiting_instructions paused paused_by_directive paused_by_override on_hold hold waiting_for_input",
    _S.IN_REVIEW: """
        needs_review needs_manual_review review_needed ready_for_testing review pending_review ready_for_review
        completed_pending_review validation_failed autocheck_failed review_disagreement review_timeout""",
    _S.COMPLETED: "done complete archived validated closed documented_workaround_found finished succeeded success",
    _S.FAILED: "error errored dead_letter",
    _S.CANCELLED: "obsolete canceled aborted skipped wont_do",
}
STATUSES: Final[dict[str, TaskStatus]] = {status.value: status for status in TaskStatus} | {
    word: status for status, said in _SAID.items() for word in said.split()
}
"""Folded word: state."""

NOT_TASKS: Final = {
    "template": "its status says TEMPLATE: a form to copy, not a task",
    "operational": "its status says operational: the state of an agent, not of a task",
}
"""Folded words that say that the record is no task, and why."""

PREFIXES: Final = (
    "completed",
    "complete",
    "done",
    "in_progress",
    "blocked",
    "paused",
    "claimed",
    "assigned",
    "cancelled",
    "failed",
)
"""Words that decide also when more follows: `BLOCKED_BY_TOOL_LIMITATION`, `COMPLETED - all green`."""

LISTS: Final[dict[str, TaskStatus]] = {
    "completed": _S.COMPLETED, "complete": _S.COMPLETED, "done": _S.COMPLETED, "finished": _S.COMPLETED,
    "failed": _S.FAILED, "cancelled": _S.CANCELLED, "blocked": _S.BLOCKED,
    "claimed": _S.CLAIMED, "current": _S.IN_PROGRESS, "working": _S.IN_PROGRESS, "active": _S.IN_PROGRESS,
    "in_progress": _S.IN_PROGRESS, "in_review": _S.IN_REVIEW,
    "pending": _S.PENDING, "available": _S.PENDING, "future": _S.PENDING, "ready": _S.PENDING,
}  # fmt: skip
"""Beginning of a list's name: the state of those in it that name none."""

PRIORITIES: Final[dict[str, int]] = {
    **dict.fromkeys(("critical", "immediate", "urgent", "p0", "highest", "emergency", "blocker"), 0),
    **dict.fromkeys(("high", "p1", "major"), 10),
    **dict.fromkeys(("medium", "moderate", "normal", "p2", "default", "blocked", "completed", "complete"), 20),
    **dict.fromkeys(("low", "reserved", "chore", "p3", "p4", "p5", "minor", "lowest", "trivial"), 30),
}
"""Folded word: priority. Words of the status that strayed here mean the default."""

NOBODY: Final = frozenset(
    "reserved unassigned tbd available_to_all unknown none null nobody any n_a all_agents everyone".split()  # noqa: SIM905
)
"""Folded words that stand where an agent would, and name none."""


def fold(text: str) -> str:
    """`text` without an enum's class name, in lower case, every run of blanks and signs one underscore."""
    text = re.sub(r"^[A-Za-z_][A-Za-z_0-9]*\.(?=[A-Za-z])", "", text.strip())
    return re.sub(r"[^0-9a-z]+", "_", text.casefold()).strip("_")


@lru_cache(maxsize=4096)
def misspelt(name: str) -> str | None:
    """The field that a member of this name was probably meant to be; None where it is none of ours."""
    near = get_close_matches(fold(name), EASILY_MISSED, n=1, cutoff=0.85)
    return near[0] if near else None


def notes_on(unknown: Iterable[str], given: Mapping[str, object]) -> list[str]:
    """What is to be pointed out of the members that no field is made of, in a record of all that is `given`."""
    meant = {name: misspelt(name) for name in unknown}
    return [
        f"{name}: is no field of a task, and kept in extra; is {field} meant?"
        for name, field in meant.items()
        if field is not None and given.get(field) is None
    ]


@lru_cache(maxsize=4096)
def status_of(text: str) -> TaskStatus | None:
    """The state that `text` names, in whatever dress; None where it names none."""
    word = fold(text)
    if word in STATUSES:
        return STATUSES[word]
    for prefix in PREFIXES:
        if word.startswith(prefix + "_"):
            return STATUSES[prefix]
    return None


@lru_cache(maxsize=4096)
def priority_of(text: str) -> int | None:
    """The priority that the word `text` names, remarks in brackets ignored; None where it names none."""
    return PRIORITIES.get(fold(re.sub(r"\(.*\)\s*$", "", text)))


@lru_cache(maxsize=4096)
def listed_as(name: str) -> TaskStatus | None:
    """The state that a list of this name implies."""
    words = fold(name)
    for prefix, status in LISTS.items():
        if words == prefix or (words.startswith(prefix + "_") and ("task" in words or "contract" in words)):
            return status
    return None


_AGENT = re.compile(
    r"^(?:(?P<captain>captain|system|co-captain)[-_ /]+)?"
    r"agent[-_ ]?0*(?P<number>[0-9]{1,4})(?:[-_ ]*\((?P<role>.*)\))?$",
    re.IGNORECASE,
)
_CAPTAIN = re.compile(r"^captain[-_ ]0*(?P<number>[0-9]{1,4})$", re.IGNORECASE)


@lru_cache(maxsize=4096)
def agent_of(text: str) -> str | None:
    """The agent that `text` means: `Agent-N` for every way to write it, other names as they are; None for
    nobody.
    """
    bare = " ".join(text.split())
    if not bare or fold(bare) in NOBODY:
        return None
    match = _AGENT.match(bare) or _CAPTAIN.match(bare)
    return f"Agent-{int(match['number'])}" if match else text.strip()


@lru_cache(maxsize=4096)
def is_agent_name(text: str) -> bool:
    """Does `text` look like the name of one of a fleet's numbered agents?"""
    return bool(_AGENT.match(text.strip()) or re.match(r"^(cursor|worker)[-_ ]?\d+$", text.strip(), re.IGNORECASE))
