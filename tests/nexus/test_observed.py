"""What the record says: waits by type, thresholds learnt from them, and what other settings would have meant."""

from datetime import timedelta
from typing import Any, ClassVar

import pytest

from nexus import TaskMonitoringConfig, TaskNexus
from nexus.observed import p95_waits

HOUR = 3600.0


@pytest.fixture
def waited(nexus: TaskNexus, clock: Any) -> Any:
    """`waited("T", 5, 10)`: two tasks of the type that were claimed after so many seconds."""

    def let(task_type: str, *seconds: float) -> None:
        for wait in seconds:
            task_id = nexus.add_task({"task_type": task_type}).task_id
            clock.advance(wait)
            nexus.claim_task(task_id, "Ada", lease_seconds=30 * 86_400)

    return let


def p95(nexus: TaskNexus, window: float = 1e9, samples: int = 1) -> dict[str, float]:
    """By type."""
    return nexus._database.read(lambda tx: p95_waits(tx, window, samples))


class TestP95:
    def test_is_the_nearest_rank_by_type(self, nexus: TaskNexus, waited: Any) -> None:
        waited("a", *range(1, 101))
        waited("b", 7)
        waited("c", *range(1, 21))
        assert p95(nexus) == {"a": 95, "b": 7, "c": 19}

    def test_leaves_out_types_with_few_waits_on_record(self, nexus: TaskNexus, waited: Any) -> None:
        waited("a", 1, 2, 3)
        waited("b", 1, 2)
        assert p95(nexus, samples=3) == {"a": 3}

    def test_looks_back_so_far_and_no_farther(self, nexus: TaskNexus, waited: Any, clock: Any) -> None:
        waited("a", 500)
        clock.advance(HOUR)
        waited("a", 5)
        assert p95(nexus, window=60) == {"a": 5}
        assert p95(nexus) == {"a": 500}

    def test_counts_only_waits_that_ended_in_a_claim(self, nexus: TaskNexus, clock: Any) -> None:
        nexus.add_task({"task_id": "T1"})
        clock.advance(100)
        nexus.cancel("T1")
        assert p95(nexus) == {}


class TestAdaptiveThresholds:
    LEARNING: ClassVar[dict[str, Any]] = {"enabled": True, "factor": 3, "floor_seconds": 60, "min_samples": 5}

    def test_a_type_that_used_to_wait_long_may_wait_longer(self, nexus: TaskNexus, waited: Any, clock: Any) -> None:
        waited("slow", *[1000] * 5)
        waited("quick", *[1] * 5)
        config = TaskMonitoringConfig(adaptive=self.LEARNING)
        nexus.add_tasks([{"task_id": name, "task_type": name} for name in ("slow", "quick", "new")])
        stalled: dict[str, float] = {}
        for _ in range(80):
            clock.advance(60)
            stalled |= {item.task_id: item.waiting_seconds for item in nexus.sweep(config).items}
        assert stalled == {"quick": 60, "slow": 3000, "new": 3600}, "the floor; three times p95; the fixed one"

    def test_a_policys_own_threshold_stands(self, nexus: TaskNexus, waited: Any, clock: Any) -> None:
        waited("slow", *[1000] * 5)
        nexus.add_task({"task_id": "T", "task_type": "slow"})
        policy = {"name": "p", "task_types": ["slow"], "pending_timeout_seconds": 10, "steps": ["log_only"]}
        clock.advance(10)
        assert nexus.sweep(TaskMonitoringConfig(adaptive=self.LEARNING, policies=[policy])).logged == 1

    def test_learning_nothing_the_fixed_one_holds(self, nexus: TaskNexus, clock: Any) -> None:
        nexus.add_task({"task_id": "T"})
        clock.advance(HOUR)
        assert nexus.sweep(TaskMonitoringConfig(adaptive=self.LEARNING)).logged == 1


class TestWhatIf:
    def test_which_waits_would_have_been_flagged_and_how_they_ended(
        self, nexus: TaskNexus, waited: Any, clock: Any, everything: Any
    ) -> None:
        waited("a", 10, 1300, 1400, 2200)
        waited("b", 5000)
        nexus.add_tasks(
            [{"task_id": "cancelled"}, {"task_id": "waiting"}, {"task_id": "held up", "depends_on": ["waiting"]}]
        )
        clock.advance(1500)
        nexus.cancel("cancelled")
        before = everything()
        found = nexus.what_if(TaskMonitoringConfig(pending_timeout_seconds=1200))
        assert everything() == before
        total = found.total
        assert (total.periods, total.flagged, total.recovered) == (7, 6, 4)
        assert (total.ended_otherwise, total.still_waiting) == (1, 1)
        assert (total.recovered_after_p50, total.recovered_after_p95, total.recovered_after_max) == (200, 3800, 3800)
        assert found.by_type.keys() == {"a", "b", "task"}
        a = found.by_type["a"]
        assert (a.periods, a.flagged, a.recovered, a.recovered_after_p50, a.recovered_after_max) == (4, 3, 3, 200, 1000)
        assert found.by_type["task"].recovered_after_p50 is None
        sum_of = {name: sum(getattr(one, name) for one in found.by_type.values()) for name in ("periods", "flagged")}
        assert sum_of == {"periods": total.periods, "flagged": total.flagged}

    def test_it_says_what_a_sweep_in_time_does(self, nexus: TaskNexus, clock: Any) -> None:
        """The replay of a record and the sweeps that made it agree."""
        config = TaskMonitoringConfig(pending_timeout_seconds=100)
        flagged = 0
        for wait in (20, 90, 100, 101, 250, 999):
            task_id = nexus.add_task({}).task_id
            clock.advance(wait)
            flagged += nexus.sweep(config).logged
            nexus.claim_task(task_id, "Ada", lease_seconds=30 * 86_400)
        clock.advance(1)
        assert flagged == 4
        # A wait of exactly the threshold is flagged by a sweep that comes at that very moment, and recovers at once.
        assert nexus.what_if(config).total.flagged == 3

    def test_policies_and_the_past(self, nexus: TaskNexus, waited: Any, clock: Any) -> None:
        waited("deploy", 50)
        clock.advance(HOUR)
        since = clock() - timedelta(seconds=1)
        waited("deploy", 50)
        waited("other", 50)
        policy = {"name": "p", "task_types": ["deploy"], "pending_timeout_seconds": 10, "steps": ["log_only"]}
        config = TaskMonitoringConfig(policies=[policy])
        assert nexus.what_if(config).total.flagged == 2
        found = nexus.what_if(config, since=since)
        assert (found.total.periods, found.total.flagged, found.since) == (2, 1, since)

    def test_an_empty_record(self, nexus: TaskNexus) -> None:
        found = nexus.what_if(TaskMonitoringConfig())
        assert (found.total.periods, found.total.flagged, found.by_type) == (0, 0, {})
