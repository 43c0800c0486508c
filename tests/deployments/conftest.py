"""Commands that end with their test, and those that are called in it."""

from collections.abc import Callable, Iterator

import pytest

from ..cli.conftest import command, done, refused  # noqa: F401 - fixtures
from .live import Command


@pytest.fixture
def start() -> Iterator[Callable[..., Command]]:
    """Starts commands, and ends those that a failed test left running."""
    started: list[Command] = []

    def begin(code: str, *arguments: str, **options: object) -> Command:
        started.append(Command(code, *arguments, **options))  # type: ignore[arg-type]
        return started[-1]

    yield begin
    for one in started:
        one.close()
