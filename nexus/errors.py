"""What can go wrong, as types. Each error carries its ids and builds its own message, which says what to do.

Callers catch by type, never by text. Everything raised on purpose is a `NexusError`.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any


class NexusError(Exception):
    """The base of every error that the nexus raises on purpose."""


def short(value: Any, limit: int = 100) -> str:
    """`value` as Python writes it, for a message: at most `limit` characters, whatever it is; never fails."""
    if isinstance(value, str):
        text = repr(value[: limit + 1])
        return text if len(text) <= limit else f"{text[: limit - 1]}…"
    if isinstance(value, int) and value.bit_length() > 1024:
        return "an integer of over 300 digits"
    if isinstance(value, dict | list | tuple | set) and len(value) > 10:
        return f"a {type(value).__name__} of {len(value):,} elements"
    try:
        text = repr(value)
    except Exception:
        return f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


class TaskNotFound(NexusError, LookupError):
    """No task has this id."""

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id
        super().__init__(f"There is no task {short(task_id, 300)}; `nexus list` shows the ids.")


class AgentNotFound(NexusError, LookupError):
    """No agent has this id."""

    def __init__(self, agent_id: str) -> None:
        self.agent_id = agent_id
        super().__init__(f"There is no agent {short(agent_id, 300)}; `nexus agents list` shows the ids.")


class TaskExists(NexusError):
    """A task with this id is there already; nothing was added."""

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id
        super().__init__(
            f"Task {task_id!r} exists already and nothing was added; choose another id, "
            "or give both the same idempotency_key if they are meant to be one."
        )


class IllegalTransition(NexusError):
    """The table of legal moves does not allow this verb from the task's present state."""

    def __init__(self, task_id: str, verb: str, status: str, *, allowed: Iterable[str] = (), why: str = "") -> None:
        self.task_id, self.verb, self.status, self.allowed = task_id, verb, status, tuple(allowed)
        reason = why or f"it is {status}"
        hint = f" From {status} it can: {', '.join(self.allowed)}." if self.allowed else f" {status} is final."
        super().__init__(f"Cannot {verb} task {task_id!r}: {reason}.{'' if why else hint}")


class ClaimLost(NexusError):
    """The claim is no longer the current one; nothing was changed (a late result is kept on its attempt).

    `claim_no` is None where nobody knows which number the caller's claim had: it is never that of somebody else's.
    """

    def __init__(self, task_id: str, claim_no: int | None, *, now_held: str) -> None:
        self.task_id, self.claim_no = task_id, claim_no
        which = "The claim" if claim_no is None else f"Claim {claim_no}"
        super().__init__(f"{which} on task {task_id!r} is lost: {now_held}. Stop working on it.")


class TaskBusy(NexusError):
    """Somebody else is writing this task at the moment; nothing was changed, and nothing is lost."""

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id
        super().__init__(f"Task {task_id!r} is being written by somebody else; try again in a moment.")


class NotClaimable(NexusError):
    """This agent cannot claim this task now; `reasons` are those of `TaskNexus.explain`."""

    def __init__(
        self, task_id: str, agent_id: str, reasons: Iterable[str], available_at: datetime | None = None
    ) -> None:
        self.task_id, self.agent_id, self.reasons = task_id, agent_id, tuple(reasons)
        self.available_at = available_at
        why = "; ".join(self.reasons) or "another agent was faster"
        super().__init__(f"{agent_id} cannot claim task {task_id!r}: {why}.")


class AgentNotConfirmed(NexusError):
    """Registration is closed and this agent is not registered; nothing was changed."""

    def __init__(self, agent_id: str) -> None:
        self.agent_id = agent_id
        super().__init__(
            f"Agent {agent_id!r} is not confirmed and registration is closed; "
            f"an operator can run `nexus agents register {agent_id}`."
        )


class InvalidTask(NexusError, ValueError):
    """The input is not a task that the board can keep; nothing was written."""


class DependencyCycle(InvalidTask):
    """These tasks would wait for one another for ever."""

    def __init__(self, cycle: Iterable[str]) -> None:
        self.cycle = tuple(cycle)
        super().__init__(
            f"Dependency cycle: {' -> '.join(self.cycle)}. Take one edge out of depends_on; nothing was added."
        )


class BoardUnreadable(NexusError, ValueError):
    """A board file could not be read; what is in the nexus is untouched."""

    def __init__(self, path: str, why: str) -> None:
        self.path = path
        super().__init__(f"{path}: {why}")


class InvalidSettings(NexusError, ValueError):
    """A setting has a value that it cannot have; the message names the key."""


class DatabaseUnavailable(NexusError):
    """The database cannot be opened, reached or written; the message says which and why."""


class UnusableDatabase(DatabaseUnavailable):
    """The settings name no database that there could be: trying again does not help, correcting them does."""


class NotANexusDatabase(NexusError):
    """The database holds something else; nothing was written to it."""


class SchemaOutdated(NexusError):
    """The database is empty or was made by an older version, and upgrading on open is switched off."""


class SchemaTooNew(NexusError):
    """The database was made by a newer version of this program; it is not touched."""
