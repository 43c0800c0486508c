"""What there is to do: mostly little things, some that take long, fail, hang, wait for one another, or are late."""

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

NEVER: Final = 1000
"""Losses that nobody reaches."""

PROMPT: Final[dict[str, Any]] = {"backoff_seconds": 0.05, "max_losses": NEVER}


def name(number: int) -> str:
    """The id of a task."""
    return f"C-{number:05}"


def task(number: int) -> dict[str, Any]:
    """Task number so and so: the same each time, but for its deadline."""
    kind, chance = _drawn(number)
    made = {
        "task_id": name(number),
        "idempotency_key": name(number),
        "priority": chance.choice([0, 10, 20, 20, 30]),
        "task_type": "waits",
        "payload": {"seconds": round(chance.uniform(0.002, 0.06), 3)},
        "retry_policy": PROMPT,
    }
    return {**made, **KINDS[kind][1](chance, number)}


def _drawn(number: int) -> tuple[str, random.Random]:
    chance = random.Random(number)
    return chance.choices(list(KINDS), weights=[share for share, _ in KINDS.values()])[0], chance


def _small(_chance: random.Random, _number: int) -> dict[str, Any]:
    return {}


def _blocking(chance: random.Random, _number: int) -> dict[str, Any]:
    return {"task_type": "blocks", "payload": {"seconds": round(chance.uniform(0.002, 0.1), 3)}}


def _long(chance: random.Random, _number: int) -> dict[str, Any]:
    return {"payload": {"seconds": round(chance.uniform(0.3, 1.5), 3)}}


def _fragile(chance: random.Random, number: int) -> dict[str, Any]:
    """One lost attempt is one too many."""
    return {**_long(chance, number), "retry_policy": {**PROMPT, "max_losses": 1}}


def _flaky(chance: random.Random, _number: int) -> dict[str, Any]:
    return {"task_type": "fails", "payload": {"seconds": 0.01, "times": chance.choice([1, 2])}}


def _hopeless(chance: random.Random, _number: int) -> dict[str, Any]:
    """A dead letter: when its attempts are spent, or at once."""
    return {
        "task_type": "fails",
        "payload": {"seconds": 0.01, "times": NEVER, "gives_up": chance.random() < 0.5},
        "retry_policy": {**PROMPT, "max_attempts": 2},
    }


def _hanging(_chance: random.Random, _number: int) -> dict[str, Any]:
    return {"task_type": "hangs", "payload": {"seconds": 0.01}, "timeout_seconds": 0.3}


def _late(chance: random.Random, _number: int) -> dict[str, Any]:
    """Its deadline passes while it waits, or is worked on."""
    return {"deadline": datetime.now(UTC) + timedelta(seconds=chance.uniform(0.05, 2)), "priority": 30}


def _after(chance: random.Random, number: int) -> dict[str, Any]:
    """It comes after one or two others, and says what is to be done where one of those may not be completed."""
    others = {max(0, number - chance.randint(1, 40)) for _ in range(chance.randint(1, 2))} - {number}
    may_wait = {_drawn(other)[0] for other in others}.isdisjoint({"fragile", "hopeless", "after"})
    return {
        "depends_on": [name(other) for other in sorted(others)],
        "on_dependency_failure": "wait" if may_wait else chance.choice(["cancel", "run"]),
    }


KINDS: Final[dict[str, tuple[int, Callable[[random.Random, int], dict[str, Any]]]]] = {
    "small": (50, _small),
    "blocking": (10, _blocking),
    "long": (10, _long),
    "fragile": (3, _fragile),
    "flaky": (7, _flaky),
    "hopeless": (3, _hopeless),
    "hanging": (3, _hanging),
    "late": (4, _late),
    "after": (10, _after),
}
"""How many of a hundred are of a kind, and how those differ from the others."""
