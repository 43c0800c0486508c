"""The sweep as a verb, and what it leaves on record."""

from collections.abc import Callable
from datetime import datetime

from nexus import observed, sweeping, transitions, waiting, watch
from nexus.arguments import a_count, a_moment, a_name, a_text
from nexus.engine import Tx
from nexus.facade.base import OpenBoard
from nexus.monitoring import TaskMonitoringConfig
from nexus.predicates import EVERY_TYPE
from nexus.reports import Pause, Stall, Sweep, SweepReport
from nexus.sweeping import Findings, Orders


class _DryRun(Exception):
    """Leaves the transaction with what was found, and without what was written."""

    def __init__(self, found: Findings) -> None:
        self.found = found
        super().__init__("nothing was written")


class Sweeping(OpenBoard):
    """The verbs that keep the board moving."""

    def sweep(
        self,
        config: TaskMonitoringConfig | None = None,
        *,
        now: datetime | None = None,
        dry_run: bool = False,
        source: str = "call",
    ) -> SweepReport:
        """One pass: take back what dead and hung agents hold, act on what waits too long or is past its deadline.

        Idempotent, and safe to run twice at once; at most `config.max_per_sweep` of each kind per pass
        (`more` says whether the next pass has work left). Each pass is put on record (`sweeps`).

        Args:
            config: what to do about waiting tasks; None is the settings' own.
            now: the present to sweep at, for replays and tests.
            dry_run: report what a pass would do, and write nothing. (All of it in one transaction, which is rolled
                back: on SQLite nobody else writes meanwhile.)
            source: who sweeps, for the record.

        Raises `InvalidTask` for a `now` without a time zone.
        """
        config = config or self.settings.monitoring
        now = a_moment(now, "now")
        started_at = self._database.read(Tx.present, now=now)
        learnt = (
            self._database.read(lambda tx: observed.adaptive_thresholds(tx, config), now=now)
            if config.adaptive.enabled
            else {}
        )
        orders = Orders(config, self.settings.retry, self._terms(config), learnt)
        found = self._dry(orders, now) if dry_run else self._swept(orders, now)
        report = SweepReport(
            started_at=started_at,
            finished_at=self._database.read(Tx.present, now=now),
            scanned=len(found.seen),
            logged=found.count("log_only"),
            notified=found.count("notify"),
            stalled=found.count("mark_stalled"),
            reassigned=found.count("reassign"),
            escalated=found.count("escalate", "overdue"),
            expired=found.count("expire"),
            timed_out=found.count("time_out"),
            withdrawn=found.count("withdraw"),
            failed=found.failed,
            conflicts=found.conflicts,
            skipped=found.count("skip"),
            more=found.full,
            dry_run=dry_run,
            settings_hash=config.settings_hash,
            items=tuple(found.items),
        )
        if not dry_run:
            self._put_down(report, source)
        return report

    def _swept(self, orders: Orders, now: datetime | None) -> Findings:
        found = Findings()
        for part in sweeping.PARTS:
            found.join(self._database.write(_bound(part, orders), now=now))
        return found

    def _dry(self, orders: Orders, now: datetime | None) -> Findings:
        def work(tx: Tx) -> None:
            found = Findings()
            for part in sweeping.PARTS:
                found.join(part(tx, orders))
            raise _DryRun(found)

        try:
            self._database.write(work, now=now)
        except _DryRun as dry:
            return dry.found
        raise AssertionError("unreachable: a dry run always leaves by its exception")

    def _put_down(self, report: SweepReport, source: str) -> None:
        shared = {"started_at", "finished_at", "scanned", "conflicts", "skipped", "more", "settings_hash"}
        values = report.model_dump(include=shared) | {"source": source, "acted": len(report.items) - report.skipped}
        self._database.write(lambda tx: waiting.write_sweep(tx, values))

    def sweeps(self, limit: int = 10) -> list[Sweep]:
        """The latest passes, newest first."""
        a_count(limit, "limit")
        return self._database.read(lambda tx: watch.list_sweeps(tx, limit))

    def last_sweep(self) -> Sweep | None:
        """The latest pass, or None where there was none."""
        return self._database.read(watch.last_sweep)

    def stalls(self, task_id: str | None = None, *, open_only: bool = False, limit: int | None = None) -> list[Stall]:
        """Stalls with the steps that were taken: of one task, or of the board; oldest first.

        Raises `TaskNotFound`.
        """
        a_count(limit, "limit")

        def work(tx: Tx) -> list[Stall]:
            if task_id is not None:
                self._task(tx, task_id)
            return watch.list_stalls(tx, task_id=task_id, open_only=open_only, limit=limit)

        return self._database.read(work)

    # -- pausing ----------------------------------------------------------------------------------------------

    def pause(self, task_type: str = EVERY_TYPE, reason: str | None = None, *, actor: str | None = None) -> list[Pause]:
        """Offer no task of this type (`*`: none at all) until `resume`; what is paused now.

        What is held goes on. While it is paused nobody lets a task wait: no stall is opened, no step is taken.
        """
        name = a_name(task_type, "task_type")

        def work(tx: Tx) -> list[Pause]:
            waiting.pause(tx, name, actor, a_text(reason))
            return watch.list_pauses(tx)

        return self._database.write(work)

    def resume(self, task_type: str = EVERY_TYPE, *, actor: str | None = None) -> bool:
        """Offer tasks of this type again; whether they were paused. Their waiting begins anew."""
        name = a_name(task_type, "task_type")

        def work(tx: Tx) -> bool:
            over = waiting.resume(tx, name)
            if over:
                gone = transitions.withdraw(tx, over, actor, "was paused, and waits anew")
                transitions.settle_dependants(tx, gone)
            return over is not None

        return self._database.write(work)

    def pauses(self) -> list[Pause]:
        """What is paused."""
        return self._database.read(watch.list_pauses)


def _bound(part: sweeping.Part, orders: Orders) -> Callable[[Tx], Findings]:
    return lambda tx: part(tx, orders)
