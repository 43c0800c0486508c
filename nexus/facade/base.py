"""The open board: its settings and its database, and what the verbs of the facade share."""

from collections.abc import Callable
from datetime import datetime
from typing import Self, TypeVar

from nexus import queries, schema
from nexus.clock import Clock
from nexus.engine import Database, Tx
from nexus.errors import TaskNotFound
from nexus.explaining import Terms
from nexus.monitoring import TaskMonitoringConfig
from nexus.records import Row
from nexus.schemas import Task
from nexus.settings import NexusSettings

T = TypeVar("T")


class OpenBoard:
    """A board that is open; `nexus.task_nexus.TaskNexus` says what it is opened with."""

    def __init__(
        self, url: str | None = None, *, settings: NexusSettings | None = None, clock: Clock | None = None
    ) -> None:
        self.settings = settings or NexusSettings.load()
        self._database = Database.of(self.settings, self.settings.location(url), clock=clock)
        schema.ensure(self._database, may_upgrade=self._database.is_sqlite or self.settings.auto_upgrade)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the object may be used again and opens new ones."""
        self._database.close()

    @property
    def url(self) -> str:
        """The database, without a password."""
        return self._database.name

    def now(self) -> datetime:
        """The present, as this nexus sees it."""
        return self._database.read(Tx.present)

    def _terms(self, config: TaskMonitoringConfig | None = None) -> Terms:
        monitoring = config or self.settings.monitoring
        return Terms(self.settings.registration, monitoring.agent_timeout_seconds)

    def _decide(self, move: Callable[[Tx], Row]) -> Task:
        return self._database.write(lambda tx: queries.to_task(move(tx)))

    def _of_task(self, task_id: str, look: Callable[[Tx, str], T]) -> T:
        def work(tx: Tx) -> T:
            self._task(tx, task_id)
            return look(tx, task_id)

        return self._database.read(work)

    def _task(self, tx: Tx, task_id: str) -> Task:
        row = queries.task_row(tx, task_id)
        if row is None:
            raise TaskNotFound(task_id)
        return queries.to_task(row)
