"""`python -m benchmarks sweep`: measure, and print a Markdown table."""

# ruff: noqa: T201 - printing is what this is for

import argparse
import platform
import sys
from contextlib import nullcontext
from datetime import UTC, datetime

from benchmarks import databases, sweep


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("what", nargs="?", choices=["sweep"], default="sweep")
    parser.add_argument("--database", action="append", choices=databases.NAMES, help="may be repeated; default: both")
    parser.add_argument("--others", type=int, default=200_000, help="tasks that wait, but not too long (long: 1000000)")
    parser.add_argument("--stalled", type=int, default=10_000, help="tasks that wait too long, and as many expired")
    asked = parser.parse_args()
    names = asked.database or list(databases.NAMES)
    found: list[sweep.Measured] = []
    with databases.server() if "postgresql" in names else nullcontext() as postgres:
        for name in names:
            found += sweep.measure(name, postgres, sweep.Sizes(asked.stalled, asked.others), say)
    machine = f"Python {platform.python_version()}, {platform.machine()}"
    print(
        f"One pass of the sweep, {asked.others:,} others, {datetime.now(UTC):%Y-%m-%d}, {machine}; durable settings.\n"
    )
    print(sweep.table(found))


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
