"""How a claim comes to be, and how work on it begins: both for many tasks at once."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final, Literal

import sqlalchemy as sa

from nexus.engine import Tx
from nexus.lanes import lanes_of
from nexus.predicates import Claimant, is_held
from nexus.rows import FIELDS, ClaimKey, Row, as_kept, fields_of
from nexus.schemas import Claim
from nexus.sql import chosen, later, now, seconds_between
from nexus.states import TaskStatus, Verb
from nexus.tables import agents, tasks
from nexus.transitions import picking
from nexus.transitions.compound import Compound, done_by, showing, shown
from nexus.transitions.core import close_over, fenced_many, guarded
from nexus.values import fast_json

PLANNED_LIMIT: Final = 1000
"""Up to here the limit stands in the statement on PostgreSQL, which plans anew for each that is bound.

SQLite plans the same for all numbers that are bound, so there one statement does for all.
"""


def _literal(value: str) -> sa.ColumnElement[str]:
    return sa.literal_column(f"'{value}'", sa.Text())


_RUN_REF = sa.bindparam("p_run_ref", type_=tasks.c.run_ref.type)

_ONE: sa.ColumnElement[int] = sa.literal_column("1")


def _begun(run_ref: sa.ColumnElement[Any]) -> dict[str, Any]:
    """The values of a task at which an attempt begins."""
    return {
        "attempt_count": tasks.c.attempt_count + _ONE,
        "started_at": now(),
        "heartbeat_at": now(),
        "note": sa.null(),
        "run_ref": run_ref,
    }


Where = Literal["head", "lanes", "task"]
"""Where a claim looks, as `picking` has it: `at_the_head`, `by_lane`, at `one_task`."""


def looks(wishes: Mapping[str, Any], limit: int) -> Sequence[Where]:
    """Where to look, one after the other until enough is found: the last finds all that there is."""
    if wishes["task_id"] is not None:
        return ["task"]
    return ["lanes"] if wishes["episode_id"] is not None or limit > PLANNED_LIMIT else ["head", "lanes"]


@lru_cache(maxsize=256)
def _claim(
    where: Where,
    limit: int | None,
    *,
    sqlite: bool,
    handles: bool,
    start: bool,
    remembered: bool,
    alone: bool,
    **wishes: bool,
) -> Compound:
    who = Claimant.bound(handles=handles)
    columns = ["seq", *(["stall_id"] if alone else [])]
    match where:
        case "task":
            picked = picking.one_task(who, wishes, columns)
        case "head":
            picked = picking.at_the_head(who, wishes, columns, limit, sqlite=sqlite)
        case "lanes":
            picked = picking.by_lane(who, wishes, columns, limit, sqlite=sqlite)
    if remembered:
        known = sa.and_(
            agents.c.agent_id == sa.bindparam("agent_id", type_=sa.Text()),
            agents.c.revision == sa.bindparam("p_revision", type_=sa.Integer()),
        )
        picked = picked.where(sa.exists().where(known))
    move = guarded(Verb.CLAIM, is_found=True)
    if alone:
        # Where a stall is to be closed nothing is taken: that would be a second statement.
        found = picked.cte("found")
        picked = sa.select(found.c.seq)
        move = move.where(~sa.exists().where(found.c.stall_id.is_not(None)))
    lease: sa.BindParameter[float] = sa.bindparam("p_lease", type_=sa.Double())
    agent_id: sa.BindParameter[str] = sa.bindparam("agent_id", type_=sa.Text())
    move = move.where(chosen(tasks.c.seq, picked)).values(
        status=_literal(TaskStatus.IN_PROGRESS if start else TaskStatus.CLAIMED),
        pending_since=sa.null(),
        claim_no=tasks.c.claim_no + _ONE,
        claimed_by=agent_id,
        holder=agent_id,
        claim_key=sa.bindparam("p_claim_key", type_=sa.BigInteger()),
        lease_seconds=lease,
        lease_expires_at=later(now(), lease),
        claimed_at=now(),
        waited_seconds=seconds_between(tasks.c.available_at, now()),
        **(_begun(_RUN_REF) if start else {}),
    )
    return Compound(Verb.CLAIM, move, None, _taken)


def _taken(moved: sa.FromClause) -> list[sa.ColumnElement[Any]]:
    return [moved.c.previous_stall_id, *fields_of(moved)]


def claimed(tx: Tx, agent_id: str, claim_key: int) -> list[Row]:
    """As `claim` says it, of what is held by the claim with this key: by somebody whose answer was lost."""
    its_own = tasks.c.claim_key == sa.bindparam("p_claim_key", type_=sa.BigInteger())
    mine = tasks.c.claimed_by == sa.bindparam("p_agent_id", type_=sa.Text())
    statement = sa.select(tasks.c.seq, *_taken(tasks)).where(is_held(), mine, its_own)
    return _in_turn(tx.plain(statement, {"p_agent_id": agent_id, "p_claim_key": claim_key}).all())


STALL, TASK = 1, 2
"""Where in a row of `claim` the stall stands, and from where on its `fields_of`. Names would take thrice as long."""

_turn = itemgetter(TASK + FIELDS.index("priority"), TASK + FIELDS.index("available_at"), 0)


def _in_turn(rows: Sequence[Row]) -> list[Row]:
    return sorted(rows, key=_turn)


def claim(
    tx: Tx,
    agent: Row,
    limit: int,
    lease_seconds: float,
    wishes: dict[str, Any],
    where: Where,
    *,
    start: bool = False,
    run_ref: Any = None,
    claim_key: int | None = None,
    remembered: bool = False,
    alone: bool = False,
) -> list[Row]:
    """Take up to `limit` claimable tasks, first by priority, then by how long they wait, and in that order.

    Of each its `seq`, the stall that ended with its waiting, and its `fields_of`. `wishes` are values for the names
    of `predicates.WISHES`; None is no wish. `where` is one of `looks`. Rows that another claim has locked are skipped,
    so claims do not wait for one another; only the claim of one certain task waits. `start` begins the attempts as
    well. `remembered`: `agent` was read a while ago; nothing is taken where it has changed. `alone`: nothing else is
    written in this transaction, so nothing is taken where a stall ends with it (PostgreSQL).
    """
    flags = {name: value is not None for name, value in wishes.items()}
    bound = {f"p_{name}": value for name, value in wishes.items() if value is not None}
    # Whoever asks for certain types has handlers for those, whatever was said before.
    handles = agent.task_types is not None and wishes["task_types"] is None
    if handles:
        bound["handled"] = fast_json(agent.task_types)
    if where == "lanes":
        bound["p_lanes"] = fast_json(lanes_of(agent.agent_id, agent.capabilities))
    if start:
        bound["p_run_ref"] = run_ref
    if remembered:
        bound["p_revision"] = agent.revision
    sqlite = tx.connection.dialect.name == "sqlite"
    planned = None if sqlite or limit > PLANNED_LIMIT else limit
    if planned is None and where != "task":
        bound["limit"] = limit
    how = {"start": start, "remembered": remembered, "alone": alone, "handles": handles}
    rows = _claim(where, planned, sqlite=sqlite, **how, **flags).run(
        tx,
        {
            "agent_id": agent.agent_id,
            "capabilities": fast_json(agent.capabilities),
            "p_lease": lease_seconds,
            "p_claim_key": claim_key,
            **bound,
        },
    )
    close_over(tx, Verb.CLAIM, [row[STALL] for row in rows], agent.agent_id)
    return _in_turn(rows)


def _begun_of(moved: sa.FromClause) -> list[sa.ColumnElement[Any]]:
    return [as_kept(moved.c[name]) for name in ("task_id", "claim_no", "attempt_count", "started_at", "updated_at")]


@lru_cache(maxsize=1)
def _start() -> Compound:
    claims = shown()
    move = fenced_many(Verb.START, claims).values(
        status=_literal(TaskStatus.IN_PROGRESS),
        lease_expires_at=later(now(), tasks.c.lease_seconds),
        **_begun(claims.c.value),
    )
    return Compound(Verb.START, move, None, _begun_of)


_begun_by = itemgetter(1, 2)
"""The claim of such a row, whose first column is `seq`."""


def start(tx: Tx, claims: Sequence[tuple[Claim, Any]]) -> dict[ClaimKey, Row]:
    """Begin the attempts, each in a run; of those that could begin `attempt_count` (their number) and `started_at`.

    By task and claim number. Nothing else is left behind: a claim ended the waiting period, and a start ends no task.
    """
    return {_begun_by(row): row for row in _start().run(tx, showing(tx, claims))}


def begun(tx: Tx, claims: Sequence[Claim]) -> dict[ClaimKey, Row]:
    """As `start` says it, of those that have begun under these claims: by somebody whose answer was lost."""
    there = done_by(Verb.START, tasks.c.seq, *_begun_of(tasks))
    return {_begun_by(row): row for row in tx.plain(there, showing(tx, [(claim, None) for claim in claims]))}
