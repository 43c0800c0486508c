"""How the command speaks: data on stdout, words on stderr, one JSON document where asked for."""

import json
import sys
from collections.abc import Callable, Container, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from nexus import TaskNexus

DONE, REFUSED, USAGE, NOTHING = 0, 1, 2, 3
"""Exit codes: done; refused, stderr says why; wrong usage; nothing to claim."""

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
MOST = 1_000_000
"""No number of tasks or claims is larger."""

TaskId = Annotated[str, typer.Argument(help="The task's id.", show_default=False)]
Actor = Annotated[str | None, typer.Option("--by", help="Who decides this; kept in the history.")]


def open_nexus(context: typer.Context) -> "TaskNexus":
    """The nexus that `--database`, the environment or nexus.toml names."""
    from nexus import TaskNexus

    nexus = TaskNexus((context.find_root().obj or {}).get("database"))
    context.call_on_close(nexus.close)
    return nexus


def emit(value: Any, as_json: bool, show: Callable[[], None]) -> None:
    """Print `value`: as one JSON document, or the way `show` does for people."""
    if as_json:
        print_json(value)
    else:
        show()


def print_json(value: Any) -> None:
    """One JSON document on stdout, with the fields of the Pydantic models."""
    from pydantic_core import to_jsonable_python

    print(json.dumps(to_jsonable_python(value), indent=2, ensure_ascii=False))  # noqa: T201 - the command's output


def say(text: str) -> None:
    """Words for the person, on stderr."""
    print(text, file=sys.stderr)  # noqa: T201


def refuse(text: str, code: int = REFUSED) -> NoReturn:
    """End with one line that says why."""
    say(text)
    raise typer.Exit(code)


def console() -> "Console":
    """Rich on stdout; without colour where that is no terminal, or NO_COLOR is set."""
    from rich.console import Console

    return Console(highlight=False)


Cell = Any
"""Text, a Rich Text, a number, or None."""


def table(columns: Sequence[str], rows: Iterable[Sequence[Cell]], *, right: Container[str] = ()) -> None:
    """A plain table that fits the terminal: the last column is cut to what is left. A pipe gets all of it.

    `right` names the columns of numbers.
    """
    from rich.table import Table
    from rich.text import Text

    out = console()
    cells = [[one if isinstance(one, Text) else Text("" if one is None else str(one)) for one in row] for row in rows]
    widths = [max((len(name), *(row[at].cell_len for row in cells))) for at, name in enumerate(columns)]
    gaps = 2 * (len(columns) - 1)
    if out.is_terminal:
        widths[0] = min(widths[0], max(12, out.width // 3))
        widths[-1] = max(len(columns[-1]), min(widths[-1], out.width - sum(widths[:-1]) - gaps))
    out.width = max(out.width, sum(widths) + gaps)
    drawn = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for name, width in zip(columns, widths, strict=True):
        justify: Any = "right" if name in right else "left"
        drawn.add_column(name, width=width, no_wrap=True, overflow="ellipsis", justify=justify)
    for row in cells:
        drawn.add_row(*row)
    out.print(drawn)


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


def when(moment: datetime | None) -> str:
    """A time for people, in UTC."""
    return f"{moment:%Y-%m-%d %H:%M:%S}" if moment else ""


def flat(text: str | None) -> str:
    """Foreign text on one line, without what moves a terminal's cursor."""
    return " ".join("".join(char if char.isprintable() else " " for char in text or "").split())


def parse_json(text: str | None, what: str) -> Any:
    """A JSON value from an argument: itself, `@file`, or `-` for stdin. Anything else is wrong usage."""
    if text is None:
        return None
    try:
        if text == "-":
            text = sys.stdin.read()
        elif text.startswith("@"):
            text = Path(text[1:]).read_text(encoding="utf-8")
        return json.loads(text)
    except OSError as error:
        refuse(f"{what}: {error.strerror}: {error.filename}", USAGE)
    except (ValueError, RecursionError) as error:
        refuse(
            f"{what} is not JSON ({error}); a text needs its quotes: '\"done\"'. @file and - (stdin) work too.", USAGE
        )
