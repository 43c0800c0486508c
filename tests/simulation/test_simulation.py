"""Months of a misbehaving fleet, in seconds: nothing is done twice, lost, or stuck without a word."""

from collections.abc import Callable

import pytest

from . import judges
from .conftest import DAYS, SEEDS, judged
from .world import World


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_done_twice_lost_or_stuck_without_a_word(begin: Callable[..., World], seed: int) -> None:
    world = begin(seed)
    judged(world, DAYS)
    # The agents are gone; whoever sweeps goes on.
    for _ in range(40):
        world.clock.advance(86_400 / 4)
        world.swept(world.board.sweep())
    judges.check_after_a_sweep(world)
    for pause in world.board.pauses():
        world.board.resume(pause.task_type)
    judges.check_the_end(world)
    happened = world.ledger.counted
    wanted = ["claim", "complete", "heartbeat", "fail", "release", "cancel", "retry", "block"]
    wanted += ["complete refused", "heartbeat refused", "sweep: expire", "sweep: time_out", "sweep: escalate"]
    wanted += ["sweep: reassign", "sweep: notify", "sweep: mark_stalled", "sweep: fail", "sweep: overdue"]
    assert not [what for what in wanted if not happened.get(what)], "a world in which little happens proves little"
