"""What a fleet needs in order to suffer: a board, a Prefect server and a PostgreSQL server that may be killed."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from deployments.ports import free_port
from deployments.prefect_server import OwnServer
from nexus import NexusSettings

from ...deployments.live import processes_of
from ...leash import leashed
from ..server import Server


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Whoever was started for these tests has this folder in its environment; none of them is left at the end."""
    folder = tmp_path_factory.mktemp("chaos")
    with leashed(folder):
        yield folder
        left = processes_of(folder)
    assert not left, f"left behind: {left}"


@pytest.fixture(scope="module")
def prefect(home: Path, prefect_begun: Callable[[Path], None]) -> Iterator[OwnServer]:
    """A Prefect server, tuned as ours are, which may be killed and started again where it was."""
    prefect_begun(home / "board")
    settings = NexusSettings(home=home / "board", service={"port": free_port("127.0.0.1")})
    server = OwnServer(settings)
    server.enter(lambda _: None, lambda: None)
    yield server
    server.leave()


@pytest.fixture
def own_url(own_server: Server) -> str:
    """An empty database on a PostgreSQL server that may be killed."""
    url = sa.make_url(own_server.url)
    with sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool).connect() as connection:
        connection.exec_driver_sql("DROP DATABASE IF EXISTS chaos WITH (FORCE)")
        connection.exec_driver_sql("CREATE DATABASE chaos")
    return url.set(database="chaos").render_as_string(hide_password=False)
