"""What the faults are made with."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .server import Server
from .wire import Wire


@pytest.fixture
def wire(postgres_url: str) -> Iterator[Wire]:
    """A wire to the test's PostgreSQL, which can be cut."""
    wire = Wire(postgres_url)
    yield wire
    wire.close()


@pytest.fixture(scope="session")
def own_server() -> Iterator[Server]:
    """A PostgreSQL server that may be stopped and killed."""
    server = Server(Path(tempfile.mkdtemp(prefix="nexus-pg-own-")))
    yield server
    server.remove()
