"""Each contender really does the work that it is measured by: every task ends, and none is given to two workers."""

import dataclasses
from pathlib import Path

import pytest
import sqlalchemy as sa

from benchmarks.contenders import BATCH, CONTENDERS
from benchmarks.plan import SHORT, Run
from benchmarks.processes import ChildFailed
from benchmarks.throughput import Case, Crew
from nexus import NexusSettings, TaskNexus

TASKS = 60

WHAT_IS_LEFT = {
    "least_sql": ("least_tasks", "least_attempts"),
    "core": ("core_tasks", "core_attempts"),
}
"""The tables of those who keep the tasks and the attempts where plain SQL reads them."""

CASES = [
    pytest.param(name, database, id=f"{name}-{database}")
    for name, entry in CONTENDERS.items()
    for database in entry.databases
]


def run_of(database: str, server: sa.URL, tasks: int = TASKS) -> Run:
    sizes = dataclasses.replace(SHORT, rounds=1, tasks=tasks, singles=tasks)
    return Run([database], server if database == "postgresql" else None, sizes, list(CONTENDERS), lambda _: None)


@pytest.mark.parametrize(("name", "database"), CASES)
def test_two_workers_do_every_task_once(name: str, database: str, server: sa.URL) -> None:
    entry = CONTENDERS[name]
    if missing := entry.missing():
        pytest.skip(f"not installed: {', '.join(missing)}")
    tasks = TASKS * 10 if entry.slow else TASKS  # of which it gets a tenth
    workers = min(2, entry.processes or 2)
    with Crew(run_of(database, server, tasks), Case(database, workers, entry.at_once[-1]), name) as crew:
        crew.warm()
        measured = crew.round()  # raises where another number of tasks was done
        assert (measured.contender, measured.tasks) == (name, TASKS)
        assert measured.seconds > 0 and measured.cpu_ms > 0
        in_the_database(name, crew.url)


def in_the_database(name: str, url: str) -> None:
    """All tasks have ended, each with one attempt, which has ended too."""
    if name in ("nexus", "nexus3"):
        with TaskNexus(url, settings=NexusSettings(database_url=url)) as nexus:
            tasks = nexus.get_all_tasks(limit=10_000)
            assert {(task.status.value, task.attempt_count) for task in tasks} == {("completed", 1)}
            assert {len(nexus.attempts(task.task_id)) for task in tasks[:5]} == {1}
            assert {task.claim_no for task in tasks} == {1}
    if name in WHAT_IS_LEFT:
        tasks_table, attempts_table = WHAT_IS_LEFT[name]
        engine = sa.create_engine(url)
        with engine.connect() as connection:
            per_task = f"SELECT task_id FROM {attempts_table} WHERE outcome = 'completed' AND finished_at IS NOT NULL"
            left = connection.exec_driver_sql(
                f"SELECT count(*), min(status), max(status), max(claim_no), "
                f"(SELECT count(DISTINCT task_id) FROM ({per_task}) AS ended), "
                f"(SELECT count(*) FROM {attempts_table}) FROM {tasks_table}"
            ).one()
        engine.dispose()
        assert tuple(left[1:4]) == ("completed", "completed", 1)
        assert left[0] == left[4] == left[5] >= TASKS


@pytest.mark.parametrize("name", ["least_sql", "core", "nexus", "nexus3"])
def test_a_batch_is_worked_until_nothing_is_left(name: str, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/board.db"
    contender = CONTENDERS[name].load()
    contender.make(url)
    contender.fill(url, 2 * BATCH + 1)
    with contender.open(url, "Agent-1", BATCH) as work:
        assert work() == 2 * BATCH + 1
        assert work() == 0
        contender.fill(url, 1)
        assert work() == 1
    in_the_database(name, url)


def test_who_does_too_little_is_not_measured(server: sa.URL, monkeypatch: pytest.MonkeyPatch) -> None:
    with Crew(run_of("sqlite", server), Case("sqlite", 1, 1), "least_sql") as crew:
        crew.warm()
        lazy = crew.workers[0]
        monkeypatch.setattr(lazy, "answer", lambda: {"done": 1, "began": 0.0, "ended": 1.0, "cpu": 0.1})
        monkeypatch.setattr(lazy, "send", lambda *_: None)
        monkeypatch.setattr(lazy, "ask", lambda *_: None)
        with pytest.raises(ChildFailed, match="least SQL did 1 of 60 tasks"):
            crew.round()


def test_what_is_said_of_each_holds() -> None:
    for entry in CONTENDERS.values():
        assert entry.kind != "peer" or entry.needs, "a peer is an extra"
        assert set(entry.databases) <= {"sqlite", "postgresql"} and set(entry.at_once) <= {BATCH, 1}
    peers = {need for entry in CONTENDERS.values() for need in entry.needs}
    extra = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text().partition("peers = [")[2]
    assert [need for need in peers if f'"{need}' not in extra and need not in extra.partition("]\n")[0]] == []
