"""What `nexus run` shows: live on a terminal, a line per change on a pipe, a table at the end."""

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nexus import Task, TaskNexus, TaskStatus
from nexus.cli.output import STATUS_STYLE, flat, status_text, table
from nexus.states import HELD, TERMINAL

if TYPE_CHECKING:
    from flows import EpisodeReport

REFRESH_SECONDS: Final = 0.5


class Display:
    """Follows an episode. On stderr, so that stdout stays free for data."""

    def __init__(self, nexus: TaskNexus, episode_id: str, agents: Sequence[str]) -> None:
        self.nexus, self.episode_id, self.agents = nexus, episode_id, agents
        self.console = Console(stderr=True, highlight=False)
        self.live = Live(console=self.console, auto_refresh=False, transient=True) if self.console.is_terminal else None
        self._said: Counter[str] | None = None

    def __enter__(self) -> Self:
        if self.live:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self.live.stop()

    async def follow(self) -> None:
        """Show the present until cancelled. Two small queries a time, whatever the size of the board."""
        while True:
            counts, held = await asyncio.to_thread(self._look)
            if self.live:
                self.live.update(self._draw(counts, held), refresh=True)
            elif counts != self._said:
                self._said = counts
                self.console.print(_line(counts), soft_wrap=True)
            await asyncio.sleep(REFRESH_SECONDS)

    def _look(self) -> tuple[Counter[str], list[Task]]:
        counts = self.nexus.stats(self.episode_id)
        return counts, self.nexus.get_all_tasks(sorted(HELD), episode_id=self.episode_id, limit=200)

    def _draw(self, counts: Counter[str], held: Sequence[Task]) -> Group:
        at_work = Table(box=None, pad_edge=False, header_style="bold")
        at_work.add_column("agent")
        at_work.add_column("works on", overflow="ellipsis", no_wrap=True)
        for agent_id in self.agents:
            mine = [task for task in held if task.claimed_by == agent_id]
            what = Text(", ".join(f"{flat(task.task_id)} · attempt {max(task.attempt_count, 1)}" for task in mine))
            at_work.add_row(agent_id, what if mine else Text("waits", style="dim"))
        done = sum(counts[status] for status in TERMINAL)
        return Group(at_work, Text(), ProgressBar(total=max(counts.total(), 1), completed=done), _line(counts))


def _line(counts: Counter[str]) -> Text:
    parts: list[Any] = []
    for status in TaskStatus:
        if counts[status]:
            parts += [(f"{counts[status]} {status}", STATUS_STYLE.get(status, "")), "  "]
    return Text.assemble(*parts)


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
