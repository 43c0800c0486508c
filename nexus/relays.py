"""Who tells others what moves, and how far they are: a row a target, held by one at a time, under a lease.

As with a task, whoever's guarded statement finds no row has lost, and lets the other go on.
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from nexus.engine import Tx
from nexus.sql import later, now
from nexus.tables import relays


def take(tx: Tx, target: str, holder: str, seconds: float, *, insists: bool = False) -> tuple[bool, Any]:
    """Take the relay where nobody holds it, this holder does, or it insists: whether it has it, and how far it is."""
    until = later(now(), sa.literal(seconds, sa.Double()))
    mine = sa.true() if insists else sa.or_(relays.c.holder == holder, relays.c.lease_expires_at <= now())
    taken = {"holder": holder, "lease_expires_at": until}
    build = sqlite.insert if tx.connection.dialect.name == "sqlite" else postgresql.insert
    statement = build(relays).values(target=target, **taken)
    statement = statement.on_conflict_do_update(index_elements=["target"], set_=taken, where=mine)
    row = tx.run(statement.returning(relays.c.place)).one_or_none()
    return row is not None, row.place if row is not None else None


def keep(tx: Tx, target: str, holder: str, seconds: float, place: Any) -> bool:
    """Say how far it is, and hold it for `seconds` more (none gives it up); False where another has it now."""
    until = later(now(), sa.literal(seconds, sa.Double()))
    statement = (
        sa.update(relays)
        .where(relays.c.target == target, relays.c.holder == holder)
        .values(lease_expires_at=until, place=place)
    )
    return tx.run(statement).rowcount == 1
