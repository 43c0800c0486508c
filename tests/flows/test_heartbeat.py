"""A claim is kept alive while its work goes on, and the work learns when it must end."""

import asyncio
import json
import os
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from flows import leases
from flows.heartbeat import Ending, Pulse, heartbeat
from nexus import Claim, TaskNexus
from nexus.errors import DatabaseUnavailable, TaskBusy

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


async def test_a_lease_holds_as_long_as_the_work_goes_on(nexus: TaskNexus) -> None:
    claim = claimed(nexus, lease_seconds=LEASE)
    work = Work(nexus, claim)
    first = claim.lease_expires_at

    async with work.alive:
        await until(lambda: nexus.now() > first)
        assert nexus.current_claim("EP07-T3").lease_expires_at > first
        assert nexus.sweep().expired == 0

    assert work.endings == []


async def test_when_the_work_is_over_so_is_the_lease(nexus: TaskNexus) -> None:
    async with Work(nexus, claimed(nexus, lease_seconds=LEASE)).alive:
        pass

    await until(lambda: nexus.sweep().expired == 1)


async def test_an_error_in_the_work_ends_the_lease_too(nexus: TaskNexus) -> None:
    with pytest.raises(ValueError, match="no"):
        async with Work(nexus, claimed(nexus, lease_seconds=LEASE)).alive:
            raise ValueError("no")

    await until(lambda: nexus.sweep().expired == 1)


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
        await asyncio.sleep(LEASE)

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

    def heartbeat_many(self, beats: Any) -> Any:
        self.beats += 1
        if self.for_beats:
            self.for_beats -= 1
            raise self.error
        return super().heartbeat_many(beats)


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


# -- one claim's trouble is no other's --------------------------------------------------------------------------


def many(nexus: TaskNexus, number: int, lease_seconds: float) -> list[Claim]:
    nexus.add_tasks({"task_id": f"T{one}"} for one in range(number))
    return nexus.claim("Agent-1", number, lease_seconds=lease_seconds, start=True)


@asynccontextmanager
async def at_work(nexus: TaskNexus, claims: Sequence[Claim], lease_seconds: float) -> AsyncIterator[list[Work]]:
    async with AsyncExitStack() as stack:
        works = [Work(nexus, claim, lease_seconds) for claim in claims]
        for work in works:
            await stack.enter_async_context(work.alive)
        yield works


class Counted(TaskNexus):
    """A board that knows how it was asked."""

    def __init__(self, **named: Any) -> None:
        super().__init__(**named)
        self.rounds: list[int] = []

    def heartbeat_many(self, beats: Any) -> Any:
        self.rounds.append(len(beats))
        return super().heartbeat_many(beats)


async def test_all_that_is_held_on_a_board_is_renewed_together(make_nexus: MakeNexus) -> None:
    nexus = make_nexus(Counted)
    claims = many(nexus, 20, lease_seconds=1)

    async with at_work(nexus, claims, lease_seconds=1) as works:
        await until(lambda: len(nexus.rounds) >= 3)
        assert nexus.sweep().expired == 0

    assert max(nexus.rounds) == 20
    assert [work.endings for work in works] == [[]] * 20


class Elsewhere(TaskNexus):
    """A board whose database answers nobody, for so long."""

    answers: threading.Event

    def heartbeat_many(self, beats: Any) -> Any:
        self.answers.wait(20)
        raise DatabaseUnavailable("no answer")


async def test_a_board_that_does_not_answer_costs_no_other_its_leases(make_nexus: MakeNexus, tmp_path: Path) -> None:
    here, there = make_nexus(), make_nexus(Elsewhere, database_url=f"sqlite:///{tmp_path / 'there.db'}")
    there.answers = threading.Event()

    async with at_work(there, many(there, 2, 1), 1), at_work(here, many(here, 2, 1), 1) as works:
        for _ in range(10):
            await asyncio.sleep(0.3)
            swept = await asyncio.to_thread(here.sweep)
            assert swept.expired == 0
        there.answers.set()

    assert [work.endings for work in works] == [[], []]


class Spoilt(TaskNexus):
    """A board with a task on which something is wrong: no statement that touches it succeeds."""

    def heartbeat_many(self, beats: Any) -> Any:
        if any(claim.task_id == "T0" for claim, _ in beats):
            raise RuntimeError("CHECK constraint failed")
        return super().heartbeat_many(beats)


async def test_a_task_that_cannot_be_renewed_costs_no_other_its_lease(make_nexus: MakeNexus) -> None:
    nexus = make_nexus(Spoilt)
    claims = many(nexus, 3, lease_seconds=1)

    async with at_work(nexus, claims, lease_seconds=1) as (spoilt, *others):
        assert await spoilt.ending() == "lost"
        swept = await asyncio.to_thread(nexus.sweep)
        assert {item.task_id for item in swept.items} <= {"T0"}

    assert [work.endings for work in others] == [[], []]


class Written(TaskNexus):
    """A board on which somebody holds every row, as an import on PostgreSQL does."""

    is_written = True
    asked = 0

    def heartbeat_many(self, beats: Any) -> Any:
        self.asked += 1
        return [TaskBusy(claim.task_id) for claim, _ in beats] if self.is_written else super().heartbeat_many(beats)


async def test_a_task_that_is_being_written_for_longer_than_its_lease_is_not_lost(make_nexus: MakeNexus) -> None:
    nexus = make_nexus(Written)
    [claim] = many(nexus, 1, LEASE)

    async with at_work(nexus, [claim], LEASE) as [work]:
        await until(lambda: nexus.asked >= 10)
        nexus.is_written = False
        await until(lambda: nexus.current_claim("T0").lease_expires_at > nexus.now())

    assert work.endings == []


async def test_where_nothing_is_held_any_more_no_thread_stays(
    nexus: TaskNexus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "IDLE_SECONDS", 0.05)
    for task_id in ("T1", "T2"):  # a board that is used again gets another
        nexus.add_task({"task_id": task_id})
        async with Work(nexus, nexus.claim_task(task_id, "Agent-1")).alive:
            assert nexus in leases._keepers
        await until(lambda: nexus not in leases._keepers)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is forked here")
async def test_a_forked_process_renews_what_is_its_own_and_nothing_else(nexus: TaskNexus) -> None:
    async with Work(nexus, claimed(nexus)).alive:
        child = os.fork()
        if not child:
            os._exit(7 if leases._keepers or leases._guard.locked() else 0)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


async def test_an_import_whose_tasks_wait_for_one_that_is_worked_on_costs_no_lease(
    open_board: Callable[..., TaskNexus], postgres_url: str, tmp_path: Path
) -> None:
    """On PostgreSQL it holds the row of that one until it is done."""
    nexus, importer, sweeper = (open_board(postgres_url, clock=None) for _ in range(3))
    claims = many(nexus, 3, lease_seconds=1)
    (tmp_path / "more.json").write_text(json.dumps({"tasks": [{"task_id": "after", "depends_on": ["T0"]}]}))
    board = importer.read_board(tmp_path / "more.json")
    is_writing, go_on = threading.Event(), threading.Event()

    def slowly(what: str, _done: int, _total: int | None) -> None:
        if what == "writing":
            is_writing.set()
            go_on.wait(20)

    async with at_work(nexus, claims, lease_seconds=1) as works:
        importing = asyncio.create_task(asyncio.to_thread(importer.import_board, board, progress=slowly))
        assert await asyncio.to_thread(is_writing.wait, 20)
        await asyncio.sleep(2.5)
        swept = await asyncio.to_thread(sweeper.sweep)
        go_on.set()
        await importing
        await until(lambda: nexus.current_claim("T0").lease_expires_at > nexus.now())

    assert swept.expired == 0
    assert [work.endings for work in works] == [[], [], []]
