"""What `nexus watch` sees of a board at one moment, and how it is drawn: for a terminal, and a line a move."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Final

from rich.console import Group
from rich.table import Table
from rich.text import Text

from nexus.cli.output import STATUS_STYLE, counted, flat
from nexus.spans import span
from nexus.states import HELD, TaskStatus

if TYPE_CHECKING:
    from nexus import Agent, Attempt, Task, TaskNexus
    from nexus.reports import Move, Pause, Stall, Sweep

MOST_HELD: Final = 500
"""Tasks at work that one look reads."""

MOST_STALLS: Final = 50

IDLE_SECONDS: Final = 300.0
"""An agent with nothing in its hands is shown for so long after it was last seen."""

_COLOURS: Final = {**STATUS_STYLE, "lost": "red", "retrying": "yellow"}


@dataclass(frozen=True, slots=True)
class Sight:
    """A board, or an episode of it, at one moment."""

    name: str
    at: datetime
    counts: Counter[str]
    held: "Sequence[Task]"
    attempts: "Mapping[str, Attempt]"
    """The attempt that goes on, by task."""
    agents: "Sequence[Agent]"
    stalls: "Sequence[Stall]"
    """Those that are open, oldest first."""
    pauses: "Sequence[Pause]"
    sweep: "Sweep | None"
    moves: "Sequence[Move]"
    """The newest, oldest first."""
    trouble: str = ""
    """Why this is how it was a while ago."""


def look(nexus: "TaskNexus", episode_id: str | None, moves: "Sequence[Move]", before: Sight | None = None) -> Sight:
    """Ask the nexus, in a handful of queries. Only the counts read more than they bring: `before` has them already."""
    held = nexus.get_all_tasks(sorted(HELD), episode_id=episode_id, limit=MOST_HELD)
    tried = nexus.attempts_by_task([task.task_id for task in held if task.status == TaskStatus.IN_PROGRESS])
    return Sight(
        name=f"{episode_id} in {nexus.url}" if episode_id else nexus.url,
        at=nexus.now(),
        counts=before.counts if before else nexus.stats(episode_id),
        held=held,
        attempts={task_id: one[-1] for task_id, one in tried.items()},
        agents=nexus.agents(),
        stalls=nexus.stalls(open_only=True, limit=MOST_STALLS),
        pauses=nexus.pauses(),
        sweep=nexus.last_sweep(),
        moves=moves,
    )


def with_trouble(sight: Sight, why: str) -> Sight:
    """The same, and what keeps it from being newer."""
    return replace(sight, trouble=why)


def draw(sight: Sight, rows: int) -> Group:
    """For a terminal of so many rows: counts, who works on what, what is stuck, and what moved last."""
    parts: list[Text | Table] = [_headline(sight), counted(sight.counts), Text()]
    at_work = list(_at_work(sight))
    stuck = list(_stuck(sight))
    room = max(0, rows - 6 - len(stuck))
    shown = at_work[: max(3, room // 2)]
    parts.append(_agents(shown))
    if len(at_work) > len(shown):
        parts.append(Text(f"… and {len(at_work) - len(shown):,} more", style="dim"))
    parts += stuck
    room -= len(shown) + 1
    if sight.moves and room > 1:
        parts += [Text(), _moves(sight.moves, room - 1)]
    return Group(*parts)


def _headline(sight: Sight) -> Text:
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append(f"{sight.at:%H:%M:%S} UTC  ", style="bold")
    if sight.trouble:
        line.append(f"{flat(sight.trouble)}  ", style="red")
    line.append(_swept(sight), style="dim")
    line.append(f"  {flat(sight.name)}", style="dim")
    return line


def _swept(sight: Sight) -> str:
    if sight.sweep is None:
        return "never swept"
    return f"swept {span((sight.at - sight.sweep.finished_at).total_seconds())} ago"


def _at_work(sight: Sight) -> Iterator[tuple[Text, Text, str, str]]:
    """A line a claim; then who has nothing to do."""
    busy = set()
    for task in sorted(sight.held, key=lambda one: (one.claimed_by or "", one.task_id)):
        busy.add(task.claimed_by)
        attempt = sight.attempts.get(task.task_id)
        what = Text(flat(task.task_id), style=STATUS_STYLE.get(task.status, ""))
        if attempt is None:
            yield Text(flat(task.claimed_by)), what.append(" · claimed", style="dim"), "", ""
            continue
        what.append(f" · attempt {attempt.number}", style="dim")
        if attempt.note:
            what.append(f" · {flat(attempt.note)}", style="dim")
        beat = (sight.at - (attempt.heartbeat_at or attempt.started_at)).total_seconds()
        yield Text(flat(task.claimed_by)), what, span((sight.at - attempt.started_at).total_seconds()), span(beat)
    for agent in sight.agents:
        seen = (sight.at - agent.last_seen_at).total_seconds() if agent.last_seen_at else None
        if agent.agent_id not in busy and not agent.live_claims and seen is not None and seen < IDLE_SECONDS:
            yield Text(flat(agent.agent_id)), Text("idle", style="dim"), "", span(seen)


def _agents(lines: Sequence[tuple[Text, Text, str, str]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    table.add_column("agent", no_wrap=True, overflow="ellipsis", max_width=24)
    table.add_column("works on", no_wrap=True, overflow="ellipsis", ratio=1)
    table.add_column("for", justify="right", no_wrap=True)
    table.add_column("heartbeat", justify="right", no_wrap=True)
    for line in lines:
        table.add_row(*line)
    if not lines:
        table.add_row(Text("nobody works now", style="dim"))
    return table


def _stuck(sight: Sight) -> Iterator[Text]:
    if sight.pauses:
        paused = ", ".join("everything" if one.task_type == "*" else flat(one.task_type) for one in sight.pauses)
        yield Text(f"paused: {paused}", style="yellow", no_wrap=True, overflow="ellipsis")
    if sight.stalls:
        more = "+" if len(sight.stalls) == MOST_STALLS else ""
        yield Text(f"{len(sight.stalls)}{more} stalled; the oldest:", style="yellow")
    for stall in sight.stalls[:3]:
        since = span((sight.at - stall.since).total_seconds())
        done = ", ".join(step.step for step in stall.steps) or "nothing done yet"
        words = f"  {flat(stall.task_id)} {stall.kind} {since} ({done}): {flat(stall.why)}"
        yield Text(words, style="yellow", no_wrap=True, overflow="ellipsis")


def _moves(moves: "Sequence[Move]", rows: int) -> Table:
    """The newest first; of what one claim brought only the last."""
    table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    table.add_column("moved", no_wrap=True)
    table.add_column("task", no_wrap=True, overflow="ellipsis", max_width=24)
    table.add_column("to", no_wrap=True)
    table.add_column("by", no_wrap=True, overflow="ellipsis", max_width=12)
    table.add_column("why", no_wrap=True, overflow="ellipsis", ratio=1)
    newest = {(move.task_id, move.claim_no): move for move in moves}
    for move in sorted(newest.values(), key=lambda one: one.order, reverse=True)[:rows]:
        task, who, why = (Text(flat(one)) for one in (move.task_id, move.actor, _why(move)))
        table.add_row(f"{move.at:%H:%M:%S}", task, _target(move), who, why)
    return table


def _target(move: "Move") -> Text:
    word = {"expire": "lost", "fail": "retrying"}.get(move.verb) if move.to_status == TaskStatus.PENDING else None
    word = word or str(move.to_status or move.verb)
    return Text(word, style=_COLOURS.get(word, ""))


def _why(move: "Move") -> str:
    if move.reason:
        return move.reason
    return f"attempt {move.attempt}" if move.attempt and move.verb != "claim" else ""


def line_of(move: "Move") -> str:
    """A move as one line of text."""
    words = [f"{move.at:%Y-%m-%d %H:%M:%S}", flat(move.task_id), move.verb]
    words.append(f"{move.from_status or '-'} -> {move.to_status or '-'}")
    words += [flat(one) for one in (move.actor, _why(move)) if one]
    return "  ".join(words)
