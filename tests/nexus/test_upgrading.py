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
    database.write(first_schema)
    database.write(fill)
    database.close()
    return url


def first_schema(tx: Tx) -> None:
    config = Config()
    config.set_main_option("script_location", str(schema.MIGRATIONS))
    config.attributes["connection"] = tx.connection
    command.upgrade(config, "0001")


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
