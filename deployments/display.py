"""What `nexus run` shows: live on a terminal, a line per change on a pipe, a table at the end."""

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nexus import Task, TaskNexus, TaskStatus
from nexus.cli.output import counted, flat, status_text, table
from nexus.errors import NexusError
from nexus.states import HELD, TERMINAL

if TYPE_CHECKING:
    from flows import EpisodeReport

REFRESH_SECONDS: Final = 0.5

LOOKED_AT: Final = 20
"""Waiting tasks that are asked what they wait for, when nothing else goes on."""


@dataclass(frozen=True, slots=True)
class Present:
    """An episode at one moment."""

    counts: Counter[str]
    held: Sequence[Task]
    waiting: str | None
    """What all wait for, where nobody works and time alone brings something to do."""


class Display:
    """Follows an episode. On stderr, so that stdout stays free for data."""

    def __init__(self, nexus: TaskNexus, episode_id: str, agents: Sequence[str]) -> None:
        self.nexus, self.episode_id, self.agents = nexus, episode_id, agents
        self.console = Console(stderr=True, highlight=False)
        self.live = Live(console=self.console, auto_refresh=False, transient=True) if self.console.is_terminal else None
        self._said: Present | None = None

    def __enter__(self) -> Self:
        if self.live:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self.live.stop()
        elif kind is None:
            with suppress(NexusError):
                self.show()  # how it ended, however fast that was

    async def follow(self) -> None:
        """Show the present until cancelled. A few small queries a time, whatever the size of the board."""
        while True:
            await asyncio.to_thread(self.show)
            await asyncio.sleep(REFRESH_SECONDS)

    def show(self) -> None:
        """Draw the present; on a pipe, say what is new."""
        present, before = self.look(), self._said
        self._said = present
        if self.live:
            self.live.update(self.draw(present), refresh=True)
            return
        if before is None or present.counts != before.counts:
            self.console.print(counted(present.counts), soft_wrap=True)
        if present.waiting and (before is None or present.waiting != before.waiting):
            self.console.print(Text(present.waiting), soft_wrap=True)

    def look(self) -> Present:
        """Ask the nexus."""
        counts = self.nexus.stats(self.episode_id)
        held = self.nexus.get_all_tasks(sorted(HELD), episode_id=self.episode_id, limit=200)
        return Present(counts, held, None if held else self._waiting())

    def _waiting(self) -> str | None:
        pending = self.nexus.get_all_tasks(TaskStatus.PENDING, episode_id=self.episode_id, limit=1000)
        for task in sorted(pending, key=lambda one: one.available_at)[:LOOKED_AT]:
            reasons = self.nexus.explain(task.task_id)
            if not reasons:
                return None  # an agent is about to take it
            if {reason.code for reason in reasons} <= {"not_before", "backoff"}:
                return f"waiting for {flat(task.task_id)}: {flat(reasons[0].message)}"
        return None

    def draw(self, present: Present) -> Group:
        """For a terminal: who works on what, how far it is, what is waited for."""
        at_work = Table(box=None, pad_edge=False, header_style="bold")
        at_work.add_column("agent", no_wrap=True, overflow="ellipsis", max_width=30)
        at_work.add_column("works on", no_wrap=True, overflow="ellipsis")
        for agent_id in self.agents:
            mine = [task for task in present.held if task.claimed_by == agent_id]
            what = Text(", ".join(f"{flat(task.task_id)} · attempt {max(task.attempt_count, 1)}" for task in mine))
            at_work.add_row(Text(flat(agent_id)), what if mine else Text("waits", style="dim"))
        done = sum(present.counts[status] for status in TERMINAL)
        # The bar ends no line by itself, so what follows it would be drawn behind the edge of the screen.
        bar = Table.grid()
        bar.add_row(ProgressBar(total=max(present.counts.total(), 1), completed=done))
        waiting = [Text(present.waiting, style="dim", no_wrap=True, overflow="ellipsis")] if present.waiting else []
        return Group(at_work, Text(), bar, counted(present.counts), *waiting)


def final_table(report: "EpisodeReport") -> None:
    """Each task with its attempts, the time that went into it, and its result or error."""

    def row(task: Task) -> tuple[object, ...]:
        outcome = report.left.get(task.task_id) or (task.error if task.status == TaskStatus.FAILED else None)
        said = flat(outcome) if outcome else _short(task.result)
        return (
            task.task_id,
            status_text(task.status),
            task.attempt_count,
            f"{report.seconds(task.task_id):.1f}",
            task.claimed_by,
            said,
        )

    columns = ["task", "status", "attempts", "seconds", "agent", "result"]
    table(columns, map(row, report.tasks), right=("attempts", "seconds"))


def _short(result: Any) -> str:
    if isinstance(result, dict):
        return flat(", ".join(f"{key}={value}" for key, value in result.items() if not isinstance(value, dict | list)))
    return "" if result is None else flat(json.dumps(result, ensure_ascii=False))
