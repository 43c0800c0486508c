"""`nexus watch`: the board as it moves."""

import time
from collections import deque
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Final

import typer

from nexus.cli.output import console, open_nexus, print_line, say

if TYPE_CHECKING:
    from rich.console import Console

    from nexus import TaskNexus
    from nexus.cli.sight import Sight
    from nexus.reports import Move

AT_LEAST: Final = 0.2
"""Seconds between two looks, whatever is asked for."""

SHARE: Final = 10
"""It rests for so many times as long as a look took: a board that is slow to count is looked at more seldom."""

QUIET_SECONDS: Final = 10.0
"""Where nothing moves only what moves is asked for, and all of it once in so long."""

BACK: Final = timedelta(minutes=10)
"""Moves of so long ago are shown at first."""

KEPT: Final = 200

WHOLE_COLUMNS: Final = 400
WHOLE_ROWS: Final = 1_000_000
"""Of a picture that is not cut to a terminal."""


def attach(app: typer.Typer) -> None:
    """Add the verb to the command."""
    app.command()(watch)


def watch(
    context: typer.Context,
    episode: Annotated[str | None, typer.Option(metavar="EPISODE", help="Only of this episode.")] = None,
    interval: Annotated[
        float, typer.Option("--interval", "-i", min=AT_LEAST, metavar="SECONDS", help="Between two looks, at least.")
    ] = 1.0,
    once: Annotated[
        bool,
        typer.Option("--once", help="Show the picture once, and end; with --json, what moved in the last ten minutes."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON document a line, for each move.")] = False,
) -> None:
    """See who works on what, what is stuck, what moves.

    Until Ctrl-C. On a terminal a picture that is kept up to date; on a pipe, a dumb terminal or with --json a line for
    each move.
    """
    follower = Follower(open_nexus(context), episode)
    out = console()
    with suppress(KeyboardInterrupt):
        if once and not as_json:
            _picture(follower.look(), out)
        elif as_json or not out.is_terminal or out.is_dumb_terminal:
            _tell(follower, interval, once, as_json)
        else:
            _show(follower, interval, out)


def _picture(seen: "Sight", out: "Console") -> None:
    """Once. What is no terminal gets all of it."""
    from rich.console import Console

    from nexus.cli.sight import draw

    if out.is_terminal:
        out.print(draw(seen, out.height))
    else:
        Console(highlight=False, width=WHOLE_COLUMNS).print(draw(seen, WHOLE_ROWS))


def _tell(follower: "Follower", interval: float, once: bool, as_json: bool) -> None:
    """A line for each move, as it comes."""
    from nexus.cli.sight import line_of

    while True:
        began = time.monotonic()
        for move in follower.news():
            print_line(move if as_json else line_of(move))
        if follower.left_out:
            say(f"{follower.left_out:,} more moved than are shown.")
        if follower.trouble:
            say(follower.trouble)
        if once:
            return
        _rest(began, interval)


def _show(follower: "Follower", interval: float, out: "Console") -> None:
    """A picture of the whole board, drawn anew at each look."""
    from rich.live import Live

    from nexus.cli.sight import draw

    with Live(console=out, screen=True, auto_refresh=False) as live:
        while True:
            began = time.monotonic()
            live.update(draw(follower.look(), out.height), refresh=True)
            _rest(began, interval)


def _rest(began: float, interval: float) -> None:
    time.sleep(max(interval, SHARE * (time.monotonic() - began)))


class Follower:
    """Looks at a board again and again, and no more than it must. A database that goes away is waited for."""

    def __init__(self, nexus: "TaskNexus", episode_id: str | None) -> None:
        self.nexus, self.episode_id = nexus, episode_id
        self.feed = nexus.feed(nexus.now() - BACK)
        self.moves: deque[Move] = deque(maxlen=KEPT)
        self.left_out = 0
        self.trouble = ""
        self._sight: Sight | None = None
        self._counted = 0.0

    def news(self) -> "list[Move]":
        """What moved since the last time; how many more did stands in `left_out`."""
        from nexus.errors import DatabaseUnavailable

        self.left_out, self.trouble = 0, ""
        try:
            news = self.feed.read()
        except DatabaseUnavailable as error:
            self.trouble = str(error)
            return []
        self.left_out = news.left_out
        return [move for move in news.moves if self.episode_id in (None, move.episode_id)]

    def look(self) -> "Sight":
        """The board now; what is costly to count only where something moved, or now and then."""
        from nexus.cli import sight
        from nexus.errors import DatabaseUnavailable

        fresh = self.news()
        self.moves += fresh
        before, present = self._sight, time.monotonic()
        if before is None or fresh or self.left_out or present - self._counted > QUIET_SECONDS:
            before, self._counted = None, present
        try:
            if not self.trouble:
                self._sight = sight.look(self.nexus, self.episode_id, tuple(self.moves), before)
        except DatabaseUnavailable as error:
            self.trouble = str(error)
        if self._sight is None:
            raise DatabaseUnavailable(self.trouble)
        return sight.with_trouble(self._sight, self.trouble) if self.trouble else self._sight
