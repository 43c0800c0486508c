"""A claim is kept alive while its work goes on, and the work learns when it must end."""

import asyncio
import threading
from collections import deque
from typing import Any

import pytest

from flows.heartbeat import Ending, Pulse, heartbeat
from nexus import Claim, TaskNexus
from nexus.errors import DatabaseUnavailable

from .conftest import MakeNexus, claimed, until

LEASE = 0.3


class Work:
    """Somebody at work under a lease."""

    def __init__(self, nexus: TaskNexus, claim: Claim, lease_seconds: float = LEASE) -> None:
        self.notes: deque[str] = deque()
        self.endings: list[Ending] = []
        self.told = asyncio.Event()
        self.threads: list[threading.Thread] = []
        self.alive = heartbeat(
            nexus,
            claim,
            lease_seconds=lease_seconds,
            take_note=lambda: self.notes.pop() if self.notes else None,
            on_end=self._end,
        )

    def _end(self, ending: Ending) -> None:
        self.threads.append(threading.current_thread())
        self.endings.append(ending)
        self.told.set()

    async def ending(self) -> Ending:
        async with asyncio.timeout(20):
            await self.told.wait()
        return self.endings[0]


def lease_threads(claim: Claim) -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == f"lease {claim.task_id}"]


async def test_a_lease_holds_as_long_as_the_work_goes_on(nexus: TaskNexus) -> None:
    claim = claimed(nexus, lease_seconds=LEASE)
    work = Work(nexus, claim)
    first = claim.lease_expires_at

    async with work.alive:
        await until(lambda: nexus.now() > first)
        assert nexus.current_claim("EP07-T3").lease_expires_at > first
        assert nexus.sweep().expired == 0

    assert work.endings == []
    assert lease_threads(claim) == []


async def test_when_the_work_is_over_so_is_the_lease(nexus: TaskNexus) -> None:
    async with Work(nexus, claimed(nexus, lease_seconds=LEASE)).alive:
        pass

    await until(lambda: nexus.sweep().expired == 1)


async def test_an_error_in_the_work_ends_the_lease_too(nexus: TaskNexus) -> None:
    claim = claimed(nexus, lease_seconds=LEASE)

    with pytest.raises(ValueError, match="no"):
        async with Work(nexus, claim).alive:
            raise ValueError("no")

    assert lease_threads(claim) == []


async def test_notes_are_written_once(nexus: TaskNexus) -> None:
    claim = claimed(nexus, lease_seconds=LEASE)
    nexus.start(claim)
    work = Work(nexus, claim)
    work.notes.append("page 1")

    async with work.alive:
        await until(lambda: nexus.attempts("EP07-T3")[0].note == "page 1")
        assert not work.notes


async def test_a_cancelled_task_is_told_once_and_on_the_event_loop(nexus: TaskNexus) -> None:
    claim = claimed(nexus, lease_seconds=LEASE)
    nexus.start(claim)
    work = Work(nexus, claim)

    async with work.alive:
        nexus.cancel("EP07-T3", "not needed any more")
        assert await work.ending() == "cancelled"
        await until(lambda: not lease_threads(claim))

    assert work.endings == ["cancelled"]
    assert work.threads == [threading.main_thread()]


async def test_a_claim_that_went_to_another_is_lost(nexus: TaskNexus) -> None:
    claim = claimed(nexus, lease_seconds=LEASE)
    nexus.release(claim)
    nexus.claim_task("EP07-T3", "Agent-2")
    work = Work(nexus, claim)

    async with work.alive:
        assert await work.ending() == "lost"

    assert nexus.current_claim("EP07-T3").agent_id == "Agent-2"


class Away(TaskNexus):
    """A database that cannot be reached for some heartbeats."""

    error: Exception = DatabaseUnavailable("the server is restarting")
    for_beats = 0
    beats = 0

    def heartbeat(self, *rest: Any, **named: Any) -> Any:
        self.beats += 1
        if self.for_beats:
            self.for_beats -= 1
            raise self.error
        return super().heartbeat(*rest, **named)


@pytest.mark.parametrize("error", [DatabaseUnavailable("the server is restarting"), RuntimeError("a bug")])
async def test_one_missed_heartbeat_ends_nothing(make_nexus: MakeNexus, error: Exception) -> None:
    nexus = make_nexus(Away)
    nexus.error, nexus.for_beats = error, 1
    work = Work(nexus, claimed(nexus, lease_seconds=1.5), lease_seconds=1.5)

    async with work.alive:
        await until(lambda: nexus.beats >= 2)
        assert nexus.sweep().expired == 0

    assert work.endings == []


@pytest.mark.parametrize("error", [DatabaseUnavailable("the server is gone"), RuntimeError("a bug")])
async def test_a_claim_that_cannot_be_renewed_within_its_lease_is_lost(make_nexus: MakeNexus, error: Exception) -> None:
    nexus = make_nexus(Away)
    nexus.error, nexus.for_beats = error, 1000
    work = Work(nexus, claimed(nexus, lease_seconds=LEASE))

    async with work.alive:
        assert await work.ending() == "lost"


async def test_a_note_outlives_a_missed_heartbeat(make_nexus: MakeNexus) -> None:
    nexus = make_nexus(Away)
    claim = claimed(nexus, lease_seconds=1)
    nexus.start(claim)
    nexus.for_beats = 1
    work = Work(nexus, claim, lease_seconds=1)
    work.notes.append("page 1")

    async with work.alive:
        await until(lambda: nexus.attempts("EP07-T3")[0].note == "page 1", seconds=10)


async def test_a_note_that_cannot_be_kept_costs_no_lease(nexus: TaskNexus, caplog: pytest.LogCaptureFixture) -> None:
    claim = claimed(nexus, lease_seconds=LEASE)
    nexus.start(claim)
    work = Work(nexus, claim)
    work.notes.append(50)  # type: ignore[arg-type] # that is the point

    async with work.alive:
        await until(lambda: not work.notes)
        work.notes.append("page 2")
        await until(lambda: nexus.attempts("EP07-T3")[0].note == "page 2")
        assert nexus.sweep().expired == 0

    assert work.endings == []
    assert "50, which is no text" in caplog.text


async def test_a_note_that_cannot_be_asked_for_costs_no_lease(nexus: TaskNexus) -> None:
    asked = []

    def take_note() -> str:
        asked.append(1)
        raise RuntimeError("a bug")

    claim = claimed(nexus, lease_seconds=LEASE)
    endings: list[Ending] = []
    keep = heartbeat(nexus, claim, lease_seconds=LEASE, take_note=take_note, on_end=endings.append)

    async with keep:
        await until(lambda: len(asked) > 3)
        assert nexus.current_claim("EP07-T3").lease_expires_at > claim.lease_expires_at

    assert endings == []


async def test_an_agent_whose_claim_is_over_is_weak_until_that_work_has_ended(nexus: TaskNexus) -> None:
    pulse = Pulse()
    claim = claimed(nexus, lease_seconds=LEASE)
    keep = heartbeat(
        nexus, claim, lease_seconds=LEASE, take_note=lambda: None, on_end=lambda _ending: None, pulse=pulse
    )
    async with keep:
        await asyncio.sleep(2 * LEASE)
        assert not pulse.is_weak, "it is renewed"
        nexus.cancel(claim.task_id)
        nexus.retry(claim.task_id)
        nexus.claim_task(claim.task_id, "Agent-2")
        await until(lambda: pulse.is_weak)
    assert not pulse.is_weak, "it works on nothing"
