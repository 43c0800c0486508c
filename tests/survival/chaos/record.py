"""All that is known when everything is over: what the board says, and what the ledgers and the supervisor say."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from nexus import Attempt, Task, TaskNexus
from nexus.schemas import HistoryEvent

from .ledger import Execution, executions
from .workers import Worker


@dataclass(slots=True)
class Record:
    """By task, in order."""

    added: frozenset[str]
    tasks: dict[str, Task]
    attempts: dict[str, list[Attempt]]
    histories: dict[str, list[HistoryEvent]]
    executions: dict[str, list[Execution]]
    deaths: dict[str, float] = field(default_factory=dict)
    """When the process ended to which a ledger belongs."""

    @classmethod
    def of(cls, nexus: TaskNexus, added: Sequence[str], workers: Sequence[Worker]) -> Self:
        """Read it."""
        tasks = {task.task_id: task for task in nexus.get_all_tasks()}
        attempts = nexus.attempts_by_task(tasks)
        found: defaultdict[str, list[Execution]] = defaultdict(list)
        for one in sorted((one for worker in workers for one in executions(worker.ledger)), key=lambda one: one.began):
            found[one.task_id].append(one)
        return cls(
            added=frozenset(added),
            tasks=tasks,
            attempts={task_id: attempts.get(task_id, []) for task_id in tasks},
            histories={task_id: nexus.history(task_id) for task_id in tasks},
            executions=dict(found),
            deaths={worker.ledger.name: worker.ended for worker in workers if worker.ended is not None},
        )

    def attempt_of(self, execution: Execution) -> Attempt | None:
        """The attempt that an execution was."""
        mine = (one for one in self.attempts.get(execution.task_id, []) if one.claim_no == execution.claim_no)
        return next(mine, None)

    def ended(self, execution: Execution) -> float:
        """When an execution was over, be it with its process."""
        return self.deaths.get(execution.ledger, float("inf")) if execution.ended is None else execution.ended

    def story(self, task_id: str) -> str:
        """What happened to a task, for a message."""
        lines = [f"  {self.tasks[task_id]}"] if task_id in self.tasks else []
        lines += [
            f"  {one.at:%H:%M:%S.%f} {one.verb} {one.from_status} -> {one.to_status} claim {one.claim_no} {one.actor} "
            f"{one.reason or ''}"
            for one in self.histories.get(task_id, [])
        ]
        lines += [
            f"  attempt {one.number} claim {one.claim_no} {one.agent_id} {one.outcome} "
            f"{one.started_at:%H:%M:%S.%f} - {one.finished_at and f'{one.finished_at:%H:%M:%S.%f}'} "
            f"{one.result or one.error or ''} {one.late_result or ''}"
            for one in self.attempts.get(task_id, [])
        ]
        lines += [
            f"  executed {one.name} attempt {one.attempt} claim {one.claim_no} {one.agent_id} {one.ledger} "
            f"{one.began:.3f} - {self.ended(one):.3f} {one.how}"
            for one in self.executions.get(task_id, [])
        ]
        return "\n".join(lines)
