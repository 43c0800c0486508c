"""`python -m benchmarks`: measure, and print Markdown tables. `throughput` and `sweep` measure one thing each."""

# ruff: noqa: T201 - printing is what this is for

import argparse
import platform
import sys
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any

from benchmarks import databases, sweep, throughput


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("what", nargs="*", help="throughput, sweep; default: both, in a short form")
    parser.add_argument("--database", action="append", choices=databases.NAMES, help="may be repeated; default: both")
    parser.add_argument("--tasks", type=int, default=5_000, help="per round and contender (long: 20000)")
    parser.add_argument("--rounds", type=int, default=3, help="the contenders take turns in each")
    parser.add_argument("--others", type=int, default=20_000, help="tasks that wait, but not too long (long: 1000000)")
    parser.add_argument("--stalled", type=int, default=2_000, help="that wait too long, and as many expired (10000)")
    asked = parser.parse_args()
    if unknown := set(asked.what) - {"throughput", "sweep"}:
        parser.error(f"nothing here measures {', '.join(unknown)}; there are throughput and sweep")
    names = asked.database or list(databases.NAMES)
    machine = f"Python {platform.python_version()}, {platform.machine()}"
    print(f"{datetime.now(UTC):%Y-%m-%d}, {machine}; durable settings.\n")
    with databases.server() if "postgresql" in names else nullcontext() as postgres:
        if not asked.what or "throughput" in asked.what:
            print(throughput.table(_throughput(names, postgres, asked)), "\n", sep="")
        if not asked.what or "sweep" in asked.what:
            sizes = sweep.Sizes(asked.stalled, asked.others)
            passes = [one for name in names for one in sweep.measure(name, postgres, sizes, say)]
            print(f"One pass of the sweep, {asked.others:,} others.\n\n{sweep.table(passes)}")


def _throughput(names: list[str], postgres: Any, asked: argparse.Namespace) -> list[throughput.Measured]:
    found = []
    for name in names:
        for workers, batch, number in ((1, 100, asked.tasks), (4, 100, asked.tasks), (1, 1, asked.tasks // 5)):
            for turn in range(asked.rounds):
                say(f"{name}: {workers} workers, {batch} at once, round {turn + 1} of {asked.rounds}")
                for contender in throughput.CONTENDERS:
                    one = throughput.round_of(name, postgres, contender, workers=workers, batch=batch, number=number)
                    found.append(one)
    return found


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
