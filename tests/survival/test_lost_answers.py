"""A COMMIT whose answer is lost (PostgreSQL): every verb is done once, and says what it would have said anyway.

One long story is told twice, over a wire that loses nothing, and over one that is cut in the middle of every
single write.
What the verbs said, and what stands on the board at the end, must be the same.
"""

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import count, cycle
from pathlib import Path
from typing import Any

import pytest

from nexus import Claim, NexusSettings, TaskMonitoringConfig, TaskNexus
from nexus.boards import read_board
from nexus.engine import Database
from nexus.errors import DatabaseUnavailable, NexusError

from .wire import Wire

LADDER = TaskMonitoringConfig(
    pending_timeout_seconds=60,
    policies=[
        {"name": "all", "steps": ["log_only", "notify", "reassign", "escalate", {"action": "fail", "after_seconds": 9}]}
    ],
)
SETTINGS = NexusSettings(lease_seconds=60, retry={"backoff_seconds": 0, "jitter": 0}, monitoring=LADDER)

BOARD = '{"tasks": [{"task_id": "imported", "status": "done"}, {"task_id": "second", "depends_on": ["imported"]}]}'


@pytest.fixture
def nexus(wire: Wire) -> Iterator[TaskNexus]:
    """A board at the other end of the wire, on the database's clock."""
    with TaskNexus(wire.url, settings=SETTINGS) as nexus:
        yield nexus


def story(nexus: TaskNexus) -> Iterator[Any]:
    """Every verb that writes; what each of them said."""
    yield nexus.register_agent("Ada", ["python"], 50).max_concurrency
    yield nexus.confirm_agent("Ada", task_types=["task", "generic"]).agent_id
    yield nexus.add_task({"description": "without an id"}).description
    yield nexus.add_task({"task_id": "T1", "priority": 1, "requires_review": True}, actor="Grace").task_id
    yield nexus.add_task({"task_id": "keyed", "idempotency_key": "k"}).task_id
    yield nexus.add_tasks([{"task_id": "T2"}, {"task_id": "T3", "depends_on": ["T2"]}])
    yield nexus.import_board(read_board(Path("board.json"))).accepted
    yield nexus.import_board(read_board(Path("board.json"))).unchanged

    [claim] = nexus.claim("Ada", task_types=None, episode_id=None)
    yield claim.task_id, claim.claim_no
    yield nexus.start(claim, {"flow_run": 1}).number
    yield nexus.heartbeat(claim, "half way").cancel_requested
    yield nexus.complete(claim, {"pages": 12}).status
    yield nexus.reject("T1", "Grace", "once more").status
    yield nexus.mark_task_in_progress("T1", "Ada").status
    yield nexus.mark_task_completed("T1", "better").status
    yield nexus.approve("T1", "Grace").status

    for last in ("again", "for ever"):
        claim = nexus.claim_task("T2", "Ada")
        nexus.start(claim)
        error = RuntimeError(last)
        error.retryable = last == "again"  # type: ignore[attr-defined]
        yield nexus.fail(claim, error).failure_count
    yield nexus.retry("T2", actor="Grace").status
    yield nexus.release(nexus.claim_task("T2", "Ada"), "lunch").status
    yield nexus.block("T2", "wait", actor="Grace").status
    yield nexus.unblock("T2", actor="Grace").status
    yield nexus.cancel("T2", "no use", actor="Grace").status
    yield nexus.pause("generic", "freeze")[0].reason
    yield nexus.resume("generic")

    dead = nexus.claim_task("keyed", "Ada", lease_seconds=1)
    nexus.start(dead)
    for hours in (2, 4, 6):
        report = nexus.sweep(now=nexus.now() + timedelta(hours=hours))
        yield sorted((item.action, item.task_id) for item in report.items if not item.task_id.startswith("0"))
    yield [refused(lambda: nexus.complete(dead, "late")), nexus.attempts("keyed")[-1].late_result]
    yield nexus.delivered(nexus.undelivered())
    yield nexus.undelivered()
    yield [refused(lambda: nexus.add_task({"task_id": "T1"}))]


def refused(verb: Callable[[], Any]) -> str:
    """The error of a verb that is to be refused."""
    try:
        verb()
    except NexusError as error:
        return type(error).__name__
    raise AssertionError("it was not refused")


def record(nexus: TaskNexus) -> list[Any]:
    """All that stands on the board, without times and drawn ids."""
    names = {task.task_id: f"task {at}" for at, task in enumerate(nexus.get_all_tasks())}
    board = [
        (
            *(names[task.task_id], task.status, task.claim_no, task.attempt_count, task.result, task.error),
            *(task.failure_count, task.loss_count, task.claimed_by),
            [
                (one.verb, one.from_status, one.to_status, one.actor, one.claim_no)
                for one in nexus.history(task.task_id)
            ],
            [(one.number, one.outcome, one.result, one.note) for one in nexus.attempts(task.task_id)],
            [[step.step for step in stall.steps] for stall in nexus.stalls(task.task_id)],
        )
        for task in nexus.get_all_tasks()
    ]
    return [board, len(nexus.sweeps()), [(agent.agent_id, agent.live_claims) for agent in nexus.agents()]]


@pytest.fixture(scope="module")
def undisturbed(make_postgres: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What the story comes to when nothing is lost."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch, TaskNexus(make_postgres("undisturbed"), settings=SETTINGS) as nexus:
        patch.chdir(folder)
        Path("board.json").write_text(BOARD)
        return [list(story(nexus)), record(nexus)]


@pytest.mark.parametrize(
    "hows",
    [["answer"], ["commit", "in time", "commit", "late"], ["work"]],
    ids=["its answer", "itself", "the work before it"],
)
def test_every_write_is_cut_off_and_nothing_is_lost_or_done_twice(
    nexus: TaskNexus, wire: Wire, undisturbed: list[Any], hows: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("board.json").write_text(BOARD)
    write, ways, messages = Database.write, cycle(hows), count()

    def write_over_a_bad_wire(*arguments: Any, **named: Any) -> Any:
        wire.lose(next(ways), after=next(messages) % 7)
        return write(*arguments, **named)

    monkeypatch.setattr(Database, "write", write_over_a_bad_wire)
    told = list(story(nexus))
    monkeypatch.undo()
    assert wire.cuts >= 35
    assert [told, record(nexus)] == undisturbed
    assert nexus.doctor() == []


AT_ONCE = ["answer", "commit", "in time", "late"]
"""What becomes of a statement that is a transaction in itself."""


@pytest.mark.parametrize("how", AT_ONCE)
@pytest.mark.parametrize("known", [False, True], ids=["the first time", "an agent that is known"])
def test_a_claim_whose_answer_was_lost_is_held_by_who_asked(
    nexus: TaskNexus, wire: Wire, how: str, known: bool
) -> None:
    if known:
        nexus.add_task({"priority": 0})
        nexus.complete(nexus.claim("Ada", start=True)[0])
    nexus.add_tasks({} for _ in range(10))
    wire.lose(how, of=b"" if known else b"COMMIT")
    claims = nexus.claim("Ada", 4)
    assert wire.cuts == 1
    assert len({claim.task_id for claim in claims}) == 4
    assert nexus.stats()["claimed"] == 4
    for claim in claims:
        assert nexus.start(claim).number == 1, "claimed once"
    assert nexus.doctor() == []


@pytest.mark.parametrize("how", AT_ONCE)
def test_starts_and_completions_whose_answers_were_lost_are_done_once(nexus: TaskNexus, wire: Wire, how: str) -> None:
    nexus.add_tasks([{"task_id": f"T{number}"} for number in range(4)] + [{"depends_on": ["T0"]}])
    claims = nexus.claim("Ada", 4)
    wire.lose(how, of=b"")
    assert [attempt.number for attempt in nexus.start_many(claims, {"flow_run": 1})] == [1] * 4
    wire.lose(how, of=b"")
    assert nexus.complete_many([(claim, {"by": claim.task_id}) for claim in claims]) == ["completed"] * 4
    assert wire.cuts == 2
    for claim in claims:
        [attempt] = nexus.attempts(claim.task_id)
        assert (attempt.outcome, attempt.result) == ("completed", {"by": claim.task_id})
        assert [event.verb for event in nexus.history(claim.task_id)] == ["add", "claim", "start", "complete"]
    assert len(nexus.claim("Ada", 4)) == 1, "who waited is free"
    assert nexus.doctor() == []


def test_a_commit_that_comes_too_late_finds_its_session_gone(nexus: TaskNexus, wire: Wire) -> None:
    """Who was cut off may not come back after the verb was done again: two ids would stand for one task."""
    wire.lose("late")
    began = time.monotonic()
    nexus.add_task({"description": "one"})
    assert time.monotonic() - began < 0.3, "nobody waited for it"
    time.sleep(0.5)
    assert [task.description for task in nexus.get_all_tasks()] == ["one"]


def test_where_nobody_can_tell_the_error_says_so(wire: Wire, postgres_url: str) -> None:
    with TaskNexus(wire.url, settings=NexusSettings(database_retry_seconds=0.3)) as nexus:
        wire.lose("answer")
        wire.close()
        with pytest.raises(DatabaseUnavailable, match="Whether this was written is not known: look, before you do"):
            nexus.add_task({"task_id": "T1"})
        with pytest.raises(DatabaseUnavailable) as known:
            nexus.add_task({"task_id": "T2"})
        assert "not known" not in str(known.value)
    with TaskNexus(postgres_url, settings=SETTINGS) as nexus:
        assert [task.task_id for task in nexus.get_all_tasks()] == ["T1"]


def test_nobody_is_held_up_by_the_locks_of_a_session_that_was_cut_off(nexus: TaskNexus, wire: Wire) -> None:
    nexus.add_task({"task_id": "T1"})
    claim: Claim = nexus.claim_task("T1", "Ada")
    wire.lose("late", of=b"")
    began = time.monotonic()
    assert nexus.start(claim).number == 1
    assert wire.cuts == 1
    assert time.monotonic() - began < 0.3
