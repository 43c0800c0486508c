"""Who is measured, behind one interface. Each is imported only in the process that runs it."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import Literal, Protocol

BATCH = 100
"""Tasks at once, where a contender can."""

Work = Callable[[], int]
"""Claims and completes until nothing is left; how many."""


class Contender(Protocol):
    """One way to keep a queue of tasks in a database."""

    def make(self, url: str) -> None:
        """Make the tables."""

    def fill(self, url: str, number: int) -> None:
        """Add `number` tasks that do nothing."""

    def open(self, url: str, agent_id: str, batch: int) -> AbstractContextManager[Work]:
        """Whatever is done once a process: what is entered works `batch` tasks at once, as often as it is called."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of a contender without importing it."""

    title: str
    where: str
    """MODULE:CLASS, under this package."""
    kind: Literal["ours", "floor", "peer"]
    """A floor is plain SQL for what is measured, and for nothing else that a queue does."""
    databases: tuple[str, ...]
    keeps: str
    """What is there of a task when it is done."""
    needs: tuple[str, ...] = ()
    """The distributions that it is made of, beyond those of this package."""
    at_once: tuple[int, ...] = (BATCH, 1)
    """The cases in which it takes part."""
    own_batch: int | None = None
    """How many it takes at once where others take `BATCH`."""
    processes: int | None = None
    """How many processes may share its database; None: any number."""
    slow: bool = False
    """Measured in the long form only, with a tenth of the tasks."""
    remark: str = ""
    """How it is used, where that is not plain."""

    def missing(self) -> list[str]:
        """Which of its distributions are not installed."""
        return [name for name in self.needs if not _installed(name)]

    def versions(self) -> str:
        """What was measured."""
        return ", ".join(f"{name} {metadata.version(name)}" for name in self.needs if _installed(name))

    def load(self) -> Contender:
        """The contender itself."""
        module, _, name = self.where.partition(":")
        made: Contender = getattr(import_module(f"{__name__}.{module}"), name)()
        return made


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def dsn(url: str) -> str:
    """A PostgreSQL URL as its drivers read it, without SQLAlchemy's word for the driver."""
    return url.replace("postgresql+psycopg:", "postgresql:", 1)


def file_of(url: str) -> str:
    """The path in an SQLite URL."""
    return url.removeprefix("sqlite:///")


FILE, SERVER, BOTH = ("sqlite",), ("postgresql",), ("sqlite", "postgresql")

CONTENDERS = {
    "least_sql": Entry("least SQL", "least_sql:LeastSql", "floor", BOTH, "attempt"),
    "core": Entry("SQLAlchemy Core", "core:Core", "floor", BOTH, "attempt"),
    "nexus": Entry("Nexus Flows", "nexus_flows:Nexus", "ours", BOTH, "attempt and history"),
    "nexus3": Entry("Nexus Flows, start apart", "nexus_flows:NexusInThree", "ours", BOTH, "attempt and history"),
    "pgqueuer": Entry(
        "PgQueuer",
        "pgqueuer:PgQueuerDrained",
        "peer",
        SERVER,
        "log rows",
        needs=("pgqueuer", "asyncpg"),
        own_batch=10,
        remark="on asyncpg and uvloop; 10 is its default batch",
    ),
    "pgqueuer500": Entry(
        "PgQueuer",
        "pgqueuer:PgQueuerDrained",
        "peer",
        SERVER,
        "log rows",
        needs=("pgqueuer", "asyncpg"),
        at_once=(BATCH,),
        own_batch=500,
    ),
    "absurd": Entry(
        "Absurd",
        "absurd:AbsurdWorker",
        "peer",
        SERVER,
        "task and attempt",
        needs=("absurd-sdk", "absurdctl"),
        slow=True,
        remark="claims in batches, completes one by one",
    ),
    "chancy": Entry(
        "Chancy",
        "chancy:ChancyWorker",
        "peer",
        SERVER,
        "task",
        needs=("chancy",),
        slow=True,
        remark="as many coroutines as others take at once; completions are written once a second",
    ),
    "procrastinate": Entry(
        "procrastinate",
        "procrastinate:Procrastinate",
        "peer",
        SERVER,
        "task and events",
        needs=("procrastinate",),
        slow=True,
        remark="as many coroutines as others take at once; each job is fetched and finished by itself",
    ),
    "dbos": Entry(
        "DBOS",
        "dbos:DbosQueue",
        "peer",
        SERVER,
        "task",
        needs=("dbos",),
        slow=True,
        remark="as many threads as others take at once; its launch is counted, some tenths of a second",
    ),
    "litequeue": Entry(
        "litequeue",
        "litequeue:LiteQueueWorker",
        "peer",
        FILE,
        "task",
        needs=("litequeue",),
        at_once=(1,),
        remark="with `synchronous = FULL`, as the others; it comes with NORMAL",
    ),
    "huey": Entry(
        "Huey",
        "huey:HueyConsumer",
        "peer",
        FILE,
        "nothing",
        needs=("huey",),
        at_once=(1,),
        remark="with `fsync=True`; what is taken is deleted at once, and lost with its worker",
    ),
    "persist_queue": Entry(
        "persist-queue",
        "persist_queue:PersistQueue",
        "peer",
        FILE,
        "task",
        needs=("persist-queue",),
        at_once=(1,),
        processes=1,
        remark="its SQLiteAckQueue, which is for one process",
    ),
}
"""By name; the order is that of the tables."""
