"""The life of a claim: take, start, renew, and end it."""

from collections.abc import Iterable
from typing import Any, Final

from nexus import explaining, intake, queries, records, registration, transitions, watch
from nexus.arguments import a_count, a_lease, a_name, a_text, json_list
from nexus.engine import Tx
from nexus.errors import ClaimLost, IllegalTransition, InvalidTask, NotClaimable, TaskNotFound
from nexus.facade.sweeping import Sweeping
from nexus.retry import decide
from nexus.schemas import Attempt, Claim, Failure, Heartbeat, Task
from nexus.states import HELD, TaskStatus, Verb, verbs_from
from nexus.values import check_json

RESCUED: Final = 100
"""Tasks that a claim which finds nothing looks after itself, where nobody else does."""


class Claiming(Sweeping):
    """The verbs of whoever works."""

    def claim(
        self,
        agent_id: str,
        limit: int = 1,
        *,
        task_types: Iterable[str] | None = None,
        tags: Iterable[str] | None = None,
        episode_id: str | None = None,
        lease_seconds: float | None = None,
    ) -> list[Claim]:
        """Take up to `limit` tasks, the most urgent first, then those that wait longest.

        The claims hold for `lease_seconds` (default: the setting) and are renewed by `heartbeat`; then the
        sweep gives the tasks to others. Where nothing is found and nobody has swept for two intervals, a small sweep
        is made first. Filters: any of `task_types`, any of `tags`, one episode.

        Raises `AgentNotConfirmed` (registration is closed and the agent is not registered; nothing changes).
        """
        wishes = {
            "task_types": None if task_types is None else json_list(task_types),
            "tags": None if tags is None else json_list(tags),
            "type_or_tag": None,
            "episode_id": episode_id,
            "task_id": None,
        }
        return self._claim(agent_id, limit, lease_seconds, wishes)

    def get_next_task(self, agent_id: str, type_filter: str | None = None) -> Claim | None:
        """Claim the next task, of a task type or with a tag named `type_filter`; None where there is nothing."""
        wishes = dict.fromkeys(("task_types", "tags", "type_or_tag", "episode_id", "task_id"))
        if type_filter is not None:
            wishes["type_or_tag"] = json_list([type_filter])
        return next(iter(self._claim(agent_id, 1, None, wishes)), None)

    def claim_task(self, task_id: str, agent_id: str, *, lease_seconds: float | None = None) -> Claim:
        """Claim this one task. Raises `TaskNotFound`, `IllegalTransition` (not pending, says who has it),
        `NotClaimable` (pending, but not for this agent or not now; carries the reasons)."""
        wishes: dict[str, Any] = dict.fromkeys(("task_types", "tags", "type_or_tag", "episode_id"))
        claims = self._claim(agent_id, 1, lease_seconds, wishes | {"task_id": task_id})
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
        self._check(f"run_ref of task {claim.task_id!r}", run_ref)
        _, attempt = self._database.write(lambda tx: transitions.start(tx, claim, run_ref))
        return queries.to_attempt(attempt)

    def heartbeat(self, claim: Claim, note: str | None = None, *, lease_seconds: float | None = None) -> Heartbeat:
        """Renew the lease, and say how far the work is. `cancel_requested`: stop, the task was cancelled.

        Raises `ClaimLost`.
        """
        a_lease(lease_seconds)
        kept = a_text(note)

        def work(tx: Tx) -> Heartbeat:
            row = transitions.heartbeat(tx, claim, kept, lease_seconds)
            if row is not None:
                return Heartbeat(task_id=claim.task_id, cancel_requested=False, lease_expires_at=row.lease_expires_at)
            task = queries.task_row(tx, claim.task_id)
            if task is not None and task.status == TaskStatus.CANCELLED and task.claim_no == claim.claim_no:
                return Heartbeat(task_id=claim.task_id, cancel_requested=True, lease_expires_at=claim.lease_expires_at)
            error = transitions.refusal(tx, Verb.RELEASE, claim)
            if isinstance(error, IllegalTransition):
                raise ClaimLost(claim.task_id, claim.claim_no, now_held=f"the task is {error.status}")
            raise error

        return self._database.write(work)

    def complete(self, claim: Claim, result: Any = None) -> Task:
        """Done: closes the attempt with its result (JSON), frees dependants; `in_review` where asked for.

        Raises `ClaimLost` (the result is kept on the attempt as `late_result`), `IllegalTransition`,
        `InvalidTask` (the result is no JSON, or too large; the claim holds on).
        """
        self._check(f"the result of task {claim.task_id!r}", result)
        try:
            return self._database.write(lambda tx: queries.to_task(transitions.complete(tx, claim, result)))
        except ClaimLost:
            self._database.write(lambda tx: records.keep_late_result(tx, claim.task_id, claim.claim_no, result))
            raise

    def fail(self, claim: Claim, error: str | BaseException | Failure) -> Task:
        """The attempt failed: the retry policy offers the task again later, or makes it a dead letter.

        Raises `ClaimLost`, `IllegalTransition`.
        """
        failure = Failure.of(error)

        def work(tx: Tx) -> Task:
            row = queries.task_row(tx, claim.task_id)
            if row is None:
                raise TaskNotFound(claim.task_id)
            policy = queries.to_task(row).retry_policy
            decision = decide(policy, row.failure_count + 1, failure, claim.task_id)
            return queries.to_task(transitions.fail(tx, claim, decision, str(failure), timed_out=failure.timed_out))

        return self._database.write(work)

    def release(self, claim: Claim, reason: str | None = None) -> Task:
        """Hand it back: offered again at once, no failure counted. Raises `ClaimLost`, `IllegalTransition`."""
        return self._database.write(lambda tx: queries.to_task(transitions.release(tx, claim, a_text(reason))))

    def current_claim(self, task_id: str, agent_id: str | None = None) -> Claim:
        """The live claim on a task, for whoever kept only its id; of `agent_id` where given.

        Raises `TaskNotFound`, `IllegalTransition` (nobody holds it), `ClaimLost` (another agent holds it).
        """
        return self._database.read(lambda tx: self._held(tx, task_id, Verb.RELEASE, agent_id))

    def claim_numbered(self, task_id: str, claim_no: int, agent_id: str | None = None) -> Claim:
        """The claim that an agent outside says it has. Nothing is checked here: each verb that it shows it to does.

        Raises `TaskNotFound`.
        """
        task = self._of_task(task_id, self._task)
        return Claim(
            task=task,
            task_id=task_id,
            agent_id=agent_id or task.claimed_by or "outside",
            claim_no=claim_no,
            lease_expires_at=task.lease_expires_at or task.updated_at,
        )

    # -- by id, as the origin had them -----------------------------------------------------------------------

    def mark_task_in_progress(self, task_id: str, agent_id: str) -> Task:
        """Claim (unless the agent holds it already) and start, by id. Raises as `claim_task` and `start`."""
        task = self._of_task(task_id, self._task)
        mine = task.status == TaskStatus.CLAIMED and task.claimed_by == agent_id
        claim = self.current_claim(task_id, agent_id) if mine else self.claim_task(task_id, agent_id)
        self.start(claim)
        return self._of_task(task_id, self._task)

    def mark_task_completed(self, task_id: str, result: Any = None) -> Task:
        """Complete the attempt that is in progress. Raises `TaskNotFound`, `IllegalTransition`, `InvalidTask`."""
        return self.complete(self._database.read(lambda tx: self._held(tx, task_id, Verb.COMPLETE)), result)

    def mark_task_failed(self, task_id: str, error: str | BaseException | None = None) -> Task:
        """Fail the attempt that is in progress. Raises `TaskNotFound`, `IllegalTransition`."""
        claim = self._database.read(lambda tx: self._held(tx, task_id, Verb.FAIL))
        return self.fail(claim, "no reason given" if error is None else error)

    # -- inside -----------------------------------------------------------------------------------------------

    def _check(self, what: str, value: Any) -> None:
        try:
            check_json(value)
        except ValueError as error:
            raise InvalidTask(f"{what} {error}") from None
        intake.check_size(what, value, self.settings.max_payload_bytes)

    def _claim(self, agent_id: str, limit: int, lease_seconds: float | None, wishes: dict[str, Any]) -> list[Claim]:
        name = a_name(agent_id, "agent_id")
        a_count(limit, "limit")
        a_lease(lease_seconds)

        def work(tx: Tx) -> list[Claim]:
            agent = registration.confirmed(tx, name, self.settings.registration)
            slots = registration.free_slots(tx, agent, limit)
            records.seen(tx, name)
            lease = lease_seconds or self.settings.lease_seconds
            rows = transitions.claim(tx, agent, slots, lease, wishes) if slots else []
            sweep_is_due[0] = not rows and wishes["task_id"] is None and self._nobody_sweeps(tx)
            return [queries.to_claim(row) for row in rows]

        sweep_is_due = [False]
        claims = self._database.write(work)
        if not sweep_is_due[0]:
            return claims
        few = min(RESCUED, self.settings.monitoring.max_per_sweep)
        self.sweep(self.settings.monitoring.model_copy(update={"max_per_sweep": few}), source="claim")
        return self._database.write(work)

    def _nobody_sweeps(self, tx: Tx) -> bool:
        """The last pass (where there was none: the first task) is older than two intervals: the scheduler is dead."""
        last = watch.last_seen_at_work(tx)
        if last is None:
            return False
        return (tx.present() - last).total_seconds() > 2 * self.settings.monitoring.check_interval_seconds

    def _held(self, tx: Tx, task_id: str, verb: Verb, agent_id: str | None = None) -> Claim:
        row = queries.task_row(tx, task_id)
        if row is None:
            raise TaskNotFound(task_id)
        if row.status not in HELD:
            raise IllegalTransition(task_id, verb, row.status, allowed=verbs_from(TaskStatus(row.status)))
        if agent_id not in (None, row.claimed_by):
            raise ClaimLost(task_id, row.claim_no, now_held=f"{row.claimed_by} holds it, not {agent_id}")
        return queries.to_claim(row)
