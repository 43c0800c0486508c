"""Tasks a second and CPU a task: contenders in turn, round after round, on one machine in one run.

A task does nothing; what is measured is its claim, the row of its attempt, and its completion, all of it durable. CPU
is that of the worker processes and of the database server. What a contender does once a process (importing, opening,
preparing its statements) is not counted: each works at some tasks of its own first.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from typing import Self

from benchmarks import chart, databases, markdown, meter
from benchmarks.contenders import BATCH, CONTENDERS, Entry
from benchmarks.plan import Run
from benchmarks.processes import Child, ChildFailed

TITLE = "Throughput"

NAMES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}

WARM_BATCHES = 12
"""Batches of its own with which a worker begins: the drivers prepare what they were asked for five times."""

SLOW_SHARE = 10
"""Those who are slow get one of so many tasks."""


@dataclass(frozen=True, slots=True)
class Case:
    """What is compared."""

    database: str
    workers: int
    at_once: int


@dataclass(frozen=True, slots=True)
class Measured:
    """One contender's round."""

    case: Case
    contender: str
    tasks: int
    seconds: float
    cpu_ms: float
    """A task: the workers' and the server's."""


def measure(run: Run) -> Iterator[Measured]:
    """Every case, in rounds."""
    for database in run.databases:
        for workers, at_once in run.sizes.cases:
            yield from _rounds(run, Case(database, workers, at_once))


def _rounds(run: Run, case: Case) -> Iterator[Measured]:
    with ExitStack() as stack:
        crews = [stack.enter_context(Crew(run, case, name)) for name in run.contenders if _fits(name, case)]
        for crew in crews:
            crew.warm()
        for turn in range(run.sizes.rounds):
            workers = "1 worker" if case.workers == 1 else f"{case.workers} workers"
            run.say(f"{case.database}, {workers}, {case.at_once} at once: round {turn + 1} of {run.sizes.rounds}")
            for crew in crews:
                yield crew.round()


def _fits(name: str, case: Case) -> bool:
    entry = CONTENDERS[name]
    crowded = entry.processes is not None and case.workers > entry.processes
    return case.database in entry.databases and case.at_once in entry.at_once and not crowded


def _batch(entry: Entry, case: Case) -> int:
    return entry.own_batch if entry.own_batch and case.at_once == BATCH else case.at_once


class Crew:
    """The worker processes of one contender, at a database of their own; they are there for all rounds of a case."""

    def __init__(self, run: Run, case: Case, name: str) -> None:
        self._run, self._case, self._name, self._entry = run, case, name, CONTENDERS[name]
        self._batch = _batch(self._entry, case)
        self._server = databases.postmaster(run.postgres) if case.database == "postgresql" and run.postgres else None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.url = stack.enter_context(databases.fresh(self._case.database, self._run.postgres, self._name))
            self.workers = [
                stack.enter_context(Child("benchmarks.worker:Worker", self._name, self.url, f"Agent-{n}", self._batch))
                for n in range(self._case.workers)
            ]
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def warm(self) -> None:
        """Open, and work a little, one after another."""
        self.workers[0].ask("make")
        number = WARM_BATCHES * self._batch // (SLOW_SHARE if self._entry.slow and self._batch > 1 else 1)
        for worker in self.workers:
            self.workers[0].ask("fill", number)
            worker.ask("open")
            worker.ask("work")

    def round(self) -> Measured:
        """Fill, let all of them work, and look at the clock and the CPU times."""
        sizes = self._run.sizes
        number = sizes.tasks if self._case.at_once == BATCH else sizes.singles
        number = number // SLOW_SHARE if self._entry.slow else number
        self.workers[0].ask("fill", number)
        databases.settle(self.url)
        server = meter.Tree(self._server) if self._server else None
        for worker in self.workers:
            worker.send("work")
        told = [worker.answer() for worker in self.workers]
        cpu = sum(one["cpu"] for one in told) + (server.taken() if server else 0.0)
        seconds = max(one["ended"] for one in told) - min(one["began"] for one in told)
        done = sum(one["done"] for one in told)
        if done != number:
            raise ChildFailed(f"{self._entry.title} did {done} of {number} tasks")
        return Measured(self._case, self._name, number, seconds, cpu / number * 1000)


def cpu(found: Sequence[Measured], case: Case, contender: str) -> float | None:
    """The median over the rounds, in ms a task."""
    figures = [one.cpu_ms for one in found if one.case == case and one.contender == contender]
    return median(figures) if figures else None


def best_peer(found: Sequence[Measured], case: Case) -> float | None:
    """The least that a peer takes: one at a time, or however it likes."""
    cases = [case] if case.at_once == 1 else [case, Case(case.database, case.workers, 1)]
    peers = [name for name, entry in CONTENDERS.items() if entry.kind == "peer"]
    figures = [figure for name in peers for case in cases if (figure := cpu(found, case, name)) is not None]
    return min(figures, default=None)


def report(found: Sequence[Measured]) -> str:
    """A table for each database and number at once. Medians over the rounds; the ratios are those of the CPU times."""
    kinds = dict.fromkeys((one.case.database, one.case.at_once) for one in found)
    tables = [_table([one for one in found if (one.case.database, one.case.at_once) == kind], found) for kind in kinds]
    return "\n\n".join([*tables, *_remarks(found)])


def _table(of: Sequence[Measured], found: Sequence[Measured]) -> str:
    """A line a contender; the columns again for each number of workers."""
    cases = list(dict.fromkeys(one.case for one in of))
    crowds = ["1 worker" if case.workers == 1 else f"{case.workers} workers" for case in cases]
    head = ["contender", "keeps"]
    for crowd in crowds:
        head += [f"{crowd}: tasks/s", "CPU ms a task", "to Core", "to best peer"]
    rows = []
    for name in (name for name in CONTENDERS if any(one.contender == name for one in of)):
        row: list[object] = [_label(name, cases[0]), CONTENDERS[name].keeps]
        for case in cases:
            row += _figures(found, case, name)
        rows.append(row)
    return f"**{_kind(cases[0])}**\n\n{markdown.table(head, rows)}"


def _figures(found: Sequence[Measured], case: Case, name: str) -> list[str | None]:
    figure = cpu(found, case, name)
    if figure is None:
        return [None] * 4
    rate = median(one.tasks / one.seconds for one in found if one.case == case and one.contender == name)
    ratios = [markdown.ratio(figure, base) for base in (cpu(found, case, "core"), best_peer(found, case))]
    return [f"{rate:,.0f}", markdown.ms(figure), *ratios]


def _kind(case: Case) -> str:
    return f"{NAMES[case.database]}, " + (f"{case.at_once} at once" if case.at_once > 1 else "one at a time")


def _label(name: str, case: Case) -> str:
    entry = CONTENDERS[name]
    return f"{entry.title}, {entry.own_batch}" if _batch(entry, case) != case.at_once else entry.title


def _remarks(found: Sequence[Measured]) -> list[str]:
    said: dict[str, str] = {}
    for name, entry in CONTENDERS.items():
        if any(one.contender == name for one in found) and (entry.needs or entry.remark):
            said.setdefault(entry.title, ", ".join(filter(None, (entry.versions(), entry.remark))))
    return ["\n".join(f"- {title}: {remark}" for title, remark in said.items())] if said else []


def drawn(found: Sequence[Measured]) -> str:
    """The CPU times of one worker as a chart: a panel for each database and number at once, the cheapest first."""
    panels = []
    for case in sorted(
        dict.fromkeys(one.case for one in found if one.case.workers == 1), key=lambda case: -case.at_once
    ):
        bars = [
            chart.Bar(_label(name, case), value, entry.kind)
            for name, entry in CONTENDERS.items()
            if (value := cpu(found, case, name)) is not None
        ]
        panels.append(chart.Panel(_kind(case), sorted(bars, key=lambda bar: bar.value)))
    return chart.drawn(
        "CPU milliseconds a task",
        "claim, attempt and completion of an empty task; worker and server; less is better",
        panels,
    )
