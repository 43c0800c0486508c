"""Two transactions, the one in the middle of the other (PostgreSQL): what the crowd found, once more and every time."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from nexus import TaskMonitoringConfig, TaskNexus

AT_ONCE = TaskMonitoringConfig(pending_timeout_seconds=0.000_001)


@pytest.fixture
def boards(postgres_url: str, open_board: Callable[..., TaskNexus]) -> tuple[TaskNexus, TaskNexus]:
    """Two handles on one board."""
    return open_board(postgres_url, clock=None), open_board(postgres_url, clock=None)


def after(nexus: TaskNexus, statement: str, then: Callable[[], Any]) -> None:
    """Do something else once, right after the first statement on this handle that begins like this."""
    to_do = [then]

    def look(_connection: Any, _cursor: Any, text: str, *_: Any) -> None:
        if text.startswith(statement) and to_do:
            to_do.pop()()

    sa.event.listen(nexus._database.engine, "after_cursor_execute", look)


def test_a_pause_in_the_middle_of_a_sweep_leaves_no_stall_open(boards: tuple[TaskNexus, TaskNexus]) -> None:
    sweeper, operator = boards
    sweeper.add_task({"task_id": "T1"})
    after(sweeper, "INSERT INTO nexus_stalls", lambda: operator.pause(reason="release freeze"))
    sweeper.sweep(AT_ONCE)
    assert operator.doctor() == []
    operator.resume()
    sweeper.sweep(AT_ONCE)
    assert operator.doctor() == []
    assert [stall.closed_at for stall in operator.stalls("T1", open_only=True)] == [None]


def test_a_resume_that_waits_for_a_sweep_closes_what_that_has_opened(boards: tuple[TaskNexus, TaskNexus]) -> None:
    sweeper, operator = boards
    sweeper.add_task({"task_id": "T1"})

    def pause_and_resume() -> None:
        operator.pause()
        operator.resume()

    meanwhile = threading.Thread(target=pause_and_resume)

    def begin() -> None:
        meanwhile.start()
        time.sleep(0.3)

    after(sweeper, "UPDATE nexus_tasks SET stall_id", begin)
    sweeper.sweep(AT_ONCE)
    meanwhile.join()
    assert operator.doctor() == []
    assert operator.stalls("T1", open_only=True) == []


def test_who_waited_for_the_file_writes_with_the_time_at_which_it_got_it(
    sqlite_url: str, open_board: Callable[..., TaskNexus]
) -> None:
    """The lease of a heartbeat would be shorter otherwise, and the history would run backwards."""
    nexus, other = open_board(sqlite_url, clock=None), open_board(sqlite_url, clock=None)
    nexus.add_task({"task_id": "T1"})
    held = threading.Event()

    def hold(_tx: Any) -> None:
        held.set()
        time.sleep(0.3)

    holding = threading.Thread(target=lambda: other._database.write(hold))
    holding.start()
    held.wait(10)
    asked_at = nexus.now()
    claim = nexus.claim_task("T1", "Ada", lease_seconds=60)
    holding.join()
    assert (claim.lease_expires_at - asked_at).total_seconds() > 60.2
