"""The life of a claim: renew it, and end it."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final

from nexus import queries, records, transitions
from nexus.arguments import a_lease, a_text
from nexus.engine import Tx
from nexus.errors import ClaimLost, IllegalTransition, InvalidTask, NexusError, TaskBusy, TaskNotFound
from nexus.facade.taking import Taking
from nexus.retry import decide
from nexus.rows import STATUS, ClaimKey, Row, task_of, to_claim, to_task
from nexus.schemas import Claim, Failure, Heartbeat, Task
from nexus.states import HELD, TaskStatus, Verb, verbs_from
from nexus.values import same_json

BEAT_RETRY_SECONDS: Final = 1.0
"""A server that is away is waited for no longer by a round of heartbeats: the next round is soon."""


class Claiming(Taking):
    """The verbs of whoever works."""

    def heartbeat(self, claim: Claim, note: str | None = None, *, lease_seconds: float | None = None) -> Heartbeat:
        """Renew the lease, and say how far the work is. `cancel_requested`: stop, the task was cancelled.

        Raises `ClaimLost`.
        """
        a_lease(lease_seconds)
        kept = a_text(note)

        def work(tx: Tx) -> Heartbeat:
            row = transitions.heartbeat(tx, claim, kept, lease_seconds)
            if row is not None:
                return _renewed(claim, row.lease_expires_at)
            end = _unrenewed(tx, claim)
            if isinstance(end, NexusError):
                raise end
            return end

        return self._database.write(work)

    def heartbeat_many(self, beats: Iterable[tuple[Claim, str | None]]) -> list[Heartbeat | NexusError]:
        """Renew many leases at once: pairs of a claim and a note on its work, or None.

        For each, in order, what `heartbeat` would have said or raised. It waits for nobody: a task that somebody else
        is writing at the moment (PostgreSQL) is `TaskBusy`, its claim as good as before; and a server that is away is
        waited for by a second at most.

        Raises `InvalidTask` (one of the notes is no text; nothing was renewed).
        """
        asked = [(claim, a_text(note)) for claim, note in beats]
        if not asked:
            return []

        def work(tx: Tx) -> dict[tuple[str, int], datetime]:
            return transitions.heartbeat_many(tx, asked)

        patience = min(BEAT_RETRY_SECONDS, self.settings.database_retry_seconds)
        until = self._database.write_at_once(work, work, retry_seconds=patience)
        left = [claim for claim, _ in asked if _key(claim) not in until]
        why = self._why_unrenewed(left, patience) if left else {}
        return [_renewed(claim, until[key]) if (key := _key(claim)) in until else why[key] for claim, _ in asked]

    def _why_unrenewed(self, claims: Sequence[Claim], patience: float) -> dict[tuple[str, int], Heartbeat | NexusError]:
        return self._database.read(
            lambda tx: {_key(claim): _unrenewed(tx, claim) for claim in claims}, retry_seconds=patience
        )

    def complete(self, claim: Claim, result: Any = None) -> Task:
        """Done: closes the attempt with its result (JSON), frees dependants; `in_review` where asked for.

        Said again with the same claim and the same result, because the answer was lost, it is answered as the first
        time and changes nothing.

        Raises `ClaimLost` (the result is kept on the attempt as `late_result`), `IllegalTransition`,
        `InvalidTask` (the result is no JSON, or too large; the claim holds on).
        """
        (row,) = self._complete([(claim, result)], whole=True)
        if isinstance(row, NexusError):
            raise row
        return task_of(row[transitions.DONE :])

    def complete_many(self, results: Iterable[tuple[Claim, Any]]) -> list[TaskStatus | NexusError]:
        """Done, many at once: pairs of a claim and its result (JSON).

        For each, in order, where its task stands now (`completed`, or `in_review` where asked for), or the error that
        `complete` would have raised for it: one that is refused keeps no other from being completed. Half a million
        results in one call are one transaction; a few hundred at a time are as fast.
        """
        rows = self._complete(list(results), whole=False)
        return [row if isinstance(row, NexusError) else STATUS[row.status] for row in rows]

    def _complete(self, results: Sequence[tuple[Claim, Any]], *, whole: bool) -> list[Row | NexusError]:
        faults = self._unsound(results)
        sound: dict[ClaimKey, tuple[Claim, Any]] = {}
        for place, pair in enumerate(results):
            if place not in faults:  # of two words on one claim the first counts
                sound.setdefault((pair[0].task_id, pair[0].claim_no), pair)
        rows: dict[ClaimKey, Row] = {}
        if not self._database.is_sqlite and sound:
            asked = list(sound.values())
            rows = self._database.write_at_once(
                lambda tx: transitions.complete(tx, asked, whole=whole, alone=True),
                lambda tx: transitions.completed(tx, [claim for claim, _ in asked], whole=whole),
            )
        if len(rows) < len(sound):
            left = [pair for key, pair in sound.items() if key not in rows]
            rows |= self._database.write(lambda tx: transitions.complete(tx, left, whole=whole))
        if len(rows) == len(results):
            return [rows[claim.task_id, claim.claim_no] for claim, _ in results]
        return self._refused(results, faults, rows)

    def _unsound(self, results: Sequence[tuple[Claim, Any]]) -> dict[int, NexusError]:
        """By place, the results that cannot be kept."""
        faults: dict[int, NexusError] = {}
        for place, (claim, result) in enumerate(results):
            if result is not None:
                try:
                    self._check(f"the result of task {claim.task_id!r}", result)
                except InvalidTask as fault:
                    faults[place] = fault
        return faults

    def _refused(
        self, results: Sequence[tuple[Claim, Any]], faults: dict[int, NexusError], rows: dict[ClaimKey, Row]
    ) -> list[Row | NexusError]:
        """What became of each, where not all were completed; a result that came too late is kept."""
        asked = [pair[0] for place, pair in enumerate(results) if place not in faults]
        told = iter(self._each(Verb.COMPLETE, asked, lambda claim: rows.pop((claim.task_id, claim.claim_no), None)))
        ended = [faults.get(place) or next(told) for place in range(len(results))]
        late = [pair for pair, end in zip(results, ended, strict=True) if isinstance(end, ClaimLost)]
        if late:
            self._database.write(lambda tx: records.keep_late_results(tx, late))
        again = self._said_again(results, [place for place, end in enumerate(ended) if _is_over(end)])
        return [again.get(place, end) for place, end in enumerate(ended)]

    def _said_again(self, results: Sequence[tuple[Claim, Any]], places: Sequence[int]) -> dict[int, Row]:
        """Of these places, the tasks that were completed before under the same claim and with the same result."""
        if not places:
            return {}
        claims = [results[place][0] for place in places]
        rows = self._database.read(lambda tx: transitions.completed(tx, claims, whole=True))
        there = [(place, rows.get(_key(results[place][0]))) for place in places]
        return {place: row for place, row in there if row is not None and _holds(row, results[place][1])}

    def fail(self, claim: Claim, error: str | BaseException | Failure) -> Task:
        """The attempt failed: the retry policy offers the task again later, or makes it a dead letter.

        Raises `ClaimLost`, `IllegalTransition`.
        """
        failure = Failure.of(error)

        def work(tx: Tx) -> Task:
            row = queries.task_row(tx, claim.task_id)
            if row is None:
                raise TaskNotFound(claim.task_id)
            policy = to_task(row).retry_policy
            decision = decide(policy, row.failure_count + 1, failure, claim.task_id)
            return to_task(transitions.fail(tx, claim, decision, str(failure), timed_out=failure.timed_out))

        return self._database.write(work)

    def release(self, claim: Claim, reason: str | None = None) -> Task:
        """Hand it back: offered again at once, no failure counted. Raises `ClaimLost`, `IllegalTransition`."""
        return self._database.write(lambda tx: to_task(transitions.release(tx, claim, a_text(reason))))

    def lose(self, claim: Claim, reason: str) -> bool:
        """The holder could not renew its lease in time: as the sweep does it when it finds a lease that is over.

        The attempt is lost and counts as a loss, so that a task of which that comes ends. False where the claim is
        not the current one any more; nothing was changed then.
        """
        why = a_text(reason) or ""
        return self._database.write(
            lambda tx: transitions.lose(tx, claim.task_id, claim.claim_no, why, actor=claim.agent_id)
        )

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

    def _held(self, tx: Tx, task_id: str, verb: Verb, agent_id: str | None = None) -> Claim:
        row = queries.task_row(tx, task_id)
        if row is None:
            raise TaskNotFound(task_id)
        if row.status not in HELD:
            raise IllegalTransition(task_id, verb, row.status, allowed=verbs_from(TaskStatus(row.status)))
        if agent_id not in (None, row.claimed_by):
            raise ClaimLost(task_id, None, now_held=f"{row.claimed_by} holds it, not {agent_id}")
        return to_claim(row)


def _is_over(end: Row | NexusError) -> bool:
    return isinstance(end, IllegalTransition) and end.status in (TaskStatus.COMPLETED, TaskStatus.IN_REVIEW)


def _holds(row: Row, result: Any) -> bool:
    return same_json(task_of(row[transitions.DONE :]).result, result)


def _key(claim: Claim) -> tuple[str, int]:
    return claim.task_id, claim.claim_no


def _renewed(claim: Claim, until: datetime) -> Heartbeat:
    return Heartbeat(task_id=claim.task_id, cancel_requested=False, lease_expires_at=until)


def _unrenewed(tx: Tx, claim: Claim) -> Heartbeat | NexusError:
    """Why a lease could not be renewed."""
    task = queries.task_row(tx, claim.task_id)
    if task is not None and task.status == TaskStatus.CANCELLED and task.claim_no == claim.claim_no:
        return Heartbeat(task_id=claim.task_id, cancel_requested=True, lease_expires_at=claim.lease_expires_at)
    error = transitions.refusal(tx, Verb.RELEASE, claim)
    if not isinstance(error, IllegalTransition):
        return error
    if error.status in HELD:
        return TaskBusy(claim.task_id)
    return ClaimLost(claim.task_id, claim.claim_no, now_held=f"the task is {error.status}")
