"""Sixteen processes do everything to the same fifty tasks: each history is one that can have happened."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from nexus import TaskNexus
from nexus.states import OF_THE_SWEEP, Verb

from . import judge

ROOT = Path(__file__).resolve().parents[2]
CROWD = Path(__file__).with_name("crowd.py")
PROCESSES, SECONDS = 16, 3


@pytest.fixture
def nexus(make_nexus: Any) -> TaskNexus:
    """The board on its own clock, as the crowd has it."""
    return make_nexus(clock=None)


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
    command = [sys.executable, str(CROWD), database_url, str(PROCESSES), str(SECONDS)]
    crowd = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120, check=True
    )
    told = json.loads(crowd.stdout)
    assert told["errors"] == [], f"{len(told['errors'])} errors that are no refusals"
    assert min(told["refused"].get(name, 0) for name in ("ClaimLost", "IllegalTransition")) > 0
    while nexus.sweep().more:
        pass
    assert list(judge.wrongs(nexus)) == []

    histories = [event for task_id in ids for event in nexus.history(task_id)]
    assert {event.verb for event in histories} >= {*Verb, "reassign"}, "some verb never came to pass"
    asked_for = {str(verb) for verb in Verb} - {str(verb) for verb in OF_THE_SWEEP}
    happened = Counter(f"{one.verb} {one.task_id}" for one in histories if one.verb in asked_for)
    acknowledged = {name: number for name, number in told["done"].items() if name.split()[0] in asked_for}
    mine = {name: number for name, number in acknowledged.items() if name.split()[1] in ids}
    assert mine == happened, "what was acknowledged has happened as often, and nothing else has"
