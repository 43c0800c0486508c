"""The history of a task, wherever its parts stand: on the task, on its attempts, in lines of its own."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import sqlalchemy as sa

from nexus import TaskNexus, TaskStatus
from nexus.boards import read_board
from nexus.rows import fields_of, task_of, to_task
from nexus.tables import history, tasks


def verbs(nexus: TaskNexus, task_id: str = "T1") -> list[str]:
    """What was done to a task, in order."""
    return [event.verb for event in nexus.history(task_id)]


def lines(nexus: TaskNexus) -> int:
    """How many moves were written down."""
    with nexus._database.engine.connect() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(history)).scalar_one()


def test_ordinary_work_needs_no_line(nexus: TaskNexus, clock: Any) -> None:
    nexus.add_task({"task_id": "T1"}, actor="Grace")
    clock.advance(5)
    claim = nexus.claim_task("T1", "Ada")
    clock.advance(1)
    nexus.start(claim)
    clock.advance(1)
    nexus.complete(claim, 1)
    told = [(one.verb, one.from_status, one.to_status, one.actor, one.claim_no) for one in nexus.history("T1")]
    assert told == [
        ("add", None, "pending", "Grace", 0),
        ("claim", "pending", "claimed", "Ada", 1),
        ("start", "claimed", "in_progress", "Ada", 1),
        ("complete", "in_progress", "completed", "Ada", 1),
    ]
    assert [one.waited_seconds for one in nexus.history("T1")] == [None, 5, None, None]
    moments = [one.at for one in nexus.history("T1")]
    assert [(after - before).total_seconds() for before, after in pairwise(moments)] == [5, 1, 1]
    assert lines(nexus) == 0


def test_what_goes_on_is_in_it(nexus: TaskNexus) -> None:
    nexus.add_task({"task_id": "T1"})
    claim = nexus.claim_task("T1", "Ada")
    assert verbs(nexus) == ["add", "claim"]
    nexus.start(claim)
    assert verbs(nexus) == ["add", "claim", "start"]


ENDS: dict[str, Callable[[TaskNexus, Any, Any], object]] = {
    "release": lambda nexus, claim, _: nexus.release(claim, "lunch"),
    "block": lambda nexus, *_: nexus.block("T1", "wait"),
    "cancel": lambda nexus, *_: nexus.cancel("T1"),
    "expire": lambda nexus, _, clock: (clock.advance(61), nexus.sweep()),
}


@pytest.mark.parametrize("begun", [False, True], ids=["claimed", "at work"])
@pytest.mark.parametrize("verb", ENDS)
def test_a_claim_is_in_it_however_it_ended(nexus: TaskNexus, clock: Any, verb: str, begun: bool) -> None:
    nexus.add_task({"task_id": "T1"})
    clock.advance(3)
    claim = nexus.claim_task("T1", "Ada")
    if begun:
        nexus.start(claim)
    before = nexus.history("T1")
    ENDS[verb](nexus, claim, clock)
    after = nexus.history("T1")
    assert after[: len(before)] == before, "what was said of it stays, word for word"
    assert [one.verb for one in after[len(before) :]] == [verb]
    assert after[1].waited_seconds == 3
    assert len(nexus.attempts("T1")) == begun


def test_many_moves_in_one_moment_stay_in_their_order(nexus: TaskNexus) -> None:
    nexus.add_task({"task_id": "T1", "retry_policy": {"max_attempts": 9, "backoff_seconds": 0}})
    for _ in range(2):
        claim = nexus.claim_task("T1", "Ada")
        nexus.start(claim)
        nexus.fail(claim, "no")
        nexus.release(nexus.claim_task("T1", "Ada"))
        nexus.block("T1", "wait")
        nexus.unblock("T1")
    nexus.complete(nexus.claim("Ada", start=True)[0])
    once = ["claim", "start", "fail", "claim", "release", "block", "unblock"]
    assert verbs(nexus) == ["add", *once, *once, "claim", "start", "complete"]
    for before, after in pairwise(nexus.history("T1")):
        assert after.from_status == before.to_status


def test_a_completion_that_led_to_a_review_says_so(nexus: TaskNexus, at_work: Any) -> None:
    nexus.add_task({"task_id": "T1", "requires_review": True})
    nexus.complete(at_work("T1"))
    assert nexus.history("T1")[-1].to_status == "in_review"
    nexus.reject("T1", "Grace", "once more")
    nexus.complete(at_work("T1"))
    nexus.approve("T1", "Grace")
    worked = ["claim", "start", "complete"]
    assert verbs(nexus) == ["add", *worked, "reject", *worked, "approve"]


def test_an_escalation_was_added_by_the_sweep(nexus: TaskNexus, clock: Any) -> None:
    nexus.add_task({"task_id": "T1"})
    clock.advance(3601)
    nexus.sweep(nexus.settings.monitoring.model_copy(update={"escalation_strategy": "escalate"}))
    [asked] = nexus.get_all_tasks(tag="escalation")
    assert [(one.verb, one.actor) for one in nexus.history(asked.task_id)] == [("add", "sweep")]


def test_of_what_was_imported_as_held_only_the_end_is_known(nexus: TaskNexus, tmp_path: Any) -> None:
    board = tmp_path / "board.json"
    board.write_text('{"tasks": [{"task_id": "T1", "status": "in_progress", "agent": "Ada"}]}')
    nexus.import_board(read_board(board))
    assert verbs(nexus) == ["import"]
    [attempt] = nexus.attempts("T1")
    assert (attempt.agent_id, attempt.outcome, attempt.note) == ("Ada", "running", "imported as in progress")
    nexus.complete(nexus.current_claim("T1"), "done")
    assert verbs(nexus) == ["import", "complete"]
    assert nexus.attempts("T1")[0].outcome == "completed"


@pytest.mark.parametrize("status", TaskStatus)
def test_a_row_is_the_same_value_whichever_way_it_is_read(nexus: TaskNexus, bring_to: Any, status: TaskStatus) -> None:
    bring_to("T1", status)
    with nexus._database.engine.connect() as connection:
        kept = connection.execute(sa.select(*fields_of(tasks))).one()
        read = connection.execute(sa.select(tasks)).one()
    assert task_of(kept) == to_task(read) == nexus.get_task_by_id("T1")
    assert repr(task_of(kept)) == repr(to_task(read))


def test_a_row_with_everything_in_it(nexus: TaskNexus, clock: Any) -> None:
    nexus.add_task(
        {
            "task_id": "T1",
            "payload": {"b": [1, 2.0, None], "a": "ü"},
            "tags": ["x", "y"],
            "required_capabilities": ["gpu"],
            "depends_on": [],
            "deadline": "1970-01-01T00:00:00Z",
            "timeout_seconds": 1.5,
            "requires_review": True,
            "retry_policy": {"non_retryable": ["ValueError"]},
            "idempotency_key": "key",
            "episode_id": "EP07",
            "unknown": {"kept": 1},
        }
    )
    nexus.register_agent("Ada", ["gpu"])
    [claim] = nexus.claim("Ada", start=True, run_ref={"flow_run_id": "1"})
    assert claim.task == nexus.get_task_by_id("T1")
    assert claim == nexus.current_claim("T1")
    assert nexus.complete(claim, {"b": 1, "a": [2.50]}) == nexus.get_task_by_id("T1")
    assert list(nexus.get_task_by_id("T1").result) == ["b", "a"], "in the order in which it came"
