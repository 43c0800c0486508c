"""Stalls as rows, and the ladder that each climbs: every step in its time, once, whatever happens in between."""

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from nexus import TaskMonitoringConfig, TaskNexus
from nexus.errors import InvalidSettings
from nexus.monitoring import ACTIONS
from nexus.settings import NexusSettings

HOUR = 3600.0
FULL = tuple({"action": action, "after_seconds": 600 * number} for number, action in enumerate(ACTIONS))


def ladder(*steps: Any, name: str = "mine", **selectors: Any) -> dict[str, Any]:
    """A policy."""
    return {"name": name, "steps": steps, **selectors}


def config(*policies: dict[str, Any], **settings: Any) -> TaskMonitoringConfig:
    """Monitoring with these policies."""
    return TaskMonitoringConfig(policies=policies, **settings)


def actions(nexus: TaskNexus, monitoring: TaskMonitoringConfig) -> dict[str, str]:
    """What one sweep does, by task."""
    return {item.task_id: item.action for item in nexus.sweep(monitoring).items}


class TestAStall:
    def test_is_opened_when_the_wait_is_too_long(self, nexus: TaskNexus, clock: Any) -> None:
        nexus.add_task({"task_id": "T1", "required_capabilities": ["gpu"]})
        waits_since = clock()
        clock.advance(HOUR - 1)
        nexus.sweep()
        assert nexus.stalls() == []
        clock.advance(2)
        nexus.sweep()
        [stall] = nexus.stalls("T1")
        assert (stall.kind, stall.since, stall.opened_at, stall.policy) == ("waiting", waits_since, clock(), "default")
        assert (stall.closed_at, stall.closed_by, stall.next_step_at) == (None, None, None)
        assert stall.why == "no agent with the capability gpu: no agent is registered"
        assert [(step.step, step.at) for step in stall.steps] == [("log_only", clock())]

    @pytest.mark.parametrize("verb", ["claim", "block", "cancel"])
    def test_is_closed_when_the_task_moves(self, nexus: TaskNexus, clock: Any, verb: str) -> None:
        nexus.add_task({"task_id": "T1"})
        clock.advance(HOUR)
        nexus.sweep()
        clock.advance(60)
        {
            "claim": lambda: nexus.claim("Ada"),
            "block": lambda: nexus.block("T1", "wait"),
            "cancel": lambda: nexus.cancel("T1"),
        }[verb]()
        [stall] = nexus.stalls("T1")
        assert (stall.closed_at, stall.closed_by) == (clock(), verb)
        assert nexus.stalls(open_only=True) == []

    def test_is_another_one_for_the_next_wait(self, nexus: TaskNexus, clock: Any) -> None:
        nexus.add_task({"task_id": "T1"})
        for count in (1, 2, 3):
            clock.advance(HOUR)
            nexus.sweep()
            assert len(nexus.stalls("T1")) == count
            nexus.release(nexus.claim_task("T1", "Ada"))
        assert nexus.stalls(open_only=True) == []

    def test_goes_on_while_the_sweep_itself_has_marked_the_task(self, nexus: TaskNexus, clock: Any) -> None:
        nexus.add_task({"task_id": "T1"})
        clock.advance(HOUR)
        marking = config(ladder("mark_stalled", {"action": "fail", "after_seconds": 100}))
        assert actions(nexus, marking) == {"T1": "mark_stalled"}
        [stall] = nexus.stalls(open_only=True)
        assert stall.next_step_at == clock() + timedelta(seconds=100)
        clock.advance(100)
        report = nexus.sweep(marking)
        assert [(item.action, item.detail) for item in report.items] == [
            ("fail", "waited longer than 3600 s; dead letter")
        ]
        assert report.failed == 1
        task = nexus.get_task_by_id("T1")
        assert (task.status, task.error) == ("failed", "Abandoned: waited longer than 3600 s")
        assert nexus.history("T1")[-1].verb == "abandon"
        [stall] = nexus.stalls("T1")
        assert stall.closed_by == "abandon"
        assert nexus.retry("T1").status == "pending"

    def test_of_a_stalled_task_ends_with_the_operators_retry(self, nexus: TaskNexus, clock: Any) -> None:
        nexus.add_task({"task_id": "T1"})
        clock.advance(HOUR)
        nexus.sweep(config(ladder("mark_stalled")))
        nexus.retry("T1")
        [stall] = nexus.stalls("T1")
        assert stall.closed_by == "retry"
        assert nexus.sweep().items == ()


class TestTheLadder:
    def test_is_climbed_step_by_step(self, nexus: TaskNexus, clock: Any) -> None:
        nexus.add_task({"task_id": "T1", "assigned_to": "Ada"})
        clock.advance(HOUR)
        opened = clock()
        seen = []
        for _ in range(7):
            found = actions(nexus, config(ladder(*FULL)))
            seen.append(found.get("T1"))
            assert actions(nexus, config(ladder(*FULL))) == {}, "repeating a sweep changes nothing more"
            clock.advance(600)
        assert seen == [*ACTIONS, None]
        [stall] = nexus.stalls("T1")
        assert [step.step for step in stall.steps] == list(ACTIONS)
        assert [step.at for step in stall.steps] == [opened + timedelta(seconds=600 * rung) for rung in range(6)]
        assert stall.policy == "mine"
        assert nexus.get_task_by_id("T1").status == "failed"

    def test_a_late_sweep_takes_all_that_is_due_in_order(self, nexus: TaskNexus, clock: Any) -> None:
        nexus.add_task({"task_id": "T1", "assigned_to": "Ada"})
        clock.advance(HOUR)
        nexus.sweep(config(ladder(*FULL)))
        clock.advance(100 * HOUR)
        report = nexus.sweep(config(ladder(*FULL)))
        assert [item.action for item in report.items if item.task_id == "T1"] == list(ACTIONS[1:])
        assert (report.notified, report.reassigned, report.escalated, report.stalled, report.failed) == (1, 1, 1, 1, 1)

    def test_delays_count_from_the_opening_not_from_the_step_before(self, nexus: TaskNexus, clock: Any) -> None:
        nexus.add_task({"task_id": "T1"})
        clock.advance(HOUR)
        steps = ("log_only", {"action": "notify", "after_seconds": 100}, {"action": "escalate", "after_seconds": 200})
        nexus.sweep(config(ladder(*steps)))
        clock.advance(150)
        assert actions(nexus, config(ladder(*steps))) == {"T1": "notify"}
        clock.advance(50)
        assert actions(nexus, config(ladder(*steps))) == {"T1": "escalate"}

    def test_stops_when_the_task_moves(self, nexus: TaskNexus, clock: Any) -> None:
        nexus.add_task({"task_id": "T1"})
        clock.advance(HOUR)
        nexus.sweep(config(ladder(*FULL)))
        nexus.claim("Ada", lease_seconds=10 * HOUR)
        clock.advance(2 * HOUR)
        assert actions(nexus, config(ladder(*FULL))) == {}

    def test_settings_that_change_while_a_stall_is_open(self, nexus: TaskNexus, clock: Any) -> None:
        nexus.add_task({"task_id": "T1"})
        clock.advance(HOUR)
        nexus.sweep(config(ladder("log_only", {"action": "fail", "after_seconds": 100})))
        clock.advance(200)
        milder = config(ladder("log_only", "notify", {"action": "fail", "after_seconds": 1000}))
        assert actions(nexus, milder) == {"T1": "notify"}
        assert nexus.stalls()[0].next_step_at == nexus.stalls()[0].opened_at + timedelta(seconds=1000)
        assert actions(nexus, config(ladder("log_only", "notify"))) == {}
        assert nexus.stalls()[0].next_step_at is None
        clock.advance(10 * HOUR)
        assert actions(nexus, config(ladder("log_only", "notify"))) == {}

    def test_a_bounded_pass_is_continued_by_the_next(self, nexus: TaskNexus, clock: Any) -> None:
        nexus.add_tasks([{"task_id": f"T{number}"} for number in range(5)])
        clock.advance(HOUR)
        bounded = config(ladder("log_only", "notify"), max_per_sweep=2)
        reports = [nexus.sweep(bounded) for _ in range(4)]
        assert [len(report.items) for report in reports] == [4, 4, 2, 0]
        assert [report.more for report in reports] == [True, True, False, False]


class TestPolicies:
    def test_the_first_that_fits_is_the_tasks_own(self, nexus: TaskNexus, clock: Any) -> None:
        policies = config(
            ladder("escalate", name="urgent", priority="high", pending_timeout_seconds=60),
            ladder("notify", name="deploys", task_types=["deploy", "rollback"], pending_timeout_seconds=120),
            ladder("mark_stalled", name="optional", tags=["optional", "cosmetic"]),
            pending_timeout_seconds=300,
        )
        nexus.add_tasks(
            [
                {"task_id": "urgent deploy", "task_type": "deploy", "priority": "critical"},
                {"task_id": "deploy", "task_type": "deploy"},
                {"task_id": "optional", "tags": ["x", "cosmetic"]},
                {"task_id": "plain"},
            ]
        )
        seen: dict[str, Any] = {}
        for _ in range(6):
            clock.advance(60)
            seen |= {
                item.task_id: (item.action, item.waiting_seconds)
                for item in nexus.sweep(policies).items
                if item.task_id not in seen
            }
        assert {name: seen[name] for name in ("urgent deploy", "deploy", "optional", "plain")} == {
            "urgent deploy": ("escalate", 60),
            "deploy": ("notify", 120),
            "optional": ("mark_stalled", 300),
            "plain": ("log_only", 300),
        }
        policy_of = {stall.task_id: stall.policy for stall in nexus.stalls()}
        assert {name: policy_of[name] for name in ("urgent deploy", "deploy", "optional", "plain")} == {
            "urgent deploy": "urgent",
            "deploy": "deploys",
            "optional": "optional",
            "plain": "default",
        }

    def test_all_selectors_of_a_policy_must_fit(self, nexus: TaskNexus, clock: Any) -> None:
        strict = config(ladder("mark_stalled", task_types=["deploy"], tags=["prod"]))
        nexus.add_tasks(
            [
                {"task_id": "both", "task_type": "deploy", "tags": ["prod"]},
                {"task_id": "type", "task_type": "deploy"},
                {"task_id": "tag", "tags": ["prod"]},
            ]
        )
        clock.advance(HOUR)
        assert actions(nexus, strict) == {"both": "mark_stalled", "type": "log_only", "tag": "log_only"}

    @pytest.mark.parametrize(
        ("policies", "says"),
        [
            ('[{"name": "a", "steps": ["fail", "log_only"]}]', "policies.0.steps.*log_only stands after fail"),
            ('[{"name": "a", "steps": ["notify", "notify"]}]', "policies.0.steps.*notify stands after notify"),
            (
                '[{"name": "a", "steps": [{"action": "notify", "after_seconds": 9}, "fail"]}]',
                r"policies.0.steps.*fail comes after 0 s, before notify \(9 s\)",
            ),
            ('[{"name": "a", "steps": ["shout"]}]', "policies.0.steps.0.action.*'log_only', 'notify'"),
            ('[{"name": "a", "steps": []}]', "policies.0.steps.*at least 1"),
            ('[{"name": "a"}]', "policies.0.steps.*required"),
            ('[{"name": "a", "tag": "x", "steps": ["fail"]}]', "policies.0.tag.*not permitted"),
            ('[{"name": "a", "steps": [{"action": "fail", "after_seconds": -1}]}]', "policies.0.steps.0.after_seconds"),
            ('[{"name": "a", "steps": ["fail"]}, {"name": "b", "steps": ["fail"]}]', "'b' is never reached: 'a'"),
            (
                '[{"name": "a", "tags": ["x"], "steps": ["fail"]}, {"name": "a", "steps": ["fail"]}]',
                "two policies are called 'a'",
            ),
            ('[{"name": "default", "tags": ["x"], "steps": ["fail"]}]', "two policies are called 'default'"),
        ],
    )
    def test_a_wrong_one_is_refused_by_its_key(self, monkeypatch: pytest.MonkeyPatch, policies: str, says: str) -> None:
        monkeypatch.setenv("NEXUS_MONITORING__POLICIES", policies)
        with pytest.raises(InvalidSettings, match=f"monitoring.*{says}"):
            NexusSettings.load()


class TestABadRow:
    @pytest.mark.parametrize(
        ("column", "value"),
        [("tags", "not json"), ("required_capabilities", "{]"), ("retry_policy", "nonsense"), ("payload", "{")],
    )
    @pytest.mark.parametrize("strategy", ACTIONS)
    def test_is_reported_and_skipped(
        self, sqlite_url: str, open_board: Any, clock: Any, strategy: str, column: str, value: str
    ) -> None:
        """On SQLite anybody with the file can write anything into it; PostgreSQL takes no JSON that is none."""
        nexus = open_board(sqlite_url)
        ids = nexus.add_tasks([{"task_id": f"T{number}", "assigned_to": "Ada"} for number in range(9)])
        with nexus._database.engine.begin() as connection:
            connection.execute(
                sa.text(f"UPDATE nexus_tasks SET {column} = :value WHERE task_id = 'T4'"), {"value": value}
            )
        clock.advance(HOUR)
        report = nexus.sweep(TaskMonitoringConfig(escalation_strategy=strategy))
        done = {item.task_id for item in report.items if item.action == strategy}
        assert done >= set(ids) - {"T4"}
        if "T4" not in done:
            [item] = [item for item in report.items if item.task_id == "T4"]
            assert (item.action, report.skipped) == ("skip", 1)
            assert "cannot be read" in item.detail
            assert nexus.last_sweep().skipped == 1

    def test_of_a_lease_does_not_keep_the_others(self, sqlite_url: str, open_board: Any, clock: Any) -> None:
        nexus = open_board(sqlite_url)
        nexus.add_tasks([{"task_id": f"T{number}"} for number in range(9)])
        for claim in nexus.claim("Ada", 9):
            nexus.start(claim)
        with nexus._database.engine.begin() as connection:
            connection.execute(sa.text("UPDATE nexus_tasks SET retry_policy = 'nonsense' WHERE task_id = 'T4'"))
        clock.advance(61)
        report = nexus.sweep()
        assert (report.expired, report.skipped) == (8, 1)
        assert {item.task_id for item in report.items if item.action == "skip"} == {"T4"}

    def test_of_which_others_are_claimed_all_the_same(self, sqlite_url: str, open_board: Any) -> None:
        nexus = open_board(sqlite_url)
        nexus.add_tasks([{"task_id": "T1", "required_capabilities": ["x"]}, {"task_id": "T2"}])
        with nexus._database.engine.begin() as connection:
            connection.execute(sa.text("UPDATE nexus_tasks SET required_capabilities = '[' WHERE task_id = 'T1'"))
        assert [claim.task_id for claim in nexus.claim("Ada", 2)] == ["T2"]
