"""What the sweep does to get a task moving: another agent, a question to somebody, an end; and what undoes it."""

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from nexus import TaskMonitoringConfig, TaskNexus
from nexus.errors import ClaimLost
from nexus.ladder import Candidate, Wanted, choose, spread

from .conftest import Load

HOUR = 3600.0


def watching(strategy: str, **settings: Any) -> TaskMonitoringConfig:
    """Monitoring with one strategy."""
    return TaskMonitoringConfig(escalation_strategy=strategy, **settings)


def seen(nexus: TaskNexus, *agents: str) -> None:
    """These look for work, and find none."""
    for agent_id in agents:
        nexus.claim(agent_id, task_types=["none of this"])


class TestReassign:
    def test_prefers_the_active_agent_with_the_least_to_do(self, nexus: TaskNexus, clock: Any) -> None:
        for agent_id in ("Busy", "Idle", "Old"):
            nexus.register_agent(agent_id, ["x"])
        nexus.register_agent("Unskilled")
        nexus.register_agent("Picky", ["x"], task_types=["other"])
        nexus.add_tasks([{"task_id": "W"}, {"task_id": "T1", "assigned_to": "Gone", "required_capabilities": ["x"]}])
        clock.advance(2 * HOUR)
        seen(nexus, "Busy", "Idle", "Unskilled", "Picky")
        nexus.claim_task("W", "Busy")
        [item] = nexus.sweep(watching("reassign")).items
        assert (item.action, item.detail) == ("reassign", "taken from Gone; given to Idle")
        assert nexus.get_task_by_id("T1").assigned_to == "Idle"
        event = nexus.history("T1")[-1]
        assert (event.verb, event.actor, event.from_status, event.to_status) == (
            "reassign", "sweep", "pending", "pending",
        )  # fmt: skip

    def test_says_so_where_nobody_is_there(self, nexus: TaskNexus, clock: Any) -> None:
        nexus.register_agent("Old", ["x"])
        nexus.add_task({"task_id": "T1", "assigned_to": "Gone", "required_capabilities": ["x"]})
        clock.advance(2 * HOUR)
        [item] = nexus.sweep(watching("reassign")).items
        assert item.detail == "taken from Gone; nobody at work could take it: whoever comes may claim it"
        assert nexus.get_task_by_id("T1").assigned_to is None
        assert nexus.claim_task("T1", "Old")

    def test_never_to_who_has_lost_an_attempt_at_it(self, nexus: TaskNexus, at_work: Any, clock: Any) -> None:
        nexus.register_agent("Lossy")
        nexus.add_task({"task_id": "T1"})
        at_work("T1", "Lossy")
        clock.advance(61)
        nexus.sweep()
        with nexus._database.engine.begin() as connection:
            connection.execute(sa.text("UPDATE nexus_tasks SET assigned_to = 'Gone'"))
        clock.advance(HOUR)
        seen(nexus, "Lossy")
        [item] = nexus.sweep(watching("reassign")).items
        assert "nobody at work" in item.detail

    def test_many_tasks_are_spread(self, nexus: TaskNexus, clock: Any) -> None:
        nexus.add_tasks([{"assigned_to": "Gone"} for _ in range(9)])
        clock.advance(HOUR)
        seen(nexus, "A", "B", "C")
        nexus.sweep(watching("reassign"))
        assert [len(nexus.get_tasks_by_agent(name)) for name in ("A", "B", "C", "Gone")] == [3, 3, 3, 0]

    def test_a_task_that_is_assigned_to_nobody_stays_open_to_all(self, nexus: TaskNexus, clock: Any) -> None:
        nexus.add_task({"task_id": "T1"})
        clock.advance(HOUR)
        seen(nexus, "A")
        [item] = nexus.sweep(watching("reassign")).items
        assert (item.action, nexus.get_task_by_id("T1").assigned_to) == ("log_only", None)

    def test_the_choice(self) -> None:
        def agent(name: str, *skills: str, limit: int | None = None, types: set[str] | None = None) -> Candidate:
            return Candidate(name, frozenset(skills), None if types is None else frozenset(types), limit)

        wanted = Wanted("t", frozenset({"x"}), frozenset({"Gone", None}))
        assert choose(wanted, [], {}) is None
        assert choose(wanted, [agent("Gone", "x"), agent("A")], {}) is None
        assert choose(wanted, [agent("A", "x"), agent("B", "x", "y")], {"A": 1}) == "B"
        assert choose(wanted, [agent("A", "x", limit=1), agent("B", "x")], {"A": 1, "B": 5}) == "B", "A is full"
        assert choose(wanted, [agent("A", "x", limit=1)], {"A": 1}) == "A", "but later it will not be"
        assert choose(wanted, [agent("A", "x", types={"u"}), agent("B", "x", types={"t"})], {"B": 9}) == "B"
        assert spread([("1", wanted), ("2", wanted)], [agent("A", "x"), agent("B", "x")], {}) == {"1": "A", "2": "B"}


class TestEscalate:
    def escalated(self, nexus: TaskNexus, clock: Any, **settings: Any) -> str:
        nexus.add_task({"task_id": "T1"})
        clock.advance(HOUR)
        assert nexus.sweep(watching("escalate", **settings)).escalated == 1
        [request] = nexus.get_all_tasks(tag="escalation")
        assert (request.related_task_id, request.tags) == ("T1", ("escalation", "stalled_task"))
        return request.task_id

    def test_one_task_per_stall_says_the_database(self, nexus: TaskNexus, clock: Any) -> None:
        self.escalated(nexus, clock)
        columns = [column["name"] for column in sa.inspect(nexus._database.engine).get_columns("nexus_tasks")]
        kept = ", ".join(name for name in columns if name not in ("seq", "task_id"))
        copy = (
            f"INSERT INTO nexus_tasks (task_id, {kept}) "
            f"SELECT 'another', {kept} FROM nexus_tasks WHERE escalates IS NOT NULL"
        )
        with pytest.raises(sa.exc.IntegrityError), nexus._database.engine.begin() as connection:
            connection.exec_driver_sql(copy)

    @pytest.mark.parametrize("how", ["claim", "cancel", "block"])
    def test_closes_by_itself_when_its_source_moves_on(self, nexus: TaskNexus, clock: Any, how: str) -> None:
        request = self.escalated(nexus, clock)
        {
            "claim": lambda: nexus.claim_task("T1", "Ada"),
            "cancel": lambda: nexus.cancel("T1"),
            "block": lambda: nexus.block("T1", "wait"),
        }[how]()
        task = nexus.get_task_by_id(request)
        assert (task.status, task.reason) == ("cancelled", f"T1 moved on ({how})")
        assert nexus.history(request)[-1].actor == "nexus"

    def test_stays_while_the_source_is_only_marked(self, nexus: TaskNexus, clock: Any) -> None:
        request = self.escalated(nexus, clock)
        nexus.sweep(watching("mark_stalled"))
        assert nexus.get_task_by_id("T1").status == "stalled"
        assert nexus.get_task_by_id(request).status == "pending"
        nexus.retry("T1")
        assert nexus.get_task_by_id(request).status == "cancelled"

    def test_whoever_looks_into_it_is_told_to_stop(self, nexus: TaskNexus, clock: Any, at_work: Any) -> None:
        request = self.escalated(nexus, clock)
        claim = at_work(request, "Olga")
        nexus.claim_task("T1", "Ada")
        assert nexus.heartbeat(claim).cancel_requested
        with pytest.raises(ClaimLost):
            nexus.complete(claim, "it was the network")
        [attempt] = nexus.attempts(request)
        assert (attempt.outcome, attempt.late_result) == ("cancelled", "it was the network")

    def test_whoever_moves_the_source_on_gets_to_finish(self, nexus: TaskNexus, clock: Any, at_work: Any) -> None:
        request = self.escalated(nexus, clock)
        claim = at_work(request, "Olga")
        nexus.claim_task("T1", "Olga")
        assert nexus.sweep(watching("escalate")).items == ()
        assert nexus.complete(claim, "I took it").status == "completed"

    def test_what_they_do_not_finish_the_sweep_withdraws(self, nexus: TaskNexus, clock: Any, at_work: Any) -> None:
        request = self.escalated(nexus, clock)
        claim = at_work(request, "Olga")
        nexus.cancel("T1", actor="Olga")
        nexus.release(claim)
        report = nexus.sweep(watching("escalate"))
        assert [(item.task_id, item.action) for item in report.items] == [(request, "withdraw")]
        assert (report.withdrawn, nexus.get_task_by_id(request).status) == (1, "cancelled")

    def test_an_escalation_that_nobody_takes_is_not_escalated(self, nexus: TaskNexus, clock: Any) -> None:
        request = self.escalated(nexus, clock)
        clock.advance(HOUR)
        [item] = nexus.sweep(watching("escalate")).items
        assert (item.task_id, item.action) == (request, "log_only")
        assert nexus.sweep(watching("mark_stalled")).stalled == 2, "but other steps are taken on it"

    def test_another_wait_asks_again(self, nexus: TaskNexus, clock: Any) -> None:
        self.escalated(nexus, clock)
        nexus.release(nexus.claim_task("T1", "Ada"))
        clock.advance(HOUR)
        nexus.sweep(watching("escalate"))
        assert [task.status for task in nexus.get_all_tasks(tag="escalation")] == ["cancelled", "pending"]


class TestDeadlines:
    def test_what_is_late_is_escalated_once_whatever_the_strategy(
        self, nexus: TaskNexus, at_work: Any, clock: Any
    ) -> None:
        due = clock() + timedelta(hours=1)
        nexus.add_tasks(
            [
                {"task_id": "working", "deadline": due},
                {"task_id": "waits", "deadline": due, "depends_on": ["working"]},
                {"task_id": "done", "deadline": due},
                {"task_id": "later", "deadline": due + timedelta(hours=5)},
            ]
        )
        nexus.complete(at_work("done"))
        at_work("working", lease_seconds=9 * HOUR)
        clock.advance(HOUR - 1)
        assert nexus.sweep().items == ()
        clock.advance(1)
        report = nexus.sweep()
        found = {item.task_id: (item.action, item.detail) for item in report.items if item.action == "overdue"}
        assert found.keys() == {"working", "waits"}
        assert "Ada holds it (claim 1)" in found["working"][1]
        assert "it waits for working" in found["waits"][1]
        assert report.escalated == 2
        assert {task.related_task_id for task in nexus.get_all_tasks(tag="escalation")} == {"working", "waits"}
        clock.advance(60)
        assert [item.action for item in nexus.sweep().items if item.action == "overdue"] == []

    def test_the_question_ends_with_the_task_not_with_its_next_move(
        self, nexus: TaskNexus, at_work: Any, clock: Any
    ) -> None:
        nexus.add_task({"task_id": "T1", "deadline": clock() + timedelta(seconds=10)})
        clock.advance(10)
        nexus.sweep()
        [request] = nexus.get_all_tasks(tag="escalation")
        assert "deadline" in request.description
        claim = at_work("T1")
        assert nexus.get_task_by_id(request.task_id).status == "pending", "it is late all the same"
        nexus.complete(claim)
        assert nexus.get_task_by_id(request.task_id).status == "cancelled"
        [stall] = nexus.stalls("T1")
        assert (stall.kind, stall.closed_by) == ("deadline", "complete")

    def test_a_second_life_is_not_asked_about_again(self, nexus: TaskNexus, clock: Any) -> None:
        nexus.add_task({"task_id": "T1", "deadline": clock() + timedelta(seconds=10)})
        clock.advance(10)
        nexus.sweep()
        nexus.cancel("T1")
        nexus.retry("T1")
        assert nexus.sweep().items == ()


class TestDependenciesThatFail:
    def board(self, nexus: TaskNexus, **more: Any) -> None:
        nexus.add_tasks(
            [
                {"task_id": "A", "retry_policy": {"max_attempts": 1}, **more},
                {"task_id": "wait", "depends_on": ["A"]},
                {"task_id": "cancel", "depends_on": ["A"], "on_dependency_failure": "cancel"},
                {"task_id": "cancel too", "depends_on": ["cancel"], "on_dependency_failure": "cancel"},
                {"task_id": "run", "depends_on": ["A"], "on_dependency_failure": "run"},
                {"task_id": "run at last", "depends_on": ["cancel too"], "on_dependency_failure": "run"},
            ]
        )

    def settled(self, nexus: TaskNexus, statuses: Any) -> None:
        assert statuses("wait", "cancel", "cancel too", "run", "run at last") == [
            "pending", "cancelled", "cancelled", "pending", "pending",
        ]  # fmt: skip
        assert [task.task_id for task in nexus.get_pending_tasks()] == ["run", "run at last"]
        [reason, *_] = nexus.explain("wait")
        assert reason.code == "dependency"
        assert "will not be completed unless it is retried" in reason.message
        assert nexus.get_task_by_id("cancel").reason == "it depended on A, which ended without success"
        assert nexus.get_task_by_id("cancel too").reason == "it depended on cancel, which ended without success"
        assert nexus.explain("run") == []

    def test_by_failing(self, nexus: TaskNexus, at_work: Any, statuses: Any) -> None:
        self.board(nexus)
        nexus.fail(at_work("A"), "no")
        self.settled(nexus, statuses)

    def test_by_being_cancelled(self, nexus: TaskNexus, statuses: Any) -> None:
        self.board(nexus)
        nexus.cancel("A")
        self.settled(nexus, statuses)

    def test_by_being_lost(self, nexus: TaskNexus, at_work: Any, clock: Any, statuses: Any) -> None:
        self.board(nexus)
        nexus.retry(nexus.cancel("A").task_id)
        nexus.add_task({"task_id": "B", "retry_policy": {"max_losses": 1}})
        nexus.add_task({"task_id": "run B", "depends_on": ["B"], "on_dependency_failure": "run"})
        at_work("B")
        clock.advance(61)
        nexus.sweep()
        assert statuses("B", "run B") == ["failed", "pending"]
        assert nexus.explain("run B") == []

    def test_by_being_abandoned(self, nexus: TaskNexus, clock: Any, statuses: Any) -> None:
        self.board(nexus)
        clock.advance(HOUR)
        nexus.sweep(watching("fail"))
        self.settled(nexus, statuses)

    def test_a_success_after_all_is_not_counted_twice(self, nexus: TaskNexus, at_work: Any, statuses: Any) -> None:
        self.board(nexus)
        nexus.fail(at_work("A"), "no")
        nexus.retry("A")
        nexus.complete(at_work("A"))
        assert [task.task_id for task in nexus.get_pending_tasks()] == ["wait", "run", "run at last"]

    def test_what_is_added_after_the_failure_follows_its_setting_too(
        self, nexus: TaskNexus, at_work: Any, statuses: Any
    ) -> None:
        nexus.add_task({"task_id": "A"})
        nexus.cancel("A")
        nexus.add_tasks(
            [
                {"task_id": "run", "depends_on": ["A"], "on_dependency_failure": "run"},
                {"task_id": "cancel", "depends_on": ["A"], "on_dependency_failure": "cancel"},
                {"task_id": "wait", "depends_on": ["A"]},
            ]
        )
        assert statuses("run", "cancel", "wait") == ["pending", "cancelled", "pending"]
        assert nexus.claim_task("run", "Ada")

    @pytest.mark.parametrize("way", ["add", "import"])
    def test_what_was_retried_since_is_left_alone_when_another_comes_to_depend_on_it(
        self, nexus: TaskNexus, load: Load, statuses: Any, way: str
    ) -> None:
        self.board(nexus)
        nexus.cancel("A")
        nexus.retry("cancel")
        late = [
            {"task_id": "late", "depends_on": ["A"], "on_dependency_failure": "cancel"},
            {"task_id": "later", "depends_on": ["late"], "on_dependency_failure": "cancel"},
            {"task_id": "patient", "depends_on": ["A"]},
        ]
        nexus.add_tasks(late) if way == "add" else load(late)
        assert statuses("cancel", "late", "later", "patient") == ["pending", "cancelled", "cancelled", "pending"]

    def test_a_long_chain(self, nexus: TaskNexus) -> None:
        chain = [{"task_id": "0"}]
        chain += [
            {"task_id": str(link), "depends_on": [str(link - 1)], "on_dependency_failure": "cancel"}
            for link in range(1, 400)
        ]
        nexus.add_tasks(chain)
        nexus.cancel("0")
        assert nexus.stats() == {"cancelled": 400}

    def test_what_runs_anyway_waits_for_the_others(self, nexus: TaskNexus, done: Any) -> None:
        nexus.add_tasks([{"task_id": "A"}, {"task_id": "B"}])
        nexus.add_task({"task_id": "T1", "depends_on": ["A", "B"], "on_dependency_failure": "run"})
        nexus.cancel("A")
        assert [reason.details["task_id"] for reason in nexus.explain("T1")] == ["B"]
        done("B")
        assert nexus.explain("T1") == []


class TestHungAgents:
    def test_one_that_renews_but_does_not_end_is_timed_out(self, nexus: TaskNexus, at_work: Any, clock: Any) -> None:
        nexus.add_task({"task_id": "T1", "timeout_seconds": 100, "retry_policy": {"max_attempts": 2, "jitter": 0}})
        claim = at_work("T1")
        for _ in range(3):
            clock.advance(50)
            nexus.heartbeat(claim)
            assert nexus.sweep().items == (), "its agent has a lease's time to say so itself"
        clock.advance(10)
        report = nexus.sweep()
        assert [(item.action, report.timed_out, report.failed) for item in report.items] == [("time_out", 1, 0)]
        task = nexus.get_task_by_id("T1")
        assert (task.status, task.failure_count, task.loss_count) == ("pending", 1, 0)
        [attempt] = nexus.attempts("T1")
        assert attempt.outcome == "timed_out"
        with pytest.raises(ClaimLost):
            nexus.heartbeat(claim)
        with pytest.raises(ClaimLost):
            nexus.complete(claim, "at last")
        assert nexus.attempts("T1")[0].late_result == "at last"

    def test_the_last_time_is_a_dead_letter(self, nexus: TaskNexus, at_work: Any, clock: Any) -> None:
        nexus.add_task({"task_id": "T1", "timeout_seconds": 1, "retry_policy": {"max_attempts": 1}})
        claim = at_work("T1", lease_seconds=10)
        clock.advance(9)
        nexus.heartbeat(claim)
        clock.advance(2)
        assert nexus.sweep().failed == 1
        assert nexus.history("T1")[-1].actor == "sweep"


class TestPauses:
    def test_nothing_of_the_type_is_offered(self, nexus: TaskNexus, clock: Any) -> None:
        nexus.add_tasks([{"task_id": "D", "task_type": "deploy"}, {"task_id": "T"}])
        nexus.pause("deploy", "the release is frozen", actor="Olga")
        assert [claim.task_id for claim in nexus.claim("Ada", 5)] == ["T"]
        [reason, *_] = nexus.explain("D")
        assert reason.code == "paused"
        assert reason.message == (
            "'deploy' tasks are paused since 2030-06-01 12:00:00 UTC by Olga: the release is frozen; "
            "`nexus resume deploy` goes on"
        )
        assert nexus.resume("deploy") and not nexus.resume("deploy")
        assert nexus.explain("D") == []
        assert nexus.claim_task("D", "Ada")

    def test_the_whole_board(self, nexus: TaskNexus, at_work: Any) -> None:
        nexus.add_tasks([{"task_id": "A"}, {"task_id": "B"}])
        claim = at_work("A")
        nexus.pause(reason="maintenance")
        assert nexus.claim("Ada", 5) == []
        assert nexus.complete(claim).status == "completed", "what is held goes on"
        assert [pause.task_type for pause in nexus.pauses()] == ["*"]
        nexus.resume()
        assert nexus.claim("Ada", 5)

    def test_nobody_lets_a_paused_task_wait(self, nexus: TaskNexus, clock: Any) -> None:
        nexus.add_task({"task_id": "T1"})
        nexus.pause()
        clock.advance(100 * HOUR)
        assert nexus.sweep(watching("fail")).items == ()
        nexus.resume()
        assert nexus.get_task_by_id("T1").available_at == clock()
        clock.advance(HOUR - 1)
        assert nexus.sweep(watching("fail")).items == ()

    def test_a_pause_stops_the_ladder_and_resuming_closes_the_stall(self, nexus: TaskNexus, clock: Any) -> None:
        nexus.add_task({"task_id": "T1"})
        clock.advance(HOUR)
        nexus.sweep(watching("escalate"))
        nexus.pause()
        assert nexus.sweep(watching("fail")).items == ()
        nexus.resume()
        [stall] = nexus.stalls("T1")
        assert stall.closed_by == "resume"
        [request] = nexus.get_all_tasks(tag="escalation")
        assert (request.status, request.reason) == ("cancelled", "T1 was paused, and waits anew")


class TestOnRecord:
    def test_each_pass_puts_itself_down(self, nexus: TaskNexus, clock: Any) -> None:
        assert nexus.last_sweep() is None
        nexus.add_tasks([{}, {}, {}])
        clock.advance(HOUR)
        nexus.sweep(watching("log_only", max_per_sweep=2), source="command")
        last = nexus.last_sweep()
        assert (last.source, last.started_at, last.finished_at) == ("command", clock(), clock())
        assert (last.scanned, last.acted, last.conflicts, last.skipped, last.more) == (2, 2, 0, 0, True)
        assert (
            last.settings_hash
            == watching("log_only", max_per_sweep=2).settings_hash
            != watching("log_only").settings_hash
        )
        nexus.sweep()
        assert [sweep.sweep_id for sweep in nexus.sweeps()] == [2, 1]

    def test_a_dry_run_says_all_and_does_nothing(
        self, nexus: TaskNexus, at_work: Any, clock: Any, everything: Any
    ) -> None:
        nexus.add_tasks([{"task_id": "lost"}, {"task_id": "A"}, {"task_id": "late", "deadline": clock()}])
        at_work("lost")
        clock.advance(HOUR)
        before = everything()
        dry = nexus.sweep(watching("escalate"), dry_run=True)
        assert everything() == before
        assert nexus.sweeps() == []
        assert dry.dry_run
        wet = nexus.sweep(watching("escalate"))
        assert [(item.task_id, item.action) for item in dry.items] == [(i.task_id, i.action) for i in wet.items]
        assert len(wet.items) == 4

    def test_waits_are_kept_with_the_move_that_ended_them(self, nexus: TaskNexus, at_work: Any, clock: Any) -> None:
        nexus.add_tasks([{"task_id": "T1"}, {"task_id": "T2", "depends_on": ["T1"]}])
        clock.advance(90)
        nexus.complete(at_work("T1"))
        nexus.cancel("T2")
        waits = {
            (event.task_id, event.verb): event.waited_seconds for name in ("T1", "T2") for event in nexus.history(name)
        }
        assert waits == {
            ("T1", "add"): None, ("T1", "claim"): 90, ("T1", "start"): None, ("T1", "complete"): None,
            ("T2", "add"): None, ("T2", "cancel"): 0,
        }  # fmt: skip


class TestWhereNobodySweeps:
    def test_a_claim_that_finds_nothing_looks_after_the_board(self, nexus: TaskNexus, at_work: Any, clock: Any) -> None:
        nexus.add_task({"task_id": "T1"})
        at_work("T1")
        clock.advance(599)
        assert nexus.claim("Bo") == [], "a sweep may still come"
        clock.advance(2)
        assert [claim.task_id for claim in nexus.claim("Bo")] == ["T1"]
        assert nexus.last_sweep().source == "claim"

    def test_not_while_somebody_does(self, nexus: TaskNexus, at_work: Any, clock: Any) -> None:
        nexus.add_task({"task_id": "T1"})
        at_work("T1", lease_seconds=900)
        clock.advance(800)
        nexus.sweep()
        clock.advance(200)
        assert nexus.claim("Bo") == []
        assert len(nexus.sweeps()) == 1

    def test_not_on_an_empty_board(self, nexus: TaskNexus, clock: Any) -> None:
        clock.advance(HOUR)
        assert nexus.claim("Bo") == nexus.sweeps() == []

    def test_it_is_bounded(self, nexus: TaskNexus, clock: Any) -> None:
        nexus.add_tasks([{} for _ in range(250)])
        nexus.claim("Ada", 250)
        clock.advance(700)
        assert len(nexus.claim("Bo", 250)) == 100
