"""The table of legal moves, and the facade's obedience to it."""

from collections.abc import Callable
from typing import Any

import pytest

from nexus import Claim, TaskMonitoringConfig, TaskNexus, TaskStatus
from nexus.errors import ClaimLost, IllegalTransition, NexusError, TaskNotFound
from nexus.states import HELD, TERMINAL, TRANSITIONS, Verb, verbs_from

DESIGN = {
    Verb.CLAIM: ("pending", "claimed"),
    Verb.START: ("claimed", "in_progress"),
    Verb.COMPLETE: ("in_progress", "completed in_review"),
    Verb.FAIL: ("in_progress", "pending failed"),
    Verb.RELEASE: ("claimed in_progress", "pending"),
    Verb.EXPIRE: ("claimed in_progress", "pending failed"),
    Verb.STALL: ("pending", "stalled"),
    Verb.ABANDON: ("pending stalled", "failed"),
    Verb.APPROVE: ("in_review", "completed"),
    Verb.REJECT: ("in_review", "pending"),
    Verb.BLOCK: ("pending claimed in_progress", "blocked"),
    Verb.UNBLOCK: ("blocked", "pending"),
    Verb.CANCEL: ("pending claimed in_progress blocked in_review stalled", "cancelled"),
    Verb.RETRY: ("failed stalled cancelled", "pending"),
}

BY_HOLDER: dict[Verb, Callable[[TaskNexus, Claim], Any]] = {
    Verb.START: lambda nexus, claim: nexus.start(claim),
    Verb.COMPLETE: lambda nexus, claim: nexus.complete(claim, "late"),
    Verb.FAIL: lambda nexus, claim: nexus.fail(claim, "late"),
    Verb.RELEASE: lambda nexus, claim: nexus.release(claim, "late"),
}
BY_ANYBODY: dict[Verb, Callable[[TaskNexus], Any]] = {
    Verb.CLAIM: lambda nexus: nexus.claim_task("T1", "Bo"),
    Verb.APPROVE: lambda nexus: nexus.approve("T1", "Bo"),
    Verb.REJECT: lambda nexus: nexus.reject("T1", "Bo", "not like this"),
    Verb.BLOCK: lambda nexus: nexus.block("T1", "wait"),
    Verb.UNBLOCK: lambda nexus: nexus.unblock("T1"),
    Verb.CANCEL: lambda nexus: nexus.cancel("T1", "enough"),
    Verb.RETRY: lambda nexus: nexus.retry("T1"),
}
BY_ID: dict[str, tuple[TaskStatus, Callable[[TaskNexus], Any]]] = {
    "mark_task_completed": (TaskStatus.IN_PROGRESS, lambda nexus: nexus.mark_task_completed("T1", 1)),
    "mark_task_failed": (TaskStatus.IN_PROGRESS, lambda nexus: nexus.mark_task_failed("T1", "no")),
}


def test_the_table_is_the_designs() -> None:
    table = {
        verb: ({str(state) for state in move.sources}, {str(state) for state in move.targets})
        for verb, move in TRANSITIONS.items()
    }
    assert table == {verb: (set(sources.split()), set(targets.split())) for verb, (sources, targets) in DESIGN.items()}


def test_the_table_is_well_formed() -> None:
    assert set(TRANSITIONS) == set(Verb)
    reached = {target for move in TRANSITIONS.values() for target in move.targets}
    assert reached == set(TaskStatus), "every state can be reached"
    assert {state for state in TaskStatus if not verbs_from(state)} == {TaskStatus.COMPLETED}
    for verb, move in TRANSITIONS.items():
        assert move.sources, f"{verb} starts somewhere"
        assert not move.sources & TERMINAL or verb == Verb.RETRY, f"{verb} leaves what is final for agents"
        if move.fenced:
            assert move.sources <= HELD, f"{verb} needs a live claim"


def test_every_verb_has_a_test() -> None:
    assert set(BY_HOLDER) | set(BY_ANYBODY) | {Verb.EXPIRE, Verb.STALL, Verb.ABANDON} == set(Verb)
    assert {verb for verb, move in TRANSITIONS.items() if move.fenced} == set(BY_HOLDER)


@pytest.mark.parametrize(
    ("verb", "status"),
    [(verb, status) for verb in BY_ANYBODY for status in TaskStatus if status not in TRANSITIONS[verb].sources],
)
def test_what_the_table_does_not_allow_is_refused_and_changes_nothing(
    nexus: TaskNexus, bring_to: Any, everything: Any, verb: Verb, status: TaskStatus
) -> None:
    bring_to("T1", status)
    nexus.confirm_agent("Bo")
    before = everything()
    with pytest.raises(IllegalTransition) as refused:
        BY_ANYBODY[verb](nexus)
    assert everything() == before
    assert (refused.value.task_id, refused.value.verb, refused.value.status) == ("T1", verb, status)


@pytest.mark.parametrize(
    ("verb", "status"),
    [
        (verb, status)
        for verb in BY_HOLDER
        for status in (TaskStatus.CLAIMED, TaskStatus.IN_PROGRESS)
        if status not in TRANSITIONS[verb].sources
    ],
)
def test_a_holder_who_takes_the_wrong_step_is_told_so_and_keeps_the_claim(
    nexus: TaskNexus, bring_to: Any, everything: Any, verb: Verb, status: TaskStatus
) -> None:
    claim = bring_to("T1", status)
    before = everything()
    with pytest.raises(IllegalTransition):
        BY_HOLDER[verb](nexus, claim)
    assert everything() == before
    assert nexus.heartbeat(claim).cancel_requested is False


@pytest.mark.parametrize("verb", BY_HOLDER)
@pytest.mark.parametrize("status", [TaskStatus.COMPLETED, TaskStatus.IN_REVIEW, TaskStatus.FAILED])
def test_a_holder_who_has_finished_cannot_go_on(
    nexus: TaskNexus, bring_to: Any, everything: Any, verb: Verb, status: TaskStatus
) -> None:
    claim = bring_to("T1", status)
    before = everything()
    with pytest.raises(IllegalTransition):
        BY_HOLDER[verb](nexus, claim)
    assert everything() == before


TAKEN_AWAY: dict[str, Callable[[TaskNexus, Claim], Any]] = {
    "blocked": lambda nexus, claim: nexus.block("T1", "wait"),
    "cancelled": lambda nexus, claim: nexus.cancel("T1", "enough"),
    "released": lambda nexus, claim: nexus.release(claim),
    "unblocked": lambda nexus, claim: (nexus.block("T1", "wait"), nexus.unblock("T1")),
    "retried": lambda nexus, claim: (nexus.cancel("T1", "enough"), nexus.retry("T1")),
    "claimed by another": lambda nexus, claim: (nexus.release(claim), nexus.claim_task("T1", "Bo")),
    "started by another": lambda nexus, claim: (
        nexus.release(claim),
        nexus.start(nexus.claim_task("T1", "Bo")),
    ),
    "claimed by oneself again": lambda nexus, claim: (nexus.release(claim), nexus.claim_task("T1", "Ada")),
}


@pytest.mark.parametrize("verb", BY_HOLDER)
@pytest.mark.parametrize("how", TAKEN_AWAY)
@pytest.mark.parametrize("status", [TaskStatus.CLAIMED, TaskStatus.IN_PROGRESS])
def test_whose_claim_was_taken_away_has_lost_it(
    nexus: TaskNexus, bring_to: Any, everything: Any, verb: Verb, how: str, status: TaskStatus
) -> None:
    claim = bring_to("T1", status)
    TAKEN_AWAY[how](nexus, claim)
    before = everything()
    with pytest.raises(ClaimLost) as lost:
        BY_HOLDER[verb](nexus, claim)
    assert (lost.value.task_id, lost.value.claim_no) == ("T1", claim.claim_no)
    after = everything()
    before.pop("nexus_attempts"), after.pop("nexus_attempts")  # a late result is kept there
    assert after == before


@pytest.mark.parametrize(
    ("verb", "status"), [(verb, status) for verb in BY_ID for status in TaskStatus if status != BY_ID[verb][0]]
)
def test_the_origins_verbs_obey_the_table(
    nexus: TaskNexus, bring_to: Any, everything: Any, verb: str, status: TaskStatus
) -> None:
    bring_to("T1", status)
    before = everything()
    with pytest.raises(IllegalTransition):
        BY_ID[verb][1](nexus)
    assert everything() == before


@pytest.mark.parametrize("status", [state for state in TaskStatus if state not in (TaskStatus.PENDING, *HELD)])
def test_what_is_not_offered_cannot_be_put_in_progress(nexus: TaskNexus, bring_to: Any, status: TaskStatus) -> None:
    bring_to("T1", status)
    with pytest.raises(IllegalTransition):
        nexus.mark_task_in_progress("T1", "Bo")


@pytest.mark.parametrize("status", [state for state in TaskStatus if state not in (TaskStatus.PENDING, *HELD)])
@pytest.mark.parametrize("strategy", ["mark_stalled", "reassign", "log_only"])
def test_the_sweep_leaves_alone_what_the_table_gives_it_no_hold_on(
    nexus: TaskNexus, bring_to: Any, everything: Any, clock: Any, status: TaskStatus, strategy: str
) -> None:
    bring_to("T1", status)
    clock.advance(30 * 86_400)
    before = everything()
    report = nexus.sweep(TaskMonitoringConfig(escalation_strategy=strategy))
    assert (report.scanned, report.items) == (0, ())
    after = everything()
    assert len(after["nexus_stalls"]) == len(before["nexus_stalls"])
    del before["nexus_stalls"], after["nexus_stalls"]  # with other settings its next step is reckoned again: none
    assert after == before


@pytest.mark.parametrize("verb", [*BY_HOLDER, *BY_ANYBODY])
def test_a_task_that_does_not_exist_is_not_found(nexus: TaskNexus, bring_to: Any, verb: Verb) -> None:
    claim = bring_to("T2", TaskStatus.IN_PROGRESS)
    with pytest.raises(TaskNotFound) as missing:
        if verb in BY_HOLDER:
            BY_HOLDER[verb](nexus, claim.model_copy(update={"task_id": "T1"}))
        else:
            BY_ANYBODY[verb](nexus)
    assert missing.value.task_id == "T1"


def test_a_refusal_says_what_is_possible_instead() -> None:
    error = IllegalTransition("T1", Verb.APPROVE, TaskStatus.STALLED, allowed=verbs_from(TaskStatus.STALLED))
    assert str(error) == "Cannot approve task 'T1': it is stalled. From stalled it can: cancel, retry."
    assert str(IllegalTransition("T1", "cancel", "completed")) == (
        "Cannot cancel task 'T1': it is completed. completed is final."
    )
    assert isinstance(error, NexusError)
