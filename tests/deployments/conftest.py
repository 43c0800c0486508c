"""Commands that end with their test, and those that are called in it; a Prefect server for the tests of one file."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deployments.ports import free_port
from deployments.prefect_server import OwnServer
from nexus.settings import NexusSettings

from ..cli.conftest import command, done, refused  # noqa: F401 - fixtures
from .live import Command, end_processes_of


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


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, prefect_begun: Callable[[Path], None]) -> Iterator[str]:
    """The API of a Prefect server of our own."""
    home = tmp_path_factory.mktemp("server")
    prefect_begun(home)
    server = OwnServer(NexusSettings.load(home=home, service={"port": free_port("127.0.0.1")}))
    server.enter(lambda _: None, lambda: None)
    yield server.url
    server.leave()
    end_processes_of(home)


@pytest.fixture
def speaks_to(url: str) -> Iterator[None]:
    """This process may have met Prefect before; for the test it speaks to our server."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: url}):
        yield
