"""Many processes on one board, for real: each is a Python of its own, all start at one signal."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from nexus import TaskNexus
from nexus.tables import attempts, dependencies, tasks

ROOT = Path(__file__).resolve().parents[2]
RACER = Path(__file__).with_name("racer.py")

Race = Callable[..., dict[str, list[str]]]


@pytest.fixture
def race() -> Iterator[Race]:
    """`race(("work_off", 8, 3), ("sweep", 1, "log_only"), url=...)`: so many processes of each role, at once.

    What each of them got, by its name; any error of any of them fails the test.
    """
    running: list[subprocess.Popen[str]] = []

    def run(*roles: tuple[Any, ...], url: str) -> dict[str, list[str]]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        for role, count, *arguments in roles:
            for number in range(count):
                command = [sys.executable, str(RACER), role, url, f"{role}-{number}", *map(str, arguments)]
                running.append(
                    subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
                )
        for process in running:
            assert process.stdout.readline() == "ready\n"
        for process in running:
            process.stdin.write("go\n")
            process.stdin.flush()
        answers = [json.loads(process.communicate(timeout=120)[0]) for process in running]
        running.clear()
        assert [answer["error"] for answer in answers if answer["error"]] == []
        return {answer["name"]: answer["ids"] for answer in answers}

    yield run
    for process in running:
        process.kill()
        process.wait()


@pytest.fixture
def nexus(make_nexus: Any) -> TaskNexus:
    """The board on its own clock, as the racing processes have it."""
    return make_nexus(clock=None)


def test_eight_agents_do_two_thousand_tasks_once_each(nexus: TaskNexus, race: Race, database_url: str) -> None:
    ids = nexus.add_tasks({"priority": n % 3} for n in range(2000))
    done = race(("work_off", 8, 5), url=database_url)
    assert Counter(task_id for mine in done.values() for task_id in mine) == Counter(ids)
    assert nexus.stats() == {"completed": 2000}
    attempts = nexus.attempts_by_task(ids)
    assert {len(tries) for tries in attempts.values()} == {1}
    doer = {task_id: name for name, mine in done.items() for task_id in mine}
    assert all(task.result == doer[task.task_id] == task.claimed_by for task in nexus.get_all_tasks())
    assert {task.claim_no for task in nexus.get_all_tasks()} == {1}


@pytest.mark.parametrize("strategy", ["escalate", "reassign"])
def test_sweeps_at_once_act_once(nexus: TaskNexus, race: Race, database_url: str, strategy: str) -> None:
    ids = nexus.add_tasks({"assigned_to": "nobody here"} for _ in range(60))
    found = race(("sweep", 3, strategy), url=database_url)
    acted = Counter(task_id for mine in found.values() for task_id in mine)
    assert {task_id: acted[task_id] for task_id in ids} == dict.fromkeys(ids, 1)
    escalations = nexus.get_all_tasks(tag="escalation")
    assert Counter(task.related_task_id for task in escalations) == Counter(ids if strategy == "escalate" else [])


def test_expired_leases_are_taken_back_once_by_sweeps_at_once(nexus: TaskNexus, race: Race, database_url: str) -> None:
    ids = nexus.add_tasks({} for _ in range(100))
    for claim in nexus.claim("Ada", 100, lease_seconds=0.001):
        nexus.start(claim)
    race(("sweep", 3, "log_only"), url=database_url)
    assert {task.loss_count for task in nexus.get_all_tasks()} == {1}
    assert {tuple(str(one.outcome) for one in tries) for tries in nexus.attempts_by_task(ids).values()} == {("lost",)}


def test_the_same_keys_added_by_all_are_added_once(nexus: TaskNexus, race: Race, database_url: str) -> None:
    got = race(("add", 4, 40), url=database_url)
    assert len({tuple(ids) for ids in got.values()}) == 1, "all got the same tasks"
    assert nexus.stats() == {"pending": 40}


def test_an_agent_in_many_processes_never_holds_too_much(nexus: TaskNexus, race: Race, database_url: str) -> None:
    nexus.register_agent("shared", max_concurrency=7)
    nexus.add_tasks({} for _ in range(100))
    got = race(("claim_much", 4, 3), url=database_url)
    assert sum(map(len, got.values())) == 7
    assert nexus.agents()[0].live_claims == 7


def test_no_dependant_of_a_task_that_is_being_completed_waits_for_ever(
    nexus: TaskNexus, race: Race, database_url: str
) -> None:
    nexus.add_tasks({"task_id": f"target-{number}"} for number in range(60))
    added = race(("complete_targets", 1, 60), ("depend_on_targets", 2, 60), url=database_url)
    assert sum(map(len, added.values())) == 120
    with nexus._database.engine.connect() as connection:
        counted = {row.task_id: row.unmet_dependencies for row in connection.execute(sa.select(tasks))}
        edges = list(connection.execute(sa.select(dependencies)))
    assert len(edges) == 120
    assert set(counted.values()) == {0}
    assert nexus.stats() == {"completed": 60, "pending": 120}


def test_agents_work_on_while_what_they_finished_is_forgotten(nexus: TaskNexus, race: Race, database_url: str) -> None:
    ids = nexus.add_tasks({"priority": n % 3} for n in range(400))
    done = race(("work_off", 3, 5), ("prune", 2, 400), url=database_url)
    worked = Counter(task_id for name, mine in done.items() if name.startswith("work_off") for task_id in mine)
    assert worked == Counter(ids), "each was done once, whatever was deleted around it"
    gone = sum(int(mine[0]) for name, mine in done.items() if name.startswith("prune"))
    assert gone == 400, "none was deleted twice"
    assert nexus.get_all_tasks() == []
    with nexus._database.engine.connect() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(attempts)).scalar_one() == 0


def test_nobody_waits_for_what_was_forgotten_meanwhile(nexus: TaskNexus, race: Race, database_url: str) -> None:
    """Either the dependant comes first, and its target stays; or it is told that there is no such task."""
    nexus.add_tasks({"task_id": f"target-{number}"} for number in range(200))
    for number in range(200):
        nexus.cancel(f"target-{number}")
    added = race(("depend_on_what_goes", 2, 200), ("prune", 2, 200), url=database_url)
    waiting = {task_id for name, mine in added.items() if name.startswith("depend") for task_id in mine}
    tasks_there = {task.task_id: task for task in nexus.get_all_tasks()}
    assert waiting <= tasks_there.keys()
    assert all(set(tasks_there[name].depends_on) <= tasks_there.keys() for name in waiting)
    assert [one for one in nexus.doctor() if one.code == "dependencies"] == []


def test_eight_processes_open_a_new_file_at_once(race: Race, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new.db'}"
    race(("open_only", 8), url=url)
    with TaskNexus(url) as board:
        assert board.stats() == {"pending": 8}


def test_three_processes_migrate_a_new_postgresql_at_once(race: Race, make_postgres: Callable[[str], str]) -> None:
    url = make_postgres("together")
    race(("open_only", 3), url=url)
    with TaskNexus(url) as board:
        assert board.stats() == {"pending": 3}
