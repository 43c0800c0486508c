"""Commands that end with their test."""

from collections.abc import Callable, Iterator

import pytest

from .live import Command


@pytest.fixture
def start() -> Iterator[Callable[..., Command]]:
    """Starts commands, and ends those that a failed test left running."""
    started: list[Command] = []

    def command(code: str, *arguments: str, **options: object) -> Command:
        started.append(Command(code, *arguments, **options))  # type: ignore[arg-type]
        return started[-1]

    yield command
    for one in started:
        one.close()
