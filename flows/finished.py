"""How an attempt ended, as a value."""

from dataclasses import dataclass
from datetime import datetime

from nexus import AttemptOutcome, TaskStatus


@dataclass(frozen=True, slots=True)
class Finished:
    """How an attempt ended."""

    outcome: AttemptOutcome
    number: int
    seconds: float
    status: TaskStatus | None = None
    """Where the task stands afterwards; None where the claim was lost."""
    available_at: datetime | None = None
    """When it is offered again, where it is."""
    error: BaseException | None = None
    """What the handler raised."""
