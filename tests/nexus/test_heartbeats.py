"""Many leases are renewed at once, and no claim waits for another's."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from nexus import Claim, TaskNexus
from nexus.errors import ClaimLost, InvalidTask, TaskBusy, TaskNotFound
from nexus.schemas import Heartbeat

from ..conftest import Clock


def told(end: object) -> str:
    """A heartbeat's end in a word."""
    if isinstance(end, Heartbeat):
        return "cancel" if end.cancel_requested else "renewed"
    return type(end).__name__


@pytest.fixture
def at_work(nexus: TaskNexus) -> Callable[[int], list[Claim]]:
    """`at_work(3)`: Ada has begun T0, T1 and T2."""

    def begin(number: int) -> list[Claim]:
        nexus.add_tasks({"task_id": f"T{one}"} for one in range(number))
        return nexus.claim("Ada", number, start=True)

    return begin


@contextmanager
def held_still(nexus: TaskNexus, task_id: str) -> Iterator[None]:
    """Somebody is in the middle of a transaction that has locked this task."""
    with nexus._database.engine.connect() as other, other.begin():
        other.execute(sa.text("SELECT 1 FROM nexus_tasks WHERE task_id = :id FOR UPDATE"), {"id": task_id})
        yield


def test_all_leases_are_renewed_and_each_note_is_kept(nexus: TaskNexus, at_work: Any, clock: Clock) -> None:
    claims = at_work(3)
    clock.advance(50)

    ends = nexus.heartbeat_many([(claims[0], "page 1"), (claims[1], None), (claims[2], 'a "quoted" \\ \0 Ünïcode')])

    assert [told(end) for end in ends] == ["renewed"] * 3
    until = clock() + timedelta(seconds=60)
    assert [end.lease_expires_at for end in ends if isinstance(end, Heartbeat)] == [until] * 3
    assert [nexus.get_task_by_id(f"T{one}").lease_expires_at for one in range(3)] == [until] * 3  # type: ignore[union-attr]
    noted = [nexus.attempts(f"T{one}")[0] for one in range(3)]
    assert [one.heartbeat_at for one in noted] == [clock()] * 3
    assert [one.note for one in noted] == ["page 1", None, 'a "quoted" \\ \N{REPLACEMENT CHARACTER} Ünïcode']
    nexus.heartbeat_many([(claim, None) for claim in claims])
    assert nexus.attempts("T0")[0].note == "page 1", "a beat without a note leaves the last one"


def test_each_lease_keeps_the_length_that_its_claim_has(nexus: TaskNexus, clock: Clock) -> None:
    nexus.add_tasks([{"task_id": "short"}, {"task_id": "long"}])
    claims = [nexus.claim_task("short", "Ada", lease_seconds=5), nexus.claim_task("long", "Bob", lease_seconds=600)]
    clock.advance(1)
    nexus.heartbeat_many([(claim, None) for claim in claims])
    left = [nexus.current_claim(name).lease_expires_at - clock() for name in ("short", "long")]
    assert left == [timedelta(seconds=5), timedelta(seconds=600)]


def test_one_that_is_lost_keeps_no_other_from_being_renewed(nexus: TaskNexus, at_work: Any, clock: Clock) -> None:
    claims = at_work(6)
    clock.advance(50)
    nexus.cancel("T0", "not needed any more")
    nexus.lose(claims[1], "frozen")
    newer = nexus.claim_task("T1", "Bob")
    nexus.complete(claims[2], "done")
    nexus.block("T3", "ask the customer first")
    gone = claims[4].model_copy(update={"task_id": "nobody's"})

    ends = nexus.heartbeat_many([*((claim, None) for claim in claims), (gone, None), (newer, "Bob is at it")])

    lost = ["cancel", "ClaimLost", "ClaimLost", "ClaimLost"]
    assert [told(end) for end in ends] == [*lost, "renewed", "renewed", "TaskNotFound", "renewed"]
    one_by_one = []
    for claim in (*claims[1:4], gone):
        with pytest.raises((ClaimLost, TaskNotFound)) as alone:
            nexus.heartbeat(claim)
        one_by_one.append(str(alone.value))
    assert [str(end) for end in (*ends[1:4], ends[6])] == one_by_one


def test_a_note_that_is_no_text_is_refused_before_anything_is_renewed(
    nexus: TaskNexus, at_work: Any, clock: Clock
) -> None:
    claims = at_work(2)
    clock.advance(50)
    with pytest.raises(InvalidTask, match="50, which is no text"):
        nexus.heartbeat_many([(claims[0], "fine"), (claims[1], 50)])  # type: ignore[list-item] # that is the point
    assert nexus.current_claim("T0").lease_expires_at == claims[0].lease_expires_at


def test_nothing_is_renewed_where_nothing_is_held(nexus: TaskNexus) -> None:
    assert nexus.heartbeat_many([]) == []


def test_a_task_that_somebody_else_is_writing_holds_up_no_other(nexus: TaskNexus, at_work: Any, clock: Clock) -> None:
    if nexus._database.is_sqlite:
        pytest.skip("SQLite locks the file, not the row")
    claims = at_work(3)
    clock.advance(50)
    ends: list[object] = []
    beat = threading.Thread(target=lambda: ends.extend(nexus.heartbeat_many([(claim, "on") for claim in claims])))

    with held_still(nexus, "T0"):
        beat.start()
        beat.join(20)
        assert [told(end) for end in ends] == ["TaskBusy", "renewed", "renewed"], "it waited"

    assert isinstance(ends[0], TaskBusy)
    assert nexus.current_claim("T0").lease_expires_at == claims[0].lease_expires_at
    assert [told(end) for end in nexus.heartbeat_many([(claims[0], "on")])] == ["renewed"]


def test_what_is_renewed_together_is_one_statement(nexus: TaskNexus, at_work: Any) -> None:
    claims = at_work(3)
    writes: list[str] = []

    @sa.event.listens_for(nexus._database.engine, "before_cursor_execute")
    def note(_c: Any, _cursor: Any, statement: str, _p: Any, _context: Any, _many: bool) -> None:
        if statement.startswith(("UPDATE", "WITH", "SELECT")):
            writes.append(statement)

    nexus.heartbeat_many([(claim, "on") for claim in claims])
    sa.event.remove(nexus._database.engine, "before_cursor_execute", note)
    assert len(writes) == 1
