"""What happened, in numbers: for the report of the test, and for the page in the documentation."""

import json
import os
import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from nexus import AttemptOutcome, TaskStatus

from .faults import Faults
from .ledger import Execution
from .record import Record
from .workers import Worker

REPORT = "NEXUS_TEST_CHAOS_REPORT"
"""Names a file for the figures, by database."""

OBSERVED = ("task", "shift")
"""How workers are shown in Prefect."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one fleet on one database."""

    seconds: float
    """From the first fault until everything had ended."""
    kills: int
    crashes: int
    """Of PostgreSQL."""
    freezes: int
    seconds_without_prefect: float
    workers: int
    """Processes that began."""
    failed_starts: int
    """Those of them that ended by themselves: there was no server to speak to."""
    tasks: int
    completed: int
    dead_letters: int
    cancelled: int
    escalations: int
    executions: int
    attempts: dict[str, int]
    """By their outcomes."""
    done_and_not_written: int
    """Attempts that were lost after the handler had returned."""
    executed_side_by_side: int
    """Pairs of executions of one task at once: that of the older claim was given up."""
    late_results: int
    completed_without_prefect: dict[str, int]
    """Tasks, by how their workers are observed."""

    @classmethod
    def of(cls, record: Record, faults: Faults, workers: Sequence[Worker], seconds: float) -> Self:
        """Count."""
        status = Counter(record.tasks[task_id].status for task_id in record.added & record.tasks.keys())
        attempts = [one for mine in record.attempts.values() for one in mine]
        executed = [one for mine in record.executions.values() for one in mine]
        outcome = {(one.task_id, one.claim_no): one.outcome for one in attempts}
        observe = {worker.ledger.name: worker.observe for worker in workers}

        def returned(*, to: AttemptOutcome) -> list[Execution]:
            return [one for one in executed if one.how == "returned" and outcome.get((one.task_id, one.claim_no)) == to]

        return cls(
            seconds=round(seconds, 1),
            kills=faults.kills,
            crashes=len(faults.no_database),
            freezes=faults.freezes,
            seconds_without_prefect=round(sum(back - gone for gone, back in faults.no_prefect), 1),
            workers=len(workers),
            failed_starts=sum(one.code not in (0, -signal.SIGKILL, -signal.SIGTERM) for one in workers),
            tasks=len(record.added & record.tasks.keys()),
            completed=status[TaskStatus.COMPLETED],
            dead_letters=status[TaskStatus.FAILED],
            cancelled=status[TaskStatus.CANCELLED],
            escalations=len(record.tasks.keys() - record.added),
            executions=len(executed),
            attempts={str(name): number for name, number in sorted(Counter(one.outcome for one in attempts).items())},
            done_and_not_written=len(returned(to=AttemptOutcome.LOST)),
            executed_side_by_side=sum(
                later.began < record.ended(earlier)
                for mine in record.executions.values()
                for at, later in enumerate(mine)
                for earlier in mine[:at]
            ),
            late_results=sum(one.late_result is not None for one in attempts),
            completed_without_prefect=dict(
                Counter(
                    observe[one.ledger]
                    for one in returned(to=AttemptOutcome.COMPLETED)
                    if any(gone < (one.ended or 0) < back for gone, back in faults.no_prefect)
                )
            ),
        )

    def missing(self) -> list[str]:
        """What never happened, and had to: without it nothing is proved."""
        had_to = {
            "lost attempts": self.attempts.get(AttemptOutcome.LOST, 0),
            "dead letters": self.dead_letters,
            **{
                f"completions without Prefect ({name})": self.completed_without_prefect.get(name, 0)
                for name in OBSERVED
            },
        }
        return [name for name, times in had_to.items() if not times]

    def write(self, database: str) -> None:
        """Put them down where the environment says so, and on the standard output, which pytest captures."""
        print(f"chaos on {database}:", json.dumps(asdict(self)))  # noqa: T201 - a report
        if name := os.environ.get(REPORT):
            path = Path(name)
            known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            path.write_text(json.dumps({**known, database: asdict(self)}, indent=2), encoding="utf-8")
