"""The doctor finds what is broken; each promise is really broken here, past the database's own checks."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from nexus import NexusSettings, TaskNexus, health
from nexus.diagnosis import examine

LEASE = 60.0


@pytest.fixture
def spoil(nexus: TaskNexus) -> Callable[[str], None]:
    """Run a statement that no CHECK and no unique index stops."""
    database = nexus._database
    unbound = {"nexus_tasks": [], "nexus_attempts": []}

    def run(statement: str) -> None:
        with database.engine.begin() as connection:
            if database.is_sqlite:
                connection.exec_driver_sql("PRAGMA ignore_check_constraints = ON")
            else:
                connection.exec_driver_sql("SET CONSTRAINTS ALL DEFERRED")
            connection.exec_driver_sql(statement)

    if not database.is_sqlite:
        with database.engine.begin() as connection:
            for table in unbound:
                checks = [one["name"] for one in sa.inspect(connection).get_check_constraints(table)]
                for name in checks:
                    definition = connection.exec_driver_sql(
                        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = %s", (name,)
                    ).scalar_one()
                    unbound[table].append((name, definition))
                    connection.exec_driver_sql(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
    yield run
    if not database.is_sqlite:
        with database.engine.begin() as connection:
            connection.exec_driver_sql("TRUNCATE nexus_tasks, nexus_attempts CASCADE")
            for table, constraints in unbound.items():
                for name, definition in constraints:
                    connection.exec_driver_sql(f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}")


@pytest.fixture
def busy(nexus: TaskNexus, at_work: Any, done: Any, clock: Any) -> TaskNexus:
    """A board with a bit of everything, in good order."""
    nexus.add_tasks(
        [
            {"task_id": "done"},
            {"task_id": "working"},
            {"task_id": "claimed"},
            {"task_id": "stalled"},
            {"task_id": "waits", "depends_on": ["working"]},
            {"task_id": "failed", "retry_policy": {"max_attempts": 1}},
        ]
    )
    done("done")
    nexus.fail(at_work("failed"), "no")
    clock.advance(3600)
    nexus.sweep(nexus.settings.monitoring.model_copy(update={"escalation_strategy": "escalate"}))
    at_work("working")
    nexus.claim_task("claimed", "Ada")
    return nexus


def codes(nexus: TaskNexus) -> list[str]:
    """What the doctor finds."""
    return [finding.code for finding in nexus.doctor()]


def test_a_board_in_good_order(busy: TaskNexus) -> None:
    assert busy.doctor() == []


BROKEN = {
    "lease": "UPDATE nexus_tasks SET lease_expires_at = NULL WHERE task_id = 'claimed'",
    "attempt": "UPDATE nexus_tasks SET started_at = NULL WHERE task_id = 'working'",
    "open_attempt": "UPDATE nexus_attempts SET outcome = 'running' WHERE task_id = 'done'",
    "completed": "UPDATE nexus_attempts SET outcome = 'failed' WHERE task_id = 'done'",
    "waiting": "UPDATE nexus_tasks SET pending_since = NULL WHERE task_id = 'stalled'",
    "dependencies": "UPDATE nexus_tasks SET unmet_dependencies = 0 WHERE task_id = 'waits'",
    "stall": "UPDATE nexus_stalls SET closed_at = opened_at WHERE task_id = 'stalled'",
    "stall_left_open": "UPDATE nexus_tasks SET stall_id = NULL WHERE task_id = 'stalled'",
    "escalation": "UPDATE nexus_stalls SET closed_at = opened_at WHERE task_id = 'stalled'",
    "history": "UPDATE nexus_history SET from_status = 'completed' WHERE task_id = 'failed' AND verb = 'fail'",
}
ON_SQLITE = {
    "times": "UPDATE nexus_tasks SET available_at = 'yesterday' WHERE task_id = 'stalled'",
    "json": "UPDATE nexus_tasks SET tags = 'not json' WHERE task_id = 'stalled'",
}


@pytest.mark.parametrize("code", BROKEN)
def test_a_broken_promise_is_found(busy: TaskNexus, spoil: Callable[[str], None], code: str) -> None:
    spoil(BROKEN[code])
    [finding] = [one for one in busy.doctor() if one.code == code]
    named = re.search(r"task_id = '([^']*)'", BROKEN[code].replace("'stalled'", "''"))
    assert finding.count == 1
    assert "\n" not in finding.message
    if named and named[1]:
        assert named[1] in finding.message


@pytest.mark.parametrize("code", ON_SQLITE)
def test_values_that_no_column_of_postgresql_takes(sqlite_url: str, open_board: Any, code: str) -> None:
    nexus = open_board(sqlite_url)
    nexus.add_task({"task_id": "stalled"})
    with nexus._database.engine.begin() as connection:
        connection.exec_driver_sql("PRAGMA ignore_check_constraints = ON")
        connection.exec_driver_sql(ON_SQLITE[code])
    assert codes(nexus) == [code]


def test_every_invariant_is_broken_here() -> None:
    assert {one.code for one in health.INVARIANTS} | {"history"} == {*BROKEN, *ON_SQLITE}


def test_many_are_counted_and_a_few_named(nexus: TaskNexus, spoil: Callable[[str], None]) -> None:
    nexus.add_tasks([{"task_id": f"T{number}"} for number in range(7)])
    spoil("UPDATE nexus_tasks SET pending_since = NULL")
    [finding] = nexus.doctor()
    assert finding.count == 7
    assert finding.message.startswith("7 of the tasks are pending without")
    assert finding.message.endswith(" …")


class TestTime:
    def test_a_sweep_that_does_not_come(self, nexus: TaskNexus, clock: Any) -> None:
        clock.advance(9999)
        assert codes(nexus) == [], "nothing to look after"
        nexus.add_task({})
        clock.advance(600)
        assert codes(nexus) == []
        clock.advance(1)
        [finding] = nexus.doctor()
        assert (finding.code, finding.message.partition(";")[0]) == ("sweep", "there was no sweep yet")
        nexus.sweep()
        assert codes(nexus) == []
        clock.advance(601)
        assert nexus.doctor()[0].message.startswith("the last sweep was 601 s ago; the interval is 300 s")

    def test_leases_that_nobody_takes_back(self, nexus: TaskNexus, clock: Any) -> None:
        nexus.add_task({})
        nexus.claim("Ada")
        clock.advance(661)
        assert codes(nexus) == ["sweep", "late_lease"]

    def test_rows_that_the_sweep_cannot_read(self, sqlite_url: str, open_board: Any, clock: Any) -> None:
        nexus = open_board(sqlite_url)
        nexus.add_task({})
        with nexus._database.engine.begin() as connection:
            connection.exec_driver_sql("UPDATE nexus_tasks SET payload = '{'")
        clock.advance(3600)
        nexus.sweep()
        assert codes(nexus) == ["skipped", "json"]

    def test_clocks_that_differ(self, postgres_url: str, open_board: Any, clock: Any) -> None:
        nexus = open_board(postgres_url, clock=None)
        present = nexus.now()
        found = nexus._database.read(lambda tx: [*health.clocks(tx, present.replace(year=2020))])
        assert [one.code for one in found] == ["clock"]
        assert nexus.doctor() == []


class TestFromOutside:
    def test_a_schema_that_is_behind_is_said_and_left(
        self, database_url: str, open_board: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from nexus import schema

        open_board(database_url).close()
        known = (*schema.versions(), "9999")
        monkeypatch.setattr(schema, "versions", lambda: known)
        [finding] = examine(NexusSettings(), database_url)
        assert finding.code == "schema"
        assert "nexus db upgrade" in finding.message

    def test_a_board_that_does_not_exist_is_not_made(self, elsewhere: Any) -> None:
        [finding] = examine(NexusSettings(), f"sqlite:///{elsewhere}/none.db")
        assert finding.code == "database"
        assert list(elsewhere.iterdir()) == []

    @pytest.mark.parametrize("url", ["postgresql://nobody@127.0.0.1:9/none", "mysql://x", "nonsense"])
    def test_a_database_that_does_not_answer(self, url: str) -> None:
        [finding] = examine(NexusSettings(), url)
        assert finding.code == "database"
        assert "\n" not in finding.message

    def test_a_good_board(self, database_url: str, busy: TaskNexus) -> None:
        busy.close()
        assert [one.code for one in examine(NexusSettings(), database_url)] in ([], ["sweep"], ["clock"])
