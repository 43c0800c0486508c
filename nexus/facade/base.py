"""The open board: its settings and its database, and what the verbs of the facade share."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Self, TypeVar

from nexus import intake, queries, schema, transitions
from nexus.bell import Bell
from nexus.clock import Clock
from nexus.engine import Database, Tx
from nexus.errors import InvalidTask, NexusError, TaskNotFound
from nexus.explaining import Terms
from nexus.monitoring import TaskMonitoringConfig
from nexus.rows import Row, to_task
from nexus.schemas import Claim, Task
from nexus.settings import NexusSettings
from nexus.states import Verb
from nexus.values import check_json

T = TypeVar("T")


class OpenBoard:
    """A board that is open; `nexus.task_nexus.TaskNexus` says what it is opened with."""

    def __init__(
        self, url: str | None = None, *, settings: NexusSettings | None = None, clock: Clock | None = None
    ) -> None:
        self.settings = settings or NexusSettings.load()
        self._database = Database.of(self.settings, self.settings.location(url), clock=clock)
        self._known: dict[str, tuple[Row, float]] = {}
        """The agents that claimed here, and when their rows were read."""
        self._amid_stalls = False
        """The last claim ended a stall, so the next may: more is to be written then than one statement."""
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

    def bell(self) -> Bell:
        """A bell that rings when there may be work, for a thread that waits for some."""
        return Bell(self._database)

    def now(self) -> datetime:
        """The present, as this nexus sees it."""
        return self._database.read(Tx.present)

    def _terms(self, config: TaskMonitoringConfig | None = None) -> Terms:
        monitoring = config or self.settings.monitoring
        return Terms(self.settings.registration, monitoring.agent_timeout_seconds)

    def _check(self, what: str, value: Any) -> None:
        """`InvalidTask` where a value is no JSON, or too large."""
        if value is None:
            return
        try:
            check_json(value)
        except ValueError as error:
            raise InvalidTask(f"{what} {error}") from None
        intake.check_size(what, value, self.settings.max_payload_bytes)

    def _each(self, verb: Verb, claims: Sequence[Claim], found: Callable[[Claim], T | None]) -> list[T | NexusError]:
        """What became of each claim that was shown to `verb`: what is `found` for it, or why there is nothing."""
        ends: list[T | NexusError | None] = [found(claim) for claim in claims]
        refused = [place for place, end in enumerate(ends) if end is None]
        if refused:
            why = self._database.read(lambda tx: [transitions.refusal(tx, verb, claims[place]) for place in refused])
            for place, error in zip(refused, why, strict=True):
                ends[place] = error
        return [end for end in ends if end is not None]

    def _decide(self, move: Callable[[Tx], Row]) -> Task:
        return self._database.write(lambda tx: to_task(move(tx)))

    def _of_task(self, task_id: str, look: Callable[[Tx, str], T]) -> T:
        def work(tx: Tx) -> T:
            self._task(tx, task_id)
            return look(tx, task_id)

        return self._database.read(work)

    def _task(self, tx: Tx, task_id: str) -> Task:
        row = queries.task_row(tx, task_id)
        if row is None:
            raise TaskNotFound(task_id)
        return to_task(row)
