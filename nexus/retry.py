"""Whether a failed attempt is tried again, and when. Pure: it decides, `nexus.transitions` applies.

The spread (jitter) of a delay is drawn from the task's id and the number of the failure, not from a random
generator: a transaction that has to run again decides the same, while different tasks still spread out.
"""

import hashlib
from dataclasses import dataclass

from nexus.schemas import Failure, RetryPolicy


@dataclass(frozen=True, slots=True)
class RetryDecision:
    """What becomes of a task after a failure."""

    again: bool
    delay_seconds: float = 0.0
    """Until the task is offered again; meaningless for a dead letter."""
    why: str = ""


def backoff_seconds(policy: RetryPolicy, failures: int, task_id: str) -> float:
    """The delay after failure number `failures` (1 is the first), jitter included, in seconds."""
    try:
        delay = policy.backoff_seconds * policy.multiplier ** (failures - 1)
    except OverflowError:
        delay = policy.max_backoff_seconds
    delay = min(delay, policy.max_backoff_seconds)
    digest = hashlib.blake2b(f"{task_id}\n{failures}".encode(), digest_size=8).digest()
    spread = int.from_bytes(digest) / 2**63 - 1  # in [-1, 1)
    return min(delay * (1 + policy.jitter * spread), policy.max_backoff_seconds)


def decide(policy: RetryPolicy, failures: int, failure: Failure, task_id: str) -> RetryDecision:
    """What follows failure number `failures` (this one included) of a task.

    A failure that asks for a certain delay gets it, within the policy's cap on attempts.
    """
    if not failure.retryable or failure.error_type in policy.non_retryable:
        return RetryDecision(again=False, why=f"{failure.error_type or 'this error'} is never retried")
    if failures >= policy.max_attempts:
        return RetryDecision(again=False, why=f"{failures} of {policy.max_attempts} attempts are spent")
    delay = failure.retry_after_seconds
    if delay is None:
        delay = backoff_seconds(policy, failures, task_id)
    return RetryDecision(again=True, delay_seconds=delay, why=f"failure {failures} of {policy.max_attempts}")
