"""Four workers, thousands of tasks, and everything goes wrong at once: nothing is lost, nothing is done twice unseen.

`NEXUS_TEST_CHAOS=long` has it go on for a minute. `NEXUS_TEST_CHAOS_REPORT` names a file for the figures, which
stand in `docs/survival.md`.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Final

import pytest

from deployments.prefect_server import OwnServer, client_environment
from nexus import NexusSettings, TaskMonitoringConfig, TaskNexus
from nexus.states import TERMINAL

from ...deployments.live import clean_environment
from ..server import Server
from . import judge, work
from .faults import LEASE_SECONDS, LONG, SHORT, Faults, Plan
from .figures import Figures
from .record import Record
from .workers import Fleet

PLAN: Final[Plan] = LONG if os.environ.get("NEXUS_TEST_CHAOS") == "long" else SHORT
WORKERS: Final = 4
SWEEP_SECONDS: Final = 1.0
RETRY_SECONDS: Final = 60
"""PostgreSQL recovers from its crash within a second; on a machine that has too much to do it may take long."""

pytestmark = pytest.mark.timeout(PLAN.patience_seconds + PLAN.peace_seconds + 300)


@contextmanager
def sweeping(nexus: TaskNexus) -> Iterator[None]:
    """Sweep every second, as the deployment would. What a sweep raises fails the test: each waits for its database."""
    over = threading.Event()
    raised: list[BaseException] = []

    def sweep() -> None:
        try:
            while not over.wait(SWEEP_SECONDS):
                nexus.sweep()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=sweep, name="sweeper")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    if raised:
        raise raised[0]


def feeding(nexus: TaskNexus, plan: Plan) -> Callable[[], None]:
    """Add the tasks little by little, for as long as something goes wrong."""

    def feed() -> None:
        began = time.monotonic()
        added = 0
        while added < plan.tasks:
            time.sleep(0.2)
            due = min(plan.tasks, round(plan.tasks * (time.monotonic() - began) / plan.seconds))
            nexus.add_tasks(work.task(number) for number in range(added, due))
            added = due

    return feed


def peace(nexus: TaskNexus, fleet: Fleet, seconds: float) -> None:
    """Nothing goes wrong any more: everything comes to its end."""
    deadline = time.monotonic() + seconds
    while left := sum(number for status, number in nexus.stats().items() if status not in TERMINAL):
        if time.monotonic() > deadline:
            stuck = [task for task in nexus.get_all_tasks() if task.status not in TERMINAL][:10]
            why = [f"{one.task_id} is {one.status}: {nexus.explain(one.task_id)}\n{one}" for one in stuck]
            pytest.fail("\n".join([f"{left} tasks have not ended in {seconds} s", *why, fleet.last_words()]))
        time.sleep(0.2)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> str:
    """Which one."""
    return str(request.param)


@pytest.fixture
def server(request: pytest.FixtureRequest, database: str) -> Server | None:
    """PostgreSQL's, where that is the database."""
    return request.getfixturevalue("own_server") if database == "postgresql" else None


@pytest.fixture
def url(request: pytest.FixtureRequest, database: str, tmp_path: Path) -> str:
    """An empty database."""
    return request.getfixturevalue("own_url") if database == "postgresql" else f"sqlite:///{tmp_path / 'board.db'}"


@pytest.fixture
def nexus(url: str) -> Iterator[TaskNexus]:
    """The board, as whoever adds tasks and whoever sweeps has it."""
    monitoring = TaskMonitoringConfig(check_interval_seconds=SWEEP_SECONDS)
    settings = NexusSettings(lease_seconds=LEASE_SECONDS, database_retry_seconds=RETRY_SECONDS, monitoring=monitoring)
    with TaskNexus(url, settings=settings) as nexus:
        yield nexus


@pytest.fixture
def fleet(nexus: TaskNexus, url: str, home: Path, tmp_path: Path, prefect: OwnServer) -> Iterator[Fleet]:
    """Four workers."""
    environment = clean_environment(
        home,
        **client_environment(prefect.settings, prefect.url),
        NEXUS_DATABASE_URL=url,
        NEXUS_LEASE_SECONDS=str(LEASE_SECONDS),
        NEXUS_DATABASE_RETRY_SECONDS=str(RETRY_SECONDS),
        NEXUS_MONITORING__CHECK_INTERVAL_SECONDS=str(SWEEP_SECONDS),
    )
    fleet = Fleet(tmp_path, WORKERS, environment)
    yield fleet
    fleet.close()


def test_nothing_is_lost_and_nothing_is_done_twice_unseen(
    nexus: TaskNexus,
    fleet: Fleet,
    prefect: OwnServer,
    server: Server | None,
    database: str,
    url: str,
    record_property: Callable[[str, object], None],
) -> None:
    faults = Faults(PLAN, fleet, prefect, server)
    began = time.monotonic()
    with sweeping(nexus):
        faults.happen(meanwhile=feeding(nexus, PLAN))
        peace(nexus, fleet, PLAN.peace_seconds)
    seconds = time.monotonic() - began
    fleet.stop()

    record = Record.of(nexus, [work.name(number) for number in range(PLAN.tasks)], fleet.workers)
    figures = Figures.of(record, faults, fleet.workers, seconds)
    figures.write(database)
    record_property("chaos", asdict(figures))
    wrongs = judge.wrongs(record)
    assert not wrongs, f"{len(wrongs)} wrongs:\n" + "\n".join(wrongs[:10])
    assert judge.findings(nexus) == []
    servers_were_away = [*faults.no_prefect, *faults.no_database]
    gave_up = list(judge.gave_up(fleet.workers, fleet.stopped, servers_were_away))
    assert not gave_up, "\n".join([*gave_up, fleet.last_words()])
    nexus.close()
    if server is not None:
        assert judge.connections_left(url) == []
    assert figures.missing() == []
