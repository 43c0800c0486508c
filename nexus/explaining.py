"""Why a task is not running: each clause of the claim's predicate that it does not meet, in words and as data.

The clauses are `nexus.predicates`': the claim asks for all of them at once, here the database is asked for each by
itself, for every agent that could be meant. What is said of an agent's limit comes from `registration.has_room`,
which the claim asks too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from nexus import queries, registration, watch
from nexus.engine import Tx
from nexus.errors import TaskNotFound
from nexus.outlook import no_handler
from nexus.predicates import EVERY_TYPE
from nexus.rows import Row
from nexus.schemas import Reason
from nexus.states import HELD, TERMINAL, TaskStatus


@dataclass(frozen=True, slots=True)
class Terms:
    """What the settings say that an explanation depends on."""

    registration: str
    agent_timeout_seconds: float


def explain(tx: Tx, task_id: str, terms: Terms, *, agent_id: str | None = None) -> list[Reason]:
    """The reasons, strongest first, and what the last sweep found; nothing at all where a claim would succeed.

    With `agent_id` only that agent is looked at, otherwise all that are known. Raises `TaskNotFound`.
    """
    found = reasons(tx, task_id, terms, agent_id=agent_id)
    return [*found, *_last_sweep(tx)] if found else []


def reasons(tx: Tx, task_id: str, terms: Terms, *, agent_id: str | None = None) -> list[Reason]:
    """The clauses alone."""
    row = queries.explained_task(tx, task_id)
    if row is None:
        raise TaskNotFound(task_id)
    if not row.meets_status:
        return [_not_pending(row, tx.present())]
    found: list[Reason] = []
    if not row.meets_dependency:
        found += _dependencies(tx, row)
    if not row.meets_time:
        found.append(_time(row))
    if not row.meets_paused:
        found += _paused(tx, row)
    return found + _agents(tx, row, terms, agent_id)


def _not_pending(row: Row, present: datetime) -> Reason:
    status = TaskStatus(row.status)
    why = f": {row.reason}" if row.reason else ""
    details = {"status": str(status), "reason": row.reason}
    if status in HELD:
        beat = row.heartbeat_at if status == TaskStatus.IN_PROGRESS else None
        last = f", last heartbeat {_at(beat)}" if beat else ""
        over = row.lease_expires_at <= present
        holds, then = ("held", "; that is over, and the next sweep gives it to others") if over else ("holds", "")
        message = f"{row.claimed_by} {holds} it (claim {row.claim_no}) until {_at(row.lease_expires_at)}{last}{then}"
        lease = {
            "agent_id": row.claimed_by,
            "claim_no": row.claim_no,
            "until": row.lease_expires_at.isoformat(),
            "heartbeat_at": beat.isoformat() if beat else None,
        }
        return Reason(code="held", message=message, details=details | lease)
    if status in TERMINAL:
        ended = f"it has ended: {status}{why}"
        if status == TaskStatus.FAILED:
            ended = f"it is a dead letter ({row.error}); `nexus retry {row.task_id}` offers it again"
        return Reason(code="ended", message=ended, details=details)
    hints = {
        TaskStatus.IN_REVIEW: f"{row.claimed_by} did it; somebody else has to approve or reject it",
        TaskStatus.BLOCKED: f"it is blocked{why}; `nexus unblock {row.task_id}` offers it again",
        TaskStatus.STALLED: f"it was marked as stalled{why}; `nexus retry {row.task_id}` offers it again",
    }
    return Reason(code=str(status), message=hints[status], details=details)


def _dependencies(tx: Tx, row: Row) -> list[Reason]:
    found = []
    for target in queries.unmet_targets(tx, row.task_id):
        ended = " and will not be completed unless it is retried" if target.status in TERMINAL else ""
        message = f"it waits for {target.task_id}, which is {target.status}{ended}"
        details = {"task_id": target.task_id, "status": target.status}
        found.append(Reason(code="dependency", message=message, details=details))
    return found


def _time(row: Row) -> Reason:
    until = {"until": row.available_at.isoformat()}
    if row.failure_count and row.error:
        message = f"backoff until {_at(row.available_at)} after failure {row.failure_count}: {row.error}"
        return Reason(code="backoff", message=message, details=until)
    return Reason(code="not_before", message=f"it is not offered before {_at(row.available_at)}", details=until)


def _paused(tx: Tx, row: Row) -> list[Reason]:
    found = []
    for pause in watch.list_pauses(tx):
        if pause.task_type not in (EVERY_TYPE, row.task_type):
            continue
        board = pause.task_type == EVERY_TYPE
        what, option = ("the board is", "") if board else (f"{pause.task_type!r} tasks are", f" {pause.task_type}")
        by = f" by {pause.actor}" if pause.actor else ""
        why = f": {pause.reason}" if pause.reason else ""
        message = f"{what} paused since {_at(pause.at)}{by}{why}; `nexus resume{option}` goes on"
        details = {"task_type": pause.task_type, "since": pause.at.isoformat(), "actor": pause.actor}
        found.append(Reason(code="paused", message=message, details=details))
    return found


def _agents(tx: Tx, row: Row, terms: Terms, asked: str | None) -> list[Reason]:
    """What keeps every agent that is known from claiming it; nothing, where one of them could.

    Who asks in its own name is alive by asking, and need not be known yet.
    """
    known = queries.explained_agents(tx, row.task_id, asked)
    if asked is not None and not known:
        if terms.registration == "closed":
            message = f"{asked} is not registered, and registration is closed; `nexus agents register {asked}`"
            return [Reason(code="not_confirmed", message=message, details={"agent_id": asked})]
        known = [queries.explained_newcomer(tx, row.task_id, asked)]
    suited = [agent for agent in known if agent.meets_assigned]
    if not suited and row.assigned_to is not None:
        who = "another agent" if asked is not None else "which has not been seen here"
        message = f"it is assigned to {row.assigned_to}, {who}"
        return [Reason(code="assigned", message=message, details={"agent_id": row.assigned_to})]
    needed = set(row.required_capabilities)
    if not suited:
        if not needed and terms.registration == "open":
            return []  # an unknown agent's first claim may take it
        return [_capability(needed, "no agent is registered")] if needed else [_nobody()]
    capable = [agent for agent in suited if agent.meets_capability]
    if not capable:
        missing = min((needed - set(agent.capabilities) for agent in suited), key=len)
        return [_capability(missing, f"none of {len(suited)} agents has all that it needs")]
    handling = [agent for agent in capable if agent.meets_no_handler]
    if not handling:
        message = f"{no_handler(row.task_type)} (asked: {', '.join(agent.agent_id for agent in capable[:3])})"
        return [Reason(code="no_handler", message=message, details={"task_type": row.task_type})]
    free = [agent for agent in handling if registration.has_room(agent.max_concurrency, agent.live_claims)]
    if not free:
        full = {agent.agent_id: agent.live_claims for agent in handling}
        held = ", ".join(f"{name} holds {count}" for name, count in full.items())
        message = f"every suitable agent is full: {held}"
        return [Reason(code="agent_limit", message=message, details={"live_claims": full})]
    return [] if asked is not None else _liveness(tx, row, free, terms)


def _liveness(tx: Tx, row: Row, agents: Sequence[Row], terms: Terms) -> list[Reason]:
    """Agents that have not been seen for long, and hold nothing, are not counted on."""
    present = tx.present()
    if any(registration.is_live(agent, present, terms.agent_timeout_seconds) for agent in agents):
        return []
    last = max(agents, key=lambda agent: agent.last_seen_at or agent.registered_at)
    seen = f"last seen {_at(last.last_seen_at)}" if last.last_seen_at else "never seen at work"
    needed = sorted(row.required_capabilities)
    skill = f" with the capability {', '.join(needed)}" if needed else ""
    message = f"no live agent{skill}: {last.agent_id} was {seen}"
    if len(agents) > 1:
        message += f", the other {len(agents) - 1} before that"
    details = {"capabilities": needed, "agents": {one.agent_id: _iso(one.last_seen_at) for one in agents[:100]}}
    return [Reason(code="no_live_agent", message=message, details=details)]


def _last_sweep(tx: Tx) -> list[Reason]:
    last = watch.last_sweep(tx)
    if last is None:
        return []
    found = f"looked at {last.scanned} and acted on {last.acted}" if last.scanned else "found nothing stuck"
    message = f"the last sweep was at {_at(last.finished_at)} and {found}"
    details = {"at": last.finished_at.isoformat(), "scanned": last.scanned, "acted": last.acted}
    return [Reason(code="sweep", message=message, details=details)]


def _capability(missing: set[str], why: str) -> Reason:
    listed = sorted(missing)
    message = f"no agent with the capability {', '.join(listed)}: {why}"
    return Reason(code="capability", message=message, details={"missing": listed})


def _nobody() -> Reason:
    message = "no agent is registered, and registration is closed; `nexus agents register` lets one in"
    return Reason(code="not_confirmed", message=message, details={})


def _at(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None
