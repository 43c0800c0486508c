"""`TaskNexus`, the facade: one public verb is one transaction."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nexus import importing, intake
from nexus.boards import Board, ImportReport, read_board
from nexus.engine import Tx
from nexus.facade.claiming import Claiming
from nexus.facade.deciding import Deciding
from nexus.facade.feeding import Feeding
from nexus.facade.looking import Looking
from nexus.facade.observing import Observing
from nexus.facade.pruning import Pruning
from nexus.facade.runs import Runs
from nexus.progress import Progress, unheard
from nexus.schemas import NewTask, Task


class TaskNexus(Looking, Observing, Feeding, Runs, Claiming, Deciding, Pruning):
    """The board: the one true state of every task, and of every attempt at it.

    Safe to share among threads; any number of processes and machines may open the same database. Times that
    it takes and gives are aware (UTC); durations are seconds. Every verb is one transaction: all of it
    happened, or an error says why nothing did. (`sweep` is a few, one a part, and `prune` one a batch; each stands
    for itself.)

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
        drafts = self._drafted([task], actor)

        def work(tx: Tx) -> Task:
            [task_id] = intake.add(tx, drafts)
            return self._task(tx, task_id)

        return self._database.write(work)

    def add_tasks(self, tasks: Iterable[NewTask | Mapping[str, Any]], *, actor: str | None = None) -> list[str]:
        """Add all of them in one transaction, or none; their ids in order. They may depend on one another.

        Raises `InvalidTask`, `DependencyCycle`, `TaskExists`.
        """
        drafts = self._drafted(tasks, actor)
        return self._database.write(lambda tx: intake.add(tx, drafts))

    def _drafted(self, tasks: Iterable[NewTask | Mapping[str, Any]], actor: str | None) -> list[intake.Draft]:
        limit, policy = self.settings.max_payload_bytes, self.settings.retry
        return [intake.draft(intake.parse(task, limit), policy, actor) for task in tasks]

    def import_board(
        self,
        board: Board,
        *,
        dry_run: bool = False,
        strict: bool = False,
        actor: str | None = None,
        progress: Progress = unheard,
    ) -> ImportReport:
        """Write a board that was read; the account says what became of each record.

        The same record again changes nothing, whatever became of its task; a changed one redefines a task that
        nobody works on. With `strict`, one reject and nothing is written; with `dry_run` nothing ever is.
        """
        try:
            return self._database.write(
                lambda tx: importing.import_board(
                    tx, board, self.settings, dry_run=dry_run, strict=strict, actor=actor, progress=progress
                )
            )
        except importing.RolledBack as rolled_back:
            return rolled_back.report

    def read_board(self, paths: Path | str | Iterable[Path | str], *, progress: Progress = unheard) -> Board:
        """Read board files against this nexus: a dependency may name a task that is here already.

        Raises `BoardUnreadable`.
        """
        return read_board(
            paths,
            max_payload_bytes=self.settings.max_payload_bytes,
            progress=progress,
            known_ids=lambda wanted: self._database.read(lambda tx: importing.known_ids(tx, wanted)),
        )
