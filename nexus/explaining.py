"""Why a task is not running: each clause of the claim's predicate that it does not meet, in words and as data."""

from datetime import datetime

from nexus import queries
from nexus.engine import Tx
from nexus.errors import TaskNotFound
from nexus.outlook import no_handler
from nexus.records import Row
from nexus.schemas import Agent, Reason
from nexus.states import HELD, TERMINAL, TaskStatus


def explain(tx: Tx, task_id: str, *, agent_id: str | None = None) -> list[Reason]:
    """The reasons, strongest first; none means that a suitable agent could claim it now.

    With `agent_id` only that agent is looked at, otherwise all that are known. Raises `TaskNotFound`.
    """
    row = queries.task_row(tx, task_id)
    if row is None:
        raise TaskNotFound(task_id)
    if row.status != TaskStatus.PENDING:
        return [_not_pending(tx, row)]
    present = tx.present()
    found = [*_dependencies(tx, row), *_time(row, present)]
    if agent_id is not None and row.assigned_to not in (None, agent_id):
        return [*found, _assigned(row, "another agent")]
    return found + _agents(row, queries.list_agents(tx, agent_id), newcomer=agent_id)


def _not_pending(tx: Tx, row: Row) -> Reason:
    status = TaskStatus(row.status)
    why = f": {row.reason}" if row.reason else ""
    details = {"status": str(status), "reason": row.reason}
    if status in HELD:
        attempts = queries.attempts_of(tx, row.task_id)
        beat = attempts[-1].heartbeat_at if attempts and status == TaskStatus.IN_PROGRESS else None
        last = f", last heartbeat {_at(beat)}" if beat else ""
        message = f"{row.claimed_by} holds it (claim {row.claim_no}) until {_at(row.lease_expires_at)}{last}"
        lease = {"agent_id": row.claimed_by, "claim_no": row.claim_no, "until": row.lease_expires_at.isoformat()}
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
    targets = queries.task_rows(tx, row.depends_on)
    reasons = []
    for target in targets.values():
        if target.status != TaskStatus.COMPLETED:
            ended = " and will not be completed unless it is retried" if target.status in TERMINAL else ""
            reasons.append(
                Reason(
                    code="dependency",
                    message=f"it waits for {target.task_id}, which is {target.status}{ended}",
                    details={"task_id": target.task_id, "status": target.status},
                )
            )
    return reasons


def _time(row: Row, present: datetime) -> list[Reason]:
    if row.available_at <= present:
        return []
    until = {"until": row.available_at.isoformat()}
    if row.failure_count and row.error:
        message = f"backoff until {_at(row.available_at)} after failure {row.failure_count}: {row.error}"
        return [Reason(code="backoff", message=message, details=until)]
    return [Reason(code="not_before", message=f"it is not offered before {_at(row.available_at)}", details=until)]


def _agents(row: Row, agents: list[Agent], newcomer: str | None) -> list[Reason]:
    """What keeps every agent that is known from claiming it; nothing, where one of them could.

    `newcomer` is the agent that was asked about, which may not be known yet.
    """
    if row.assigned_to is not None:
        suited = [agent for agent in agents if agent.agent_id == row.assigned_to]
        if not suited and newcomer is None:
            return [_assigned(row, "which has not been seen here")]
        agents = suited
    needed = set(row.required_capabilities)
    if not agents:
        if not needed:
            return []  # registration decides; an unknown agent's first claim may take it
        return [_capability(needed, "no agent is registered")]
    capable = [agent for agent in agents if needed <= set(agent.capabilities)]
    if not capable:
        missing = min((needed - set(agent.capabilities) for agent in agents), key=len)
        return [_capability(missing, f"none of {len(agents)} agents has all that it needs")]
    handling = [agent for agent in capable if agent.task_types is None or row.task_type in agent.task_types]
    if not handling:
        who = ", ".join(agent.agent_id for agent in capable[:3])
        message = f"{no_handler(row.task_type)} (asked: {who})"
        return [Reason(code="no_handler", message=message, details={"task_type": row.task_type})]
    if all(agent.max_concurrency is not None and agent.live_claims >= agent.max_concurrency for agent in handling):
        full = {agent.agent_id: agent.live_claims for agent in handling}
        held = ", ".join(f"{name} holds {count}" for name, count in full.items())
        return [
            Reason(code="agent_limit", message=f"every suitable agent is full: {held}", details={"live_claims": full})
        ]
    return []


def _capability(missing: set[str], why: str) -> Reason:
    listed = sorted(missing)
    message = f"no agent with the capability {', '.join(listed)}: {why}"
    return Reason(code="capability", message=message, details={"missing": listed})


def _assigned(row: Row, who: str) -> Reason:
    message = f"it is assigned to {row.assigned_to}, {who}"
    return Reason(code="assigned", message=message, details={"agent_id": row.assigned_to})


def _at(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
