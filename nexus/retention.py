"""How long the board remembers what is finished, as settings; and, as a pure function, what that means today."""

from collections.abc import Collection, Iterable
from collections.abc import Set as AbstractSet
from datetime import datetime, timedelta
from typing import Annotated, Any, Final, Self

from pydantic import Field

from nexus.monitoring import Section
from nexus.states import TERMINAL, TaskStatus
from nexus.values import Seconds

Mark = tuple[datetime, int]
"""A place in the order of endings: the time and the task's `seq`. What lies before it goes."""

LAST: Final = 2**63 - 1
"""Behind every task that ended at the same moment."""

ORDER: Final = (TaskStatus.CANCELLED, TaskStatus.FAILED, TaskStatus.COMPLETED)
"""Dependants first: what was cancelled because something failed lets go of it, and that of what was completed."""

assert frozenset(ORDER) == TERMINAL

Days = Annotated[float, Field(ge=0, le=36_500, allow_inf_nan=False)]


class Bounds(Section):
    """How much is kept. What is older than `days` goes, and what is not among the newest `keep`."""

    days: Days | None = Field(None, description="Since it ended; absent: for ever")
    keep: int | None = Field(None, ge=0, le=1_000_000_000, description="The newest so many; absent: all")

    @property
    def is_set(self) -> bool:
        """Whether anything ever goes."""
        return self.days is not None or self.keep is not None


class Retention(Section):
    """What the nexus forgets. Nothing, until somebody says so.

    Off by default: a board is a record, and no program should delete the record of somebody who never asked for it.
    Forgetting has consequences besides. A task that is gone is new when its board file is imported again, its
    idempotency key is free, and the sweep can no longer learn from its waits.

    A month of what went well, and dead letters for ever, is a good beginning:
    `completed = {days = 30}`, `cancelled = {days = 30}`.
    """

    completed: Bounds = Field(Bounds(), title="Completed", description="Tasks that went well")
    failed: Bounds = Field(
        Bounds(), title="Failed", description="Dead letters; an operator may retry them as long as they are there"
    )
    cancelled: Bounds = Field(Bounds(), title="Cancelled", description="Tasks that were cancelled")
    record_days: Days | None = Field(
        None, description="Passes of the sweep, and what agents confirmed; absent: for ever (of passes the last 10,000)"
    )
    grace_seconds: float = Field(
        3600,
        ge=0,
        le=366 * 86_400,
        allow_inf_nan=False,
        description="Nothing that ended more recently goes: somebody may wait for its result, or bring a late one",
    )
    interval_seconds: Seconds = Field(
        3600, description="Time between two runs of the deployment: often, and a little at a time"
    )
    batch_size: int = Field(500, ge=1, le=10_000, description="Tasks that one transaction looks at")
    max_per_run: int = Field(1_000_000, ge=1, le=1_000_000_000, description="Tasks that one run deletes at most")

    @property
    def is_set(self) -> bool:
        """Whether anything ever goes."""
        return self.record_days is not None or any(self.of(status).is_set for status in ORDER)

    def of(self, status: TaskStatus) -> Bounds:
        """The bounds for tasks that ended so."""
        bounds: Bounds = getattr(self, status.value)
        return bounds

    def only(self, statuses: list[TaskStatus]) -> Self:
        """What is set, for these alone."""
        others: dict[str, Any] = {status.value: Bounds() for status in ORDER if status not in statuses}
        return self.model_copy(update={**others, "record_days": None})

    def asked(self, statuses: list[TaskStatus], days: float | None, keep: int | None) -> Self:
        """Only this, whatever is set. Who names an age shorter than the grace means it."""
        values: dict[str, Any] = {status.value: Bounds(days=days, keep=keep) for status in ORDER}
        grace = self.grace_seconds if days is None else min(self.grace_seconds, days * 86_400)
        return self.model_copy(update={**values, "grace_seconds": grace}).only(statuses)


def boundary(present: datetime, bounds: Bounds, grace_seconds: float, surplus: Mark | None) -> Mark | None:
    """Before which mark finished tasks go; None where none do.

    `surplus` is the mark behind the newest task that is one too many, where there is one.
    """
    marks = [] if surplus is None else [surplus]
    if bounds.days is not None:
        marks.append((present - timedelta(days=bounds.days), LAST))
    settled = (present - timedelta(seconds=grace_seconds), LAST)
    return min(max(marks), settled) if marks else None


def unneeded(
    ended: Collection[str], needs: Iterable[tuple[str, str | None]], gone: AbstractSet[str] = frozenset()
) -> set[str]:
    """Which of the tasks in `ended` can go together.

    `needs` says of some of them for whose sake they must stay (None: for good): not for that of one that goes as well,
    or is `gone` already.
    """
    holders: dict[str, list[str | None]] = {}
    for task_id, by in needs:
        if by is None or by not in gone:
            holders.setdefault(task_id, []).append(by)
    free = set(ended)
    while stays := {task_id for task_id in free & holders.keys() if any(by not in free for by in holders[task_id])}:
        free -= stays
    return free
