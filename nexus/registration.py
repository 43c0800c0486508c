"""Who may work: agents are registered by their first claim (open) or by an operator (closed)."""

import logging
from collections.abc import Iterable
from datetime import datetime

from nexus import queries, records
from nexus.arguments import names
from nexus.engine import Tx
from nexus.errors import AgentNotConfirmed
from nexus.rows import Row
from nexus.schemas import Agent

logger = logging.getLogger("nexus.agents")


def register(
    tx: Tx,
    agent_id: str,
    *,
    capabilities: Iterable[str] | None = None,
    max_concurrency: int | None = None,
    task_types: Iterable[str] | None = None,
) -> Row:
    """Register an agent, or change what is given of it."""
    known = {
        "capabilities": names(capabilities, "capabilities"),
        "max_concurrency": max_concurrency,
        "task_types": names(task_types, "task_types"),
    }
    records.set_agent(tx, agent_id, {name: value for name, value in known.items() if value is not None})
    row = queries.agent_row(tx, agent_id)
    assert row is not None
    return row


def confirmed(tx: Tx, agent_id: str, registration: str) -> Row:
    """The agent's row; `AgentNotConfirmed`, with nothing changed, where it may not work here."""
    row = queries.agent_row(tx, agent_id)
    if row is None:
        if registration == "closed":
            raise AgentNotConfirmed(agent_id)
        records.add_agent(tx, agent_id)
        row = queries.agent_row(tx, agent_id)
        assert row is not None
    return row


def has_room(max_concurrency: int | None, live_claims: int) -> bool:
    """Whether an agent that holds so many may claim one more."""
    return max_concurrency is None or live_claims < max_concurrency


def is_live(agent: Row | Agent, present: datetime, timeout_seconds: float) -> bool:
    """It holds something, or was seen (where it never was: registered) within `timeout_seconds`."""
    seen = agent.last_seen_at or agent.registered_at
    return bool(agent.live_claims) or (present - seen).total_seconds() <= timeout_seconds


def free_slots(tx: Tx, agent: Row, wanted: int) -> int:
    """How many claims the agent may take now, at most `wanted`."""
    if agent.max_concurrency is None:
        return wanted
    # Under the lock two claims in the same agent's name count one after the other (PostgreSQL).
    queries.agent_row(tx, agent.agent_id, lock=True)
    held = queries.live_claims(tx, agent.agent_id)
    if not has_room(agent.max_concurrency, held):
        return 0
    return min(wanted, int(agent.max_concurrency) - held)


def confirm(tx: Tx, agent_id: str, registration: str, task_types: Iterable[str] | None) -> Row:
    """Confirm an agent who begins to work, and say so in the history and in the log.

    Raises `AgentNotConfirmed`.
    """
    row = confirmed(tx, agent_id, registration)
    if task_types is not None:
        row = register(tx, agent_id, task_types=task_types)
    event = {
        "task_id": None,
        "at": tx.present(),
        "verb": "confirm",
        "from_status": None,
        "to_status": None,
        "actor": agent_id,
        "claim_no": None,
        "reason": f"registration is {registration}",
    }
    records.write_events(tx, [event])
    records.seen(tx, agent_id)
    logger.info("agent %s confirmed (registration is %s)", agent_id, registration)
    return row
