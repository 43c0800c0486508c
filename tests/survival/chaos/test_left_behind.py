"""Workers, rows and connections that are left behind on purpose: those judges notice them too."""

from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from nexus import TaskNexus

from . import judge
from .ledger import Ledger
from .workers import Worker


@pytest.mark.parametrize(
    ("ended", "code", "says"),
    [
        (None, None, "has not ended"),
        (5.0, 1, "ended by itself after 4.0 s"),
        (5.0, 0, "ended by itself after 4.0 s"),
        (9.0, -9, "did not in time"),
        (9.0, 1, "did not in time"),
    ],
)
def test_a_worker_that_gives_up_is_noticed(tmp_path: Path, ended: float | None, code: int | None, says: str) -> None:
    worker = Worker(1, "Ada", "task", tmp_path / "ada.jsonl", started=1.0, ended=ended, code=code)
    [wrong] = judge.gave_up([worker], 8.0, [(5.5, 7.0)])
    assert says in wrong


def test_a_worker_may_end_where_there_was_nobody_to_speak_to_unless_it_was_at_work(tmp_path: Path) -> None:
    ledger = tmp_path / "ada.jsonl"
    worker = Worker(1, "Ada", "task", ledger, started=1.0, ended=5.0, code=1)
    killed = Worker(2, "Bob", "task", ledger, started=1.0, ended=5.0, code=-9)
    stopped = Worker(3, "Cid", "task", ledger, started=1.0, ended=9.0, code=0)
    assert list(judge.gave_up([worker, killed, stopped], 8.0, [(4.0, 7.0)])) == []
    Ledger(ledger).begins("T1-1", "T1", 1, 1, "Ada")
    assert len(list(judge.gave_up([worker, killed, stopped], 8.0, [(4.0, 7.0)]))) == 1


def test_what_the_doctor_finds_is_noticed(sqlite_url: str, open_board: Callable[..., TaskNexus]) -> None:
    nexus = open_board(sqlite_url)
    nexus.add_task({"task_id": "T1"})
    assert judge.findings(nexus) == []
    nexus._database.write(lambda tx: tx.plain(sa.text("UPDATE nexus_tasks SET unmet_dependencies = 1")))
    [finding] = judge.findings(nexus)
    assert "T1" in finding


def test_a_connection_that_is_left_is_noticed(postgres_url: str, open_board: Callable[..., TaskNexus]) -> None:
    nexus = open_board(postgres_url)
    nexus.stats()
    assert len(judge.connections_left(postgres_url, seconds=0)) == 1
    nexus.close()
    assert judge.connections_left(postgres_url) == []
