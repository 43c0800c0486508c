"""How the command speaks: data on stdout, words on stderr, one JSON document where asked for."""

# ruff: noqa: T201 - printing is what this is for

import io
import json
import os
import re
import sys
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TextIO

import typer

from nexus.cli.exits import Exit, as_json, document

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from nexus import Task, TaskNexus
    from nexus.masking import Mask

REFUSED, USAGE, NOTHING, STOP = Exit.REFUSED, Exit.USAGE, Exit.NOTHING, Exit.STOP

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
MOST = 1_000_000
"""No number of tasks or claims is larger."""


KINDS = {REFUSED: "Refused", USAGE: "WrongUsage", STOP: "Cancelled"}
"""The code, in JSON, of an error that has no type of its own."""

MOST_WORDS = 2000
"""Characters of one line on stderr: it may repeat what was given, and that may be anything."""
MOST_JSON = 64 * 2**20
"""Characters of a JSON value that is given: as many as the largest `max_payload_bytes`."""


def at_most(most: float) -> Callable[[Any], Any]:
    """A check for an option. Typer's own `max` would stand in the help, where a limit beyond reason only puzzles."""

    def check(value: Any) -> Any:
        if value is not None and value > most:
            raise typer.BadParameter(f"{value} is more than {most:,.0f}.")
        return value

    return check


TaskId = Annotated[str, typer.Argument(metavar="TASK", help="The task's id.", show_default=False)]
Actor = Annotated[str | None, typer.Option("--by", metavar="NAME", help="Who decides this; kept in the history.")]


def open_nexus(context: typer.Context) -> "TaskNexus":
    """The nexus that `--database`, the environment or nexus.toml names."""
    from nexus import TaskNexus

    nexus = TaskNexus((context.find_root().obj or {}).get("database"))
    context.call_on_close(nexus.close)
    return nexus


def mask(nexus: "TaskNexus", task: "Task") -> "Mask":
    """What is secret here and in the task's payload: for what agents outside say, and for what a person is shown."""
    from nexus.masking import mask_of

    return mask_of(nexus.settings, os.environ, task.payload)


def emit(value: Any, as_json: bool, show: Callable[[], None]) -> None:
    """Print `value`: as one JSON document, or the way `show` does for people."""
    if as_json:
        print_json(value)
    else:
        show()


def print_json(value: Any) -> None:
    """One JSON document on stdout, with the fields of the Pydantic models."""
    from pydantic_core import to_jsonable_python

    print(_seen(json.dumps(to_jsonable_python(value), indent=2, ensure_ascii=False)), file=data_stream())


def print_line(value: Any) -> None:
    """A line on stdout, at once: a text, or a value as JSON on one line."""
    from pydantic_core import to_jsonable_python

    if not isinstance(value, str):
        value = _seen(json.dumps(to_jsonable_python(value), ensure_ascii=False))
    print(value, file=data_stream(), flush=True)


def _seen(document: str) -> str:
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", document)


_UNSEEN = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""What JSON lets stand as it is, and a terminal obeys: it is written as an escape, which is the same text."""


def data_stream() -> TextIO:
    """stdout, in UTF-8: what JSON is in, whatever the terminal speaks."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")
    return sys.stdout


def say(text: str) -> None:
    """Words for the person, on stderr: one line that can be read, whatever is in them."""
    text = text if len(text) <= MOST_WORDS else f"{text[: MOST_WORDS - 1]}…"
    print(harmless(text), file=sys.stderr)


def say_error(text: str, code: Exit, kind: str, error: BaseException | None = None) -> None:
    """What went wrong, on stderr: one line for the person, or with --json one for a program.

    stdout is left to documents that have their own schema: who reads one never takes an error for it.
    """
    if as_json():
        print(document(kind, text[:MOST_WORDS], code, error), file=sys.stderr)
    else:
        say(text)


def refuse(text: str, code: Exit = REFUSED, kind: str = "") -> NoReturn:
    """End with one line that says why."""
    say_error(text, code, kind or KINDS[code])
    raise typer.Exit(code)


def harmless(text: str) -> str:
    """Foreign text without what moves a terminal's cursor or turns its text around."""
    return "".join(char if char.isprintable() else " " for char in text)


def flat(text: str | None) -> str:
    """Foreign text on one line, harmless."""
    return " ".join(harmless(text or "").split())


def console() -> "Console":
    """Rich on stdout; without colour where that is no terminal, or NO_COLOR is set."""
    from rich.console import Console

    return Console(highlight=False)


NARROWEST = 8
"""No column of a table becomes narrower than this, so long as there is something to see in it."""


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    right: Container[str] = (),
    whole: Container[str] = (),
    ids: Container[str] = (),
    folds: Container[str] = (),
) -> None:
    """A plain table that fits the terminal: what is too long is cut. A pipe gets all of it.

    Cells are text (foreign text is made harmless), Rich `Text`s, numbers or None. `right` names the columns of
    numbers, which like those named `whole` are cut last: half a number is another one. Of `ids` both ends are shown,
    what `folds` goes on below.
    """
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    out = console()
    cells = [[one if isinstance(one, Text) else Text(_cell(one)) for one in row] for row in rows]
    widths = [max((cell_len(name), *(row[at].cell_len for row in cells))) for at, name in enumerate(columns)]
    if not out.is_terminal:
        for line in [[Text(name) for name in columns], *cells]:
            parts = [
                " " * (width - one.cell_len) + one.plain if name in right else one.plain + " " * (width - one.cell_len)
                for name, width, one in zip(columns, widths, line, strict=True)
            ]
            print("  ".join(parts).rstrip())
        return
    drawn = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    weights = [1000 if name in right or name in whole else 2 if name in ids else 1 for name in columns]
    fitted = _fitted(widths, weights, out.width - 2 * (len(columns) - 1))
    for name, width in zip(columns, fitted, strict=True):
        justify: Any = "right" if name in right else "left"
        overflow: Any = "fold" if name in folds else "ellipsis"
        drawn.add_column(name, width=width, no_wrap=name not in folds, overflow=overflow, justify=justify)
    for row in cells:
        drawn.add_row(
            *(
                _both_ends(one, width) if name in ids else one
                for name, width, one in zip(columns, fitted, row, strict=True)
            )
        )
    out.print(drawn)


def facts(named: Mapping[str, str]) -> None:
    """Names and values below each other; on a terminal a long value stands beside its name."""
    from rich.table import Table
    from rich.text import Text

    out = console()
    width = max(map(len, named)) + 2
    if not out.is_terminal:
        for name, value in named.items():
            print(f"{name:<{width}}{flat(value)}")
        return
    drawn = Table(box=None, padding=0, pad_edge=False, show_header=False)
    drawn.add_column(width=width, style="bold")
    drawn.add_column(overflow="fold")
    for name, value in named.items():
        drawn.add_row(name, Text(flat(value)))
    out.print(drawn)


def _cell(value: Any) -> str:
    return "" if value is None else flat(value) if isinstance(value, str) else str(value)


def _fitted(widths: Sequence[int], weights: Sequence[int], room: int) -> list[int]:
    """The widest columns give way, by their weight; of equals the last one."""
    fitted = [min(width, room) for width in widths]
    while sum(fitted) > room and max(fitted) > NARROWEST:
        wide = [at for at, width in enumerate(fitted) if width > NARROWEST]
        fitted[max(wide, key=lambda at: (fitted[at] / weights[at], at))] -= 1
    return fitted


def _both_ends(text: "Text", width: int) -> "Text":
    """A long id without its middle: what tells ids apart is mostly their end."""
    from rich.cells import cell_len, set_cell_size
    from rich.text import Text

    if text.cell_len <= width:
        return text
    head, tail = set_cell_size(text.plain, (width - 1) // 2), text.plain
    while cell_len(tail) > width - 1 - cell_len(head):
        tail = tail[1:]
    return Text(f"{head}…{tail}", style=text.style)


STATUS_STYLE = {
    "completed": "green",
    "failed": "red",
    "cancelled": "dim",
    "stalled": "yellow",
    "blocked": "yellow",
    "in_progress": "cyan",
    "claimed": "cyan",
    "in_review": "magenta",
}


def status_text(status: str) -> Any:
    """A status in its colour."""
    from rich.text import Text

    return Text(status, style=STATUS_STYLE.get(status, ""))


def counted(counts: Mapping[str, int]) -> Any:
    """How many tasks there are in each status, in one coloured line."""
    from rich.text import Text

    from nexus.states import TaskStatus

    known = [status for status in TaskStatus if counts.get(status)]
    words = [Text(f"{counts[one]:,} {one}", style=STATUS_STYLE.get(one, "")) for one in known]
    return Text("  ").join(words) if words else Text("no tasks", style="dim")


def when(moment: datetime | None) -> str:
    """A time for people, in UTC."""
    return f"{moment:%Y-%m-%d %H:%M:%S}" if moment else ""


def parse_json(text: str | None, what: str) -> Any:
    """A JSON value from an argument: itself, `@file`, or `-` for stdin. Anything else is wrong usage."""
    if text is None:
        return None
    try:
        if text == "-":
            text = sys.stdin.read(MOST_JSON + 1)
        elif text.startswith("@"):
            with Path(text[1:]).open(encoding="utf-8") as file:
                text = file.read(MOST_JSON + 1)
        if len(text) > MOST_JSON:
            refuse(f"{what} has more than {MOST_JSON:,} characters; keep large data elsewhere.", USAGE)
        return json.loads(text)
    except OSError as error:
        refuse(f"{what}: {error.strerror}: {error.filename}", USAGE)
    except (ValueError, RecursionError) as error:
        refuse(
            f"{what} is not JSON ({error}); a text needs its quotes: '\"done\"'. @file and - (stdin) work too.", USAGE
        )
