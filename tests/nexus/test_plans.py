"""How the databases find what the hot verbs touch: by an index, whatever else is on the board."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import sqlalchemy as sa

from nexus import TaskMonitoringConfig, TaskNexus
from nexus.tables import tasks

from ..conftest import Clock

MANY = 50_000

LATER = datetime(2050, 1, 1, tzinfo=UTC)


def fill(nexus: TaskNexus, status: str, number: int) -> None:
    """Copies of one task, made inside the database."""
    template = nexus.add_task({"task_type": "task", "payload": {"n": 1}}).task_id
    copied = [column for column in tasks.c if column.name not in ("seq", "task_id", "status", "pending_since")]
    if nexus._database.is_sqlite:
        count = sa.select(sa.literal(1).label("n")).cte("numbers", recursive=True)
        numbers: Any = count.union_all(sa.select(count.c.n + 1).where(count.c.n < number))
    else:
        numbers = sa.func.generate_series(1, number).table_valued("n", name="numbers").render_derived()
    since = tasks.c.pending_since if status == "pending" else sa.null()
    rows = sa.select(sa.literal(f"{status}-") + sa.cast(numbers.c.n, sa.Text), sa.literal(status), since, *copied)
    rows = rows.select_from(tasks.join(numbers, sa.true())).where(tasks.c.task_id == template)
    names = ["task_id", "status", "pending_since", *(column.name for column in copied)]
    with nexus._database.engine.begin() as connection:
        connection.execute(sa.insert(tasks).from_select(names, rows))
        connection.execute(sa.delete(tasks).where(tasks.c.task_id == template))


@pytest.fixture
def crowded(nexus: TaskNexus) -> TaskNexus:
    """50,000 tasks that wait, and as many that are done, each with its attempt, its history and who waited for it."""
    fill(nexus, "pending", MANY)
    fill(nexus, "completed", MANY)
    tried = "task_id, 1, 1, 'Ada', 'completed', created_at, updated_at FROM nexus_tasks WHERE status = 'completed'"
    names = "task_id, number, claim_no, agent_id, outcome, started_at, finished_at"
    with nexus._database.engine.begin() as connection:
        connection.exec_driver_sql(f"INSERT INTO nexus_attempts ({names}) SELECT {tried}")
        connection.exec_driver_sql(
            "INSERT INTO nexus_history (task_id, at, verb) SELECT task_id, created_at, 'add' FROM nexus_tasks"
        )
        connection.exec_driver_sql(
            "INSERT INTO nexus_dependencies (task_id, depends_on) "
            "SELECT replace(task_id, 'completed', 'pending'), task_id FROM nexus_tasks WHERE status = 'completed'"
        )
    learn(nexus)
    return nexus


def learn(nexus: TaskNexus) -> None:
    """Let the database look how much there is of everything."""
    nexus._database._bare(lambda connection: connection.exec_driver_sql("ANALYZE"))


@contextmanager
def asking(nexus: TaskNexus) -> Iterator[list[tuple[str, Any]]]:
    """Every statement that is sent in the block, with its parameters."""
    sent: list[tuple[str, Any]] = []
    engine = nexus._database.engine

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
        if not many and statement.lstrip().split()[0] in ("SELECT", "UPDATE", "INSERT", "WITH", "DELETE"):
            sent.append((statement, parameters))

    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)


@pytest.fixture
def asked(crowded: TaskNexus) -> Iterator[list[tuple[str, Any]]]:
    """Every statement that is sent while the test goes on."""
    with asking(crowded) as sent:
        yield sent


def plans(nexus: TaskNexus, asked: list[tuple[str, Any]]) -> list[tuple[str, str]]:
    """Each statement with its plan."""
    sqlite = nexus._database.is_sqlite
    explain = "EXPLAIN QUERY PLAN " if sqlite else "EXPLAIN (COSTS OFF) "
    found = []
    with nexus._database.engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        for statement, parameters in list(asked):
            rows = driver.execute(explain + statement, parameters).fetchall()
            found.append((statement, "\n".join(str(row[-1]) for row in rows)))
        connection.rollback()
    return found


LARGE = ("nexus_tasks", "nexus_attempts", "nexus_history", "nexus_dependencies")


def check(nexus: TaskNexus, asked: list[tuple[str, Any]]) -> None:
    assert asked
    for statement, plan in plans(nexus, asked):
        for line, following in pairwise([*plan.splitlines(), ""]):
            about = f"{line}\n\n{plan}\n\n{statement}"
            if nexus._database.is_sqlite:
                scanned = line.startswith("SCAN") and any(line.split()[1] == table for table in LARGE)
                # In the order of an index, up to a LIMIT: no scan of all that waits.
                assert not scanned or " USING " in line, about
                assert "TEMP B-TREE FOR ORDER BY" not in line, about
            else:
                assert not any(f"Seq Scan on {table}" in line for table in LARGE), about
                # Of what a LIMIT has chosen before the order may be turned.
                assert not ("Sort Key" in line and "nexus_tasks" in line) or "->  Limit" in following, about


VERBS: dict[str, Callable[[TaskNexus, Clock], object]] = {
    "claim": lambda nexus, _: nexus.claim("Ada", 10),
    "claim and start": lambda nexus, _: nexus.claim("Ada", 10, start=True),
    "a type": lambda nexus, _: nexus.claim("Ada", 10, task_types=["task"]),
    "one task": lambda nexus, _: nexus.claim_task("pending-77", "Ada"),
    "start": lambda nexus, _: nexus.start_many(nexus.claim("Ada", 10)),
    "heartbeat": lambda nexus, _: [nexus.heartbeat(claim) for claim in nexus.claim("Ada", 2, start=True)],
    "complete": lambda nexus, _: nexus.complete_many([(one, 1) for one in nexus.claim("Ada", 10, start=True)]),
    "complete one": lambda nexus, _: nexus.complete(nexus.claim("Ada", start=True)[0], {"a": 1}),
    "fail": lambda nexus, _: nexus.fail(nexus.claim("Ada", start=True)[0], "no"),
    "release": lambda nexus, _: nexus.release(nexus.claim("Ada")[0]),
    "cancel": lambda nexus, _: nexus.cancel("pending-9"),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_touches_nothing_but_its_own(
    crowded: TaskNexus, asked: list[tuple[str, Any]], clock: Clock, verb: str
) -> None:
    VERBS[verb](crowded, clock)  # the first claim of an agent, and the later ones, which know it
    VERBS[verb](crowded, clock) if verb not in ("one task", "cancel") else None
    check(crowded, asked)


FOR_OTHERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "not due yet": ({"available_at": LATER}, {}),
    "not due yet, in an episode": ({"available_at": LATER, "episode_id": "EP07"}, {"episode_id": "EP07"}),
    "for another agent": ({"assigned_to": "Eve"}, {}),
    "of another type": ({"task_type": "draw"}, {"task_types": ["task"]}),
    "beyond its skills": ({"required_capabilities": ["gpu"]}, {}),
    "of a type that is paused": ({"task_type": "paused"}, {}),
    "of another episode": ({"episode_id": "EP06"}, {"episode_id": "EP07"}),
    "for another agent, in the episode": ({"assigned_to": "Eve", "episode_id": "EP07"}, {"episode_id": "EP07"}),
}
"""What waits before the agent's own, and what it asks for."""


@pytest.mark.parametrize("what", FOR_OTHERS)
def test_a_claim_passes_over_what_is_for_others(nexus: TaskNexus, what: str) -> None:
    changed, wishes = FOR_OTHERS[what]
    fill(nexus, "pending", 20_000)
    with nexus._database.engine.begin() as connection:
        connection.execute(sa.update(tasks).values(priority=sa.func.abs(tasks.c.seq % 3), **changed))
    nexus.pause("paused")
    learn(nexus)
    own = {"priority": "low", "episode_id": wishes.get("episode_id")}
    nexus.add_tasks([{"task_id": f"own-{number}", **own} for number in range(3)])
    assert nexus.claim("Ada", **wishes)[0].task_id == "own-0"
    with asking(nexus) as asked:
        assert [claim.task_id for claim in nexus.claim("Ada", 2, **wishes)] == ["own-1", "own-2"]
    assert rows_passed(nexus, asked) < 500


def rows_passed(nexus: TaskNexus, asked: list[tuple[str, Any]]) -> int:
    """How many rows the claims read and did not take; on SQLite how often its machine made a hundred steps."""
    passed: list[int] = []
    with nexus._database.engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        for statement, parameters in [one for one in asked if one[0].lstrip().startswith(("UPDATE", "WITH"))]:
            if nexus._database.is_sqlite:
                driver.set_progress_handler(partial(passed.append, 1), 100)
                driver.execute(statement, parameters).fetchall()
                driver.set_progress_handler(None, 0)
            else:
                plan = driver.execute("EXPLAIN (ANALYZE, COSTS OFF) " + statement, parameters).fetchall()
                passed += [int(line.split(": ")[1]) for (line,) in plan if "Rows Removed by Filter" in line]
        connection.rollback()
    assert passed, "it was measured"
    return sum(passed)


def test_the_sweep_of_a_board_where_nothing_is_wrong(crowded: TaskNexus, asked: list[tuple[str, Any]]) -> None:
    crowded.sweep(TaskMonitoringConfig(max_per_sweep=100))
    check(crowded, asked)


def test_a_look_at_what_moves(crowded: TaskNexus, asked: list[tuple[str, Any]], clock: Clock) -> None:
    clock.advance(60)
    feed = crowded.feed()
    crowded.complete_many([(one, 1) for one in crowded.claim("Ada", 10, start=True)])
    crowded.claim("Ada", 10)
    asked.clear()
    assert len(feed.read().moves) == 40
    check(crowded, asked)


def test_a_list_of_what_is_held(crowded: TaskNexus, asked: list[tuple[str, Any]]) -> None:
    claims = crowded.claim("Ada", 10, start=True)
    asked.clear()
    held = crowded.get_all_tasks(["claimed", "in_progress"], limit=5)
    assert [task.task_id for task in held] == [claim.task_id for claim in claims[:5]]
    [(_, plan)] = plans(crowded, asked)
    assert "ix_nexus_tasks_held" in plan


def test_the_board_at_a_glance_reads_of_what_is_finished_only_the_counts(
    crowded: TaskNexus, asked: list[tuple[str, Any]], clock: Clock
) -> None:
    clock.advance(7200)  # what is done was done before the hour that it tells of
    with crowded._database.engine.begin() as connection:  # so that what waits is little as well
        connection.execute(sa.delete(tasks).where(tasks.c.status == "pending"))
    learn(crowded)
    asked.clear()
    crowded.overview()
    found = plans(crowded, asked)
    [(counts, _)] = [one for one in found if "GROUP BY nexus_tasks.status" in one[0]]
    for statement, plan in found:
        for line in plan.splitlines() if statement != counts else ():
            everything = "Seq Scan on nexus_tasks" in line or line == "SCAN nexus_tasks"
            assert not everything, f"{plan}\n\n{statement}"


def test_what_it_explains_is_what_it_sent(crowded: TaskNexus, asked: list[tuple[str, Any]]) -> None:
    """The test of the test: a question without an index is found."""
    with crowded._database.engine.connect() as connection:
        connection.execute(sa.select(tasks.c.task_id).where(tasks.c.description == "no index").order_by(tasks.c.reason))
    assert json.dumps([statement for statement, _ in asked])
    with pytest.raises(AssertionError):
        check(crowded, asked)


def test_figures_read_what_ended_in_their_time(crowded: TaskNexus, asked: list[tuple[str, Any]], clock: Clock) -> None:
    since = clock.advance(3600)
    crowded.complete_many([(claim, 1) for claim in crowded.claim("Ada", 10, start=True)])
    clock.advance(10)
    asked.clear()
    assert crowded.figures(since=since).total.done == 10
    assert [ended.attempts for ended in crowded.reading(since - timedelta(seconds=1), (1.0, 60.0)).ended] == [10]
    of_attempts = [one for one in asked if "nexus_attempts" in one[0]]
    assert len(of_attempts) == 4
    for _, plan in plans(crowded, of_attempts):
        assert "ix_nexus_attempts_finished_at" in plan
        assert not any(f"{scan} {table}" in plan for scan in ("SCAN", "Seq Scan on") for table in LARGE), plan
