"""Work that somebody else has to look at before it counts."""

from typing import Any

import pytest

from nexus import Claim, TaskNexus
from nexus.errors import ClaimLost, IllegalTransition, InvalidTask


@pytest.fixture
def in_review(nexus: TaskNexus, at_work: Any) -> Claim:
    """T1, done by Ada, with a result; T2 waits for it."""
    nexus.add_tasks([{"task_id": "T1", "requires_review": True}, {"task_id": "T2", "depends_on": ["T1"]}])
    claim = at_work("T1", "Ada")
    nexus.complete(claim, "draft")
    return claim


def test_done_is_not_completed(nexus: TaskNexus, in_review: Claim) -> None:
    task = nexus.get_task_by_id("T1")
    assert (task.status, task.result, task.claimed_by, task.lease_expires_at) == ("in_review", "draft", "Ada", None)
    assert nexus.attempts("T1")[0].outcome == "completed", "the attempt did what was asked"


def test_somebody_else_approves(nexus: TaskNexus, in_review: Claim, clock: Any) -> None:
    clock.advance(100)
    task = nexus.approve("T1", "Rita", "well done")
    assert (task.status, task.result, task.claimed_by, task.reason) == ("completed", "draft", "Ada", "well done")
    event = nexus.history("T1")[-1]
    assert (event.verb, event.actor, event.reason, event.from_status) == ("approve", "Rita", "well done", "in_review")
    freed = nexus.get_task_by_id("T2")
    assert freed.available_at == clock(), "it waits since the approval"
    assert nexus.claim_task("T2", "Ada")


def test_a_rejection_carries_its_note_to_the_next_attempt(nexus: TaskNexus, in_review: Claim, clock: Any) -> None:
    clock.advance(100)
    task = nexus.reject("T1", "Rita", "the sources are missing")
    assert (task.status, task.claimed_by, task.pending_since) == ("pending", None, clock())
    assert task.failure_count == 0, "a rejection is no failure"
    claim = nexus.claim_task("T1", "Bo")
    assert claim.task.reason == "the sources are missing"
    assert nexus.start(claim).number == 2
    assert nexus.get_task_by_id("T1").reason == "the sources are missing"
    task = nexus.complete(claim, "second draft")
    assert (task.status, task.result, task.reason) == ("in_review", "second draft", None)


def test_a_rejected_result_is_not_the_tasks_result(nexus: TaskNexus, in_review: Claim, at_work: Any) -> None:
    task = nexus.reject("T1", "Rita", "no")
    assert task.result is None
    assert nexus.results(["T1"]) == {"T1": None}
    assert nexus.attempts("T1")[0].result == "draft", "it is kept with the attempt that made it"
    nexus.cancel("T1")
    assert nexus.get_task_by_id("T1").result is None


@pytest.mark.parametrize("verb", ["approve", "reject"])
def test_nobody_reviews_their_own_work(nexus: TaskNexus, in_review: Claim, everything: Any, verb: str) -> None:
    before = everything()
    with pytest.raises(IllegalTransition, match="Ada did it; somebody else has to review it"):
        getattr(nexus, verb)("T1", "Ada", "mine is good")
    assert everything() == before


@pytest.mark.parametrize("verb", ["approve", "reject"])
@pytest.mark.parametrize("name", [" Ada", "Ada ", "\tAda\n"])
def test_blanks_around_a_name_make_no_second_reviewer(
    nexus: TaskNexus, in_review: Claim, everything: Any, verb: str, name: str
) -> None:
    before = everything()
    with pytest.raises(IllegalTransition, match="Ada did it"):
        getattr(nexus, verb)("T1", name, "mine is good")
    assert everything() == before


@pytest.mark.parametrize("nobody", ["", "  ", "a\x00b"])
def test_a_reviewer_has_a_name(nexus: TaskNexus, in_review: Claim, nobody: str) -> None:
    with pytest.raises(InvalidTask, match="reviewer"):
        nexus.approve("T1", nobody)


def test_who_did_it_the_first_time_may_review_the_second(nexus: TaskNexus, in_review: Claim, at_work: Any) -> None:
    nexus.reject("T1", "Rita", "no")
    nexus.complete(at_work("T1", "Bo"), "better")
    with pytest.raises(IllegalTransition):
        nexus.approve("T1", "Bo")
    assert nexus.approve("T1", "Ada").status == "completed"


def test_who_sends_a_reviewed_result_again_changes_nothing(
    nexus: TaskNexus, in_review: Claim, at_work: Any, everything: Any
) -> None:
    """Its attempt was completed with a result; that is no late one."""
    nexus.reject("T1", "Rita", "no")
    at_work("T1", "Bo")
    before = everything()
    with pytest.raises(ClaimLost):
        nexus.complete(in_review, "draft, sent again")
    assert everything() == before


def test_a_review_is_done_once(nexus: TaskNexus, in_review: Claim) -> None:
    nexus.approve("T1", "Rita")
    for review in (lambda: nexus.approve("T1", "Rita"), lambda: nexus.reject("T1", "Rita", "wait, no")):
        with pytest.raises(IllegalTransition, match="it is completed"):
            review()


def test_what_is_in_review_can_be_cancelled(nexus: TaskNexus, in_review: Claim) -> None:
    task = nexus.cancel("T1", "not needed")
    assert (task.status, task.result) == ("cancelled", "draft")
    assert nexus.attempts("T1")[0].outcome == "completed", "how the attempt ended does not change any more"


def test_the_sweep_does_not_touch_what_is_in_review(nexus: TaskNexus, in_review: Claim, clock: Any) -> None:
    clock.advance(30 * 86_400)
    report = nexus.sweep()
    assert (report.scanned, report.items) == (0, ())
