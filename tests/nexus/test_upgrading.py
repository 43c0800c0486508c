"""A board of an older version keeps all that it knew."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from nexus import TaskMonitoringConfig, schema
from nexus.engine import Database, Tx
from nexus.sql import Moment

SINCE = datetime(2030, 6, 1, 8, 0, tzinfo=UTC)
OPENED = datetime(2030, 6, 1, 9, 0, tzinfo=UTC)


@pytest.fixture(params=["sqlite", "postgresql"])
def old_board(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A board of the first schema, on which a stalled task was escalated, and another has moved on since."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'old.db'}"
    else:
        make: Callable[[str], str] = request.getfixturevalue("make_postgres")
        url = make("old")
    database = Database(url)
    database.write(lambda tx: upgrade_to(tx, "0001"))
    database.write(fill)
    database.close()
    return url


def upgrade_to(tx: Tx, version: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(schema.MIGRATIONS))
    config.attributes["connection"] = tx.connection
    command.upgrade(config, version)


def fill(tx: Tx) -> None:
    add = sa.text(
        "INSERT INTO nexus_tasks (task_id, task_type, description, payload, status, priority, tags, depends_on, "
        "unmet_dependencies, required_capabilities, claim_no, attempt_count, failure_count, loss_count, retry_policy, "
        "requires_review, available_at, created_at, updated_at, pending_since, related_task_id, extra) VALUES (:id, "
        ":type, '', '{}', 'pending', 20, :tags, '[]', 0, '[]', 0, 0, 0, 0, :policy, :no, :since, :since, :since, "
        ":since, :related, '{}')"
    ).bindparams(sa.bindparam("since", type_=Moment()), sa.bindparam("no", False, type_=sa.Boolean()))
    if tx.connection.dialect.name == "postgresql":
        add = sa.text(str(add).replace(":tags", "CAST(:tags AS jsonb)")).bindparams(
            sa.bindparam("since", type_=Moment()), sa.bindparam("no", False, type_=sa.Boolean())
        )
    policy = (
        '{"max_attempts": 3, "backoff_seconds": 10, "multiplier": 2, "max_backoff_seconds": 3600, "jitter": 0.2, '
        '"max_losses": 3, "non_retryable": []}'
    )
    shared = {"policy": policy, "no": False}
    asks = '["escalation", "stalled_task"]'
    rows = [
        {"id": "waits", "type": "task", "tags": "[]", "since": SINCE, "related": None, **shared},
        {"id": "moved", "type": "task", "tags": "[]", "since": OPENED, "related": None, **shared},
        {"id": "E1", "type": "escalation", "tags": asks, "since": OPENED, "related": "waits", **shared},
    ]
    tx.plain(add, rows)
    stall = sa.text(
        "INSERT INTO nexus_stalls (stall_id, task_id, since, opened_at) VALUES (:id, :task, :since, :opened)"
    ).bindparams(sa.bindparam("since", type_=Moment()), sa.bindparam("opened", type_=Moment()))
    tx.plain(
        stall,
        [
            {"id": 1, "task": "waits", "since": SINCE, "opened": OPENED},
            {"id": 2, "task": "moved", "since": SINCE, "opened": OPENED},
        ],
    )
    step = sa.text(
        "INSERT INTO nexus_stall_steps (stall_id, step, at, detail) VALUES (1, 'escalate', :at, 'escalated as E1')"
    ).bindparams(sa.bindparam("at", type_=Moment()))
    tx.plain(step, {"at": OPENED})


def test_open_stalls_and_their_escalations_are_carried_over(old_board: str, open_board: Any, clock: Any) -> None:
    nexus = open_board(old_board)
    if not nexus._database.is_sqlite:  # the ids above were written by hand
        with nexus._database.engine.begin() as connection:
            connection.exec_driver_sql("SELECT setval(pg_get_serial_sequence('nexus_stalls', 'stall_id'), 2)")
    first, second = nexus.stalls()
    assert (first.task_id, first.closed_at, [step.step for step in first.steps]) == ("waits", None, ["escalate"])
    assert (second.task_id, second.closed_by) == ("moved", "upgrade")
    report = nexus.sweep(TaskMonitoringConfig(escalation_strategy="escalate"))
    asked = {item.task_id: item.action for item in report.items}
    assert "waits" not in asked, "it was asked about before the upgrade"
    assert asked["moved"] == "escalate"
    nexus.claim_task("waits", "Ada")
    assert nexus.get_task_by_id("E1").status == "cancelled"
    assert [one for one in nexus.doctor() if one.code not in ("sweep", "clock")] == []


@pytest.fixture(params=["sqlite", "postgresql"])
def busy_board(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A board of schema 0004: of three tasks Ada works on one, has only claimed one, and has done what that needs."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'busy.db'}"
    else:
        make: Callable[[str], str] = request.getfixturevalue("make_postgres")
        url = make("busy")
    database = Database(url)
    database.write(lambda tx: upgrade_to(tx, "0004"))
    database.write(fill_busily)
    database.close()
    return url


BUSY = """
DELETE FROM nexus_stalls;
UPDATE nexus_tasks SET status = 'in_progress', attempt_count = 1, claimed_by = 'Ada', pending_since = NULL,
    lease_expires_at = :at, lease_seconds = 60, claim_no = 1 WHERE task_id = 'waits';
UPDATE nexus_tasks SET status = 'claimed', claimed_by = 'Ada', pending_since = NULL,
    lease_expires_at = :at, lease_seconds = 60, claim_no = 1 WHERE task_id = 'moved';
UPDATE nexus_tasks SET status = 'completed', pending_since = NULL, claimed_by = 'Ada', claim_no = 1,
    attempt_count = 1, idempotency_key = 'key', updated_at = :at WHERE task_id = 'E1';
INSERT INTO nexus_dependencies (task_id, depends_on) VALUES ('moved', 'E1');
INSERT INTO nexus_attempts (task_id, number, claim_no, agent_id, outcome, started_at, heartbeat_at, note)
    VALUES ('waits', 1, 1, 'Ada', 'running', :at, :at, 'half way');
INSERT INTO nexus_attempts (task_id, number, claim_no, agent_id, outcome, started_at, finished_at)
    VALUES ('E1', 1, 1, 'Ada', 'completed', :at, :at);
INSERT INTO nexus_history (task_id, at, verb, to_status, claim_no)
    SELECT task_id, created_at, 'add', 'pending', 0 FROM nexus_tasks;
INSERT INTO nexus_history (task_id, at, verb, from_status, to_status, actor, claim_no, waited_seconds)
    SELECT task_id, :at, 'claim', 'pending', 'claimed', 'Ada', 1, 7 FROM nexus_tasks;
INSERT INTO nexus_history (task_id, at, verb, from_status, to_status, actor, claim_no)
    SELECT task_id, :at, 'start', 'claimed', 'in_progress', 'Ada', 1 FROM nexus_tasks WHERE task_id <> 'moved';
INSERT INTO nexus_history (task_id, at, verb, from_status, to_status, actor, claim_no)
    VALUES ('E1', :at, 'complete', 'in_progress', 'completed', 'Ada', 1)
"""


def fill_busily(tx: Tx) -> None:
    fill(tx)
    for statement in BUSY.split(";"):
        text = sa.text(statement)
        if ":at" in statement:
            text = text.bindparams(sa.bindparam("at", OPENED, type_=Moment()))
        tx.plain(text)


def test_what_goes_on_is_carried_over_to_its_task(busy_board: str, open_board: Any, clock: Any) -> None:
    nexus = open_board(busy_board)
    [attempt] = nexus.attempts("waits")
    assert (attempt.number, attempt.agent_id, attempt.outcome) == (1, "Ada", "running")
    assert (attempt.started_at, attempt.heartbeat_at, attempt.note) == (OPENED, OPENED, "half way")
    worked = ["add", "claim", "start"]
    assert [one.verb for one in nexus.history("waits")] == worked
    assert [(one.verb, one.waited_seconds) for one in nexus.history("moved")] == [("add", None), ("claim", 7)]
    assert [one.verb for one in nexus.history("E1")] == [*worked, "complete"]
    assert nexus.get_task_by_id("E1").idempotency_key == "key"
    assert nexus.add_task({"idempotency_key": "key"}).task_id == "E1"

    nexus.complete(nexus.current_claim("waits"), "done")
    assert nexus.attempts("waits")[0].note == "half way"
    assert [one.verb for one in nexus.history("waits")] == [*worked, "complete"]
    nexus.release(nexus.current_claim("moved"))
    assert [one.verb for one in nexus.history("moved")] == ["add", "claim", "release"]
    assert [one for one in nexus.doctor() if one.code not in ("sweep", "clock")] == []


def test_a_file_keeps_its_edges_when_its_tables_are_written_anew(busy_board: str, open_board: Any) -> None:
    nexus = open_board(busy_board)
    with nexus._database.engine.connect() as connection:
        edges = connection.exec_driver_sql("SELECT task_id, depends_on FROM nexus_dependencies").all()
        if nexus._database.is_sqlite:
            assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"
    assert [tuple(edge) for edge in edges] == [("moved", "E1")]
    with pytest.raises(sa.exc.IntegrityError), nexus._database.engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO nexus_dependencies (task_id, depends_on) VALUES ('E1', 'nobody')")


@pytest.fixture(params=["sqlite", "postgresql"])
def stuck_board(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A board of schema 0007: two tasks were imported as claimed by Ada, without a holder; one of them has begun."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'stuck.db'}"
    else:
        make: Callable[[str], str] = request.getfixturevalue("make_postgres")
        url = make("stuck")
    database = Database(url)
    database.write(lambda tx: upgrade_to(tx, "0007"))
    database.write(fill_with_imported_claims)
    database.close()
    return url


IMPORTED = """
DELETE FROM nexus_stalls;
UPDATE nexus_tasks SET status = 'in_progress', attempt_count = 1, started_at = :at WHERE task_id = 'waits';
UPDATE nexus_tasks SET status = 'claimed' WHERE task_id = 'moved';
"""
CLAIMED = "claimed_by = 'Ada', pending_since = NULL, lease_expires_at = :at, lease_seconds = 60, claim_no = 1"


def fill_with_imported_claims(tx: Tx) -> None:
    fill(tx)
    for statement in IMPORTED.strip().rstrip(";").replace(" WHERE", f", {CLAIMED} WHERE").split(";"):
        text = sa.text(statement)
        if ":at" in statement:
            text = text.bindparams(sa.bindparam("at", OPENED, type_=Moment()))
        tx.plain(text)


def test_claims_that_were_imported_without_a_holder_can_be_ended(stuck_board: str, open_board: Any, clock: Any) -> None:
    nexus = open_board(stuck_board)
    nexus.complete(nexus.current_claim("waits", "Ada"), "done")
    assert [(attempt.agent_id, attempt.outcome) for attempt in nexus.attempts("waits")] == [("Ada", "completed")]
    nexus.start(nexus.current_claim("moved", "Ada"))
    clock.advance(61)
    assert [item.action for item in nexus.sweep().items if item.task_id == "moved"] == ["expire"]
    assert [(attempt.agent_id, attempt.outcome) for attempt in nexus.attempts("moved")] == [("Ada", "lost")]
    assert [one for one in nexus.doctor() if one.code not in ("sweep", "clock")] == []
