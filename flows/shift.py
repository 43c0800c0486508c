"""`process_agent_tasks`: one agent works through what it may claim; one flow run, one Prefect task run an attempt."""

import asyncio
import os
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from datetime import datetime

from prefect import flow

from flows.appetite import Appetite
from flows.board import board
from flows.endings import stops_in_order
from flows.forms import AgentId, Beside, Concurrency, Lease, MaxTasks, Mode, Observe, OnlyEpisode, OnlyTaskType
from flows.handlers import runnable_types
from flows.hands import Shared, Work
from flows.heartbeat import Pulse
from flows.observe import (
    artifact_key,
    ended_well,
    run_log,
    run_ref,
    show_markdown,
    showing_progress,
    tag_flow_run,
    tags_of,
)
from flows.relay import relaying
from flows.reports import AttemptReport, ShiftReport
from flows.threads import outlast, rarely_collected, ringing, to_the_end
from nexus import Claim, TaskNexus
from nexus.errors import DatabaseUnavailable, NexusError
from nexus.masking import mask_of
from nexus.states import TERMINAL

POLL_SECONDS = 1.0
"""How often an agent with free hands looks for work, though no bell rings."""

TAGS_AT_MOST = 50
"""On the run of a shift: one that works on more types and episodes is found by its agent, or by its attempts."""


@flow(name="process-agent-tasks", flow_run_name="{agent_id} · shift")
@stops_in_order
async def process_agent_tasks(
    agent_id: AgentId,
    concurrency: Concurrency = 4,
    mode: Mode = "drain",
    max_tasks: MaxTasks = None,
    task_type: OnlyTaskType = None,
    episode_id: OnlyEpisode = None,
    lease_seconds: Lease = None,
    beside: Beside = [],  # noqa: B006 - Prefect shows the default in its form; it is never changed
    observe: Observe = "task",
) -> ShiftReport:
    """One agent's shift: confirm it, claim in batches, run up to `concurrency` tasks side by side.

    A task whose attempt failed is offered again by the nexus when its backoff is over, to this agent or to
    another. Only types with a handler that the settings allow are claimed. When the run is cancelled or its
    process is told to stop, what it holds is handed back.

    Args:
        agent_id: Who works; the agent is confirmed first.
        concurrency: Tasks worked on at once, 1 to 100.
        mode: drain ends when nothing can be claimed now; wait stays until it is stopped or, with an episode, until
            none of its tasks can move any more.
        max_tasks: End after this many attempts.
        task_type: Only tasks of this type.
        episode_id: Only tasks of this named batch.
        lease_seconds: How long a claim holds without a heartbeat; None is the setting.
        beside: With an episode, the agents who work on it too: what only others could do is not waited for.
        observe: task shows each attempt as a Prefect task run; shift shows the shift only, with its progress, and is
            for many short tasks: every attempt is in the nexus, with this flow run's id.

    Raises `AgentNotConfirmed`, with nothing changed.
    """
    nexus = board()
    types = runnable_types(nexus.settings)
    await tag_flow_run(tags_of(agent_id, episode_id))
    await asyncio.to_thread(nexus.confirm_agent, agent_id, task_types=types)
    wanted = types & {task_type} if task_type else types
    shift = Shift(
        nexus,
        agent_id,
        concurrency,
        frozenset(wanted),
        episode_id,
        max_tasks,
        lease_seconds or nexus.settings.lease_seconds,
        observe,
    )
    with rarely_collected():
        async with (
            relaying(nexus),
            showing_progress(shift.progress, artifact_key("nexus-progress", agent_id)),
        ):
            report = await shift.work(wait=mode == "wait", beside=beside)
    await tag_flow_run(shift.tags)
    if report.attempts:
        key = artifact_key("nexus-shift", agent_id)
        await show_markdown(key, report.markdown(), f"What {agent_id} did in its last shift")
    return ended_well(report, report.summary())


@dataclass(slots=True)
class Shift:
    """The hands of one agent: what it holds, and what it did."""

    nexus: TaskNexus
    agent_id: str
    concurrency: int
    task_types: frozenset[str]
    episode_id: str | None
    max_tasks: int | None
    lease_seconds: float
    observe: Observe = "task"
    pulse: Pulse = field(default_factory=Pulse)
    done: list[AttemptReport] = field(default_factory=list)
    claimed: int = 0
    unbegun: dict[tuple[str, int], Claim] = field(default_factory=dict)
    """What is held without anybody at work on it, by task and claim: nobody else would hand it back."""
    ahead: deque[tuple[Claim, float]] = field(default_factory=deque)
    """Claims that wait for a hand, and since when."""
    hands: set[asyncio.Task[None]] = field(default_factory=set)
    """Attempts that are not closed yet."""
    busy: int = 0
    """Handlers that run; an attempt whose result is being written has its hand free again."""
    stir: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when there is something to do for who leads the shift."""
    context: Context = field(init=False)
    """Of the shift itself, for all that it begins."""
    shared: Shared = field(init=False)
    tags: set[str] = field(default_factory=set)
    """What it is found by: the types and the episodes of what it claimed."""
    appetite: Appetite = field(default_factory=Appetite)

    async def work(self, *, wait: bool, beside: Sequence[str] = ()) -> ShiftReport:
        """Claim and work until there is nothing left to do; hand back what is held when stopped."""
        started_at = await asyncio.to_thread(self.nexus.now)
        mask = mask_of(self.nexus.settings, os.environ)
        self.shared = Shared(self.nexus, self.lease_seconds, self.observe, run_log(), run_ref(), self.pulse, mask)
        self.context = copy_context()
        asked_at = time.monotonic()
        try:
            async with ringing(self.nexus, self.stir):
                while True:
                    self.stir.clear()
                    try:
                        claims = await self._claim()
                        idle = not self.hands and not claims and not self.ahead
                        over = idle and not await self._worth_waiting(wait, beside)
                        asked_at = time.monotonic()
                    except DatabaseUnavailable as error:
                        # An empty board is one thing, a board that nobody can read another.
                        if not wait and not self.hands and time.monotonic() - asked_at > self.lease_seconds:
                            raise
                        self.shared.log.warning("%s Trying again.", error)
                        over = False
                    if over:
                        break
                    self._begin()
                    await self._hand_back_what_waits()
                    await self._pause()
                    self._look_at_faults()
        finally:
            # Stopped from outside, or by a fault: every attempt hands its task back before the shift ends.
            self.ahead.clear()
            for hand in self.hands:
                hand.cancel()
            await outlast(asyncio.gather(*self.hands, return_exceptions=True))
            for claim in list(self.unbegun.values()):
                await self._release(claim)
        return await self._report(started_at)

    async def progress(self) -> float:
        """How much of its work is done, in percent, as far as it can know how much there is; and what it works on."""
        await tag_flow_run(self.tags)
        if self.max_tasks is not None:
            return 100 * len(self.done) / self.max_tasks
        counted = await asyncio.to_thread(self.nexus.stats, self.episode_id)
        left = sum(number for status, number in counted.items() if status not in TERMINAL)
        return 100 * len(self.done) / max(1, len(self.done) + left)

    def _wanted(self) -> int:
        """How many claims to ask for."""
        wanted = self.appetite.wanted(self.concurrency - self.busy, len(self.ahead))
        return wanted if self.max_tasks is None else min(wanted, self.max_tasks - self.claimed)

    async def _claim(self) -> list[Claim]:
        limit = self._wanted()
        if limit <= 0 or self.pulse.is_weak:
            return []
        # Where only the shift is shown all attempts belong to its run, and begin with their claims.
        begun = {"start": True, "run_ref": self.shared.run} if self.observe == "shift" else {}
        self.shared.mask = mask_of(self.nexus.settings, os.environ)
        claims = await to_the_end(
            self.nexus.claim,
            self.agent_id,
            limit,
            task_types=self.task_types,
            episode_id=self.episode_id,
            lease_seconds=self.lease_seconds,
            **begun,
        )
        self.claimed += len(claims)
        for claim in claims:
            if len(self.tags) < TAGS_AT_MOST:
                self.tags |= tags_of(None, claim.task.episode_id, claim.task.task_type)
        self.unbegun |= {_key(claim): claim for claim in claims}
        self.ahead.extend((claim, time.monotonic()) for claim in claims)
        await asyncio.sleep(0)  # where it was stopped while it claimed: nothing is begun then
        return claims

    async def _worth_waiting(self, wait: bool, beside: Sequence[str]) -> bool:
        """Nothing is held and nothing can be claimed now: whether that may change."""
        if not wait or (self.max_tasks is not None and self.claimed >= self.max_tasks):
            return False
        if self.episode_id is None:
            return True
        agents = {self.agent_id, *beside}
        left, stuck = await asyncio.to_thread(self.nexus.stuck, agents, self.task_types, episode_id=self.episode_id)
        return left > len(stuck)

    def _begin(self) -> None:
        """Put claims into free hands."""
        while self.ahead and self.busy < self.concurrency:
            claim, _ = self.ahead.popleft()
            self.busy += 1
            # Not in the context of the attempt that has just freed its hand: Prefect would take the new one for a part
            # of that, and undo that when the new one fails.
            own = self.context.copy()
            hand = asyncio.create_task(self._attempt(claim), name=claim.task_id, context=own)
            self.hands.add(hand)
            hand.add_done_callback(self._closed)

    def _closed(self, hand: asyncio.Task[None]) -> None:
        if hand.cancelled() or hand.exception() is None:
            self.hands.discard(hand)  # what went wrong stays, for `_look_at_faults`
        self.stir.set()

    def _look_at_faults(self) -> None:
        """What the nexus did not do for one hand (it was away too long) ends no other's work; a bug ends the shift."""
        for hand in [hand for hand in self.hands if hand.done()]:
            self.hands.discard(hand)
            try:
                hand.result()
            except NexusError as error:
                self.shared.log.warning("the attempt at %s: %s", hand.get_name(), error)

    def _freed(self) -> None:
        """A handler has ended: the next claim gets its hand at once, and more are fetched before none is left."""
        self.busy -= 1
        self.appetite.ended += 1
        self._begin()
        if self.appetite.is_hungry(len(self.ahead)):
            self.stir.set()

    async def _pause(self) -> None:
        """Until a hand is free, the bell rings, or it is time to look for work again."""
        with suppress(TimeoutError):
            async with asyncio.timeout(POLL_SECONDS):
                await self.stir.wait()

    async def _attempt(self, claim: Claim) -> None:
        """One attempt; its errors are in the nexus and in the UI, not ours to raise."""
        work = Work(self.shared, claim, self._at_work, self._freed)
        try:
            await work.do()
        finally:
            work.free()
            if _key(claim) in self.unbegun:
                await self._release(claim)
        if (report := work.report()) is not None:
            self.done.append(report)

    def _at_work(self, claim: Claim) -> None:
        del self.unbegun[_key(claim)]

    async def _hand_back_what_waits(self) -> None:
        """Claims ahead for which no hand came free: the work has become slow, and others may be idle."""
        while self.ahead and time.monotonic() - self.ahead[0][1] > POLL_SECONDS:
            claim, _ = self.ahead.popleft()
            await self._release(claim, "its agent has no hand free")

    async def _release(self, claim: Claim, why: str = "its agent stopped before it began") -> None:
        del self.unbegun[_key(claim)]
        try:
            await to_the_end(self.nexus.release, claim, why)
        except NexusError as error:
            self.shared.log.warning("not handed back: %s", error)

    async def _report(self, started_at: datetime) -> ShiftReport:
        finished_at = await asyncio.to_thread(self.nexus.now)
        return ShiftReport(
            agent_id=self.agent_id, started_at=started_at, finished_at=finished_at, attempts=tuple(self.done)
        )


def _key(claim: Claim) -> tuple[str, int]:
    return claim.task_id, claim.claim_no
