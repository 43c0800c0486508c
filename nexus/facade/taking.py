"""Taking claims: the next tasks, or a certain one; and, at once or later, beginning to work on them."""

import secrets
from collections.abc import Iterable, Sequence
from typing import Any, Final

from nexus import explaining, queries, records, registration, transitions, watch
from nexus.arguments import a_count, a_lease, a_name, json_list
from nexus.engine import Tx
from nexus.errors import IllegalTransition, InvalidTask, NexusError, NotClaimable, TaskNotFound
from nexus.facade.sweeping import Sweeping
from nexus.rows import ClaimKey, Row, claim_of, made, moment_of, task_of
from nexus.schemas import Attempt, Claim
from nexus.states import AttemptOutcome, TaskStatus, Verb

RESCUED: Final = 100
"""Tasks that a claim which finds nothing looks after itself, where nobody else does."""

KNOWN_SECONDS: Final = 15.0
"""How long an agent is taken for seen; then the claim looks at its row, and writes that it lives."""

_NO_WISHES: Final[dict[str, Any]] = dict.fromkeys(("task_types", "tags", "type_or_tag", "episode_id", "task_id"))


class Taking(Sweeping):
    """The verbs that begin a claim and an attempt."""

    def claim(
        self,
        agent_id: str,
        limit: int = 1,
        *,
        task_types: Iterable[str] | None = None,
        tags: Iterable[str] | None = None,
        episode_id: str | None = None,
        lease_seconds: float | None = None,
        start: bool = False,
        run_ref: Any = None,
    ) -> list[Claim]:
        """Take up to `limit` tasks, the most urgent first, then those that wait longest.

        The claims hold for `lease_seconds` (default: the setting) and are renewed by `heartbeat`; then the
        sweep gives the tasks to others. Where nothing is found and nobody has swept for two intervals, a small sweep
        is made first. Filters: any of `task_types`, any of `tags`, one episode.

        Args:
            start: begin the attempts in the same transaction, as `start` would right after; their numbers are
                `claim.task.attempt_count`. For whoever works at once, and in batches: it spares a round trip.
            run_ref: with `start`, the run (JSON) that all these attempts belong to.

        Raises `AgentNotConfirmed` (registration is closed and the agent is not registered; nothing changes),
        `InvalidTask` (`run_ref` is no JSON, or too large).
        """
        wishes = _NO_WISHES | {
            "task_types": None if task_types is None else json_list(task_types),
            "tags": None if tags is None else json_list(tags),
            "episode_id": episode_id,
        }
        return self._claim(agent_id, limit, lease_seconds, wishes, start=start, run_ref=run_ref)

    def get_next_task(self, agent_id: str, type_filter: str | None = None) -> Claim | None:
        """Claim the next task, of a task type or with a tag named `type_filter`; None where there is nothing."""
        wished = None if type_filter is None else json_list([type_filter])
        return next(iter(self._claim(agent_id, 1, None, _NO_WISHES | {"type_or_tag": wished})), None)

    def claim_task(self, task_id: str, agent_id: str, *, lease_seconds: float | None = None) -> Claim:
        """Claim this one task. Raises `TaskNotFound`, `IllegalTransition` (not pending, says who has it),
        `NotClaimable` (pending, but not for this agent or not now; carries the reasons)."""
        claims = self._claim(agent_id, 1, lease_seconds, _NO_WISHES | {"task_id": task_id})
        if claims:
            return claims[0]

        def why(tx: Tx) -> Exception:
            row = queries.task_row(tx, task_id)
            if row is None:
                return TaskNotFound(task_id)
            found = explaining.reasons(tx, task_id, self._terms(), agent_id=agent_id)
            reasons = [reason.message for reason in found]
            if row.status != TaskStatus.PENDING:
                return IllegalTransition(task_id, Verb.CLAIM, row.status, why="; ".join(reasons))
            return NotClaimable(task_id, agent_id, reasons, row.available_at)

        raise self._database.read(why)

    def start(self, claim: Claim, run_ref: Any = None) -> Attempt:
        """Begin to work: opens attempt n+1 and renews the lease. `run_ref` (JSON) says which run it is.

        Raises `ClaimLost`, `IllegalTransition`, `InvalidTask` (`run_ref` is no JSON, or too large).
        """
        (begun,) = self.start_many([claim], run_ref)
        if isinstance(begun, NexusError):
            raise begun
        return begun

    def start_many(
        self, claims: Sequence[Claim], run_ref: Any = None, *, run_refs: Sequence[Any] | None = None
    ) -> list[Attempt | NexusError]:
        """Begin to work on many at once, all in the run `run_ref`, or each in its own of `run_refs`.

        For each claim, in order, its attempt or the error that `start` would have raised for it.

        Raises `InvalidTask` (a run is no JSON, or too large, or they are not as many as the claims).
        """
        refs = [run_ref] * len(claims) if run_refs is None else list(run_refs)
        if len(refs) != len(claims):
            raise InvalidTask(f"there are {len(claims)} claims and {len(refs)} runs; give one for each, in order")
        for ref in (run_ref,) if run_refs is None else refs:
            self._check("run_ref", ref)
        ref_of = {(claim.task_id, claim.claim_no): ref for claim, ref in zip(claims, refs, strict=True)}
        begun = self._start([*zip(claims, refs, strict=True)]) if claims else {}

        def attempt(claim: Claim) -> Attempt | None:
            key = claim.task_id, claim.claim_no
            return _attempt(claim, begun.pop(key, None), ref_of[key])

        return self._each(Verb.START, claims, attempt)

    def _start(self, asked: Sequence[tuple[Claim, Any]]) -> dict[ClaimKey, Row]:
        def again(tx: Tx) -> dict[ClaimKey, Row]:
            there = transitions.begun(tx, [claim for claim, _ in asked])
            left = [one for one in asked if (one[0].task_id, one[0].claim_no) not in there]
            return there | transitions.start(tx, left)

        return self._database.write_at_once(lambda tx: transitions.start(tx, asked), again)

    def _claim(
        self,
        agent_id: str,
        limit: int,
        lease_seconds: float | None,
        wishes: dict[str, Any],
        *,
        start: bool = False,
        run_ref: Any = None,
    ) -> list[Claim]:
        name = a_name(agent_id, "agent_id")
        a_count(limit, "limit")
        a_lease(lease_seconds)
        self._check("run_ref", run_ref)
        lease = lease_seconds or self.settings.lease_seconds
        looks = transitions.looks(wishes, limit)
        sweep_is_due = False

        def take(tx: Tx, agent: Row, slots: int, where: transitions.Where, **how: Any) -> list[Row]:
            rows = transitions.claim(tx, agent, slots, lease, wishes, where, start=start, run_ref=run_ref, **how)
            self._amid_stalls = any(row[transitions.STALL] is not None for row in rows)
            return rows

        def quickly(agent: Row, slots: int, where: transitions.Where) -> list[Row]:
            if self._database.is_sqlite or self._amid_stalls:
                return self._database.write(lambda tx: take(tx, agent, slots, where, remembered=True))
            key = secrets.randbits(63)
            return self._database.write_at_once(
                lambda tx: take(tx, agent, slots, where, remembered=True, alone=True, claim_key=key),
                lambda tx: transitions.claimed(tx, name, key),
            )

        def thoroughly(tx: Tx, looks: Sequence[transitions.Where]) -> list[Row]:
            nonlocal sweep_is_due
            agent = registration.confirmed(tx, name, self.settings.registration)
            slots = registration.free_slots(tx, agent, limit)
            records.seen(tx, name)
            rows: list[Row] = []
            for where in looks:
                if len(rows) < slots:
                    rows += take(tx, agent, slots - len(rows), where)
            sweep_is_due = not rows and wishes["task_id"] is None and self._nobody_sweeps(tx)
            self._known[name] = (agent, self._database.seconds())
            return rows

        rows: list[Row] = []
        known = self._remembered(name)
        if known is not None:
            for where in looks:
                if len(rows) < limit:
                    rows += quickly(known, limit - len(rows), where)
        if not rows:
            # The first time; now and then, to say that it lives; and where nothing was found, to see why.
            rows = self._database.write(lambda tx: thoroughly(tx, looks if known is None else looks[-1:]))
        if sweep_is_due:
            few = min(RESCUED, self.settings.monitoring.max_per_sweep)
            self.sweep(self.settings.monitoring.model_copy(update={"max_per_sweep": few}), source="claim")
            rows = self._database.write(lambda tx: thoroughly(tx, looks))
        return [claim_of(task_of(row[transitions.TAKEN :])) for row in rows]

    def _remembered(self, agent_id: str) -> Row | None:
        """The agent as this process last saw it, where a claim need not look at its row first.

        The claim itself makes sure that it is still so. Whoever may hold only so many is counted under a lock.
        """
        agent, seen = self._known.get(agent_id, (None, 0.0))
        fresh = abs(self._database.seconds() - seen) < KNOWN_SECONDS
        return agent if fresh and agent is not None and agent.max_concurrency is None else None

    def _nobody_sweeps(self, tx: Tx) -> bool:
        """The last pass (where there was none: the first task) is older than two intervals: the scheduler is dead."""
        last = watch.last_seen_at_work(tx)
        if last is None:
            return False
        return (tx.present() - last).total_seconds() > 2 * self.settings.monitoring.check_interval_seconds


def _attempt(claim: Claim, begun: Row | None, run_ref: Any) -> Attempt | None:
    if begun is None:
        return None
    moment = moment_of(begun.started_at)
    values = dict.fromkeys(Attempt.model_fields) | {
        "task_id": claim.task_id,
        "number": begun.attempt_count,
        "claim_no": claim.claim_no,
        "agent_id": claim.agent_id,
        "outcome": AttemptOutcome.RUNNING,
        "started_at": moment,
        "heartbeat_at": moment,
        "run_ref": run_ref,
    }
    return made(Attempt, values)
