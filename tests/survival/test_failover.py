"""A PostgreSQL server that goes away and comes back: nobody notices, or is told within the time that was agreed."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from nexus import NexusSettings, TaskNexus
from nexus.errors import DatabaseUnavailable

from .server import Server
from .wire import Wire

ROOT = Path(__file__).resolve().parents[2]
AGENTS = 4


@pytest.fixture
def own_url(own_server: Server) -> str:
    """An empty database on the server of our own."""
    url = sa.make_url(own_server.url)
    with sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool).connect() as connection:
        connection.exec_driver_sql("DROP DATABASE IF EXISTS board WITH (FORCE)")
        connection.exec_driver_sql("CREATE DATABASE board")
    return url.set(database="board").render_as_string(hide_password=False)


@pytest.fixture
def board(own_url: str) -> Iterator[Callable[..., TaskNexus]]:
    """`board(database_retry_seconds=1)`: opens it, with these settings."""
    opened: list[TaskNexus] = []

    def open_(url: str = own_url, **settings: Any) -> TaskNexus:
        opened.append(TaskNexus(url, settings=NexusSettings(**settings)))
        return opened[-1]

    yield open_
    for nexus in opened:
        nexus.close()


def take_turns(*calls: Callable[[], Any]) -> float:
    """Run them at once, each in a thread; how long it took."""
    began = time.monotonic()
    with ThreadPoolExecutor(len(calls)) as pool:
        for one in [pool.submit(call) for call in calls]:
            one.result()
    return time.monotonic() - began


def test_a_fleet_works_on_through_a_restart_a_crash_and_a_killed_session(
    board: Callable[..., TaskNexus], own_server: Server
) -> None:
    nexus = board()
    nexus.add_tasks({} for _ in range(5000))
    acknowledged: set[str] = set()
    over = threading.Event()

    def work(name: str) -> None:
        while not over.is_set():
            for claim in nexus.claim(name, 2):
                nexus.start(claim)
                assert nexus.complete(claim, name).status == "completed"
                acknowledged.add(claim.task_id)

    def disturb() -> None:
        try:
            for disturbance in (own_server.kill_a_session, restart, crash):
                before = len(acknowledged)
                disturbance()
                waits_until = time.monotonic() + 20
                while len(acknowledged) < before + 20:
                    assert time.monotonic() < waits_until, f"nobody works after {disturbance.__name__}"
                    time.sleep(0.01)
        finally:
            over.set()

    def restart() -> None:
        own_server.stop()
        own_server.start()

    def crash() -> None:
        own_server.stop("immediate")
        own_server.start()

    take_turns(disturb, *[lambda name=f"Agent-{n}": work(name) for n in range(AGENTS)])
    assert {task.task_id for task in nexus.get_all_tasks("completed")} == acknowledged
    assert nexus.stats().keys() <= {"completed", "pending"}, "nobody holds what nobody knows of"
    attempts = nexus.attempts_by_task(acknowledged)
    assert {tuple(str(one.outcome) for one in tries) for tries in attempts.values()} == {("completed",)}
    assert {task.claim_no for task in nexus.get_all_tasks("completed")} == {1}


def test_a_server_that_stays_away_is_given_up_in_time_and_is_taken_back(
    board: Callable[..., TaskNexus], own_server: Server
) -> None:
    nexus = board(database_retry_seconds=1)
    nexus.add_task({"task_id": "T1"})
    own_server.stop()
    try:
        began = time.monotonic()
        with pytest.raises(DatabaseUnavailable):
            nexus.add_task({"task_id": "T2"})
        assert 0.9 < time.monotonic() - began < 2.5
    finally:
        own_server.start()
    assert nexus.add_task({"task_id": "T2"}).task_id == "T2"
    assert nexus.stats() == {"pending": 2}


def test_the_connections_of_a_dead_server_cost_one_try_not_one_each(
    board: Callable[..., TaskNexus], own_server: Server
) -> None:
    nexus = board()
    together = threading.Barrier(5)
    take_turns(*[lambda: nexus._database.read(lambda tx: together.wait(10))] * 5)
    assert nexus._database.engine.pool.checkedin() == 5
    errors = []
    sa.event.listen(nexus._database.engine, "handle_error", lambda context: errors.append(context))
    own_server.stop()
    own_server.start()
    for number in range(5):
        nexus.add_task({"task_id": f"T{number}"})
    take_turns(*[lambda: nexus._database.read(lambda tx: together.wait(10) and nexus.stats())] * 5)
    assert len(errors) == 1


def test_a_server_that_is_about_to_start_is_waited_for_also_at_first(
    wire: Wire, board: Callable[..., TaskNexus]
) -> None:
    wire.starts_for(0.8)
    assert board(wire.url).stats() == {}
    assert wire.connections > 2
    with pytest.raises(DatabaseUnavailable, match=r"starting up.*try again in a moment"):
        wire.starts_for(30)
        board(wire.url, database_retry_seconds=0.3)


def test_a_server_that_says_nothing_is_given_up(board: Callable[..., TaskNexus]) -> None:
    """A firewall that swallows what is sent; the operating system alone would wait for minutes."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://Ada@127.0.0.1:{silent.getsockname()[1]}/board"
        began = time.monotonic()
        with pytest.raises(DatabaseUnavailable, match=r"timeout expired.*firewall"):
            board(url, database_connect_seconds=2)
        assert time.monotonic() - began < 4


def test_what_the_url_says_of_timeouts_and_names_stands(postgres_url: str, board: Callable[..., TaskNexus]) -> None:
    def known(**query: str) -> dict[str, str]:
        url = sa.make_url(postgres_url).update_query_dict(query).render_as_string(hide_password=False)
        with board(url)._database.engine.connect() as connection:
            return dict(connection.connection.dbapi_connection.info.get_parameters())  # type: ignore[union-attr]

    own = known()
    assert (own["connect_timeout"], own["keepalives_idle"], own["tcp_user_timeout"]) == ("10", "10", "20000")
    assert own["application_name"].startswith("nexus ")
    said = known(connect_timeout="7", application_name="fleet")
    assert said["connect_timeout"] == "7"
    assert said["application_name"].startswith("fleet ")


def test_the_command_waits_shortly_for_a_server_that_refuses(elsewhere: Path) -> None:
    began = time.monotonic()
    command = [sys.executable, "-P", "-c", "from deployments.cli import main; main()"]
    done = subprocess.run(
        [*command, "--database", "postgresql://Ada@127.0.0.1:1/board", "list"],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert time.monotonic() - began < 8
    assert (done.returncode, done.stdout) == (5, "")
    [line] = done.stderr.splitlines()
    assert "Is the server running, and are host and port right?" in line
