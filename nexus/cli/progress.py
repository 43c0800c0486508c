"""How far long work is: a bar on stderr, where that is a terminal."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nexus.progress import Progress


@contextmanager
def progress_bar(as_json: bool = False) -> "Iterator[Progress]":
    """A line for each thing that is being done; gone when all of it is. Elsewhere, and with --json, nothing is said."""
    if as_json or not sys.stderr.isatty():
        from nexus.progress import unheard

        yield unheard
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True, highlight=False), transient=True) as bar:
        lines = {}

        def tell(what: str, done: int, total: int | None) -> None:
            if what not in lines:
                lines[what] = bar.add_task(what, total=total)
            bar.update(lines[what], completed=done, total=total)

        yield tell
