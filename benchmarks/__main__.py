"""`python -m benchmarks`: what the nexus costs, beside plain SQL and its peers, as Markdown tables.

Without arguments a short form of all parts but `shift`, in under three minutes; with names of parts those only.
"""

# ruff: noqa: T201 - printing is what this is for

import argparse
import dataclasses
import platform
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import databases, throughput
from benchmarks.contenders import CONTENDERS
from benchmarks.parts import BY_DEFAULT, PARTS, Part, part
from benchmarks.plan import LONG, SHORT, Run
from benchmarks.processes import ChildFailed


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    asked = _asked(arguments)
    told = [
        f"{datetime.now(UTC):%Y-%m-%d}, Python {platform.python_version()}, {platform.machine()}; durable settings."
    ]
    print(told[0], "\n")
    code = 0
    found: list[Any] = []
    with ExitStack() as stack:
        try:
            run = _run(asked, stack)
            for name in asked.parts or BY_DEFAULT:
                chosen, before = part(name), len(found)
                try:
                    found.extend(chosen.measure(run))
                finally:
                    _tell(chosen, found[before:], told)
        except KeyboardInterrupt:
            say("stopped; this is what was measured so far")
            code = 130
        except ChildFailed as failed:
            say(str(failed))
            code = 1
    if asked.markdown:
        asked.markdown.write_text("\n\n".join(told) + "\n", encoding="utf-8")
    if asked.chart:
        rounds = [one for one in found if isinstance(one, throughput.Measured)]
        asked.chart.write_text(throughput.drawn(rounds), encoding="utf-8")
    return code


def _tell(chosen: Part, measured: Sequence[Any], told: list[str]) -> None:
    if measured:
        told.append(f"## {chosen.TITLE}\n\n{chosen.report(measured)}")
        print(told[-1], "\n", flush=True)


def _asked(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"{', '.join(PARTS)}; default: all but shift")
    parser.add_argument("--long", action="store_true", help="larger boards, more rounds, slow peers too")
    parser.add_argument("--database", action="append", choices=databases.NAMES, help="may be repeated; default: both")
    parser.add_argument("--contender", action="append", choices=CONTENDERS, help="of throughput; may be repeated")
    parser.add_argument("--rounds", type=int, help="the contenders take turns in each")
    parser.add_argument("--tasks", type=int, help="a round of throughput in batches")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables")
    parser.add_argument("--chart", type=Path, metavar="FILE.svg", help="draw the CPU times of throughput")
    asked = parser.parse_args(arguments)
    if unknown := [name for name in asked.parts if name not in PARTS]:
        parser.error(f"nothing here measures {', '.join(unknown)}; there are {', '.join(PARTS)}")
    return asked


def _run(asked: argparse.Namespace, stack: ExitStack) -> Run:
    sizes = LONG if asked.long else SHORT
    given = {name: value for name in ("rounds", "tasks") if (value := getattr(asked, name))}
    names = asked.database or list(databases.NAMES)
    postgres = stack.enter_context(databases.server()) if "postgresql" in names else None
    return Run(names, postgres, dataclasses.replace(sizes, **given), _contenders(asked), say)


def _contenders(asked: argparse.Namespace) -> list[str]:
    """Those that were asked for, or suit the form, and are installed."""
    wanted = asked.contender or [name for name, entry in CONTENDERS.items() if asked.long or not entry.slow]
    missing = {name: CONTENDERS[name].missing() for name in wanted}
    if lacking := sorted({one for names in missing.values() for one in names}):
        say(f"left out, as they are not installed: {', '.join(lacking)}; pip install {' '.join(lacking)}")
    return [name for name in wanted if not missing[name]]


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # which leaves no servers behind
    sys.exit(main())
