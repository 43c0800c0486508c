"""Forgetting as a verb: many small transactions, with room between them for everybody else."""

import time
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa

from nexus import pruning
from nexus.arguments import a_moment
from nexus.engine import Tx
from nexus.facade.base import OpenBoard
from nexus.progress import Progress
from nexus.pruning import Bite
from nexus.reports import PruneReport
from nexus.retention import Mark, Retention
from nexus.states import TaskStatus

LONGEST_REST_SECONDS: Final = 1.0


class Pruning(OpenBoard):
    """The verb that forgets."""

    def prune(
        self,
        retention: Retention | None = None,
        *,
        now: datetime | None = None,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> PruneReport:
        """Delete finished tasks that are past their bounds, with their attempts, history, edges and stalls.

        What something needs that is not done yet stays: what a task depends on that is not completed (a dead letter
        that is retried reads its results), what an open task is about (`related_task_id`), what an open stall or
        escalation points to. Old passes of the sweep go too, and what was confirmed of agents (`record_days`).

        Safe to repeat, to interrupt, and to run twice at once. Each batch of `batch_size` is a transaction of its own,
        and after each the board is left to others for as long as that took, so claims go on meanwhile. An SQLite
        file gives back its free pages afterwards, a few at a time.

        Args:
            retention: what is kept; None is the settings' own, by which nothing is deleted unless they say so.
            now: the present to prune at, for replays and tests.
            dry_run: report what would be deleted, and delete nothing.
            progress: told after each batch how many tasks were looked at.

        Raises `InvalidTask` for a `now` without a time zone.
        """
        retention = retention or self.settings.retention
        now = a_moment(now, "now")
        present = self._database.read(Tx.present, now=now)
        ahead = self._database.read(lambda tx: pruning.marks(tx, retention, present))
        run = _Run(self, retention, dry_run)
        if progress:
            run.tell, run.total = progress, self._database.read(lambda tx: pruning.count(tx, ahead))
        for status, mark in ahead.items():
            run.through(status, mark)
        passes = confirmations = 0
        if retention.record_days is not None:
            before = present - timedelta(days=retention.record_days)
            passes = run.all_of(pruning.old_sweeps(), before)
            confirmations = run.all_of(pruning.old_confirmations(), before)
        if not dry_run and (run.deleted or passes or confirmations):
            self._database.give_back()
        return PruneReport(
            started_at=present,
            finished_at=self._database.read(Tx.present, now=now),
            **{status.value: number for status, number in run.tasks.items()},
            attempts=run.attempts,
            history=run.history + confirmations,
            stalls=run.stalls,
            sweeps=passes,
            kept=run.kept,
            more=run.more,
            dry_run=dry_run,
        )


class _Run:
    """One run: what it has done so far."""

    def __init__(self, board: OpenBoard, retention: Retention, dry_run: bool) -> None:
        self._database, self._retention, self._dry_run = board._database, retention, dry_run
        self.tasks: dict[TaskStatus, int] = {}
        self.attempts = self.history = self.stalls = self.kept = self.looked = self.total = 0
        self.more = False
        self.tell: Progress | None = None
        self._foreseen: set[str] = set()
        """What a dry run would have deleted, as far as others might have stayed for its sake."""

    @property
    def deleted(self) -> int:
        """Tasks, of whatever status."""
        return sum(self.tasks.values())

    def through(self, status: TaskStatus, below: Mark | None) -> None:
        """All that ended so, from a mark on."""
        while below is not None:
            room = self._retention.max_per_run - self.deleted
            if room <= 0:
                self.more = True
                return
            began = time.monotonic()
            bite = self._bite(status, below, min(room, self._retention.batch_size))
            self._count(status, bite)
            below = bite.below
            if bite.gone and below is not None and not self._dry_run:
                self._rest(began)

    def _bite(self, status: TaskStatus, below: Mark, limit: int) -> Bite:
        if not self._dry_run:
            return self._database.write(lambda tx: pruning.bite(tx, status, below, limit))
        bite = self._database.read(lambda tx: pruning.foresee(tx, status, below, limit, self._foreseen))
        if status != TaskStatus.COMPLETED:  # nothing stays for the sake of what is completed
            self._foreseen.update(bite.gone)
        return bite

    def _count(self, status: TaskStatus, bite: Bite) -> None:
        self.tasks[status] = self.tasks.get(status, 0) + len(bite.gone)
        self.attempts += bite.attempts
        self.history += bite.history
        self.stalls += bite.stalls
        self.looked += bite.looked
        self.kept += bite.looked - len(bite.gone)
        if self.tell:
            self.tell("pruning", self.looked, max(self.total, self.looked))

    def all_of(self, old: sa.Select[Any], before: datetime) -> int:
        """Rows that nothing depends on, a batch at a time, until there are no more."""
        if self._dry_run:
            return self._database.read(lambda tx: pruning.count_old(tx, old, before))
        gone, limit = 0, self._retention.batch_size
        while True:
            began = time.monotonic()
            batch = self._database.write(lambda tx: pruning.forget(tx, old, before, limit))
            gone += batch
            if batch < limit:
                return gone
            self._rest(began)

    @staticmethod
    def _rest(began: float) -> None:
        """Half of the time belongs to others: SQLite has one writer, and who waits for it asks now and then only."""
        time.sleep(min(time.monotonic() - began, LONGEST_REST_SECONDS))
