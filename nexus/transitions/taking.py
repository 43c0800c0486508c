"""How a claim comes to be, and how work on it begins: both for many tasks at once."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import sqlalchemy as sa

from nexus import records
from nexus.engine import Tx
from nexus.predicates import Claimant, is_claimable_by, wanted
from nexus.rows import Row, fields_of
from nexus.schemas import Claim
from nexus.sql import later, now
from nexus.states import AttemptOutcome, TaskStatus, Verb
from nexus.tables import agents, attempts, tasks
from nexus.transitions.compound import Compound, chosen, done_by, listed, shown
from nexus.transitions.core import close_over, fenced_many, guarded
from nexus.values import dump_json

PLANNED_LIMIT: Final = 1000
"""Up to here the limit stands in the statement, since PostgreSQL plans anew for each bound one."""

_RUNNING: sa.ColumnElement[str] = sa.literal_column(f"'{AttemptOutcome.RUNNING}'")
_NOTHING = sa.null()


def _literal(value: str) -> sa.ColumnElement[str]:
    return sa.literal_column(f"'{value}'", sa.Text())


def _claimed_history(moved: sa.FromClause, *, start: bool) -> sa.Insert:
    told = records.told_of(moved, Verb.CLAIM, moved.c.claimed_by, _NOTHING)
    if not start:
        return records.history_from(told)
    # Two moves in one statement: each has its row, as if they had been made one after the other.
    columns = list(told.selected_columns)
    columns[records.TOLD.index("to_status")] = _literal(TaskStatus.CLAIMED)
    started = sa.select(
        moved.c.task_id,
        moved.c.updated_at,
        _literal(Verb.START),
        _literal(TaskStatus.CLAIMED),
        moved.c.status,
        moved.c.claimed_by,
        moved.c.claim_no,
        _NOTHING,
        _NOTHING,
    )
    return records.history_from(sa.select(*columns).union_all(started))


def _opened(moved: sa.FromClause, run_ref: sa.ColumnElement[Any]) -> sa.Insert:
    """The attempts that begin with the tasks."""
    rows = sa.select(
        moved.c.task_id,
        moved.c.attempt_count,
        moved.c.claim_no,
        moved.c.claimed_by,
        _RUNNING,
        moved.c.updated_at,
        moved.c.updated_at,
        run_ref,
    )
    names = ["task_id", "number", "claim_no", "agent_id", "outcome", "started_at", "heartbeat_at", "run_ref"]
    return sa.insert(attempts).from_select(names, rows)


_RUN_REF = sa.bindparam("p_run_ref", type_=attempts.c.run_ref.type)


@lru_cache(maxsize=256)
def _claim(limit: int | None, *, handles: bool, start: bool, remembered: bool, **wishes: bool) -> Compound:
    bound = sa.bindparam("limit", type_=sa.Integer())
    in_turn = () if wishes["task_id"] else (tasks.c.priority, tasks.c.available_at, tasks.c.seq)
    picked = (
        sa.select(tasks.c.seq)
        .where(is_claimable_by(Claimant.bound(handles=handles)), *wanted(**wishes))
        .order_by(*in_turn)
        .limit(bound if limit is None else sa.literal_column(str(limit)))
        # Who wants just one task waits for its lock, which may be held by somebody who only depends on it.
        .with_for_update(skip_locked=not wishes["task_id"])
    )
    if remembered:
        known = sa.and_(
            agents.c.agent_id == sa.bindparam("agent_id", type_=sa.Text()),
            agents.c.revision == sa.bindparam("p_revision", type_=sa.Integer()),
        )
        picked = picked.where(sa.exists().where(known))
    lease: sa.BindParameter[float] = sa.bindparam("p_lease", type_=sa.Double())
    move = (
        guarded(Verb.CLAIM, is_found=True)
        .where(chosen(tasks.c.seq, picked))
        .values(
            status=_literal(TaskStatus.IN_PROGRESS if start else TaskStatus.CLAIMED),
            pending_since=sa.null(),
            claim_no=tasks.c.claim_no + sa.literal_column("1"),
            claimed_by=sa.bindparam("agent_id", type_=sa.Text()),
            lease_seconds=lease,
            lease_expires_at=later(now(), lease),
        )
    )
    if start:
        move = move.values(attempt_count=tasks.c.attempt_count + sa.literal_column("1"))

    def beside(moved: sa.FromClause) -> list[sa.Insert | sa.Update]:
        return [_claimed_history(moved, start=start), *([_opened(moved, _RUN_REF)] if start else [])]

    return Compound(Verb.CLAIM, move, beside, lambda moved: [moved.c.previous_stall_id, *fields_of(moved)])


def claim(
    tx: Tx,
    agent: Row,
    limit: int,
    lease_seconds: float,
    wishes: dict[str, Any],
    *,
    start: bool = False,
    run_ref: Any = None,
    remembered: bool = False,
) -> list[Row]:
    """Take up to `limit` claimable tasks, first by priority, then by how long they wait: `TAKEN` in that order.

    `wishes` are values for the names of `predicates.wanted`; None is no wish. Rows that another claim has
    locked are skipped, so claims do not wait for one another; only the claim of one certain task waits. `start`
    begins the attempts as well. `remembered`: `agent` was read a while ago; nothing is taken where it has changed.
    """
    flags = {name: value is not None for name, value in wishes.items()}
    bound = {f"p_{name}": value for name, value in wishes.items() if value is not None}
    flags["episode"] = flags.pop("episode_id")
    # Whoever asks for certain types has handlers for those, whatever was said before.
    handles = agent.task_types is not None and wishes["task_types"] is None
    if handles:
        bound["handled"] = dump_json(list(agent.task_types))
    if start:
        bound["p_run_ref"] = run_ref
    if remembered:
        bound["p_revision"] = agent.revision
    planned = limit if limit <= PLANNED_LIMIT else None
    if planned is None:
        bound["limit"] = limit
    rows = _claim(planned, handles=handles, start=start, remembered=remembered, **flags).run(
        tx,
        {
            "agent_id": agent.agent_id,
            "capabilities": dump_json(list(agent.capabilities)),
            "p_lease": lease_seconds,
            **bound,
        },
    )
    close_over(tx, Verb.CLAIM, [row.previous_stall_id for row in rows], agent.agent_id)
    return sorted(rows, key=lambda row: (row.priority, row.available_at, row.seq))


@lru_cache(maxsize=1)
def _start() -> Compound:
    listed = shown()
    move = fenced_many(Verb.START, listed).values(
        status=_literal(TaskStatus.IN_PROGRESS),
        attempt_count=tasks.c.attempt_count + sa.literal_column("1"),
        lease_expires_at=later(now(), tasks.c.lease_seconds),
    )

    def beside(moved: sa.FromClause) -> list[sa.Insert | sa.Update]:
        told = records.told_of(moved, Verb.START, moved.c.claimed_by, _NOTHING)
        return [_opened(moved, _RUN_REF), records.history_from(told)]

    told = ("task_id", "claim_no", "attempt_count", "updated_at")
    return Compound(Verb.START, move, beside, lambda moved: [moved.c[name] for name in told])


def start(tx: Tx, claims: Sequence[Claim], run_ref: Any) -> dict[str, Row]:
    """Begin the attempts; of those that could begin their number (`attempt_count`) and moment (`updated_at`), by task.

    Nothing else is ever left behind: a claim ended the waiting period, and a start ends no task.
    """
    return {row.task_id: row for row in _start().run(tx, {**listed(claims), "p_run_ref": run_ref})}


def begun(tx: Tx, claims: Sequence[Claim]) -> dict[str, Row]:
    """As `start` says it, of those that have begun under these claims: by somebody whose answer was lost."""
    columns = (tasks.c.seq, tasks.c.task_id, tasks.c.claim_no, tasks.c.attempt_count, tasks.c.updated_at)
    return {row.task_id: row for row in tx.plain(done_by(Verb.START, *columns), listed(claims))}
