"""What the faults are made with; and what the stories about bad input share: values that bite."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from ..cli.conftest import Said, command, own_environment
from ..leash import leashed
from .server import Server
from .wire import Wire

__all__ = ["BITING", "Said", "command", "own_environment", "shown"]

DEEP: Final = 100_000
"""Levels of nesting: a hundred times what Python's own recursion bears."""


def nested(levels: int) -> Any:
    """A list in a list in a list …"""
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


BITING: Final[tuple[Any, ...]] = (
    nested(DEEP), 10**100_000, -(10**100_000), 2**31, 2**63, -(2**63) - 1, 2**65,
    float("nan"), float("inf"), float("-inf"), 1e308, 5e-324, -0.0, True, None,
    "\ud800", "\x00", "x" * 10_000_000, "9" * 5000, "", " ", "\n", "+-5", "²", "٣", "１２", "1e400", "NaN", "0x10",
    "9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", "\x1b[31m", "{}", "{0.__class__}", "%s%n", "{{ x }}",
    "[red]x[/red]", "'; DROP TABLE tasks; --", "\u202e", "\ufffe", "x" * 256, "😀" * 255, b"\xff",
    [], {}, [[]], [None], ["a", "a"], ["a"] * 20_000, {"a": nested(DEEP)}, {"a": float("nan")}, {1: 2}, {"\ud800": 1},
    (1, 2), {1, 2}, object(), 1j,
)  # fmt: skip
"""Values that JSON, YAML, Python or a database chokes on."""


def shown(value: Any) -> str:
    """A name for a value in a test's report."""
    kind = type(value).__name__
    return f"{kind}-{ascii(value)[:20]}" if isinstance(value, str | float | bool | None) else kind


@pytest.fixture
def wire(postgres_url: str) -> Iterator[Wire]:
    """A wire to the test's PostgreSQL, which can be cut."""
    wire = Wire(postgres_url)
    yield wire
    wire.close()


@pytest.fixture(scope="session")
def own_server() -> Iterator[Server]:
    """A PostgreSQL server that may be stopped and killed."""
    folder = Path(tempfile.mkdtemp(prefix="nexus-pg-own-"))
    with leashed(folder):
        server = Server(folder)
        yield server
        server.remove()
