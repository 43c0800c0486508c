"""`show_board`: the whole board on one standing page of the UI, kept up to date by a deployment on a schedule."""

import asyncio
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import dropwhile
from typing import Final

from prefect import flow

from flows.board import board
from flows.forms import Window
from flows.observe import ended_well, show_standing, tag_flow_run, tags_of
from flows.patience import patiently
from flows.reports import cell
from nexus import AttemptOutcome, Overview, TaskStatus
from nexus.spans import span

BOARD: Final = "nexus-board"
"""The key of the page."""

ROWS: Final = 50
"""Of a table on the page; what is left out is counted."""

BAR: Final = 24
"""Characters of the longest bar of the chart."""


@flow(name="show-board", flow_run_name="board")
async def show_board(window_seconds: Window = None) -> Overview:
    """Bring the page `nexus-board` up to date: what stands on the board, who works, what came of the last hour.

    Reads only, and replaces the page where it stands, so that it has one address and no thousand versions.

    Args:
        window_seconds: How far back it tells of attempts; None is the setting.

    Raises `DatabaseUnavailable` where the database stays away.
    """
    await tag_flow_run(tags_of())
    nexus = board()
    window = window_seconds or nexus.settings.board.window_seconds
    seen = await patiently(lambda: nexus.overview(window))
    text = await asyncio.to_thread(page, seen)
    await show_standing(BOARD, text, f"{seen.at:%Y-%m-%d %H:%M:%S} UTC: {summary(seen)}")
    return ended_well(seen, summary(seen))


def summary(seen: Overview) -> str:
    """One line."""
    counted = ", ".join(f"{seen.counts[one]:,} {one}" for one in TaskStatus if seen.counts.get(one)) or "no tasks"
    return counted + (f"; {seen.open_stalls:,} waiting too long" if seen.open_stalls else "")


def page(seen: Overview) -> str:
    """The board as Markdown: what is wrong first, then what waits, who works, and what ended."""
    return "\n".join(
        [
            f"**{summary(seen)}**",
            "",
            f"As of {seen.at:%Y-%m-%d %H:%M:%S} UTC. {_swept(seen)}",
            *_wrong(seen),
            *_section("What waits", _waiting(seen)),
            *_section("Who works", _agents(seen)),
            *_section(f"What ended in the last {span(seen.window_seconds)}", _ended(seen)),
            *_chart(seen),
            "",
            "One task: `nexus show TASK`; why it waits: `nexus explain TASK`; all of it, as it moves: `nexus watch`.",
        ]
    )


def _swept(seen: Overview) -> str:
    if seen.last_sweep is None:
        return "Nobody has swept it yet."
    return f"Swept {span((seen.at - seen.last_sweep.finished_at).total_seconds())} ago."


def _wrong(seen: Overview) -> Iterable[str]:
    """What a person should look at; nothing where all is well."""
    lines = []
    if seen.expired_leases:
        claims = _number(seen.expired_leases, "claim")
        lines.append(f"- {claims} with a lease that is over: the next sweep takes them back")
    if seen.dead_letters:
        within = f"in the last {span(seen.window_seconds)}"
        lines.append(f"- {_number(seen.dead_letters, 'dead letter')} {within}: `nexus list --status failed`")
    for pause in seen.pauses:
        what = "everything" if pause.task_type == "*" else f"tasks of type {cell(pause.task_type)}"
        why = f": {cell(pause.reason)}" if pause.reason else ""
        lines.append(f"- paused: {what}, since {_clock(seen, pause.at)}{why}")
    for stall in seen.stalls:
        done = ", ".join(step.step for step in stall.steps) or "nothing done yet"
        since = span((seen.at - stall.since).total_seconds())
        what = "is past its deadline by" if stall.kind == "deadline" else "waits for"
        lines.append(f"- {cell(stall.task_id)} {what} {since} ({done}): {cell(stall.why)}")
    if seen.open_stalls > len(seen.stalls):
        lines.append(f"- … and {seen.open_stalls - len(seen.stalls):,} more that wait too long: `nexus stalls`")
    return ["", "## To be looked at", "", *lines] if lines else []


def _waiting(seen: Overview) -> Iterable[str]:
    rows = [
        (
            cell(one.task_type),
            f"{one.number:,}",
            "paused" if one.is_paused else f"{one.claimable:,}",
            cell(one.oldest_id),
            _age(seen, one.oldest_since),
        )
        for one in seen.waiting
    ]
    yield from _table(("type", "waiting", "claimable now", "the oldest", "waits for"), rows)
    if seen.waits_for_others:
        yield from ("", f"{seen.waits_for_others:,} more wait for other tasks to be completed.")


def _agents(seen: Overview) -> Iterable[str]:
    rows = []
    for one in seen.agents:
        more = one.live_claims - len(one.task_ids)
        holds = ", ".join(map(cell, one.task_ids)) + (f" and {more:,} more" if more > 0 else "")
        last = f"{_age(seen, one.last_seen_at)} ago" if one.last_seen_at else "never"
        rows.append((cell(one.agent_id), f"{one.live_claims:,}", holds, last))
    yield from _table(("agent", "claims", "holds", "last seen"), rows)
    if seen.idle_agents:
        yield from ("", f"{seen.idle_agents:,} more are known, hold nothing and were not seen in this time.")


def _ended(seen: Overview) -> Iterable[str]:
    kinds = [one for one in AttemptOutcome if one != AttemptOutcome.RUNNING and seen.number(one)]
    rows = [
        (
            cell(one.task_type),
            *(f"{one.number(kind):,}" if one.number(kind) else "" for kind in kinds),
            f"{one.dead_letters:,}" if one.dead_letters else "",
        )
        for one in seen.ended
    ]
    names = [str(kind).replace("_", " ") for kind in kinds]
    yield from _table(("type", *names, "dead letters"), rows)


def _chart(seen: Overview) -> Iterable[str]:
    """The window in equal parts, a bar each, from the first on in which anything ended."""
    parts = list(dropwhile(lambda one: not one.completed + one.failed, seen.slices))
    if not parts:
        return []
    most = max(one.completed + one.failed for one in parts)
    rows = []
    for one in parts:
        good, bad = (-(-BAR * number // most) for number in (one.completed, one.failed))
        rows.append((f"{one.until:%H:%M:%S}", f"{one.completed:,}", f"{one.failed:,}", "█" * good + "░" * bad))
    head = ("until (UTC)", "completed", "went wrong", "█ completed ░ went wrong")
    return ["", f"A line is {span(seen.window_seconds / len(seen.slices))}:", "", *_table(head, rows)]


def _section(title: str, lines: Iterable[str]) -> Iterable[str]:
    return ["", f"## {title}", "", *lines]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """At most `ROWS` rows of cells that are Markdown already."""
    if not rows:
        yield "Nothing."
        return
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    yield from (f"| {' | '.join(row)} |" for row in rows[:ROWS])
    if len(rows) > ROWS:
        yield from ("", f"… and {len(rows) - ROWS:,} more.")


def _number(count: int, word: str) -> str:
    return f"{count:,} {word}" + ("s" if count != 1 else "")


def _age(seen: Overview, moment: datetime) -> str:
    seconds = (seen.at - moment).total_seconds()
    return span(seconds) if seconds >= 0 else f"its time, in {span(-seconds)}"


def _clock(seen: Overview, moment: datetime) -> str:
    return f"{moment:%H:%M} UTC" if moment.date() == seen.at.date() else f"{moment:%Y-%m-%d %H:%M} UTC"
