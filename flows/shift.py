"""`process_agent_tasks`: one agent works through what it may claim; one flow run, one Prefect task run an attempt."""

import asyncio
import time
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Literal

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from pydantic import Field

from flows.board import board
from flows.execute import AgentId, raise_unless_completed
from flows.handlers import runnable_types
from flows.heartbeat import Pulse
from flows.observe import ATTEMPT_NAME, artifact_key, ended_well, run_log, run_ref, show_markdown, tag_flow_run
from flows.reports import AttemptReport, ShiftReport
from flows.runner import Finished, run_attempt
from flows.threads import outlast, to_the_end
from nexus import Claim, TaskNexus
from nexus.errors import DatabaseUnavailable, NexusError

# Prefect's forms take bounds and choices from here, descriptions from the docstring.
Concurrency = Annotated[int, Field(ge=1, le=100)]
Mode = Literal["drain", "wait"]
MaxTasks = Annotated[int | None, Field(ge=1)]
Lease = Annotated[float | None, Field(ge=1, le=86_400)]

POLL_SECONDS = 1.0
"""How often an agent with free hands looks for work."""


@flow(name="process-agent-tasks", flow_run_name="{agent_id} · shift")
async def process_agent_tasks(
    agent_id: AgentId,
    concurrency: Concurrency = 4,
    mode: Mode = "drain",
    max_tasks: MaxTasks = None,
    task_type: str | None = None,
    episode_id: str | None = None,
    lease_seconds: Lease = None,
    beside: list[str] = [],  # noqa: B006 - Prefect shows the default in its form; it is never changed
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

    Raises `AgentNotConfirmed`, with nothing changed.
    """
    nexus = board()
    types = runnable_types(nexus.settings)
    await tag_flow_run(agent_id=agent_id, episode_id=episode_id)
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
    )
    report = await shift.work(wait=mode == "wait", beside=beside)
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
    pulse: Pulse = field(default_factory=Pulse)
    done: list[AttemptReport] = field(default_factory=list)
    claimed: int = 0
    unbegun: dict[tuple[str, int], Claim] = field(default_factory=dict)
    """What is held without an attempt at it, by task and claim: nobody else would hand it back."""

    async def work(self, *, wait: bool, beside: Sequence[str] = ()) -> ShiftReport:
        """Claim and work until there is nothing left to do; hand back what is held when stopped."""
        started_at = await asyncio.to_thread(self.nexus.now)
        hands: set[asyncio.Task[None]] = set()
        asked_at = time.monotonic()
        try:
            while True:
                try:
                    claims = await self._claim(self.concurrency - len(hands))
                    over = not hands and not claims and not await self._worth_waiting(wait, beside)
                    asked_at = time.monotonic()
                except DatabaseUnavailable as error:
                    # An empty board is one thing, a board that nobody can read another.
                    if not wait and not hands and time.monotonic() - asked_at > self.lease_seconds:
                        raise
                    run_log().warning("%s Trying again.", error)
                    claims, over = [], False
                if over:
                    break
                hands |= {asyncio.create_task(self._attempt(claim), name=claim.task_id) for claim in claims}
                await self._pause(hands)
                for hand in [hand for hand in hands if hand.done()]:
                    hands.remove(hand)
                    hand.result()
        finally:
            # Stopped from outside, or by a fault: every attempt hands its task back before the shift ends.
            for hand in hands:
                hand.cancel()
            await outlast(asyncio.gather(*hands, return_exceptions=True))
            for claim in list(self.unbegun.values()):
                await self._release(claim)
        return await self._report(started_at)

    async def _claim(self, free: int) -> list[Claim]:
        limit = free if self.max_tasks is None else min(free, self.max_tasks - self.claimed)
        if limit <= 0 or self.pulse.is_weak:
            return []
        claims = await to_the_end(
            self.nexus.claim,
            self.agent_id,
            limit,
            task_types=self.task_types,
            episode_id=self.episode_id,
            lease_seconds=self.lease_seconds,
        )
        self.claimed += len(claims)
        self.unbegun |= {_key(claim): claim for claim in claims}
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

    async def _pause(self, hands: set[asyncio.Task[None]]) -> None:
        """Until a hand is free, or it is time to look for work again."""
        if not hands:
            await asyncio.sleep(POLL_SECONDS)
            return
        full = len(hands) >= self.concurrency
        await asyncio.wait(hands, timeout=None if full else POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)

    async def _attempt(self, claim: Claim) -> None:
        """One attempt as a Prefect task run; its errors are in the nexus and in the UI, not ours to raise."""
        work = _Work(self, claim)
        token = _work.set(work)
        try:
            # Prefect types return_state for sync tasks only.
            number = claim.task.attempt_count + 1
            await _attempt(claim.task_id, number, claim.agent_id, return_state=True)  # type: ignore[misc]
        finally:
            _work.reset(token)
            if _key(claim) in self.unbegun:
                await self._release(claim)
        if work.finished is not None:
            self.done.append(_reported(claim.task_id, work.finished))

    async def _release(self, claim: Claim) -> None:
        del self.unbegun[_key(claim)]
        try:
            await to_the_end(self.nexus.release, claim, "its agent stopped before it began")
        except NexusError as error:
            run_log().warning("not handed back: %s", error)

    async def _report(self, started_at: datetime) -> ShiftReport:
        finished_at = await asyncio.to_thread(self.nexus.now)
        return ShiftReport(
            agent_id=self.agent_id, started_at=started_at, finished_at=finished_at, attempts=tuple(self.done)
        )


@dataclass(slots=True)
class _Work:
    """What one Prefect task run is to do; Prefect itself sees the task's id and the attempt's number only."""

    shift: Shift
    claim: Claim
    finished: Finished | None = None


_work: ContextVar[_Work] = ContextVar("work")


@task(name="attempt", task_run_name=ATTEMPT_NAME, cache_policy=NO_CACHE)
async def _attempt(task_id: str, number: int, agent_id: str) -> None:  # noqa: ARG001 - they name the run
    work = _work.get()
    shift = work.shift
    del shift.unbegun[_key(work.claim)]
    work.finished = await run_attempt(
        shift.nexus,
        work.claim,
        lease_seconds=shift.lease_seconds,
        run_ref=run_ref(),
        log=run_log(),
        pulse=shift.pulse,
    )
    raise_unless_completed(task_id, work.finished)


def _key(claim: Claim) -> tuple[str, int]:
    return claim.task_id, claim.claim_no


def _reported(task_id: str, finished: Finished) -> AttemptReport:
    return AttemptReport(
        task_id=task_id,
        number=finished.number,
        outcome=finished.outcome,
        status=finished.task.status if finished.task else None,
        seconds=finished.seconds,
        error=str(finished.error) if finished.error else None,
    )
