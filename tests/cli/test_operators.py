"""cancel, retry, approve, reject, block, unblock, sweep: what they do, say and refuse."""

from collections.abc import Callable

import pytest

from nexus import SweepReport, Task, TaskNexus, TaskStatus

from .conftest import Said


@pytest.fixture
def task(board: TaskNexus) -> str:
    """A pending task; its id."""
    board.add_task({"task_id": "T1"})
    return "T1"


@pytest.fixture
def reviewed(board: TaskNexus) -> str:
    """A task that Ada did and that waits for a review; its id."""
    board.add_task({"task_id": "R1", "requires_review": True})
    claim = board.claim_task("R1", "Ada")
    board.start(claim)
    board.complete(claim, "a draft")
    return "R1"


def test_cancel_and_retry(done: Callable[..., Said], refused: Callable[..., str], board: TaskNexus, task: str) -> None:
    assert done("cancel", task, "--reason", "not wanted", "--by", "Eve").line == "T1: cancelled."
    assert (board.get_task_by_id(task).reason, board.history(task)[-1].actor) == ("not wanted", "Eve")
    assert refused("cancel", task) == "Cannot cancel task 'T1': it is cancelled. From cancelled it can: retry."
    assert Task.model_validate(done("retry", task, "--by", "Eve", "--json").data) == board.get_task_by_id(task)
    assert board.get_task_by_id(task).status == TaskStatus.PENDING
    assert "it is pending" in refused("retry", task)


def test_block_and_unblock(done: Callable[..., Said], refused: Callable[..., str], board: TaskNexus, task: str) -> None:
    assert done("block", task, "--reason", "no paint", "--by", "Eve").line == "T1: blocked."
    assert "no paint" in done("explain", task).out
    assert refused("block", task, "--reason", "x").startswith("Cannot block task 'T1': it is blocked.")
    assert done("unblock", task).line == "T1: pending."
    assert "it is pending" in refused("unblock", task)


def test_approve(done: Callable[..., Said], refused: Callable[..., str], board: TaskNexus, reviewed: str) -> None:
    assert "Ada" in refused("approve", reviewed, "--by", "Ada"), "nobody approves their own work"
    assert done("approve", reviewed, "--by", "Eve", "--note", "fine").line == "R1: completed."
    assert board.get_task_by_id(reviewed).result == "a draft"
    assert "it is completed" in refused("reject", reviewed, "--by", "Eve", "--note", "x")


def test_reject(done: Callable[..., Said], refused: Callable[..., str], board: TaskNexus, reviewed: str) -> None:
    assert "Ada" in refused("reject", reviewed, "--by", "Ada", "--note", "x")
    assert "'--note'" in refused("reject", reviewed, "--by", "Eve", code=2)
    assert done("reject", reviewed, "--by", "Eve", "--note", "too short").line == "R1: pending."
    assert board.get_task_by_id(reviewed).reason == "too short"
    assert "it is pending" in refused("approve", reviewed, "--by", "Eve")


def test_sweep(done: Callable[..., Said], board: TaskNexus, task: str) -> None:
    claim = board.claim_task(task, "Ada", lease_seconds=0.001)
    board.start(claim)
    said = done("sweep")
    assert [line.split()[:2] for line in said.out.splitlines()] == [["task", "action"], ["T1", "expire"]]
    assert said.line == "Looked at 1, acted on 1."
    again = SweepReport.model_validate(done("sweep", "--json").data)
    assert (again.scanned, again.items) == (0, ())


@pytest.mark.parametrize(
    ("strategy", "counted"),
    [("log_only", "logged"), ("mark_stalled", "stalled"), ("reassign", "reassigned"), ("escalate", "escalated")],
)
def test_sweep_acts_on_what_waits_too_long_once(
    done: Callable[..., Said], board: TaskNexus, task: str, strategy: str, counted: str
) -> None:
    board.add_task({"task_id": "T2", "assigned_to": "Gone"})
    board.cancel(task)
    words = ("sweep", "--strategy", strategy, "--pending-timeout", "0.001", "--json")
    report = SweepReport.model_validate(done(*words).data)
    assert (getattr(report, counted), [item.task_id for item in report.items]) == (1, ["T2"])
    again = SweepReport.model_validate(done(*words).data)
    assert "T2" not in [item.task_id for item in again.items]
