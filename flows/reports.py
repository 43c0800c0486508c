"""What shifts and episodes report: frozen values, and the Markdown that Prefect shows of them."""

import shlex
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from pydantic import BaseModel, ConfigDict

from nexus.schemas import Attempt, HistoryEvent, Task
from nexus.states import AttemptOutcome, TaskStatus

SHOWN: Final = 500
"""Attempts in the table of a shift: nobody reads more, and Prefect's server keeps every one."""


_THEN: Final[dict[TaskStatus | None, str]] = {TaskStatus.PENDING: "offered again", TaskStatus.FAILED: "dead letter"}
"""What became of a task, where its status alone does not say it to somebody who reads of one attempt."""


class AttemptReport(BaseModel):
    """One attempt of a shift."""

    model_config = ConfigDict(frozen=True)

    task_id: str
    number: int
    outcome: AttemptOutcome
    status: TaskStatus | None
    """Where the task stands after it; None where the claim was lost."""
    seconds: float
    error: str | None = None


class ShiftReport(BaseModel):
    """What one agent did in one shift."""

    model_config = ConfigDict(frozen=True)

    agent_id: str
    started_at: datetime
    finished_at: datetime
    attempts: tuple[AttemptReport, ...] = ()

    def count(self, outcome: AttemptOutcome) -> int:
        """How many attempts ended so."""
        return sum(attempt.outcome == outcome for attempt in self.attempts)

    @property
    def completed(self) -> int:
        """Attempts that completed their task."""
        return self.count(AttemptOutcome.COMPLETED)

    @property
    def failed(self) -> int:
        """Attempts that failed or timed out, whether or not the task is tried again."""
        return self.count(AttemptOutcome.FAILED) + self.count(AttemptOutcome.TIMED_OUT)

    @property
    def dead_letters(self) -> int:
        """Tasks that ended failed in this shift."""
        return sum(attempt.status == TaskStatus.FAILED for attempt in self.attempts)

    def summary(self) -> str:
        """One line."""
        counted = [(self.completed, "completed"), (self.failed, "failed"), (self.dead_letters, "dead letters")]
        counted += [(self.count(one), str(one)) for one in (AttemptOutcome.LOST, AttemptOutcome.RELEASED)]
        counted += [(self.count(AttemptOutcome.CANCELLED), "cancelled")]
        return ", ".join(f"{number} {word}" for number, word in counted if number) or "nothing to do"

    def markdown(self) -> str:
        """A table of the attempts, those first that did not go well: a person looks for them."""
        told = sorted(self.attempts, key=lambda one: one.outcome == AttemptOutcome.COMPLETED)
        lines = [
            f"**{cell(self.agent_id)}**: {self.summary()}",
            "",
            "| task | attempt | outcome | then | seconds | error |",
        ]
        lines.append("|---|---|---|---|---|---|")
        lines += [
            f"| {cell(one.task_id)} | {one.number} | {one.outcome} | {_THEN.get(one.status, one.status or '')} "
            f"| {one.seconds:.1f} | {cell(one.error)} |"
            for one in told[:SHOWN]
        ]
        if len(self.attempts) > SHOWN:
            lines += ["", f"… and {len(self.attempts) - SHOWN:,} more."]
        lines += ["", "All of a task: `nexus show TASK`; every move of it: `nexus history TASK`."]
        return "\n".join(lines)


class EpisodeReport(BaseModel):
    """How an episode ended: its tasks, every attempt, and what was left behind."""

    model_config = ConfigDict(frozen=True)

    episode_id: str
    started_at: datetime
    finished_at: datetime
    tasks: tuple[Task, ...]
    attempts: dict[str, tuple[Attempt, ...]]
    left: dict[str, str]
    """Tasks that could not move any more, and why."""

    def ids(self, status: TaskStatus) -> list[str]:
        """The tasks that stand so."""
        return [task.task_id for task in self.tasks if task.status == status]

    @property
    def failed(self) -> list[str]:
        """The dead letters."""
        return self.ids(TaskStatus.FAILED)

    def summary(self) -> str:
        """One line."""
        counted = [(len(self.ids(status)), status) for status in TaskStatus]
        return ", ".join(f"{number} {status}" for number, status in counted if number) or "no tasks"

    def seconds(self, task_id: str) -> float:
        """Time that went into a task, over all its attempts."""
        tried = self.attempts.get(task_id, ())
        return sum((one.finished_at - one.started_at).total_seconds() for one in tried if one.finished_at)

    def markdown(self) -> str:
        """A table of the tasks."""
        lines = [f"# {cell(self.episode_id)}", "", self.summary(), ""]
        lines += ["| task | status | attempts | seconds | by | error |", "|---|---|---|---|---|---|"]
        lines += [
            f"| {cell(task.task_id)} | {task.status} | {task.attempt_count} | {self.seconds(task.task_id):.1f} "
            f"| {cell(task.claimed_by)} | {cell(self.left.get(task.task_id) or task.error)} |"
            for task in self.tasks
        ]
        lines += ["", "All of a task: `nexus show TASK`; every move of it: `nexus history TASK`."]
        return "\n".join(lines)


def task_page(task: Task, attempts: Sequence[Attempt], moves: Sequence[HistoryEvent]) -> str:
    """A task as it stands: what it is, every attempt, every move (the newest `SHOWN`), and how to look further."""
    facts = {
        "status": task.status,
        "type": task.task_type,
        "what": task.description,
        "episode": task.episode_id,
        "tags": ", ".join(task.tags),
        "depends on": ", ".join(task.depends_on),
        "error": task.error if task.status == TaskStatus.FAILED else None,
        "reason": task.reason,
    }
    lines = [f"# {cell(task.task_id)}", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {cell(value)} |" for name, value in facts.items() if value]
    lines += ["", "| attempt | agent | outcome | seconds | error |", "|---|---|---|---|---|"]
    for one in attempts:
        seconds = f"{(one.finished_at - one.started_at).total_seconds():.1f}" if one.finished_at else ""
        lines.append(f"| {one.number} | {cell(one.agent_id)} | {one.outcome} | {seconds} | {cell(one.error)} |")
    lines += ["", "| when (UTC) | move | to | who | why |", "|---|---|---|---|---|"]
    for move in moves[-SHOWN:]:
        who, why = cell(move.actor), cell(move.reason)
        lines.append(f"| {move.at:%Y-%m-%d %H:%M:%S} | {move.verb} | {move.to_status or ''} | {who} | {why} |")
    lines += ["", f"More: `nexus show {_word(task.task_id)}`, `nexus explain {_word(task.task_id)}`"]
    return "\n".join(lines)


def _word(text: str) -> str:
    """A word of a shell's, as it can be copied out of Markdown's code."""
    return shlex.quote(text).replace("`", "'")


def cell(text: str | None, width: int = 120) -> str:
    """Foreign text as one cell of a Markdown table."""
    flat = " ".join("".join(char if char.isprintable() else " " for char in text or "").split())
    flat = flat if len(flat) <= width else flat[: width - 1] + "…"
    for special in "\\|<>`*[]":
        flat = flat.replace(special, f"\\{special}" if special not in "<>" else {"<": "&lt;", ">": "&gt;"}[special])
    return flat
