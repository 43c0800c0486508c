"""Whatever somebody gives as a task or says to a verb, it is accepted or it is a typed error of one line."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from nexus import NewTask, TaskNexus
from nexus.errors import NexusError

from .conftest import BITING

WORDS = [value for value in BITING if isinstance(value, str | int | float)]


@pytest.fixture
def board(sqlite_url: str, open_board: Callable[..., TaskNexus]) -> TaskNexus:
    return open_board(sqlite_url)


def survives(call: Callable[[], Any]) -> None:
    """It answers, in time; and what it refuses, it refuses in words that fit a screen."""
    began = time.monotonic()
    try:
        call()
    except NexusError as refused:
        assert "\n" not in str(refused)
        assert len(str(refused)) < 3000
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("field", [*NewTask.model_fields, "status", "whatever"])
def test_any_value_of_any_field_is_kept_or_refused(board: TaskNexus, field: str) -> None:
    for value in BITING:
        before = sum(board.stats().values())
        task = {"description": "d", field: value}
        survives(lambda task=task: board.add_tasks([{"description": "good"}, task]))
        assert sum(board.stats().values()) in (before, before + 1, before + 2)
        assert sum(board.stats().values()) != before + 1 or field == "idempotency_key", "half of a batch was written"


def test_what_is_no_task_at_all(board: TaskNexus) -> None:
    for value in BITING:
        survives(lambda value=value: board.add_task(value))
    assert set(board.stats()) <= {"pending"}


ASKING = {
    "get_task_by_id": 0, "history": 0, "attempts": 0, "explain": 1, "stalls": 0, "stats": 0, "cancel": 1, "retry": 0,
    "unblock": 0, "block": 1, "approve": 1, "claim_task": 1, "mark_task_failed": 1, "mark_task_completed": 1,
    "mark_task_in_progress": 1, "claim": 1, "pause": 1, "register_agent": 1, "current_claim": 1,
}  # fmt: skip
"""Verbs, and whether they take a second argument."""


@pytest.mark.parametrize("verb", ASKING)
def test_any_word_to_any_verb_is_answered(board: TaskNexus, verb: str) -> None:
    board.add_task({"task_id": "T"})
    for value in WORDS:
        survives(lambda value=value: getattr(board, verb)(value, *["A"] * (verb != "claim" and ASKING[verb])))
        if ASKING[verb]:
            survives(lambda value=value: getattr(board, verb)("T", value))


@pytest.mark.parametrize("wish", ["task_types", "tags", "episode_id", "lease_seconds"])
def test_any_wish_of_a_claim_is_answered(board: TaskNexus, wish: str) -> None:
    for value in WORDS:
        survives(lambda value=value: board.claim("A", 1, **{wish: value}))


@pytest.mark.parametrize("wish", ["status", "task_type", "tag", "agent_id", "episode_id", "limit", "after"])
def test_any_filter_of_a_list_is_answered(board: TaskNexus, wish: str) -> None:
    for value in WORDS:
        survives(lambda value=value: board.get_all_tasks(**{wish: value}))


@pytest.mark.parametrize("verb", ["complete", "fail", "heartbeat", "release", "start"])
def test_whatever_an_agent_says_of_its_work(board: TaskNexus, verb: str) -> None:
    for value in WORDS if verb in ("heartbeat", "release") else BITING:
        task = board.add_task({"description": "d"})
        claim = board.claim_task(task.task_id, "A")
        if verb != "start":
            board.start(claim)
        survives(lambda value=value, claim=claim: getattr(board, verb)(claim, value))
        found = board.get_task_by_id(task.task_id)
        assert found is not None
        if found.status in ("claimed", "in_progress"):
            board.cancel(task.task_id)
