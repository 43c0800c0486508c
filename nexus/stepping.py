"""The steps of a ladder: what each does to the tasks whose stalls have come so far."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from nexus import intake, queries, records, transitions, watch
from nexus.engine import Tx
from nexus.ladder import Candidate, Wanted, spread
from nexus.monitoring import TaskMonitoringConfig
from nexus.registration import is_live
from nexus.rows import Row
from nexus.schemas import NewTask, RetryPolicy
from nexus.states import TaskStatus
from nexus.values import new_ids

ESCALATION_TAGS = ("escalation", "stalled_task")


class Done(NamedTuple):
    """What was done about one task; `log_only` where the step found nothing to do."""

    action: str
    detail: str


@dataclass(frozen=True, slots=True)
class Stepping:
    """Takes one step for many tasks at once. Rows carry their stall's `opened_at` and `why`."""

    tx: Tx
    config: TaskMonitoringConfig
    default_policy: RetryPolicy
    present: datetime

    def take(self, action: str, rows: Sequence[Row]) -> dict[str, Done]:
        """Do `action`; what was done, by task. A task that is absent had moved on."""
        done: dict[str, Done] = getattr(self, f"_{action}")(rows)
        return done

    def _log_only(self, rows: Sequence[Row]) -> dict[str, Done]:
        return {row.task_id: Done("log_only", f"{self._waits(row)}: {row.why}") for row in rows}

    def _notify(self, rows: Sequence[Row]) -> dict[str, Done]:
        return {row.task_id: Done("notify", f"{self._waits(row)}: {row.why}") for row in rows}

    def _mark_stalled(self, rows: Sequence[Row]) -> dict[str, Done]:
        return {
            task_id: Done("mark_stalled", "an operator can retry or cancel it")
            for reason, batch in self._by_words(rows).items()
            for task_id in (row.task_id for row in transitions.stall(self.tx, batch, reason))
        }

    def _fail(self, rows: Sequence[Row]) -> dict[str, Done]:
        return {
            task_id: Done("fail", f"{reason}; dead letter")
            for reason, batch in self._by_words(rows).items()
            for task_id in (row.task_id for row in transitions.abandon(self.tx, batch, reason))
        }

    def _reassign(self, rows: Sequence[Row]) -> dict[str, Done]:
        """To the agent at work with the least to do; never to who just let it stall, or has lost an attempt at it."""
        waiting = [row for row in rows if row.status == TaskStatus.PENDING]
        had = {row.task_id: row.assigned_to for row in waiting if row.assigned_to is not None}
        lost = watch.losers(self.tx, list(had))
        known = queries.list_agents(self.tx)
        load = queries.assigned_waiting(self.tx)
        for agent in known:
            load[agent.agent_id] = load.get(agent.agent_id, 0) + agent.live_claims
        live = [
            Candidate(
                agent.agent_id,
                frozenset(agent.capabilities),
                None if agent.task_types is None else frozenset(agent.task_types),
                agent.max_concurrency,
            )
            for agent in known
            if is_live(agent, self.present, self.config.agent_timeout_seconds)
        ]
        wanted = [
            (
                row.task_id,
                Wanted(
                    row.task_type,
                    frozenset(row.required_capabilities),
                    frozenset({row.assigned_to, *lost.get(row.task_id, ())}),
                ),
            )
            for row in waiting
            if row.task_id in had
        ]
        chosen = spread(wanted, live, load)
        stall_ids = [row.stall_id for row in waiting]
        moved = {row.task_id for row in transitions.reassign(self.tx, chosen, stall_ids, "it waited too long")}
        nobody = "assigned to nobody: any suitable agent could have claimed it, none did"
        done = {row.task_id: Done("log_only", f"{nobody} ({row.why})") for row in rows if row.task_id not in had}
        for task_id in moved:
            to = chosen[task_id]
            follows = f"given to {to}" if to else "nobody at work could take it: whoever comes may claim it"
            done[task_id] = Done("reassign", f"taken from {had[task_id]}; {follows}")
        return done

    def _escalate(self, rows: Sequence[Row]) -> dict[str, Done]:
        stall_of = {row.task_id: row.stall_id for row in rows}
        return escalate(self.tx, rows, stall_of, "waiting", self.config, self.default_policy)

    def _waits(self, row: Row) -> str:
        return f"waits for {(self.present - row.available_at).total_seconds():.0f} s"

    def _by_words(self, rows: Sequence[Row]) -> dict[str, list[int]]:
        """The stalls of rows by the reason that is kept with the task: one statement for all that share it."""
        by: dict[str, list[int]] = {}
        for row in rows:
            ladder = self.config.ladders[row.policy_no]
            seconds = ladder.pending_timeout_seconds or self.config.pending_timeout_seconds
            limit = f"longer than {seconds:g} s" if not self.config.adaptive.enabled else "too long"
            by.setdefault(f"waited {limit}", []).append(row.stall_id)
        return by


def escalate(
    tx: Tx,
    rows: Sequence[Row],
    stall_of: Mapping[str, int],
    kind: str,
    config: TaskMonitoringConfig,
    policy: RetryPolicy,
) -> dict[str, Done]:
    """A task per stall that asks somebody to look; never for a task that is itself such a request.

    The database keeps `escalates` unique: whoever asks second finds that it was asked.
    """
    present = tx.present()
    itself = Done("log_only", "is an escalation itself: not escalated again")
    done = {row.task_id: itself for row in rows if _asks(row)}
    made = new_ids()
    requests = [
        intake.row_of(intake.draft(escalation(row, kind, config), policy, "sweep"), next(made), present)
        | {"escalates": stall_of[row.task_id]}
        for row in rows
        if row.task_id not in done
    ]
    added = records.add_tasks(tx, requests)
    new = [one for one in requests if one["task_id"] in added]
    return done | {one["related_task_id"]: Done("escalate", f"escalated as {one['task_id']}") for one in new}


def _asks(row: Row) -> bool:
    """It is an escalation itself. (One that came with an import has lost its stall, not its tags.)"""
    return row.escalates is not None or set(ESCALATION_TAGS) <= set(row.tags)


def escalation(row: Row, kind: str, config: TaskMonitoringConfig) -> NewTask:
    """The task that asks somebody to look at `row`."""
    since: datetime = row.available_at if kind == "waiting" else row.deadline
    what = "has been waiting since" if kind == "waiting" else "is not done, and its deadline was"
    return NewTask(
        task_type="escalation",
        description=f"Task {row.task_id} {what} {since:%Y-%m-%d %H:%M:%S} UTC: find out why.",
        payload={"task_id": row.task_id, "kind": kind, "since": since.isoformat()},
        priority=10,
        tags=ESCALATION_TAGS,
        assigned_to=config.escalate_to,
        related_task_id=row.task_id,
    )
