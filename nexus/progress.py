"""How long work tells how far it is."""

from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

Progress = Callable[[str, int, int | None], None]
"""Told what is being done, how much of it is done, and of how much; None where nobody knows yet."""

T = TypeVar("T")

EVERY: Final = 1000
"""Items between two words."""


def unheard(_what: str, _done: int, _total: int | None) -> None:
    """Nobody listens."""


def counted(items: Iterable[T], tell: Progress, what: str, total: int | None = None) -> Iterator[T]:
    """The items as they are; `tell` hears how many have gone by, now and then and at the end."""
    done = 0
    for done, item in enumerate(items, 1):
        yield item
        if done % EVERY == 0:
            tell(what, done, total)
    tell(what, done, total)
