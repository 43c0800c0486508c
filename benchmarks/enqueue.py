"""How fast tasks come onto a board: many in one call, and out of a board file.

Beside `add_tasks` SQLAlchemy Core inserts as many rows with one executemany: into its own narrow table, and, the very
rows that the nexus writes, into the nexus's. Each has a process and a database of its own.
"""

import json
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final, Self

import sqlalchemy as sa

from benchmarks import databases, markdown, meter
from benchmarks.contenders import core
from benchmarks.plan import Run
from benchmarks.processes import Child
from nexus import NexusSettings, TaskNexus
from nexus.tables import tasks

TITLE = "Enqueue"

NEXUS, NARROW, WIDE, IMPORTED = "add_tasks", "Core, narrow table", "Core, the nexus's rows", "import of a board file"

WARM: Final = 200
"""Tasks that are not counted."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One call."""

    database: str
    what: str
    tasks: int
    seconds: float
    cpu_ms: float
    """A task: the process's and the server's."""
    megabytes: float
    """How far the call drove the memory of its process beyond what it had reached before."""


class Adder:
    """A process that adds; `benchmarks.child` runs it."""

    def __init__(self, url: str, server: int | None) -> None:
        self._nexus = TaskNexus(url, settings=NexusSettings(database_url=url))
        self._engine = core.engine_of(url) if server is None else sa.create_engine(url)
        self._server, self._warm = server, set[str]()
        core.metadata.create_all(self._engine)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._nexus.close()
        self._engine.dispose()

    def add(self, what: str, number: int) -> dict[str, float]:
        """Add tasks in one call: what it took."""
        calls: dict[str, Callable[[int], Callable[[], object]]] = {
            NEXUS: self._ours,
            NARROW: self._narrow,
            WIDE: self._wide,
        }
        if what not in self._warm:
            calls[what](WARM)()
            self._warm.add(what)
        return self._timed(calls[what](number))

    def load(self, file: str) -> dict[str, float]:
        """Read a board file and import it: what it took."""

        def load() -> None:
            report = self._nexus.import_board(self._nexus.read_board(file))
            assert not report.rejected, report

        return self._timed(load)

    def _ours(self, number: int) -> Callable[[], object]:
        asked = [{"task_type": "noop", "payload": {"n": n}} for n in range(number)]
        return lambda: self._nexus.add_tasks(asked)

    def _narrow(self, number: int) -> Callable[[], object]:
        rows = [{"status": "pending", "priority": 20, "payload": f'{{"n":{n}}}', "claim_no": 0} for n in range(number)]
        return lambda: self._insert(core.tasks, rows)

    def _wide(self, number: int) -> Callable[[], object]:
        """The rows are those that the nexus writes for these tasks into a board in memory."""
        columns = [column for column in tasks.c if column.name != "seq"]
        with TaskNexus("sqlite://", settings=NexusSettings()) as scratch:
            scratch.add_tasks([{"task_type": "noop", "payload": {"n": n}} for n in range(number)])
            with scratch._database.engine.connect() as connection:
                rows = [dict(row._mapping) for row in connection.execute(sa.select(*columns))]
        return lambda: self._insert(tasks, rows)

    def _insert(self, table: sa.Table, rows: list[dict[str, Any]]) -> None:
        with self._engine.begin() as connection:
            connection.execute(sa.insert(table), rows)

    def _timed(self, call: Callable[[], object]) -> dict[str, float]:
        server = meter.Tree(self._server) if self._server else None
        before, cpu, began = _peak(), time.process_time(), time.perf_counter()
        call()
        seconds = time.perf_counter() - began
        cpu = time.process_time() - cpu + (server.taken() if server else 0.0)
        return {"seconds": seconds, "cpu": cpu, "megabytes": _peak() - before}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(run: Run) -> Iterator[Measured]:
    """The calls in rounds, then the import."""
    for database in run.databases:
        with ExitStack() as stack:
            number = run.sizes.enqueued
            adders = {what: _adder(run, database, stack, f"adder{n}") for n, what in enumerate((NEXUS, NARROW, WIDE))}
            for turn in range(run.sizes.rounds):
                run.say(f"{database}: {number:,} tasks in one call, round {turn + 1} of {run.sizes.rounds}")
                for what, adder in adders.items():
                    yield _measured(database, what, number, adder.ask("add", what, number))
        with ExitStack() as stack:
            number = run.sizes.imported
            run.say(f"{database}: import of {number:,} tasks")
            file = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nexus-bench-"))) / "board.json"
            file.write_text(json.dumps({"tasks": _board(number)}), encoding="utf-8")
            told = _adder(run, database, stack, "importer").ask("load", str(file))
            yield _measured(database, IMPORTED, number, told)


def _adder(run: Run, database: str, stack: ExitStack, purpose: str) -> Child:
    """A process of its own at a database of its own."""
    server = databases.postmaster(run.postgres) if database == "postgresql" and run.postgres else None
    url = stack.enter_context(databases.fresh(database, run.postgres, purpose))
    return stack.enter_context(Child("benchmarks.enqueue:Adder", url, server))


def _measured(database: str, what: str, number: int, told: dict[str, float]) -> Measured:
    return Measured(database, what, number, told["seconds"], told["cpu"] / number * 1000, told["megabytes"])


def _board(number: int) -> list[dict[str, Any]]:
    """Tasks as people write them; each tenth depends on the one before."""
    return [
        {
            "task_id": f"T-{n}",
            "task_type": "noop",
            "description": f"the task with the number {n}",
            "payload": {"n": n},
            "tags": ["bulk"],
            "depends_on": [f"T-{n - 1}"] if n % 10 == 9 else [],
        }
        for n in range(number)
    ]


def report(found: Sequence[Measured]) -> str:
    """A line each, medians over the rounds. `ours to it`: our speed by that one, its CPU by ours; more is better."""
    head = ("database", "how", "tasks", "tasks/s", "ours to it", "CPU ms a task", "ours to it", "peak, MB")
    rows = []
    for database, what in dict.fromkeys((one.database, one.what) for one in found):
        of = [one for one in found if (one.database, one.what) == (database, what)]
        ours = [one for one in found if (one.database, one.what) == (database, NEXUS)]
        seconds, cpu = (median(getattr(one, name) for one in of) for name in ("seconds", "cpu_ms"))
        compared = what in (NARROW, WIDE)
        speed = markdown.ratio(seconds, median(one.seconds for one in ours)) if compared else None
        spent = markdown.ratio(cpu, median(one.cpu_ms for one in ours)) if compared else None
        number, peak = of[0].tasks, f"{max(one.megabytes for one in of):.0f}"
        rows.append((database, what, f"{number:,}", f"{number / seconds:,.0f}", speed, markdown.ms(cpu), spent, peak))
    return markdown.table(head, rows)
