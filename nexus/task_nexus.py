"""`TaskNexus`, the facade: one public verb is one transaction."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from nexus import importing, intake, sweeping
from nexus.arguments import a_moment
from nexus.boards import Board, ImportReport, read_board
from nexus.engine import Tx
from nexus.facade.claiming import Claiming
from nexus.facade.deciding import Deciding
from nexus.facade.looking import Looking
from nexus.schemas import NewTask, SweepReport, Task
from nexus.settings import TaskMonitoringConfig


class TaskNexus(Looking, Claiming, Deciding):
    """The board: the one true state of every task, and of every attempt at it.

    Safe to share among threads; any number of processes and machines may open the same database. Times that
    it takes and gives are aware (UTC); durations are seconds. Every verb is one transaction: all of it
    happened, or an error says why nothing did.

    Args:
        url: `sqlite:///board.db`, `postgresql+psycopg://user@host/database`, or None for the settings' own.
        settings: None reads the environment and `nexus.toml`.
        clock: returns the present; None means the database's clock on PostgreSQL, the host's on SQLite.

    Raises `DatabaseUnavailable`, `NotANexusDatabase`, `SchemaTooNew`, `SchemaOutdated`, `InvalidSettings`.
    """

    def add_task(self, task: NewTask | Mapping[str, Any], *, actor: str | None = None) -> Task:
        """Add one task; with an `idempotency_key` that is known already, return the first.

        Raises `InvalidTask` (nothing is written), `TaskExists`.
        """
        new = intake.parse(task, self.settings.max_payload_bytes)

        def work(tx: Tx) -> Task:
            [task_id] = intake.add(tx, [new], self.settings.retry, actor)
            return self._task(tx, task_id)

        return self._database.write(work)

    def add_tasks(self, tasks: Iterable[NewTask | Mapping[str, Any]], *, actor: str | None = None) -> list[str]:
        """Add all of them in one transaction, or none; their ids in order. They may depend on one another.

        Raises `InvalidTask`, `DependencyCycle`, `TaskExists`.
        """
        new = [intake.parse(task, self.settings.max_payload_bytes) for task in tasks]
        return self._database.write(lambda tx: intake.add(tx, new, self.settings.retry, actor))

    def import_board(
        self, board: Board, *, dry_run: bool = False, strict: bool = False, actor: str | None = None
    ) -> ImportReport:
        """Write a board that was read; the account says what became of each record.

        The same record again changes nothing, whatever became of its task; a changed one redefines a task that
        nobody works on. With `strict`, one reject and nothing is written; with `dry_run` nothing ever is.
        """
        try:
            return self._database.write(
                lambda tx: importing.import_board(tx, board, self.settings, dry_run=dry_run, strict=strict, actor=actor)
            )
        except importing.RolledBack as rolled_back:
            return rolled_back.report

    def read_board(self, paths: Path | str | Iterable[Path | str]) -> Board:
        """Read board files against this nexus: a dependency may name a task that is here already.

        Raises `BoardUnreadable`.
        """
        return read_board(
            paths,
            max_payload_bytes=self.settings.max_payload_bytes,
            known_ids=lambda wanted: self._database.read(lambda tx: importing.known_ids(tx, wanted)),
        )

    def sweep(self, config: TaskMonitoringConfig | None = None, *, now: datetime | None = None) -> SweepReport:
        """One pass: take back what is held under a lease that is over, act on what waits too long.

        Idempotent, and safe to run twice at once; at most `config.max_per_sweep` of each kind per pass
        (`more` says whether the next pass has work left).

        Args:
            config: what to do about waiting tasks; None is the settings' own.
            now: the present to sweep at, for replays and tests.

        Raises `InvalidTask` for a `now` without a time zone.
        """
        config = config or self.settings.monitoring
        now = a_moment(now, "now")
        started_at = self._database.read(Tx.present, now=now)
        leases = self._database.write(lambda tx: sweeping.expire(tx, config), now=now)
        waits = self._database.write(lambda tx: sweeping.stalls(tx, config, self.settings.retry), now=now)
        return SweepReport(
            started_at=started_at,
            finished_at=self._database.read(Tx.present, now=now),
            scanned=leases.scanned + waits.scanned,
            logged=waits.count("log_only"),
            stalled=waits.count("mark_stalled"),
            reassigned=waits.count("reassign"),
            escalated=waits.count("escalate"),
            expired=leases.count("expire"),
            failed=leases.failed,
            conflicts=waits.conflicts,
            more=leases.full or waits.full,
            items=(*leases.items, *waits.items),
        )
