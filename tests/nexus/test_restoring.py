"""What a board brings with a past behind it lives on here as it did there."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from nexus import AttemptOutcome, Claim, TaskNexus
from nexus.boards import write_board

from .conftest import Load

WAYS_TO_END = {
    "complete": lambda nexus, claim: nexus.complete(claim, "done"),
    "fail": lambda nexus, claim: nexus.fail(claim, "no luck"),
    "release": lambda nexus, claim: nexus.release(claim),
    "cancel": lambda nexus, claim: nexus.cancel(claim.task_id, "not needed"),
    "block": lambda nexus, claim: nexus.block(claim.task_id, "no key"),
}


@pytest.fixture
def held_by_ada(nexus: TaskNexus, load: Load) -> Claim:
    """What a board said Ada has claimed."""
    load([{"task_id": "T", "status": "claimed", "claimed_by": "Ada"}])
    return nexus.current_claim("T", "Ada")


@pytest.mark.parametrize("way", WAYS_TO_END)
def test_what_came_as_claimed_is_started_and_ended_like_any_other(
    nexus: TaskNexus, held_by_ada: Claim, way: str
) -> None:
    nexus.start(held_by_ada)
    WAYS_TO_END[way](nexus, held_by_ada)
    [attempt] = nexus.attempts("T")
    assert attempt.agent_id == "Ada"
    assert attempt.outcome is not AttemptOutcome.RUNNING
    assert nexus.doctor() == []


def test_what_came_as_claimed_comes_back_when_its_holder_dies(
    nexus: TaskNexus, held_by_ada: Claim, clock: Any, statuses: Callable[..., Sequence[str]]
) -> None:
    nexus.start(held_by_ada)
    clock.advance(61)
    report = nexus.sweep()
    assert (report.expired, [item.action for item in report.items if item.action == "skip"]) == (1, [])
    assert statuses("T") == ["pending"]
    assert [(attempt.agent_id, attempt.outcome) for attempt in nexus.attempts("T")] == [("Ada", AttemptOutcome.LOST)]


@pytest.mark.parametrize("started", [False, True])
def test_a_claim_that_was_live_in_an_export_goes_on_where_it_is_imported(
    nexus: TaskNexus, open_board: Callable[..., TaskNexus], tmp_path: Path, started: bool
) -> None:
    nexus.add_task({"task_id": "T"})
    claim = nexus.claim_task("T", "Ada")
    if started:
        nexus.start(claim)
    write_board(tmp_path / "export.json", nexus.get_all_tasks(), nexus.attempts_by_task(["T"]))

    other = open_board(f"sqlite:///{tmp_path / 'other.db'}")
    other.import_board(other.read_board(tmp_path / "export.json"))
    if not started:
        other.start(claim)
    assert other.complete(claim, "done").status == "completed"
    assert [attempt.agent_id for attempt in other.attempts("T")] == ["Ada"]
    assert other.doctor() == []


@pytest.mark.parametrize(
    "edit",
    [
        {"available_at": "2030-01-01T00:00:00Z"},
        {"available_at": None},
        {"pending_since": "2199-01-01T00:00:00Z"},
        {"pending_since": "2199-01-01T00:00:00Z", "available_at": None},
    ],
    ids=str,
)
def test_an_edited_export_comes_in_with_every_record_and_nothing_was_claimable_before_it_was_pending(
    nexus: TaskNexus, load: Load, edit: dict[str, Any]
) -> None:
    nexus.add_tasks([{"task_id": "T"}, {"task_id": "U"}])
    exported = [task.model_dump(mode="json") for task in nexus.get_all_tasks()]
    edited = {**exported[0], "task_id": "edited", **edit}
    report = load({"nexus_board": 1, "tasks": [edited, {**exported[1], "task_id": "as it was"}]})
    assert (report.accepted, report.rejected) == (2, 0)
    task = nexus.get_task_by_id("edited")
    assert task is not None
    assert task.pending_since is not None
    assert task.available_at >= task.pending_since
