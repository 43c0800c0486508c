"""Tasks a second and CPU a task: contenders in turn, round after round, on one machine in one run."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import sqlalchemy as sa

from benchmarks import databases, meter


@dataclass(frozen=True, slots=True)
class Measured:
    """One contender's round."""

    database: str
    contender: str
    workers: int
    batch: int
    tasks: int
    seconds: float
    cpu_ms: float
    """A task: the workers' and the server's."""


CONTENDERS = ("core", "nexus", "nexus3")
"""Their names in `benchmarks.worker`; the first is what the others are compared with."""

TITLES = {"core": "SQLAlchemy Core, no history", "nexus": "Nexus Flows", "nexus3": "Nexus Flows, start apart"}


def table(found: Sequence[Measured]) -> str:
    """Markdown: a line a contender, medians over the rounds; the ratio is that of the CPU times."""
    lines = [
        "| database | workers | at once | contender | tasks/s | CPU ms a task | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    cases = dict.fromkeys((one.database, one.workers, one.batch) for one in found)
    for case in cases:
        of = [one for one in found if (one.database, one.workers, one.batch) == case]
        cpu = {name: median(one.cpu_ms for one in of if one.contender == name) for name in CONTENDERS}
        for name in CONTENDERS:
            rate = median(one.tasks / one.seconds for one in of if one.contender == name)
            shown = " | ".join(map(str, case))
            ratio = cpu[name] / cpu[CONTENDERS[0]]
            lines.append(f"| {shown} | {TITLES[name]} | {rate:,.0f} | {cpu[name]:.3f} | {ratio:.2f} |")
    return "\n".join(lines)


def round_of(name: str, postgres: Any, contender: str, *, workers: int, batch: int, number: int) -> Measured:
    """Fill, let `workers` processes work, and look at the clock and the CPU times."""
    with databases.fresh(name, postgres) as url:
        _child("fill", contender, url, str(number))
        server = _postmaster(postgres) if name == "postgresql" else None
        before = meter.of_tree(server) if server else 0.0
        running = [_start("work", contender, url, f"Agent-{n}", str(batch)) for n in range(workers)]
        told = [json.loads(child.communicate()[0]) for child in running]
        seconds = max(one["ended"] for one in told) - min(one["began"] for one in told)
        cpu = sum(one["cpu"] for one in told) + (meter.of_tree(server) - before if server else 0.0)
        done = sum(one["done"] for one in told)
        assert done == number, f"{contender} did {done} of {number} tasks"
        return Measured(name, contender, workers, batch, number, seconds, cpu / number * 1000)


def _postmaster(postgres: sa.URL) -> int:
    engine = sa.create_engine(postgres, poolclass=sa.NullPool)
    with engine.connect() as connection:
        folder = connection.exec_driver_sql("SHOW data_directory").scalar_one()
    return int((Path(folder) / "postmaster.pid").read_text().splitlines()[0])


def _start(*arguments: str) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "benchmarks.worker", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)  # noqa: S603


def _child(*arguments: str) -> None:
    assert _start(*arguments).wait() == 0
