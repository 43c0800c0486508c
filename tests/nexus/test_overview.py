"""The board at a glance: what waits, who works, what is stuck, and what came of the last hour."""

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from nexus import Claim, Overview, RetryPolicy, TaskNexus
from nexus.errors import InvalidTask

from .conftest import FinalError

HOUR = 3600.0
AtWork = Callable[..., Claim]


def test_an_empty_board_is_empty(nexus: TaskNexus) -> None:
    seen = nexus.overview()
    assert (seen.at, seen.counts, seen.waiting, seen.agents, seen.ended) == (nexus.now(), {}, (), (), ())
    assert (seen.open_stalls, seen.last_sweep, seen.dead_letters, seen.expired_leases) == (0, None, 0, 0)
    assert [one.until for one in seen.slices][-1] == nexus.now()


class TestWhatWaits:
    def test_stands_by_type_with_the_oldest_first(self, nexus: TaskNexus, clock: Any) -> None:
        nexus.add_task({"task_id": "B1", "task_type": "build"})
        since = nexus.now()
        clock.advance(60)
        nexus.add_tasks([{"task_id": "A1", "task_type": "audit"}, {"task_id": "B2", "task_type": "build"}])
        [build, audit] = nexus.overview().waiting
        assert (build.task_type, build.number, build.claimable, build.oldest_id, build.oldest_since) == (
            "build", 2, 2, "B1", since
        )  # fmt: skip
        assert (audit.task_type, audit.number, audit.oldest_id) == ("audit", 1, "A1")

    def test_is_not_claimable_before_its_time(self, nexus: TaskNexus, at_work: AtWork) -> None:
        slow = RetryPolicy(backoff_seconds=600, jitter=0)
        nexus.add_task({"task_id": "T1", "task_type": "build", "retry_policy": slow})
        nexus.fail(at_work("T1"), ValueError("not yet"))
        [waiting] = nexus.overview().waiting
        assert (waiting.number, waiting.claimable) == (1, 0)
        assert waiting.oldest_since == nexus.now() + timedelta(seconds=600)

    def test_is_not_claimable_while_it_is_paused(self, nexus: TaskNexus) -> None:
        nexus.add_tasks([{"task_type": "build"}, {"task_type": "audit"}])
        nexus.pause("build", reason="release freeze")
        seen = nexus.overview()
        assert {one.task_type: (one.claimable, one.is_paused) for one in seen.waiting} == {
            "build": (0, True),
            "audit": (1, False),
        }
        assert [pause.reason for pause in seen.pauses] == ["release freeze"]

    def test_does_not_count_what_waits_for_others(self, nexus: TaskNexus) -> None:
        nexus.add_tasks([{"task_id": "A"}, {"task_id": "B", "depends_on": ["A"]}])
        seen = nexus.overview()
        assert (seen.counts, seen.waits_for_others) == ({"pending": 2}, 1)
        assert [one.oldest_id for one in seen.waiting] == ["A"]


class TestWhoWorks:
    def test_stands_with_what_it_holds(self, nexus: TaskNexus, clock: Any, at_work: AtWork) -> None:
        for number in range(7):
            nexus.add_task({"task_id": f"T{number}"})
            clock.advance(20)
            at_work(f"T{number}", "Ada")
        [ada] = nexus.overview().agents
        assert (ada.agent_id, ada.live_claims, ada.task_ids) == ("Ada", 7, ("T0", "T1", "T2", "T3", "T4"))
        assert ada.last_seen_at == nexus.now()

    def test_may_be_somebody_whom_only_a_board_names(self, nexus: TaskNexus, elsewhere: Path) -> None:
        board = elsewhere / "board.json"
        board.write_text(json.dumps([{"task_id": "T1", "status": "in_progress", "claimed_by": "Ada"}]))
        nexus.import_board(nexus.read_board(board))
        assert [(one.agent_id, one.task_ids) for one in nexus.overview().agents] == [("Ada", ("T1",))]

    def test_is_whoever_was_seen_in_the_window_or_holds_something(
        self, nexus: TaskNexus, clock: Any, at_work: AtWork, done: Callable[..., None]
    ) -> None:
        nexus.add_tasks([{"task_id": "T1"}, {"task_id": "T2"}])
        done("T1")  # Ada
        at_work("T2", "Bob", lease_seconds=9 * HOUR)
        clock.advance(2 * HOUR)
        seen = nexus.overview()
        assert ([one.agent_id for one in seen.agents], seen.idle_agents) == (["Bob"], 1)
        assert {one.agent_id for one in nexus.overview(3 * HOUR).agents} == {"Ada", "Bob"}


class TestWhatEnded:
    def test_stands_by_type_and_outcome(self, nexus: TaskNexus, clock: Any, at_work: AtWork) -> None:
        once = RetryPolicy(max_attempts=1)
        nexus.add_tasks([{"task_id": f"B{number}", "task_type": "build"} for number in range(3)])
        nexus.add_task({"task_id": "A1", "task_type": "audit", "retry_policy": once})
        nexus.complete(at_work("B0"))
        nexus.fail(at_work("B1"), ValueError("a bad day"))
        at_work("B2", lease_seconds=60)
        nexus.fail(at_work("A1"), FinalError("no use"))
        clock.advance(61)
        assert nexus.overview().expired_leases == 1
        nexus.sweep()
        seen = nexus.overview()
        assert {one.task_type: (one.attempts, one.dead_letters) for one in seen.ended} == {
            "audit": ({"failed": 1}, 1),
            "build": ({"completed": 1, "failed": 1, "lost": 1}, 0),
        }
        assert (seen.dead_letters, seen.expired_leases, seen.last_sweep) == (1, 0, nexus.last_sweep())

    def test_counts_a_dead_letter_that_nobody_ever_tried(self, nexus: TaskNexus, clock: Any) -> None:
        nexus.add_task({"task_id": "T1", "task_type": "build"})
        ladder = nexus.settings.monitoring.model_copy(update={"pending_timeout_seconds": 60.0})
        clock.advance(61)
        nexus.sweep(ladder.model_copy(update={"escalation_strategy": "fail"}))
        assert [(one.task_type, one.attempts, one.dead_letters) for one in nexus.overview().ended] == [("build", {}, 1)]

    def test_is_what_ended_in_the_window_part_by_part(
        self, nexus: TaskNexus, clock: Any, done: Callable[..., None], at_work: AtWork
    ) -> None:
        nexus.add_tasks([{"task_id": f"T{number}"} for number in range(4)])
        done("T0")
        clock.advance(HOUR)  # that is an hour ago, and no more
        done("T1")
        clock.advance(600)
        done("T2")
        nexus.fail(at_work("T3"), ValueError("a bad day"))
        seen = nexus.overview()
        assert [(one.completed, one.failed) for one in seen.slices] == [(0, 0)] * 9 + [(1, 0), (0, 0), (1, 1)]
        assert nexus.overview(2 * HOUR).number("completed") == 3


def test_what_is_stuck_stands_with_its_reason(nexus: TaskNexus, clock: Any) -> None:
    nexus.add_tasks([{"task_id": f"T{number:02}"} for number in range(12)])
    clock.advance(2 * HOUR)
    nexus.sweep()
    seen = nexus.overview()
    assert (seen.open_stalls, [stall.task_id for stall in seen.stalls][:2]) == (12, ["T00", "T01"])
    assert len(seen.stalls) == 10


def test_it_survives_a_journey_as_json(nexus: TaskNexus, at_work: AtWork) -> None:
    nexus.add_tasks([{"task_id": "T1"}, {"task_id": "T2"}])
    nexus.complete(at_work("T1"))
    seen = nexus.overview()
    assert Overview.model_validate_json(seen.model_dump_json()) == seen


@pytest.mark.parametrize("window", [0, -1, 1e12, float("nan"), "an hour", None])
def test_a_window_that_is_none_is_refused(nexus: TaskNexus, window: Any) -> None:
    with pytest.raises(InvalidTask, match="window_seconds"):
        nexus.overview(window)
