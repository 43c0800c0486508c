"""The SELECTs about attempts and their Prefect runs, and about notices that wait to be delivered.

An attempt's `run_ref` says which run made it. What an agent outside gave there means nothing to Prefect; that is for
the caller to see.
"""

from collections.abc import Sequence

import sqlalchemy as sa

from nexus.engine import Tx
from nexus.moves import going_on
from nexus.predicates import is_held
from nexus.reports import Notice
from nexus.rows import to_attempt
from nexus.schemas import Attempt
from nexus.sql import among
from nexus.tables import attempts, stall_steps, stalls, tasks
from nexus.values import dump_json


def untold(tx: Tx, limit: int) -> list[Attempt]:
    """Attempts that ended lost, released or cancelled, of whose runs Prefect was not told yet; oldest first."""
    ended: list[sa.ColumnElement[str]] = [sa.literal_column(f"'{one}'") for one in ("lost", "released", "cancelled")]
    statement = (
        sa.select(attempts)
        .where(
            attempts.c.outcome.in_(ended), sa.type_coerce(attempts.c.run_ref, sa.Text()).is_not(None),
            attempts.c.run_closed_at.is_(None),
        )
        .order_by(attempts.c.finished_at)
        .limit(limit)
    )  # fmt: skip
    return [to_attempt(row) for row in tx.plain(statement)]


def attempts_going_on(tx: Tx, after: tuple[str, int] | None, limit: int) -> list[Attempt]:
    """Open attempts that a run is said to make, in order of task id; after the one given."""
    statement = going_on().where(is_held(), sa.type_coerce(tasks.c.run_ref, sa.Text()).is_not(None))
    if after is not None:
        statement = statement.where(tasks.c.task_id > after[0])
    return [to_attempt(row) for row in tx.plain(statement.order_by(tasks.c.task_id).limit(limit))]


def claim_numbers(tx: Tx, task_ids: Sequence[str]) -> dict[str, int]:
    """The present claim number of each of these tasks."""
    statement = sa.select(tasks.c.task_id, tasks.c.claim_no).where(among(tasks.c.task_id, "batch"))
    return {row.task_id: row.claim_no for row in tx.plain(statement, {"batch": dump_json(list(task_ids))})}


def undelivered(tx: Tx, limit: int) -> list[Notice]:
    """Notices that the sweep put down and nobody has delivered; oldest first."""
    statement = (
        sa.select(
            stalls.c.stall_id, stalls.c.task_id, stalls.c.since, stalls.c.why, stalls.c.policy, stalls.c.closed_by,
            stall_steps.c.at, stall_steps.c.detail,
            tasks.c.task_type, tasks.c.priority, tasks.c.tags, tasks.c.assigned_to, tasks.c.episode_id,
        )
        .join(stalls, stalls.c.stall_id == stall_steps.c.stall_id)
        .join(tasks, tasks.c.task_id == stalls.c.task_id)
        .where(stall_steps.c.step == sa.literal_column("'notify'"), stall_steps.c.told_at.is_(None))
        .order_by(stall_steps.c.at, stalls.c.stall_id)
        .limit(limit)
    )  # fmt: skip
    return [Notice.model_validate(dict(row._mapping)) for row in tx.plain(statement)]
