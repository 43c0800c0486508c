"""The periodic pass: what is held by nobody alive is taken back, what waits too long is acted on, once."""

from collections import Counter
from datetime import timedelta
from typing import Any, ClassVar

import pytest

from nexus import SweepReport, TaskMonitoringConfig, TaskNexus, sweeping, transitions, watch
from nexus.errors import ClaimLost, InvalidTask
from nexus.sweeping import Orders

HOUR = 3600
STRATEGIES = ("log_only", "mark_stalled", "reassign", "escalate")


def watching(strategy: str = "log_only", **settings: Any) -> TaskMonitoringConfig:
    """The default configuration with one strategy."""
    return TaskMonitoringConfig(escalation_strategy=strategy, **settings)


def actions(report: SweepReport) -> dict[str, str]:
    """What one sweep did, by task."""
    return {item.task_id: item.action for item in report.items}


class TestLeases:
    def test_work_of_a_dead_agent_is_offered_again(self, nexus: TaskNexus, at_work: Any, clock: Any) -> None:
        nexus.add_task({"task_id": "T1"})
        at_work("T1")
        clock.advance(59.999)
        assert nexus.sweep().expired == 0
        clock.advance(0.001)
        report = nexus.sweep()
        assert (report.scanned, report.expired, report.failed, report.more) == (1, 1, 0, False)
        assert actions(report) == {"T1": "expire"}
        task = nexus.get_task_by_id("T1")
        assert (task.status, task.claimed_by, task.loss_count, task.failure_count) == ("pending", None, 1, 0)
        assert task.available_at == task.pending_since == clock()
        assert "Ada" in task.error
        [attempt] = nexus.attempts("T1")
        assert (attempt.outcome, attempt.finished_at) == ("lost", clock())

    def test_a_claim_that_was_never_started_is_no_loss(self, nexus: TaskNexus, clock: Any) -> None:
        nexus.add_task({"task_id": "T1"})
        nexus.claim_task("T1", "Ada")
        clock.advance(61)
        assert nexus.sweep().expired == 1
        task = nexus.get_task_by_id("T1")
        assert (task.status, task.loss_count, task.error, task.attempt_count) == ("pending", 0, None, 0)

    def test_a_heartbeat_that_came_first_wins(self, nexus: TaskNexus, at_work: Any, clock: Any) -> None:
        nexus.add_task({"task_id": "T1"})
        claim = at_work("T1")
        clock.advance(100)
        nexus.heartbeat(claim)
        assert nexus.sweep().scanned == 0
        assert nexus.complete(claim, "slow but sure").status == "completed"

    def test_a_sweep_that_came_first_wins(self, nexus: TaskNexus, at_work: Any, clock: Any) -> None:
        nexus.add_task({"task_id": "T1"})
        claim = at_work("T1")
        clock.advance(100)
        nexus.sweep()
        with pytest.raises(ClaimLost):
            nexus.heartbeat(claim)

    def test_a_holder_may_say_that_its_own_claim_is_lost(self, nexus: TaskNexus, at_work: Any) -> None:
        nexus.add_task({"task_id": "T1"})
        claim = at_work("T1")
        assert nexus.lose(claim, "no route to the database")
        task = nexus.get_task_by_id("T1")
        assert (task.status, task.claimed_by, task.loss_count, task.failure_count) == ("pending", None, 1, 0)
        assert task.error == "Lost: no route to the database"
        assert [attempt.outcome for attempt in nexus.attempts("T1")] == ["lost"]
        said = nexus.history("T1")[-1]
        assert (said.verb, said.actor, said.reason) == ("expire", "Ada", "no route to the database")
        newer = at_work("T1", "Bob")
        assert not nexus.lose(claim, "no route to the database"), "it is another's by now"
        assert nexus.current_claim("T1").claim_no == newer.claim_no

    def test_losses_have_a_cap_of_their_own(self, nexus: TaskNexus, at_work: Any, clock: Any) -> None:
        nexus.add_task({"task_id": "T1", "retry_policy": {"max_attempts": 1, "max_losses": 3}})
        for losses in (1, 2):
            at_work("T1")
            clock.advance(100)
            assert nexus.sweep().failed == 0
            assert nexus.get_task_by_id("T1").loss_count == losses
        at_work("T1")
        clock.advance(100)
        report = nexus.sweep()
        assert (report.expired, report.failed) == (1, 1)
        task = nexus.get_task_by_id("T1")
        assert (task.status, task.loss_count, task.failure_count, task.claimed_by) == ("failed", 3, 0, "Ada")
        assert nexus.history("T1")[-1].to_status == "failed"
        assert nexus.retry("T1").loss_count == 0

    def test_losses_and_failures_are_counted_apart(self, nexus: TaskNexus, at_work: Any, clock: Any) -> None:
        nexus.add_task({"task_id": "T1", "retry_policy": {"max_attempts": 2, "max_losses": 2, "backoff_seconds": 0}})
        at_work("T1")
        clock.advance(100)
        nexus.sweep()
        assert nexus.fail(at_work("T1"), "no").status == "pending"
        at_work("T1")
        clock.advance(100)
        nexus.sweep()
        task = nexus.get_task_by_id("T1")
        assert (task.status, task.loss_count, task.failure_count) == ("failed", 2, 1)

    def test_a_pass_is_bounded_and_says_that_there_is_more(self, nexus: TaskNexus, clock: Any) -> None:
        nexus.add_tasks([{} for _ in range(5)])
        nexus.claim("Ada", 5)
        clock.advance(100)
        passes = [nexus.sweep(watching(max_per_sweep=2)) for _ in range(4)]
        assert [(report.expired, report.more) for report in passes] == [(2, True), (2, True), (1, False), (0, False)]

    def test_the_freshly_returned_is_not_stalled_in_the_same_pass(
        self, nexus: TaskNexus, at_work: Any, clock: Any
    ) -> None:
        nexus.add_task({"task_id": "T1"})
        at_work("T1")
        clock.advance(2 * HOUR)
        assert actions(nexus.sweep(watching("mark_stalled"))) == {"T1": "expire"}


class TestStrategies:
    def test_log_only_says_so_and_moves_nothing(self, nexus: TaskNexus, clock: Any) -> None:
        before = nexus.add_task({"task_id": "T1"})
        clock.advance(HOUR + 1)
        report = nexus.sweep()
        assert (report.scanned, report.logged, actions(report)) == (1, 1, {"T1": "log_only"})
        assert report.items[0].waiting_seconds == HOUR + 1
        assert nexus.get_task_by_id("T1") == before
        assert len(nexus.history("T1")) == 1

    def test_mark_stalled_takes_it_off_the_offer(self, nexus: TaskNexus, clock: Any) -> None:
        nexus.add_task({"task_id": "T1"})
        clock.advance(HOUR + 1)
        report = nexus.sweep(watching("mark_stalled"))
        assert (report.stalled, report.logged) == (1, 0)
        task = nexus.get_task_by_id("T1")
        assert (task.status, task.reason) == ("stalled", "waited longer than 3600 s")
        assert nexus.claim("Ada") == []
        assert nexus.history("T1")[-1].verb == "stall"
        assert nexus.retry("T1").available_at == clock()

    def test_reassign_lets_others_at_it(self, nexus: TaskNexus, clock: Any) -> None:
        nexus.add_task({"task_id": "T1", "assigned_to": "Ada"})
        waits_since = clock()
        clock.advance(HOUR + 1)
        report = nexus.sweep(watching("reassign"))
        assert (report.reassigned, report.logged) == (1, 0)
        assert "Ada" in report.items[0].detail
        task = nexus.get_task_by_id("T1")
        assert (task.status, task.assigned_to, task.available_at) == ("pending", None, waits_since)
        assert nexus.claim_task("T1", "Bo")
        assert [event.verb for event in nexus.history("T1")] == ["add", "reassign", "claim"]

    def test_reassign_finds_nothing_to_take_from_what_nobody_has(self, nexus: TaskNexus, clock: Any) -> None:
        before = nexus.add_task({"task_id": "T1"})
        clock.advance(HOUR + 1)
        report = nexus.sweep(watching("reassign"))
        assert (report.reassigned, report.logged) == (0, 1)
        assert nexus.get_task_by_id("T1") == before

    def test_escalate_asks_somebody_to_look(self, nexus: TaskNexus, clock: Any) -> None:
        before = nexus.add_task({"task_id": "T1", "episode_id": "E1"})
        clock.advance(HOUR + 1)
        report = nexus.sweep(watching("escalate", escalate_to="Olga"))
        assert (report.escalated, report.logged) == (1, 0)
        assert nexus.get_task_by_id("T1") == before, "it is still offered"
        [request] = nexus.get_all_tasks(tag="escalation")
        assert (request.related_task_id, request.assigned_to, request.priority) == ("T1", "Olga", 10)
        assert request.payload["task_id"] == "T1"
        assert request.task_id in report.items[0].detail
        assert nexus.history(request.task_id)[0].actor == "sweep"

    def test_escalations_never_escalate(self, nexus: TaskNexus, clock: Any) -> None:
        nexus.add_tasks([{} for _ in range(6)])
        for _ in range(5):
            clock.advance(HOUR + 1)
            report = nexus.sweep(watching("escalate"))
        assert nexus.stats() == {"pending": 12}, "six tasks, six escalations; not 24, 48 ..."
        assert report.items == ()


@pytest.mark.parametrize("strategy", STRATEGIES)
class TestOncePerWaitingPeriod:
    def test_a_repeated_sweep_changes_nothing(
        self, nexus: TaskNexus, clock: Any, everything: Any, strategy: str
    ) -> None:
        nexus.add_tasks([{"task_id": "T1", "assigned_to": "Ada"}, {"task_id": "T2"}])
        clock.advance(HOUR + 1)
        first = nexus.sweep(watching(strategy))
        assert len(first.items) == 2
        before = everything()
        for seconds in (0, 1, 10):
            clock.advance(seconds)
            again = nexus.sweep(watching(strategy))
            assert (again.items, again.scanned, again.conflicts) == ((), 0, 0)
        assert everything() == before

    def test_a_second_waiting_period_is_acted_on_again(self, nexus: TaskNexus, clock: Any, strategy: str) -> None:
        nexus.add_task({"task_id": "T1"})
        for _ in range(3):
            clock.advance(HOUR + 1)
            assert "T1" in actions(nexus.sweep(watching(strategy)))
            if nexus.get_task_by_id("T1").status == "stalled":
                nexus.retry("T1")
            else:
                nexus.release(nexus.claim_task("T1", "Ada"))

    def test_another_strategy_takes_its_own_step(self, nexus: TaskNexus, clock: Any, strategy: str) -> None:
        nexus.add_task({"task_id": "T1", "assigned_to": "Ada"})
        clock.advance(HOUR + 1)
        nexus.sweep(watching("log_only"))
        second = nexus.sweep(watching(strategy))
        assert actions(second) == ({} if strategy == "log_only" else {"T1": strategy})

    def test_a_bounded_pass_reaches_everything_in_the_end(self, nexus: TaskNexus, clock: Any, strategy: str) -> None:
        ids = nexus.add_tasks([{"assigned_to": "Ada"} for _ in range(5)])
        clock.advance(HOUR + 1)
        config = watching(strategy, max_per_sweep=2)
        passes = [nexus.sweep(config) for _ in range(4)]
        assert [(len(report.items), report.more) for report in passes] == [(2, True), (2, True), (1, False), (0, False)]
        assert Counter(item.task_id for report in passes for item in report.items) == Counter(ids)

    def test_two_sweeps_one_after_the_other_share_the_work(
        self, nexus: TaskNexus, make_nexus: Any, clock: Any, strategy: str
    ) -> None:
        ids = nexus.add_tasks([{"assigned_to": "Ada"} for _ in range(4)])
        clock.advance(HOUR + 1)
        reports = [board.sweep(watching(strategy, max_per_sweep=3)) for board in (nexus, make_nexus())]
        assert sorted(item.task_id for report in reports for item in report.items) == sorted(ids)

    def test_two_sweeps_at_once_do_it_once(self, postgres_url: str, open_board: Any, clock: Any, strategy: str) -> None:
        one, two = open_board(postgres_url), open_board(postgres_url)
        ids = one.add_tasks([{"assigned_to": "Ada"} for _ in range(3)])
        clock.advance(HOUR + 1)
        config = watching(strategy)
        reports = []

        def sweep_while_the_other_is_at_it(tx: Any) -> sweeping.Findings:
            found = sweeping.stalls(tx, Orders(config, one.settings.retry, one._terms()))
            reports.append(two.sweep(config))
            return found

        first = one._database.write(sweep_while_the_other_is_at_it)
        reports.append(two.sweep(config))
        assert sorted(item.task_id for item in first.items) == sorted(ids)
        assert [report.items for report in reports] == [(), ()]


class TestWaiting:
    """Waiting is counted from when the task became claimable, never from `created_at`."""

    def waiting(self, nexus: TaskNexus) -> list[str]:
        return sorted(actions(nexus.sweep()))

    def test_just_at_the_limit(self, nexus: TaskNexus, clock: Any) -> None:
        nexus.add_task({"task_id": "T1"})
        clock.advance(HOUR - 0.001)
        assert self.waiting(nexus) == []
        clock.advance(0.001)
        assert self.waiting(nexus) == ["T1"]

    def test_from_available_at(self, nexus: TaskNexus, clock: Any) -> None:
        nexus.add_task({"task_id": "T1", "available_at": clock() + timedelta(hours=5)})
        clock.advance(6 * HOUR - 1)
        assert self.waiting(nexus) == []
        clock.advance(1)
        assert self.waiting(nexus) == ["T1"]

    def test_from_the_last_dependency(self, nexus: TaskNexus, done: Any, clock: Any) -> None:
        nexus.add_tasks([{"task_id": "A"}, {"task_id": "B"}, {"task_id": "T1", "depends_on": ["A", "B"]}])
        done("A")
        clock.advance(5 * HOUR)
        done("B")
        assert nexus.get_task_by_id("T1").available_at == clock()
        clock.advance(HOUR - 1)
        assert self.waiting(nexus) == []
        clock.advance(1)
        assert self.waiting(nexus) == ["T1"]

    def test_a_dependency_does_not_bring_the_time_forward(self, nexus: TaskNexus, done: Any, clock: Any) -> None:
        due = clock() + timedelta(hours=5)
        nexus.add_tasks([{"task_id": "A"}, {"task_id": "T1", "depends_on": ["A"], "available_at": due}])
        done("A")
        assert nexus.get_task_by_id("T1").available_at == due

    def test_not_while_a_dependency_is_open(self, nexus: TaskNexus, at_work: Any, clock: Any) -> None:
        nexus.add_tasks([{"task_id": "A"}, {"task_id": "T1", "depends_on": ["A"]}])
        at_work("A", lease_seconds=86_400)
        clock.advance(10 * HOUR)
        assert self.waiting(nexus) == [], "T1 waits for work that is being done"

    @pytest.mark.parametrize("how", ["release", "fail", "expire", "unblock", "reject", "retry"])
    def test_what_was_put_back_a_second_ago_is_not_stalled(
        self, nexus: TaskNexus, at_work: Any, clock: Any, how: str
    ) -> None:
        nexus.add_task({"task_id": "T1", "requires_review": how == "reject"})
        claim = at_work("T1", lease_seconds=10 * HOUR)
        clock.advance(5 * HOUR)
        backoff = 0.0
        if how == "release":
            nexus.release(claim)
        elif how == "fail":
            task = nexus.fail(claim, "no")
            backoff = (task.available_at - clock()).total_seconds()
        elif how == "expire":
            clock.advance(5 * HOUR)
            nexus.sweep()
        elif how == "unblock":
            nexus.block("T1", "wait")
            nexus.unblock("T1")
        elif how == "reject":
            nexus.complete(claim)
            nexus.reject("T1", "Rita", "no")
        else:
            nexus.cancel("T1")
            nexus.retry("T1")
        clock.advance(HOUR + backoff - 0.01)
        assert self.waiting(nexus) == []
        clock.advance(0.02)
        assert self.waiting(nexus) == ["T1"]


class TestReChecks:
    """What moved between the look and the deed is left alone: the statement itself looks once more."""

    VERBS: ClassVar[dict[str, Any]] = {
        "stall": transitions.stall,
        "abandon": transitions.abandon,
        "reassign": lambda tx, stalls, why: transitions.reassign(tx, {"T1": "Bo", "T2": "Bo"}, stalls, why),
    }

    def stalled(self, nexus: TaskNexus, clock: Any) -> list[int]:
        """Both wait too long, and a sweep has seen it."""
        nexus.add_tasks([{"task_id": "T1", "assigned_to": "Ada"}, {"task_id": "T2", "assigned_to": "Ada"}])
        clock.advance(HOUR + 1)
        nexus.sweep()
        return [stall.stall_id for stall in nexus.stalls()]

    @pytest.mark.parametrize("verb", VERBS)
    def test_a_task_that_was_claimed_meanwhile(self, nexus: TaskNexus, clock: Any, verb: str) -> None:
        stalls = self.stalled(nexus, clock)
        nexus.claim_task("T1", "Ada")
        moved = nexus._database.write(lambda tx: self.VERBS[verb](tx, stalls, "too long"))
        assert [row.task_id for row in moved] == ["T2"]
        assert nexus.get_task_by_id("T1").status == "claimed"
        assert nexus.get_task_by_id("T1").assigned_to == "Ada"

    @pytest.mark.parametrize("verb", VERBS)
    def test_a_task_that_was_put_back_meanwhile(self, nexus: TaskNexus, clock: Any, verb: str) -> None:
        stalls = self.stalled(nexus, clock)
        for task_id in ("T1", "T2"):
            nexus.release(nexus.claim_task(task_id, "Ada"))
        assert nexus._database.write(lambda tx: self.VERBS[verb](tx, stalls, "too long")) == []

    def test_a_wait_that_ended_meanwhile_is_not_watched(self, nexus: TaskNexus, clock: Any) -> None:
        nexus.add_task({"task_id": "T1"})
        still = watch.still_waits_too_long(TaskMonitoringConfig(), {})
        assert nexus._database.write(lambda tx: transitions.watch(tx, [1], still)) == []


class TestTheReport:
    def test_an_empty_board(self, nexus: TaskNexus, clock: Any) -> None:
        digest = TaskMonitoringConfig().settings_hash
        assert nexus.sweep() == SweepReport(started_at=clock(), finished_at=clock(), settings_hash=digest)

    def test_a_sweep_at_another_time(self, nexus: TaskNexus, clock: Any) -> None:
        nexus.add_task({"task_id": "T1"})
        later = clock() + timedelta(hours=2)
        report = nexus.sweep(now=later)
        assert (report.started_at, report.logged) == (later, 1)

    def test_a_time_without_a_zone_is_refused(self, nexus: TaskNexus, everything: Any, clock: Any) -> None:
        nexus.add_task({"task_id": "T1"})
        before = everything()
        with pytest.raises(InvalidTask, match="now has no time zone"):
            nexus.sweep(now=(clock() + timedelta(hours=2)).replace(tzinfo=None))
        assert everything() == before

    def test_the_settings_decide_where_the_caller_does_not(self, make_nexus: Any, clock: Any) -> None:
        nexus = make_nexus(monitoring={"pending_timeout_seconds": 5, "escalation_strategy": "mark_stalled"})
        nexus.add_task({"task_id": "T1"})
        clock.advance(6)
        assert nexus.sweep().stalled == 1

    def test_all_kinds_in_one_pass(self, nexus: TaskNexus, at_work: Any, clock: Any) -> None:
        nexus.add_tasks([{"task_id": "dead", "retry_policy": {"max_losses": 1}}, {"task_id": "lost"}, {"task_id": "A"}])
        at_work("dead")
        at_work("lost")
        clock.advance(2 * HOUR)
        report = nexus.sweep(watching("escalate"))
        assert actions(report) == {"dead": "expire", "lost": "expire", "A": "escalate"}
        assert (report.scanned, report.expired, report.failed, report.escalated) == (3, 2, 1, 1)
        assert SweepReport.model_validate_json(report.model_dump_json()) == report

    def test_one_odd_task_does_not_stop_the_sweep(self, nexus: TaskNexus, clock: Any) -> None:
        """Times at the edge of what is accepted, ids and reasons full of odd characters."""
        nexus.add_tasks(
            [
                {"task_id": "edge", "available_at": "2199-12-31T23:59:59Z", "deadline": "1970-01-01T00:00:00Z"},
                {"task_id": "'; DROP TABLE nexus_tasks; --", "tags": ['"', "\\", "%s", ":now"]},
                {"task_id": "ü{}\N{PILE OF POO}", "assigned_to": "%(agent)s"},
            ]
        )
        clock.advance(2 * HOUR)
        for strategy in STRATEGIES:
            nexus.sweep(watching(strategy))
        assert nexus.get_task_by_id("ü{}\N{PILE OF POO}").status == "stalled"
        assert nexus.get_task_by_id("edge").status == "pending"
