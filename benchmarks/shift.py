"""What Prefect's view of the work costs: shifts beside Prefect's own tasks, and beside the nexus alone.

Everything runs in one process, in one event loop, against one Prefect server, which is there for this only and is given
time to catch up in between. A task does nothing. The nexus alone makes the very calls that the shift before it made.
A background task's time includes that of putting it off (`delay`); the tasks of a shift stand on the board already.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final, Self

from benchmarks import databases, markdown, meter
from benchmarks.plan import Run
from benchmarks.processes import Child, unstoppable
from deployments.prefect_server import OwnServer, client_environment
from nexus import NexusSettings

TITLE = "Shifts and Prefect"

OBSERVED, EMPTY, BACKGROUND = "shift, observe=task", "Prefect tasks, awaited", "Prefect background tasks"
UNOBSERVED, ALONE = "shift, observe=shift", "the nexus alone, same calls"

SHARES: Final = {OBSERVED: 1.0, EMPTY: 1.0, BACKGROUND: 0.1, UNOBSERVED: 10.0, ALONE: 10.0}
"""How many tasks each gets, of `Sizes.shift`: as many as it does in some seconds."""

GOALS: Final = ((OBSERVED, EMPTY), (OBSERVED, BACKGROUND), (UNOBSERVED, ALONE))
"""Who is compared with whom."""

WARM: Final = 20
"""Tasks of each with which the process begins; they are not counted."""

CALM_PERCENT: Final = 15
CALM_AT_LATEST_SECONDS: Final = 60


@dataclass(frozen=True, slots=True)
class Measured:
    """One round of one of them."""

    database: str
    what: str
    tasks: int
    done: int
    """Fewer, where Prefect lost some."""
    seconds: float
    cpu_ms: float
    """A task: the process's, and the Prefect server's until it has caught up."""


def measure(run: Run) -> Iterator[Measured]:
    """In rounds, one after another."""
    with Child("benchmarks.shift:PrefectServer") as prefect:
        run.say("a Prefect server starts")
        server, environment = prefect.ask("told")
        for database in run.databases:
            with (
                databases.fresh(database, run.postgres, "shift") as url,
                Child("benchmarks.shift_worker:ShiftWorker", url, environment=environment) as worker,
            ):
                for what in SHARES:
                    worker.ask("work", what, WARM)
                for turn in range(run.sizes.rounds):
                    for what, share in SHARES.items():
                        number = round(run.sizes.shift * share)
                        run.say(f"{database}: {what}, {number:,} tasks, round {turn + 1} of {run.sizes.rounds}")
                        yield _measured(database, what, number, worker, server)


def _measured(database: str, what: str, number: int, worker: Child, server: int) -> Measured:
    _let_catch_up(server)
    tree = meter.Tree(server)
    done, seconds, cpu = worker.ask("work", what, number)
    _let_catch_up(server)
    return Measured(database, what, number, done, seconds, (cpu + tree.taken()) / done * 1000)


def _let_catch_up(server: int) -> None:
    """Prefect's server writes what it was told some seconds later."""
    until = time.monotonic() + CALM_AT_LATEST_SECONDS
    while time.monotonic() < until and meter.shares([server], 1.0)[0] > CALM_PERCENT:
        pass


class PrefectServer:
    """A Prefect server as `nexus up` starts it; `benchmarks.child` holds it."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        unstoppable()
        scratch = tempfile.TemporaryDirectory(prefix="nexus-bench-", ignore_cleanup_errors=True)
        self._settings = NexusSettings(home=Path(self._stack.enter_context(scratch)))
        self._server = OwnServer(self._settings, any_port=True)
        self._server.enter(lambda _: None, lambda: None)
        self._stack.callback(self._server.leave)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def told(self) -> tuple[int, dict[str, str]]:
        """Its process, and what others need to find it."""
        assert self._server.process is not None
        return self._server.process.pid, client_environment(self._settings, self._server.url)


def report(found: Sequence[Measured]) -> str:
    """Medians over the rounds, and the ratios that count."""
    head = ("database", "what", "tasks", "tasks/s", "CPU ms a task")
    rates: dict[tuple[str, str], float] = {}
    rows: list[Sequence[Any]] = []
    for database, what in dict.fromkeys((one.database, one.what) for one in found):
        of = [one for one in found if (one.database, one.what) == (database, what)]
        rates[database, what] = rate = median(one.done / one.seconds for one in of)
        lost = sum(one.tasks - one.done for one in of)
        cpu = median(one.cpu_ms for one in of)
        rows.append(
            (
                database,
                what,
                f"{of[0].tasks:,}" + (f", {lost} lost in {len(of)} rounds" if lost else ""),
                f"{rate:,.3g}" if rate < 100 else f"{rate:,.0f}",
                markdown.ms(cpu),
            )
        )
    compared = [
        (database, one, other, markdown.ratio(rates.get((database, one)), rates.get((database, other))))
        for database in dict.fromkeys(one.database for one in found)
        for one, other in GOALS
    ]
    return f"{markdown.table(head, rows)}\n\n{markdown.table(('database', 'what', 'beside', 'ratio'), compared)}"
