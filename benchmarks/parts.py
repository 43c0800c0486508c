"""What can be measured, by name."""

from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any, Final, Protocol, cast

from benchmarks.plan import Run


class Part(Protocol):
    """A module that measures one thing."""

    TITLE: str

    def measure(self, run: Run) -> Iterator[Any]:
        """Measure, and give each figure as soon as it is there: whoever stops it keeps those."""

    def report(self, found: Sequence[Any]) -> str:
        """Markdown of what was measured, which may be a part of it."""


PARTS: Final = ("throughput", "growth", "enqueue", "sweep", "pickup", "shift")
BY_DEFAULT: Final = tuple(name for name in PARTS if name != "shift")
"""A shift needs a Prefect server, whose start alone takes a quarter of a minute."""


def part(name: str) -> Part:
    """The module of that name."""
    return cast("Part", import_module(f"benchmarks.{name}"))
