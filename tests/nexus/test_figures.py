"""The board in numbers: what came of the attempts, how long they waited and took, by task type and by agent."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from nexus import AttemptOutcome, Failure, Figures, Spread, TaskNexus, Work
from nexus.errors import InvalidTask

from ..conftest import Clock

ONCE = {"max_attempts": 1, "backoff_seconds": 0}


@pytest.fixture
def worked(nexus: TaskNexus, clock: Clock) -> Callable[..., str]:
    """`worked("report", wait=5, run=60)`: a report was claimed after 5 s and completed 60 s later; its id."""

    def work(
        task_type: str, *, wait: float = 0, run: float = 0, by: str = "Ada", fails: bool = False, **of: Any
    ) -> str:
        task_id = nexus.add_task({"task_type": task_type, "retry_policy": ONCE, **of}).task_id
        clock.advance(wait)
        claim = nexus.claim_task(task_id, by, lease_seconds=86_400)
        nexus.start(claim)
        clock.advance(run)
        nexus.fail(claim, "no") if fails else nexus.complete(claim, 1)
        return task_id

    return work


def test_percentiles_are_durations_that_were(nexus: TaskNexus, worked: Callable[..., str]) -> None:
    for number in range(1, 201):
        worked("many", wait=number / 10, run=number)
    worked("few", run=7)
    found = nexus.figures()
    many = found.by_type["many"]
    assert many.run == Spread(count=200, p50=100, p95=190, p99=198, max=200)
    assert many.wait == Spread(count=200, p50=10, p95=19, p99=19.8, max=20)
    assert found.by_type["few"].run == Spread(count=1, p50=7, p95=7, p99=7, max=7)
    assert found.total.run.count == 201
    assert (found.total.run.p50, found.total.run.max) == (100, 200)
    assert found.total.done == 201


def test_by_type_and_by_agent(nexus: TaskNexus, clock: Clock, worked: Callable[..., str]) -> None:
    worked("draw", by="Ada", run=10)
    worked("draw", by="Bo", run=30)
    worked("write", by="Bo", fails=True, run=5)
    nexus.add_task({"task_id": "now", "task_type": "draw"})
    nexus.start(nexus.claim_task("now", "Cy"))
    found = nexus.figures()
    assert list(found.by_type) == ["draw", "write"]
    assert list(found.by_agent) == ["Ada", "Bo", "Cy"]
    draw, bo = found.by_type["draw"], found.by_agent["Bo"]
    assert (draw.done, draw.completed, draw.failed, draw.running, draw.run.p50) == (2, 2, 0, 1, 10)
    assert (bo.done, bo.completed, bo.failed, bo.run.max) == (1, 1, 1, 30)
    assert found.by_agent["Cy"] == Work(running=1)
    assert (found.total.done, found.total.failed, found.total.running) == (2, 1, 1)
    assert {name: number for name, number in found.status.items() if number} == {
        "completed": 2,
        "failed": 1,
        "in_progress": 1,
    }


def test_every_outcome_is_counted_and_only_what_was_worked_to_an_end_has_a_run_time(
    nexus: TaskNexus, clock: Clock, worked: Callable[..., str]
) -> None:
    worked("t")
    worked("t", fails=True)
    claims = {}
    for task_id in ("given back", "cancelled", "lost", "too long"):
        nexus.add_task({"task_id": task_id, "task_type": "t", "retry_policy": ONCE})
        claims[task_id] = nexus.claim_task(task_id, "Ada", lease_seconds=10)
        nexus.start(claims[task_id])
    nexus.fail(claims["too long"], Failure(kind="TimeoutError", message="took too long", timed_out=True))
    nexus.cancel("cancelled")
    nexus.release(claims["given back"])
    clock.advance(20)
    nexus.sweep()
    found = nexus.figures().by_type["t"]
    ended = {outcome: getattr(found, outcome) for outcome in AttemptOutcome}
    assert ended == dict.fromkeys(AttemptOutcome, 1) | {AttemptOutcome.RUNNING: 0}
    assert found.run.count == 3
    assert found.wait.count == 6
    assert found.done == 1


def test_a_window_and_an_episode(nexus: TaskNexus, clock: Clock, worked: Callable[..., str]) -> None:
    worked("old", episode_id="E")
    since = clock.advance(3600)
    worked("new", episode_id="E")
    worked("elsewhere")
    assert list(nexus.figures().by_type) == ["elsewhere", "new", "old"]
    assert list(nexus.figures(since=since).by_type) == ["elsewhere", "new"]
    of_the_episode = nexus.figures(since=since, episode_id="E")
    assert list(of_the_episode.by_type) == ["new"]
    assert (of_the_episode.since, of_the_episode.until, of_the_episode.episode_id) == (since, clock(), "E")
    assert of_the_episode.status["completed"] == 2, "the status is of now, whenever they were completed"
    nobodys = nexus.figures(episode_id="nobody")
    assert (nobodys.total, nobodys.by_type, sum(nobodys.status.values())) == (Work(), {}, 0)


def test_what_a_reviewer_sends_back_is_completed_twice_and_done_once(nexus: TaskNexus, clock: Clock) -> None:
    nexus.add_task({"task_id": "T", "requires_review": True})
    for _ in range(2):
        claim = nexus.claim_task("T", "Ada")
        nexus.start(claim)
        nexus.complete(claim, 1)
        assert nexus.figures().total.done == 0, "it is in review"
        nexus.reject("T", "Bo", "shorter") if claim.claim_no == 1 else nexus.approve("T", "Bo")
    assert (nexus.figures().total.done, nexus.figures().total.completed) == (1, 2)


def test_the_record_that_is_empty(nexus: TaskNexus, clock: Clock) -> None:
    found = nexus.figures()
    assert (found.total, found.by_type, found.by_agent) == (Work(), {}, {})
    assert Figures.model_validate_json(found.model_dump_json()) == found
    with pytest.raises(InvalidTask, match="since has no time zone"):
        nexus.figures(since=clock().replace(tzinfo=None))


BOUNDS = (1.0, 10.0, 60.0)


class TestReading:
    def test_what_ended_between_two_readings_is_counted_once(
        self, nexus: TaskNexus, clock: Clock, worked: Callable[..., str]
    ) -> None:
        worked("before the first")
        clock.advance(10)
        until = nexus.reading(None, BOUNDS).until
        worked("t", wait=0.5, run=5)
        worked("t", wait=10, run=100)
        worked("t", fails=True, run=1)
        clock.advance(10)
        found = nexus.reading(until, BOUNDS)
        done, failed = sorted(found.ended, key=lambda one: one.outcome)
        assert (done.task_type, done.outcome, done.attempts, done.waits) == ("t", "completed", 2, 2)
        assert (done.wait_seconds, done.wait_buckets) == (10.5, (1, 2, 2))
        assert (done.run_seconds, done.run_buckets) == (105, (0, 1, 1))
        assert (failed.outcome, failed.attempts, failed.run_buckets) == ("failed", 1, (1, 1, 1))
        assert nexus.reading(found.until, BOUNDS).ended == ()

    def test_what_ended_a_moment_ago_is_left_to_the_next(
        self, nexus: TaskNexus, clock: Clock, worked: Callable[..., str]
    ) -> None:
        until = nexus.reading(None, BOUNDS).until
        worked("t")
        found = nexus.reading(until, BOUNDS)
        assert found.ended == ()
        clock.advance(5)
        [ended] = nexus.reading(found.until, BOUNDS).ended
        assert ended.attempts == 1

    def test_a_clock_that_is_set_back_counts_nothing_twice(
        self, nexus: TaskNexus, clock: Clock, worked: Callable[..., str]
    ) -> None:
        until = nexus.reading(None, BOUNDS).until
        worked("t")
        clock.advance(60)
        found = nexus.reading(until, BOUNDS)
        assert len(found.ended) == 1
        clock.advance(-30)
        again = nexus.reading(found.until, BOUNDS)
        assert (again.ended, again.until) == ((), found.until)

    def test_the_present(self, nexus: TaskNexus, clock: Clock) -> None:
        nexus.add_tasks([{"task_id": "A", "task_type": "x"}, {"task_id": "B", "task_type": "y", "depends_on": ["A"]}])
        nexus.add_task({"task_id": "later", "task_type": "z", "available_at": clock() + timedelta(days=1)})
        assert nexus.reading(None, BOUNDS).sweep_age_seconds is None
        clock.advance(7200)
        nexus.sweep()
        clock.advance(30)
        found = nexus.reading(None, BOUNDS)
        assert found.at == clock()
        assert found.status == {"pending": 3}
        assert found.oldest_waiting == {"x": 7230}, "neither what waits for others nor what is not due"
        assert found.sweep_age_seconds == 30
        assert found.open_stalls == 1
