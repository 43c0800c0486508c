"""The retry policy: pure, so it is asked directly."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus import Failure, RetryPolicy
from nexus.retry import backoff_seconds, decide

policies = st.builds(
    RetryPolicy,
    max_attempts=st.integers(1, 1000),
    backoff_seconds=st.floats(0, 30 * 86_400),
    multiplier=st.floats(1, 100),
    max_backoff_seconds=st.floats(0, 30 * 86_400),
    jitter=st.floats(0, 1),
    max_losses=st.integers(1, 1000),
)
task_ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
NO = Failure(message="no")


@given(policies, st.integers(1, 10_000), task_ids)
def test_a_delay_is_never_negative_nor_over_its_cap(policy: RetryPolicy, failures: int, task_id: str) -> None:
    delay = backoff_seconds(policy, failures, task_id)
    assert math.isfinite(delay)
    assert 0 <= delay <= policy.max_backoff_seconds


@given(policies, st.integers(1, 50), task_ids)
def test_jitter_spreads_by_its_share_at_most(policy: RetryPolicy, failures: int, task_id: str) -> None:
    try:
        plain = min(policy.backoff_seconds * policy.multiplier ** (failures - 1), policy.max_backoff_seconds)
    except OverflowError:
        plain = policy.max_backoff_seconds
    delay = backoff_seconds(policy, failures, task_id)
    slack = 1e-9 * plain
    assert plain * (1 - policy.jitter) - slack <= delay <= plain * (1 + policy.jitter) + slack


@given(policies, st.integers(1, 1000), task_ids)
def test_every_process_computes_the_same(policy: RetryPolicy, failures: int, task_id: str) -> None:
    again = RetryPolicy.model_validate_json(policy.model_dump_json())
    assert backoff_seconds(policy, failures, task_id) == backoff_seconds(again, failures, task_id)
    assert decide(policy, failures, NO, task_id) == decide(again, failures, NO, task_id)


@given(policies.map(lambda policy: policy.model_copy(update={"jitter": 0.0})), st.integers(1, 100))
def test_without_jitter_a_delay_never_shrinks(policy: RetryPolicy, failures: int) -> None:
    assert backoff_seconds(policy, failures, "T1") <= backoff_seconds(policy, failures + 1, "T1")


@given(policies, st.integers(1, 2000))
def test_the_cap_on_attempts_decides(policy: RetryPolicy, failures: int) -> None:
    assert decide(policy, failures, NO, "T1").again is (failures < policy.max_attempts)


def test_known_delays() -> None:
    steady = RetryPolicy(jitter=0)
    assert [backoff_seconds(steady, n, "T1") for n in (1, 2, 3, 4)] == [10, 20, 40, 80]
    assert backoff_seconds(steady, 9, "T1") == 2560
    assert backoff_seconds(steady, 10, "T1") == 3600
    assert backoff_seconds(steady, 10**6, "T1") == 3600


def test_the_spread_is_fixed_for_ever() -> None:
    """A later release that spreads otherwise would disagree with processes of this one."""
    assert backoff_seconds(RetryPolicy(), 1, "T1") == pytest.approx(9.652337, abs=1e-6)
    assert backoff_seconds(RetryPolicy(), 2, "T1") == pytest.approx(21.403875, abs=1e-6)


def test_different_tasks_spread_out() -> None:
    delays = {round(backoff_seconds(RetryPolicy(), 1, f"T{n}"), 3) for n in range(100)}
    assert len(delays) > 90
    assert min(delays) < 8.5 and max(delays) > 11.5


def test_what_is_never_retried() -> None:
    policy = RetryPolicy(max_attempts=10, non_retryable=("ValueError",))
    assert not decide(policy, 1, Failure.of(ValueError("no")), "T1").again
    assert decide(policy, 1, Failure.of(KeyError("no")), "T1").again
    assert not decide(policy, 1, Failure(message="no", retryable=False), "T1").again


def test_a_wish_for_a_delay_is_heard_within_the_cap() -> None:
    failure = Failure(message="busy", retry_after_seconds=5)
    assert decide(RetryPolicy(), 1, failure, "T1").delay_seconds == 5
    assert not decide(RetryPolicy(), 3, failure, "T1").again


def test_a_decision_says_why() -> None:
    assert decide(RetryPolicy(), 1, NO, "T1").why == "failure 1 of 3"
    assert decide(RetryPolicy(), 3, NO, "T1").why == "3 of 3 attempts are spent"
    assert decide(RetryPolicy(), 1, Failure(message="no", retryable=False), "T1").why == "Error is never retried"


def test_a_failure_from_words_or_from_an_exception() -> None:
    assert str(Failure.of("no paper")) == "no paper"
    assert str(Failure.of(ValueError("no paper"))) == "ValueError: no paper"
    assert str(Failure.of(KeyboardInterrupt())) == "KeyboardInterrupt: KeyboardInterrupt()"
    failure = Failure(message="mine")
    assert Failure.of(failure) is failure
