"""Worlds on the test's database, and what it means to look at them all the time.

`NEXUS_TEST_SIMULATION=long` lets more worlds live longer.
"""

import os
from collections.abc import Callable
from typing import Any

import pytest

from . import judges
from .world import MONITORING, World

LONG = os.environ.get("NEXUS_TEST_SIMULATION") == "long"
SEEDS = range(20) if LONG else range(1)
DAYS = 365 if LONG else 45
AGENTS = 400 if LONG else 150


@pytest.fixture
def begin(database_url: str, open_board: Any, clock: Any) -> Callable[..., World]:
    """Begins a world on the test's database, with two handles on it."""

    def start(seed: int, agents: int = AGENTS) -> World:
        boards = [open_board(database_url, monitoring=MONITORING) for _ in range(2)]
        return World(boards, clock, seed, agents=agents)

    return start


def judged(world: World, days: float) -> None:
    """Let it live, and look at it all the time."""
    steps = 0

    def look() -> None:
        nonlocal steps
        steps += 1
        if world.ledger.wrongs or steps % 40 == 0:
            judges.check(world)
        if steps % 120 == 0:
            judges.check_after_a_sweep(world)
            judges.check_budgets(world)

    world.live(days, look)
    judges.check_after_a_sweep(world)
    judges.check_stalls(world)
    judges.check_budgets(world)
    judges.check_late_results(world)
