"""Sixteen processes do everything to the same fifty tasks: each history is one that can have happened."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from nexus import HistoryEvent, TaskNexus
from nexus.states import OF_THE_SWEEP, TRANSITIONS, Verb

from . import judge

ROOT = Path(__file__).resolve().parents[2]
CROWD = Path(__file__).with_name("crowd.py")
PROCESSES, SECONDS = 16, 3

ROUNDS = 10
"""One is enough, but on a machine that is busy with other things."""

EVERY_VERB = {*map(str, Verb), "reassign"}


@pytest.fixture
def nexus(make_nexus: Any) -> TaskNexus:
    """The board on its own clock, as the crowd has it."""
    return make_nexus(clock=None)


def crowd(database_url: str) -> Any:
    """What the crowd tells of its time."""
    command = [sys.executable, str(CROWD), database_url, str(PROCESSES), str(SECONDS)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=True)
    return json.loads(ran.stdout)


def test_every_verb_against_every_other(nexus: TaskNexus, database_url: str) -> None:
    policy = {"max_attempts": 3, "max_losses": 3, "backoff_seconds": 0}
    ids = nexus.add_tasks(
        {
            "task_id": f"T{number}",
            "requires_review": number % 2 == 0,
            "assigned_to": f"Agent-{number % PROCESSES}" if number % 3 == 0 else None,
            "retry_policy": policy,
        }
        for number in range(50)
    )
    done, refused = Counter[str](), Counter[str]()
    histories: list[HistoryEvent] = []
    for _ in range(ROUNDS):
        told = crowd(database_url)
        assert told["errors"] == [], f"{len(told['errors'])} errors that are no refusals"
        done.update(told["done"])
        refused.update(told["refused"])
        while nexus.sweep().more:
            pass
        assert list(judge.wrongs(nexus)) == []
        histories = [event for task_id in ids for event in nexus.history(task_id)]
        if not (missing := EVERY_VERB - {event.verb for event in histories}):
            break
    assert not missing, "some verb never came to pass"
    assert min(refused[name] for name in ("ClaimLost", "IllegalTransition")) > 0
    asked_for = {str(verb) for verb in Verb} - {str(verb) for verb in OF_THE_SWEEP}
    under_a_claim = {"claim", *(str(verb) for verb, move in TRANSITIONS.items() if move.fenced)}
    happened = Counter(
        f"{one.verb} {one.task_id} {one.claim_no if one.verb in under_a_claim else '-'}"
        for one in histories
        if one.verb in asked_for
    )
    told_of = {deed: times for deed, times in done.items() if deed.split()[0] in asked_for}
    assert {deed: times for deed, times in told_of.items() if deed.split()[1] in ids} == happened, (
        "what was acknowledged has happened as often, under the claim that was shown, and nothing else has"
    )
