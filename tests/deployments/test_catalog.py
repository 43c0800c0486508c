"""What the service serves, before any server knows of it."""

from datetime import timedelta
from typing import Any

from deployments.catalog import BOARD, EPISODE, EXECUTE, PAGE, PRUNE, SHIFT, SWEEP, deployments
from flows import overview
from nexus import NexusSettings


async def served(**settings: Any) -> dict[str, Any]:
    """The deployments by their full names."""
    found = await deployments(NexusSettings(**settings))
    return {f"{one.flow_name}/{one.name}": one for one in found}


async def test_the_names_that_people_start_them_by() -> None:
    assert set(await served()) == {EXECUTE, SHIFT, EPISODE, SWEEP, PRUNE, BOARD}


async def test_pruning_is_scheduled_where_something_ever_goes() -> None:
    assert not (await served())[PRUNE].schedules
    prune = (await served(retention={"completed": {"days": 30}, "interval_seconds": 86_400}))[PRUNE]
    [schedule] = [one.schedule for one in prune.schedules]
    assert schedule.interval == timedelta(days=1)
    assert (schedule.anchor_date.hour, schedule.anchor_date.minute) == (0, 0), (
        "by the clock, not by the service's start"
    )
    assert prune.concurrency_limit == 1


async def test_old_records_alone_are_reason_enough() -> None:
    assert (await served(retention={"record_days": 30}))[PRUNE].schedules


async def test_the_board_is_shown_every_so_often_and_never_twice_at_once() -> None:
    shown = (await served(board={"interval_seconds": 30}))[BOARD]
    [schedule] = [one.schedule for one in shown.schedules]
    assert (schedule.interval, shown.concurrency_limit) == (timedelta(seconds=30), 1)
    assert PAGE == overview.BOARD, "what the service says is where it is"
