"""The verbs by which Prefect is told the truth, and believed: about runs, and about what to tell people."""

from collections.abc import Iterable

from nexus import queries, records, runs, transitions, waiting
from nexus.arguments import a_count, a_text
from nexus.engine import Tx
from nexus.errors import ClaimLost, IllegalTransition, TaskNotFound
from nexus.facade.base import OpenBoard
from nexus.reports import Notice
from nexus.rows import to_claim, to_task
from nexus.schemas import Attempt, Task


class Runs(OpenBoard):
    """What lies between the board and whoever runs it."""

    def runs_to_close(self, limit: int = 200) -> list[Attempt]:
        """Attempts that were lost, released or cancelled, and whose runs may still be believed to go on."""
        a_count(limit, "limit")
        return self._database.read(lambda tx: runs.untold(tx, limit))

    def runs_closed(self, attempts: Iterable[Attempt]) -> None:
        """The runs of these attempts are known to be over."""
        keys = [(attempt.task_id, attempt.number) for attempt in attempts]
        if keys:
            self._database.write(lambda tx: records.close_runs(tx, keys))

    def runs_going_on(self, after: Attempt | None = None, limit: int = 200) -> list[Attempt]:
        """Open attempts that name a run, a page at a time."""
        a_count(limit, "limit")
        key = (after.task_id, after.number) if after else None
        return self._database.read(lambda tx: runs.attempts_going_on(tx, key, limit))

    def superseded(self, attempts: Iterable[Attempt]) -> set[tuple[str, int]]:
        """Which of these attempts (task id, number) belong to a claim that is not the task's latest."""
        known = list(attempts)
        numbers = self._database.read(lambda tx: runs.claim_numbers(tx, sorted({one.task_id for one in known})))
        return {(one.task_id, one.number) for one in known if numbers.get(one.task_id, 0) > one.claim_no}

    def run_ended(self, attempt: Attempt, reason: str, *, crashed: bool) -> Task | None:
        """The run that makes this attempt is over, and has not said so: its claim ends now, not with its lease.

        Crashed: the attempt is lost, and counts as a loss. Otherwise it was told to stop: released. None where the
        claim had ended already; nothing is changed then.
        """
        why = a_text(reason) or ""

        def work(tx: Tx) -> Task | None:
            if crashed:
                was = transitions.lose(tx, attempt.task_id, attempt.claim_no, why)
                return self._task(tx, attempt.task_id) if was else None
            found = queries.task_row(tx, attempt.task_id)
            if found is None or found.claim_no != attempt.claim_no or found.lease_expires_at is None:
                return None
            return to_task(transitions.release(tx, to_claim(found), why))

        try:
            return self._database.write(work)
        except (ClaimLost, IllegalTransition, TaskNotFound):
            return None

    def undelivered(self, limit: int = 200) -> list[Notice]:
        """Notices that the sweep has put down (step `notify`) and that nobody has delivered yet; oldest first."""
        a_count(limit, "limit")
        return self._database.read(lambda tx: runs.undelivered(tx, limit))

    def delivered(self, notices: Iterable[Notice]) -> None:
        """These were delivered."""
        stall_ids = [notice.stall_id for notice in notices]
        if stall_ids:
            self._database.write(lambda tx: waiting.deliver(tx, stall_ids))
