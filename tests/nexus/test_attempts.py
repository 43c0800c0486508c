"""The life of a claim: attempts, leases, and what becomes of a task whose attempt ended."""

from datetime import timedelta
from typing import Any

import pytest

from nexus import AttemptOutcome, Failure, TaskNexus, TaskStatus
from nexus.errors import ClaimLost, IllegalTransition, InvalidTask
from nexus.retry import backoff_seconds

STEADY = {"max_attempts": 3, "backoff_seconds": 10, "multiplier": 2, "jitter": 0}


def outcomes(nexus: TaskNexus, task_id: str) -> list[str]:
    """How the attempts at a task ended, first to last."""
    return [str(attempt.outcome) for attempt in nexus.attempts(task_id)]


def test_an_attempt_from_its_start_to_its_end(nexus: TaskNexus, clock: Any) -> None:
    nexus.add_task({"task_id": "T1"})
    claim = nexus.claim_task("T1", "Ada")
    assert nexus.attempts("T1") == [], "a claim is no attempt yet"
    clock.advance(1)
    begun = nexus.start(claim, {"flow_run_id": "f1"})
    assert (begun.number, begun.claim_no, begun.agent_id, begun.outcome) == (1, 1, "Ada", "running")
    assert (begun.started_at, begun.finished_at, begun.run_ref) == (clock(), None, {"flow_run_id": "f1"})
    task = nexus.get_task_by_id("T1")
    assert (task.status, task.attempt_count) == ("in_progress", 1)
    clock.advance(5)
    task = nexus.complete(claim, {"pages": 3})
    assert (task.status, task.result, task.claimed_by) == ("completed", {"pages": 3}, "Ada")
    assert (task.lease_expires_at, task.pending_since, task.error) == (None, None, None)
    [ended] = nexus.attempts("T1")
    assert (ended.outcome, ended.result, ended.finished_at) == ("completed", {"pages": 3}, clock())
    assert nexus.results(["T1"]) == {"T1": {"pages": 3}}


@pytest.mark.parametrize("result", [None, 0, False, "", [], {}, 1.5, "ü\u2028", [None], 2**100])
def test_a_result_comes_back_as_it_was(nexus: TaskNexus, at_work: Any, result: Any) -> None:
    nexus.add_task({"task_id": "T1"})
    assert nexus.complete(at_work("T1"), result).result == result
    assert nexus.attempts("T1")[0].result == result


@pytest.mark.parametrize(
    "result",
    [float("nan"), {1}, "a\x00b", ["\ud800"], {1: 2}, object(), b"bytes", "x" * 1_048_576],
    ids=["NaN", "set", "NUL", "surrogate", "key", "object", "bytes", "large"],
)
def test_a_result_that_cannot_be_kept_is_refused_and_the_claim_holds_on(
    nexus: TaskNexus, at_work: Any, everything: Any, result: Any
) -> None:
    nexus.add_task({"task_id": "T1"})
    claim = at_work("T1")
    before = everything()
    with pytest.raises(InvalidTask, match="the result of task 'T1'"):
        nexus.complete(claim, result)
    assert everything() == before
    assert nexus.complete(claim, "good").status == "completed"


def test_a_failure_offers_the_task_again_after_the_backoff(nexus: TaskNexus, at_work: Any, clock: Any) -> None:
    nexus.add_task({"task_id": "T1", "retry_policy": STEADY})
    task = nexus.fail(at_work("T1"), ValueError("no such page"))
    assert (task.status, task.error, task.claimed_by) == ("pending", "ValueError: no such page", None)
    assert (task.failure_count, task.available_at) == (1, clock() + timedelta(seconds=10))
    [attempt] = nexus.attempts("T1")
    assert (attempt.outcome, attempt.error) == ("failed", "ValueError: no such page")
    clock.advance(9.9)
    assert nexus.claim("Ada") == []
    clock.advance(0.1)
    nexus.fail(at_work("T1"), "again")
    assert nexus.get_task_by_id("T1").available_at == clock() + timedelta(seconds=20)


def test_jitter_is_what_the_pure_policy_says(nexus: TaskNexus, at_work: Any, clock: Any) -> None:
    task = nexus.add_task({"task_id": "T1"})
    nexus.fail(at_work("T1"), "no")
    wait = (nexus.get_task_by_id("T1").available_at - clock()).total_seconds()
    assert wait == pytest.approx(backoff_seconds(task.retry_policy, 1, "T1"), abs=1e-5)
    assert wait != 10


def test_a_task_whose_attempts_are_spent_is_a_dead_letter(nexus: TaskNexus, at_work: Any, clock: Any) -> None:
    nexus.add_task({"task_id": "T1", "retry_policy": STEADY})
    for number in (1, 2, 3):
        task = nexus.fail(at_work("T1"), f"error {number}")
        clock.advance(100)
    assert (task.status, task.error, task.claimed_by, task.attempt_count) == ("failed", "error 3", "Ada", 3)
    assert outcomes(nexus, "T1") == ["failed"] * 3
    assert nexus.history("T1")[-1].reason == "3 of 3 attempts are spent: error 3"
    assert nexus.claim("Ada") == []


def test_an_operator_renews_the_budget_and_the_history_stays(nexus: TaskNexus, at_work: Any, clock: Any) -> None:
    nexus.add_task({"task_id": "T1", "retry_policy": {**STEADY, "max_attempts": 2}})
    for _ in range(2):
        nexus.fail(at_work("T1"), "no")
        clock.advance(100)
    task = nexus.retry("T1", actor="Olga")
    assert (task.status, task.failure_count, task.loss_count, task.attempt_count) == ("pending", 0, 0, 2)
    assert task.available_at == task.pending_since == clock(), "at once"
    assert nexus.history("T1")[-1].actor == "Olga"
    nexus.fail(at_work("T1"), "no")
    clock.advance(100)
    assert nexus.get_task_by_id("T1").status == "pending", "one of two again"
    nexus.complete(at_work("T1"), "at last")
    assert outcomes(nexus, "T1") == ["failed", "failed", "failed", "completed"]
    assert [attempt.number for attempt in nexus.attempts("T1")] == [1, 2, 3, 4]
    assert nexus.get_task_by_id("T1").error is None, "a completed task has no error"


@pytest.mark.parametrize(
    ("failure", "policy"),
    [
        (Failure(message="no", retryable=False), {}),
        (PermissionError("no"), {"non_retryable": ["PermissionError"]}),
        (type("GiveUp", (Exception,), {"retryable": False})("no"), {}),
    ],
)
def test_some_failures_are_final_at_once(nexus: TaskNexus, at_work: Any, failure: Any, policy: Any) -> None:
    nexus.add_task({"task_id": "T1", "retry_policy": policy})
    task = nexus.fail(at_work("T1"), failure)
    assert (task.status, task.failure_count) == ("failed", 1)


def test_a_failure_may_name_its_own_delay(nexus: TaskNexus, at_work: Any, clock: Any) -> None:
    nexus.add_task({"task_id": "T1"})
    polite = type("TooManyRequests", (Exception,), {"retry_after_seconds": 7})("429")
    task = nexus.fail(at_work("T1"), polite)
    assert task.available_at == clock() + timedelta(seconds=7)


def test_a_failure_without_delay_is_offered_at_once(nexus: TaskNexus, at_work: Any, clock: Any) -> None:
    nexus.add_task({"task_id": "T1", "retry_policy": {"backoff_seconds": 0}})
    assert nexus.fail(at_work("T1"), "no").available_at == clock()
    assert nexus.claim("Ada") != []


class Rude(Exception):
    """An exception that fails to say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no comment")

    __repr__ = __str__


def test_an_error_that_cannot_say_what_it_is_is_a_failure_all_the_same(nexus: TaskNexus, at_work: Any) -> None:
    nexus.add_task({"task_id": "T1"})
    task = nexus.fail(at_work("T1"), Rude())
    assert (task.status, task.failure_count) == ("pending", 1)
    assert task.error.startswith("Rude: ")


@pytest.mark.parametrize("wish", [-5, float("nan"), float("inf"), 10**9, "soon", True, None])
def test_a_wish_that_makes_no_sense_is_a_failure_all_the_same(nexus: TaskNexus, at_work: Any, wish: Any) -> None:
    nexus.add_task({"task_id": "T1"})
    error = type("Busy", (Exception,), {"retry_after_seconds": wish})("429")
    assert nexus.fail(at_work("T1"), error).failure_count == 1


def test_a_failure_in_foreign_words_is_made_fit_to_keep(nexus: TaskNexus, at_work: Any) -> None:
    nexus.add_task({"task_id": "T1"})
    task = nexus.fail(at_work("T1"), Failure(message="a\x00b" + "x" * 20_000, error_type="Odd\x00\ud800"))
    assert task.error.startswith("Odd\N{REPLACEMENT CHARACTER}?: a\N{REPLACEMENT CHARACTER}b")


@pytest.mark.parametrize("run_ref", [object(), {1: 2}, float("nan"), "a\x00b", ["\ud800"]])
def test_a_reference_to_a_run_is_json(nexus: TaskNexus, everything: Any, run_ref: Any) -> None:
    nexus.add_task({"task_id": "T1"})
    claim = nexus.claim_task("T1", "Ada")
    before = everything()
    with pytest.raises(InvalidTask, match="run_ref"):
        nexus.start(claim, run_ref)
    assert everything() == before
    assert nexus.start(claim, None).run_ref is None


def test_an_attempt_that_ran_out_of_time_says_so(nexus: TaskNexus, at_work: Any) -> None:
    nexus.add_task({"task_id": "T1"})
    nexus.fail(at_work("T1"), Failure(message="took 31 s", error_type="Timeout", timed_out=True))
    assert outcomes(nexus, "T1") == ["timed_out"]
    assert nexus.get_task_by_id("T1").failure_count == 1


def test_what_an_error_says_is_made_fit_to_keep(nexus: TaskNexus, at_work: Any) -> None:
    nexus.add_task({"task_id": "T1"})
    task = nexus.fail(at_work("T1"), RuntimeError("begin\x00\ud800" + "x" * 50_000 + "end"))
    assert task.error.startswith("RuntimeError: begin\N{REPLACEMENT CHARACTER}")
    assert task.error.endswith("xend")
    assert len(task.error) < 10_100
    assert "characters left out" in task.error


def test_a_task_that_is_handed_back_burns_nothing(nexus: TaskNexus, at_work: Any, clock: Any) -> None:
    nexus.add_task({"task_id": "T1"})
    task = nexus.release(nexus.claim_task("T1", "Ada"), "closing time")
    assert (task.status, task.attempt_count, task.reason, task.claimed_by) == ("pending", 0, "closing time", None)
    assert outcomes(nexus, "T1") == []
    clock.advance(5)
    task = nexus.release(at_work("T1"), "closing time")
    assert (task.status, task.attempt_count, task.failure_count) == ("pending", 1, 0)
    assert task.available_at == clock(), "offered at once"
    assert outcomes(nexus, "T1") == ["released"]


class TestLeases:
    def test_a_heartbeat_extends_the_lease(self, nexus: TaskNexus, at_work: Any, clock: Any) -> None:
        nexus.add_task({"task_id": "T1"})
        claim = at_work("T1")
        clock.advance(50)
        beat = nexus.heartbeat(claim, "page 3 of 9")
        assert (beat.cancel_requested, beat.lease_expires_at) == (False, clock() + timedelta(seconds=60))
        [attempt] = nexus.attempts("T1")
        assert (attempt.heartbeat_at, attempt.note) == (clock(), "page 3 of 9")
        clock.advance(50)
        nexus.heartbeat(claim)
        assert nexus.attempts("T1")[0].note == "page 3 of 9", "a beat without a note leaves the last one"
        assert nexus.sweep().expired == 0
        assert nexus.get_task_by_id("T1").status == "in_progress"

    def test_one_may_beat_before_the_start(self, nexus: TaskNexus, clock: Any) -> None:
        nexus.add_task({"task_id": "T1"})
        claim = nexus.claim_task("T1", "Ada")
        clock.advance(50)
        nexus.heartbeat(claim)
        assert nexus.get_task_by_id("T1").lease_expires_at == clock() + timedelta(seconds=60)
        assert nexus.get_task_by_id("T1").status == "claimed"

    def test_the_start_renews_the_lease(self, nexus: TaskNexus, clock: Any) -> None:
        nexus.add_task({"task_id": "T1"})
        claim = nexus.claim_task("T1", "Ada")
        clock.advance(50)
        nexus.start(claim)
        assert nexus.get_task_by_id("T1").lease_expires_at == clock() + timedelta(seconds=60)

    def test_the_length_of_a_lease_is_the_claims_own(self, nexus: TaskNexus, clock: Any) -> None:
        nexus.add_task({"task_id": "T1"})
        [claim] = nexus.claim("Ada", lease_seconds=600)
        assert claim.lease_expires_at == clock() + timedelta(seconds=600)
        clock.advance(10)
        nexus.start(claim)
        assert nexus.get_task_by_id("T1").lease_expires_at == clock() + timedelta(seconds=600)
        clock.advance(10)
        assert nexus.heartbeat(claim).lease_expires_at == clock() + timedelta(seconds=600)
        assert nexus.heartbeat(claim, lease_seconds=5).lease_expires_at == clock() + timedelta(seconds=5)
        clock.advance(1)
        assert nexus.heartbeat(claim).lease_expires_at == clock() + timedelta(seconds=5), "from then on"
        nexus.release(claim)
        assert nexus.claim_task("T1", "Ada").lease_expires_at == clock() + timedelta(seconds=60), "not for the next"

    def test_the_setting_decides_where_the_claim_does_not(self, make_nexus: Any, clock: Any) -> None:
        nexus = make_nexus(lease_seconds=7)
        nexus.add_task({"task_id": "T1"})
        assert nexus.claim_task("T1", "Ada").lease_expires_at == clock() + timedelta(seconds=7)

    @pytest.mark.parametrize("started", [False, True])
    def test_a_cancel_reaches_the_holder_with_the_next_heartbeat(
        self, nexus: TaskNexus, at_work: Any, started: bool
    ) -> None:
        nexus.add_task({"task_id": "T1"})
        claim = at_work("T1") if started else nexus.claim_task("T1", "Ada")
        nexus.cancel("T1", "not needed any more")
        assert nexus.heartbeat(claim).cancel_requested is True
        assert nexus.heartbeat(claim).cancel_requested is True, "however often it asks"
        assert outcomes(nexus, "T1") == (["cancelled"] if started else [])

    @pytest.mark.parametrize("status", [s for s in TaskStatus if s not in ("claimed", "in_progress", "cancelled")])
    def test_a_heartbeat_on_what_one_does_not_hold(
        self, nexus: TaskNexus, bring_to: Any, everything: Any, clock: Any, status: TaskStatus
    ) -> None:
        claim = bring_to("T1", status)
        if claim is None:
            nexus.add_task({"task_id": "T2"})
            claim = nexus.claim_task("T2", "Ada").model_copy(update={"task_id": "T1"})
        before = everything()
        clock.advance(1)
        with pytest.raises(ClaimLost):
            nexus.heartbeat(claim, "still here")
        assert everything() == before

    def test_after_a_cancel_and_a_retry_the_old_claim_is_lost(self, nexus: TaskNexus, at_work: Any) -> None:
        nexus.add_task({"task_id": "T1"})
        claim = at_work("T1")
        nexus.cancel("T1")
        nexus.retry("T1")
        with pytest.raises(ClaimLost):
            nexus.heartbeat(claim)
        nexus.claim_task("T1", "Bo")
        nexus.cancel("T1")
        with pytest.raises(ClaimLost):
            nexus.heartbeat(claim)


class TestLateResults:
    """A result whose claim was lost cost somebody money: it is kept, and changes nothing else."""

    def lose(self, nexus: TaskNexus, clock: Any, how: str) -> None:
        if how == "expired":
            clock.advance(61)
            nexus.sweep()
        elif how == "blocked":
            nexus.block("T1", "wait")
        else:
            nexus.cancel("T1")

    @pytest.mark.parametrize(
        ("how", "outcome"), [("expired", "lost"), ("blocked", "released"), ("cancelled", "cancelled")]
    )
    def test_it_is_kept_on_the_attempt(
        self, nexus: TaskNexus, at_work: Any, clock: Any, how: str, outcome: str
    ) -> None:
        nexus.add_task({"task_id": "T1"})
        claim = at_work("T1")
        self.lose(nexus, clock, how)
        before = nexus.get_task_by_id("T1")
        with pytest.raises(ClaimLost):
            nexus.complete(claim, {"pages": 3})
        [attempt] = nexus.attempts("T1")
        assert (attempt.outcome, attempt.result, attempt.late_result) == (outcome, None, {"pages": 3})
        assert nexus.get_task_by_id("T1") == before

    def test_the_next_holders_result_stands(self, nexus: TaskNexus, at_work: Any, clock: Any) -> None:
        nexus.add_task({"task_id": "T1"})
        slow = at_work("T1", "Ada")
        self.lose(nexus, clock, "expired")
        quick = at_work("T1", "Bo")
        with pytest.raises(ClaimLost, match="Bo holds claim 2"):
            nexus.complete(slow, "Ada's")
        nexus.complete(quick, "Bo's")
        with pytest.raises(ClaimLost):
            nexus.complete(slow, "Ada's, later")
        assert nexus.get_task_by_id("T1").result == "Bo's"
        first, second = nexus.attempts("T1")
        assert (first.outcome, first.result, first.late_result) == ("lost", None, "Ada's, later")
        assert (second.outcome, second.result, second.late_result) == ("completed", "Bo's", None)

    def test_a_late_failure_changes_nothing(self, nexus: TaskNexus, at_work: Any, clock: Any, everything: Any) -> None:
        nexus.add_task({"task_id": "T1"})
        slow = at_work("T1", "Ada")
        self.lose(nexus, clock, "expired")
        at_work("T1", "Bo")
        before = everything()
        with pytest.raises(ClaimLost):
            nexus.fail(slow, "too late")
        with pytest.raises(ClaimLost):
            nexus.release(slow)
        assert everything() == before

    def test_completing_twice_keeps_the_first_result(self, nexus: TaskNexus, at_work: Any, everything: Any) -> None:
        nexus.add_task({"task_id": "T1"})
        claim = at_work("T1")
        nexus.complete(claim, "first")
        before = everything()
        with pytest.raises(IllegalTransition):
            nexus.complete(claim, "second")
        assert everything() == before

    @pytest.mark.parametrize("review", [False, True])
    def test_completing_again_with_the_same_result_is_answered_as_the_first_time(
        self, nexus: TaskNexus, at_work: Any, everything: Any, review: bool
    ) -> None:
        """The first answer was lost on its way; nobody else has done anything with the task since."""
        nexus.add_task({"task_id": "T1", "requires_review": review})
        claim = at_work("T1")
        first = nexus.complete(claim, {"pages": 12, "by": ["Ada", None]})
        before = everything()
        assert nexus.complete(claim, {"by": ["Ada", None], "pages": 12}) == first
        assert nexus.complete_many([(claim, {"pages": 12, "by": ["Ada", None]})]) == [first.status]
        for other in (None, {"pages": 12}, {"pages": True, "by": ["Ada", None]}):
            with pytest.raises(IllegalTransition):
                nexus.complete(claim, other)
        assert everything() == before

    def test_what_a_reviewer_has_sent_back_is_not_completed_by_saying_it_again(
        self, nexus: TaskNexus, at_work: Any
    ) -> None:
        nexus.add_task({"task_id": "T1", "requires_review": True})
        claim = at_work("T1")
        nexus.complete(claim, "draft")
        nexus.reject("T1", "Eve", "again")
        with pytest.raises(IllegalTransition):
            nexus.complete(claim, "draft")


class TestById:
    """The origin's verbs, for whoever kept only the id."""

    def test_from_pending_to_completed(self, nexus: TaskNexus) -> None:
        nexus.add_task({"task_id": "T1"})
        task = nexus.mark_task_in_progress("T1", "Ada")
        assert (task.status, task.claimed_by) == ("in_progress", "Ada")
        task = nexus.mark_task_completed("T1", 42)
        assert (task.status, task.result) == ("completed", 42)
        assert outcomes(nexus, "T1") == [AttemptOutcome.COMPLETED]

    def test_a_claim_of_ones_own_is_started(self, nexus: TaskNexus) -> None:
        nexus.add_task({"task_id": "T1"})
        nexus.claim_task("T1", "Ada")
        assert nexus.mark_task_in_progress("T1", "Ada").claim_no == 1

    def test_a_claim_of_another_is_respected(self, nexus: TaskNexus, everything: Any) -> None:
        nexus.add_task({"task_id": "T1"})
        nexus.claim_task("T1", "Ada")
        nexus.confirm_agent("Bo")
        before = everything()
        with pytest.raises(IllegalTransition, match="Ada holds it"):
            nexus.mark_task_in_progress("T1", "Bo")
        with pytest.raises(ClaimLost, match="Ada holds it, not Bo"):
            nexus.current_claim("T1", "Bo")
        assert everything() == before

    def test_failing_by_id(self, nexus: TaskNexus) -> None:
        nexus.add_task({"task_id": "T1"})
        nexus.mark_task_in_progress("T1", "Ada")
        task = nexus.mark_task_failed("T1")
        assert (task.status, task.error) == ("pending", "no reason given")

    def test_the_current_claim_is_as_good_as_the_first(self, nexus: TaskNexus) -> None:
        nexus.add_task({"task_id": "T1"})
        claim = nexus.claim_task("T1", "Ada")
        assert nexus.current_claim("T1") == claim == nexus.current_claim("T1", "Ada")
        nexus.start(nexus.current_claim("T1"))
        nexus.complete(nexus.current_claim("T1"))


def test_the_key_for_other_services_never_changes(nexus: TaskNexus, at_work: Any, clock: Any) -> None:
    nexus.add_tasks([{"task_id": "T1"}, {"task_id": "T2", "idempotency_key": "k2"}])
    keys = set()
    for _ in range(3):
        claim = at_work("T1")
        keys.add(claim.task.work_key)
        nexus.release(claim)
    assert keys == {"T1"}
    assert nexus.get_task_by_id("T2").work_key == "k2"


def test_attempts_of_many_tasks_at_once(nexus: TaskNexus, done: Any, at_work: Any) -> None:
    nexus.add_tasks([{"task_id": name} for name in "ABC"])
    nexus.release(at_work("A"))
    done("A")
    done("B")
    found = nexus.attempts_by_task(["A", "B", "C", "nobody"])
    assert {name: [attempt.number for attempt in tries] for name, tries in found.items()} == {"A": [1, 2], "B": [1]}
    assert found["A"] == nexus.attempts("A")
