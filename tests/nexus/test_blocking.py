"""Keeping a task from being worked on, and ending it."""

from typing import Any

import pytest

from nexus import TaskNexus
from nexus.errors import ClaimLost


@pytest.mark.parametrize("status", ["pending", "claimed", "in_progress"])
def test_a_blocked_task_is_offered_to_nobody_and_says_why(nexus: TaskNexus, bring_to: Any, status: str) -> None:
    bring_to("T1", status)
    task = nexus.block("T1", "waits for the customer", actor="Olga")
    assert (task.status, task.reason, task.claimed_by) == ("blocked", "waits for the customer", None)
    assert (task.lease_expires_at, task.pending_since) == (None, None)
    assert nexus.claim("Ada") == []
    event = nexus.history("T1")[-1]
    assert (event.verb, event.from_status, event.to_status) == ("block", status, "blocked")
    assert (event.actor, event.reason) == ("Olga", "waits for the customer")


def test_blocking_takes_running_work_back_without_counting_a_failure(nexus: TaskNexus, bring_to: Any) -> None:
    claim = bring_to("T1", "in_progress")
    nexus.block("T1", "wait")
    [attempt] = nexus.attempts("T1")
    assert (attempt.outcome, attempt.error) == ("released", "wait")
    with pytest.raises(ClaimLost, match=r"blocked \(wait\)"):
        nexus.heartbeat(claim)
    task = nexus.unblock("T1")
    assert (task.failure_count, task.loss_count) == (0, 0)


def test_an_unblocked_task_waits_anew(nexus: TaskNexus, bring_to: Any, clock: Any) -> None:
    bring_to("T1", "blocked")
    clock.advance(10_000)
    task = nexus.unblock("T1", actor="Olga")
    assert (task.status, task.reason) == ("pending", None)
    assert task.pending_since == task.available_at == clock()
    assert nexus.sweep().scanned == 0
    assert nexus.claim_task("T1", "Ada").claim_no == 1


def test_an_unblocked_task_still_waits_for_its_time(nexus: TaskNexus, clock: Any) -> None:
    due = clock().replace(year=2031)
    nexus.add_task({"task_id": "T1", "available_at": due})
    nexus.block("T1", "wait")
    assert nexus.unblock("T1").available_at == due


@pytest.mark.parametrize("status", ["pending", "claimed", "in_progress", "blocked", "in_review", "stalled"])
def test_a_task_is_cancelled_from_wherever_it_stands(nexus: TaskNexus, bring_to: Any, clock: Any, status: str) -> None:
    claim = bring_to("T1", status)
    task = nexus.cancel("T1", "not needed", actor="Olga")
    assert (task.status, task.reason, task.lease_expires_at) == ("cancelled", "not needed", None)
    assert task.claimed_by == ("Ada" if claim else None), "who held it stays known"
    event = nexus.history("T1")[-1]
    assert (event.from_status, event.actor, event.at) == (status, "Olga", clock())
    assert nexus.claim("Ada") == []


def test_a_cancelled_attempt_is_closed(nexus: TaskNexus, bring_to: Any, clock: Any) -> None:
    bring_to("T1", "in_progress")
    clock.advance(3)
    nexus.cancel("T1", "not needed")
    [attempt] = nexus.attempts("T1")
    assert (attempt.outcome, attempt.finished_at, attempt.error) == ("cancelled", clock(), "not needed")


def test_reasons_are_made_fit_to_keep(nexus: TaskNexus) -> None:
    nexus.add_task({"task_id": "T1"})
    assert nexus.block("T1", "a\x00b").reason == "a\N{REPLACEMENT CHARACTER}b"
