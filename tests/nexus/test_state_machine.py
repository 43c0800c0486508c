"""Any order of any verbs: Hypothesis plays the agents, the operators, the clock and the sweep.

A small model says what each verb must do; after every step the board is compared with it, and the promises
that do not depend on the model are read from the tables themselves.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from nexus import Claim, TaskMonitoringConfig, TaskNexus, TaskStatus
from nexus.errors import ClaimLost, IllegalTransition, NexusError, NotClaimable
from nexus.states import HELD, TERMINAL, TRANSITIONS, Verb
from nexus.tables import attempts, dependencies, history, tasks
from nexus.values import same_json

START = datetime(2030, 6, 1, 12, 0, tzinfo=UTC)
TIMEOUT = 3600.0
SWEPT = {"check_interval_seconds": 30 * 86_400}
"""No claim sweeps of its own accord here."""
AGENTS = {"Ada": ((), None), "Bo": (("x",), 1), "Cy": (("x", "y"), 2)}
"""Capabilities and limit of each."""

agents = st.sampled_from(sorted(AGENTS))
picks = st.integers(0, 10_000)
results = st.none() | st.integers(0, 9) | st.lists(st.booleans(), max_size=2)


def choose(among: list[Any], pick: int) -> Any:
    """One of them; the newest first, so that small examples are about what just happened."""
    return among[-1 - pick % len(among)]


@dataclass
class Known:
    """What the model knows of one task."""

    number: int
    priority: int
    needs: tuple[str, ...]
    review: bool
    max_attempts: int
    max_losses: int
    waits_for: tuple[str, ...]
    assigned_to: str | None
    available_at: datetime
    name: str = ""
    asks: str | None = None
    """Of an escalation: the task that it asks about."""
    pointless: bool = False
    """Of an escalation whose source has moved on: nobody needs the answer any more, not even if it is retried."""
    stall: set[str] | None = None
    """The steps taken on its open stall."""
    status: str = "pending"
    holder: str | None = None
    claim_no: int = 0
    lease_seconds: float = 0
    lease_until: datetime | None = None
    failures: int = 0
    losses: int = 0
    tries: list[str] = field(default_factory=list)
    result: Any = None


class LifeOnTheBoard(RuleBasedStateMachine):
    """Verbs as rules."""

    def __init__(self, open_nexus: Callable[[], TaskNexus], clock: Any) -> None:
        super().__init__()
        clock.present = START
        self.nexus, self.clock = open_nexus(), clock
        self.known: dict[str, Known] = {}
        self.claims: list[Claim] = []
        self.seen_claim_no: dict[str, int] = {}
        self.numbers, self.looks = count(1), count()
        self.records: dict[str, list[Any]] = {}
        for agent_id, (capabilities, limit) in AGENTS.items():
            self.nexus.register_agent(agent_id, capabilities, limit)

    def teardown(self) -> None:
        found = {finding.code for finding in self.nexus.doctor()}
        self.nexus.close()
        assert found <= {"sweep", "late_lease", "escalation"}, "what time brings may be left, nothing else"

    def held(self, *states: TaskStatus) -> list[Claim]:
        """The live claims on tasks in these states."""
        return [
            claim
            for claim in self.claims
            if self.known[claim.task_id].claim_no == claim.claim_no and self.known[claim.task_id].status in states
        ]

    def any_task(self, pick: int, *preferred: str) -> str:
        """A task; three times of four one in a preferred state, if there is any."""
        fitting = [name for name, task in self.known.items() if task.status in preferred]
        return choose(fitting if fitting and pick % 4 else list(self.known), pick)

    # -- what the model says ------------------------------------------------------------------------------

    def unmet(self, task: Known) -> int:
        return sum(self.known[name].status != "completed" for name in task.waits_for)

    def is_waiting(self, task: Known) -> bool:
        return task.status == "pending" and not self.unmet(task)

    def claimable(self, agent_id: str) -> list[str]:
        capabilities, _ = AGENTS[agent_id]
        found = [
            (task.priority, task.available_at, task.number, task_id)
            for task_id, task in self.known.items()
            if self.is_waiting(task)
            and task.available_at <= self.clock()
            and task.assigned_to in (None, agent_id)
            and set(task.needs) <= set(capabilities)
        ]
        return [task_id for *_, task_id in sorted(found)]

    def slots(self, agent_id: str, wanted: int) -> int:
        _, limit = AGENTS[agent_id]
        held = sum(task.holder == agent_id and task.status in HELD for task in self.known.values())
        return wanted if limit is None else max(0, min(wanted, limit - held))

    def attempt(self, verb: Verb, who: Claim | str, act: Callable[[], Any]) -> Any:
        """Do it; the outcome where the model allows it, None where it was refused as it has to be."""
        task_id = who if isinstance(who, str) else who.task_id
        task = self.known[task_id]
        current = isinstance(who, str) or who.claim_no == task.claim_no
        if current and task.status in TRANSITIONS[verb].sources:
            return act() or True
        with pytest.raises((ClaimLost, IllegalTransition)) as refused:
            act()
        if not current or not isinstance(who, Claim):
            assert isinstance(refused.value, IllegalTransition if isinstance(who, str) else ClaimLost)
        return None

    def free(self, task: Known, *, at: datetime | None = None) -> None:
        task.status, task.holder, task.lease_until = "pending", None, None
        task.available_at = at or max(task.available_at, self.clock())
        self.moved_on(task)

    def end(self, task: Known, status: str) -> None:
        task.status, task.lease_until = status, None
        if status != "stalled":
            self.moved_on(task)

    def moved_on(self, task: Known, mover: str | None = None) -> None:
        """Its stall is over, and the question about it, unless the mover is who works on that."""
        if task.stall is None:
            return
        task.stall = None
        for other in self.known.values():
            if other.asks == task.name and not other.pointless:
                other.pointless = True
                if other.status not in TERMINAL and not (other.status in HELD and other.holder == mover):
                    self.taken_back(other, "cancelled")
                    self.end(other, "cancelled")

    def complete_model(self, task_id: str) -> None:
        self.end(self.known[task_id], "completed")
        for other in self.known.values():
            if task_id in other.waits_for and not self.unmet(other):
                other.available_at = max(other.available_at, self.clock())

    # -- verbs --------------------------------------------------------------------------------------------

    @initialize()
    def a_few_tasks_to_begin_with(self) -> None:
        self.add(0, False, 20, (), None, 0, (2, 2))
        self.add(0, True, 0, (), None, 0, (2, 2))
        self.add(1, False, 20, ("x",), None, 0, (1, 1))

    @precondition(lambda self: len(self.known) < 12)
    @rule(
        waits_for=st.integers(0, 2),
        review=st.booleans(),
        priority=st.sampled_from([0, 20]),
        needs=st.sampled_from([(), (), (), ("x",), ("x", "y")]),
        assigned_to=st.sampled_from([None, None, None, *AGENTS]),
        delay=st.sampled_from([0, 0, 100]),
        budget=st.sampled_from([(1, 1), (2, 2), (3, 1)]),
    )
    def add(
        self, waits_for: int, review: bool, priority: int, needs: Any, assigned_to: Any, delay: int, budget: Any
    ) -> None:
        number = next(self.numbers)
        due = self.clock() + timedelta(seconds=delay)
        others = tuple(sorted(self.known)[-waits_for:]) if waits_for else ()
        task = Known(number, priority, needs, review, *budget, others, assigned_to, due, f"T{number}")
        self.nexus.add_task(
            {
                "task_id": f"T{number}",
                "depends_on": others,
                "requires_review": review,
                "priority": priority,
                "required_capabilities": needs,
                "assigned_to": assigned_to,
                "available_at": due,
                "retry_policy": {"max_attempts": task.max_attempts, "max_losses": task.max_losses},
            }
        )
        self.known[f"T{number}"] = task

    def taken(self, agent_id: str, lease: float, *claims: Claim) -> None:
        """All at once: an agent may take a task together with the question about it."""
        for claim in claims:
            task = self.known[claim.task_id]
            task.status, task.holder, task.claim_no = "claimed", agent_id, task.claim_no + 1
            task.lease_seconds, task.lease_until = lease, self.clock() + timedelta(seconds=lease)
            assert (claim.claim_no, claim.lease_expires_at) == (task.claim_no, task.lease_until)
            self.claims.append(claim)
        for claim in claims:
            self.moved_on(self.known[claim.task_id], agent_id)

    @rule(agent_id=agents, limit=st.integers(1, 3), lease=st.sampled_from([60.0, 600.0]))
    def claim(self, agent_id: str, limit: int, lease: float) -> None:
        expected = self.claimable(agent_id)[: self.slots(agent_id, limit)]
        taken = self.nexus.claim(agent_id, limit, lease_seconds=lease)
        assert [claim.task_id for claim in taken] == expected
        self.taken(agent_id, lease, *taken)

    @rule(pick=picks, agent_id=agents)
    def claim_one(self, pick: int, agent_id: str) -> None:
        task_id = self.any_task(pick)
        if task_id in self.claimable(agent_id) and self.slots(agent_id, 1):
            self.taken(agent_id, 60, self.nexus.claim_task(task_id, agent_id))
            return
        pending = self.known[task_id].status == "pending"
        with pytest.raises(NotClaimable if pending else IllegalTransition) as refused:
            self.nexus.claim_task(task_id, agent_id)
        if pending:
            assert refused.value.reasons, "the refusal says why"

    @rule(agent_id=agents)
    def take_and_start(self, agent_id: str) -> None:
        self.claim(agent_id, 1, 60.0)
        if mine := [claim for claim in self.held(TaskStatus.CLAIMED) if claim.agent_id == agent_id]:
            self.start(mine[-1])

    @rule(agent_id=agents, result=results, reviewer=agents, verdict=st.sampled_from([Verb.APPROVE, Verb.REJECT]))
    def work_through(self, agent_id: str, result: Any, reviewer: str, verdict: Verb) -> None:
        self.take_and_start(agent_id)
        if mine := [claim for claim in self.held(TaskStatus.IN_PROGRESS) if claim.agent_id == agent_id]:
            self.complete(mine[-1], result)
            if self.known[mine[-1].task_id].review:
                self.judge(mine[-1].task_id, reviewer, verdict)

    @precondition(lambda self: self.held(TaskStatus.CLAIMED))
    @rule(pick=picks)
    def start_in_turn(self, pick: int) -> None:
        self.start(choose(self.held(TaskStatus.CLAIMED), pick))

    @precondition(lambda self: self.held(TaskStatus.IN_PROGRESS))
    @rule(pick=picks, result=results)
    def complete_in_turn(self, pick: int, result: Any) -> None:
        self.complete(choose(self.held(TaskStatus.IN_PROGRESS), pick), result)

    @precondition(lambda self: self.held(TaskStatus.IN_PROGRESS))
    @rule(pick=picks)
    def fail_in_turn(self, pick: int) -> None:
        self.fail(choose(self.held(TaskStatus.IN_PROGRESS), pick))

    @precondition(lambda self: self.held(*HELD))
    @rule(pick=picks, beats=st.booleans())
    def release_or_beat_in_turn(self, pick: int, beats: bool) -> None:
        (self.heartbeat if beats else self.release)(choose(self.held(*HELD), pick))

    @precondition(lambda self: self.claims)
    @rule(pick=picks, verb=st.sampled_from(["start", "complete", "fail", "release", "heartbeat"]))
    def a_holder_at_any_time(self, pick: int, verb: str) -> None:
        getattr(self, verb)(choose(self.claims, pick))

    @precondition(lambda self: self.outlived())
    @rule(pick=picks, verb=st.sampled_from(["start", "complete", "fail", "release", "heartbeat"]))
    def a_holder_who_comes_back(self, pick: int, verb: str) -> None:
        getattr(self, verb)(choose(self.outlived(), pick))

    def outlived(self) -> list[Claim]:
        """Claims on tasks that somebody else holds now."""
        live = {claim.task_id: claim.claim_no for claim in self.held(*HELD)}
        return [claim for claim in self.claims if claim.claim_no < live.get(claim.task_id, 0)]

    @rule(agent_id=agents, heir=agents, verb=st.sampled_from(["start", "complete", "fail", "release", "heartbeat"]))
    def come_back_from_the_dead(self, agent_id: str, heir: str, verb: str) -> None:
        """Whoever claims first is lost; the next one is at work already when it has its last word."""
        self.take_and_start(agent_id)
        self.sweep("log_only", 61, twice=False)
        self.take_and_start(heir)
        if late := self.outlived():
            getattr(self, verb)(late[-1])

    def start(self, claim: Claim) -> None:
        if self.attempt(Verb.START, claim, lambda: self.nexus.start(claim)):
            task = self.known[claim.task_id]
            task.status, task.lease_until = "in_progress", self.clock() + timedelta(seconds=task.lease_seconds)
            task.tries.append("running")

    def heartbeat(self, claim: Claim) -> None:
        task = self.known[claim.task_id]
        if claim.claim_no == task.claim_no and task.status in HELD:
            beat = self.nexus.heartbeat(claim, "on it")
            task.lease_until = self.clock() + timedelta(seconds=task.lease_seconds)
            assert (beat.cancel_requested, beat.lease_expires_at) == (False, task.lease_until)
        elif claim.claim_no == task.claim_no and task.status == "cancelled":
            assert self.nexus.heartbeat(claim).cancel_requested
        else:
            with pytest.raises(ClaimLost):
                self.nexus.heartbeat(claim)

    def complete(self, claim: Claim, result: Any = "stale") -> None:
        task = self.known[claim.task_id]
        done = claim.claim_no == task.claim_no and task.status in ("completed", "in_review")
        if done and same_json(task.result, result):
            assert self.nexus.complete(claim, result).status == task.status, "said again, it is answered again"
            return
        if self.attempt(Verb.COMPLETE, claim, lambda: self.nexus.complete(claim, result)):
            task = self.known[claim.task_id]
            task.tries[-1], task.result = "completed", result
            if task.review:
                self.end(task, "in_review")
            else:
                self.complete_model(claim.task_id)

    def fail(self, claim: Claim) -> None:
        if moved := self.attempt(Verb.FAIL, claim, lambda: self.nexus.fail(claim, "no")):
            task = self.known[claim.task_id]
            task.failures += 1
            task.tries[-1] = "failed"
            if task.failures < task.max_attempts:
                assert self.clock() < moved.available_at <= self.clock() + timedelta(seconds=60)
                self.free(task, at=moved.available_at)
            else:
                self.end(task, "failed")

    def taken_back(self, task: Known, outcome: str) -> None:
        if task.status == "in_progress":
            task.tries[-1] = outcome

    def release(self, claim: Claim) -> None:
        task = self.known[claim.task_id]
        if self.attempt(Verb.RELEASE, claim, lambda: self.nexus.release(claim)):
            self.taken_back(task, "released")
            self.free(task)

    @rule(pick=picks)
    def block(self, pick: int) -> None:
        task_id = self.any_task(pick, *HELD)
        if self.attempt(Verb.BLOCK, task_id, lambda: self.nexus.block(task_id, "wait")):
            self.taken_back(self.known[task_id], "released")
            self.end(self.known[task_id], "blocked")
            self.known[task_id].holder = None

    @rule(pick=picks)
    def unblock(self, pick: int) -> None:
        task_id = self.any_task(pick, "blocked")
        if self.attempt(Verb.UNBLOCK, task_id, lambda: self.nexus.unblock(task_id)):
            self.free(self.known[task_id])

    @rule(pick=picks)
    def cancel(self, pick: int) -> None:
        task_id = self.any_task(pick, "in_progress", "in_review", "stalled")
        if self.attempt(Verb.CANCEL, task_id, lambda: self.nexus.cancel(task_id)):
            self.taken_back(self.known[task_id], "cancelled")
            self.end(self.known[task_id], "cancelled")

    @rule(pick=picks)
    def retry(self, pick: int) -> None:
        task_id = self.any_task(pick, "failed", "stalled", "cancelled")
        if self.attempt(Verb.RETRY, task_id, lambda: self.nexus.retry(task_id)):
            task = self.known[task_id]
            task.failures = task.losses = 0
            self.free(task, at=self.clock())

    @rule(pick=picks, reviewer=agents, verdict=st.sampled_from([Verb.APPROVE, Verb.REJECT]))
    def review(self, pick: int, reviewer: str, verdict: Verb) -> None:
        self.judge(self.any_task(pick, "in_review"), reviewer, verdict)

    def judge(self, task_id: str, reviewer: str, verdict: Verb) -> None:
        def act() -> Any:
            if verdict == Verb.APPROVE:
                return self.nexus.approve(task_id, reviewer)
            return self.nexus.reject(task_id, reviewer, "once more")

        task = self.known[task_id]
        if task.status == "in_review" and task.holder == reviewer:
            with pytest.raises(IllegalTransition, match="somebody else"):
                act()
        elif self.attempt(verdict, task_id, act):
            if verdict == Verb.APPROVE:
                self.complete_model(task_id)
            else:
                self.free(task)
                task.result = None

    # -- time and the sweep -------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([1, 61, 601]))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule(
        strategy=st.sampled_from(["log_only", "notify", "mark_stalled", "reassign", "escalate", "fail"]),
        after=st.sampled_from([0, 61, 601, 3601]),
        twice=st.booleans(),
    )
    def sweep(self, strategy: str, after: int, twice: bool) -> None:
        self.clock.advance(after)
        config = TaskMonitoringConfig(escalation_strategy=strategy, pending_timeout_seconds=TIMEOUT)
        present, expected, added = self.clock(), {}, []
        abandoned: list[tuple[Known, str]] = []
        reassigned: dict[str, str] = {}
        for task_id, task in self.known.items():
            if task.status in HELD and task.lease_until <= present:
                expected[task_id] = "expire"
                started = task.status == "in_progress"
                self.taken_back(task, "lost")
                task.losses += started
                if started and task.losses >= task.max_losses:
                    self.end(task, "failed")
                else:
                    self.free(task)
        for task_id, task in self.known.items():
            late = task.available_at <= present - timedelta(seconds=TIMEOUT)
            if self.is_waiting(task) and late and task.stall is None:
                task.stall = set()
            off = task.status == "stalled" and strategy != "fail"
            if task.stall is None or strategy in task.stall or off:
                continue
            task.stall.add(strategy)
            expected[task_id] = strategy
            if strategy in ("mark_stalled", "fail"):
                abandoned.append((task, "stalled" if strategy == "mark_stalled" else "failed"))
            elif strategy == "reassign" and task.assigned_to is not None:
                reassigned[task_id] = task.assigned_to
            elif strategy == "reassign" or (strategy == "escalate" and task.asks is not None):
                expected[task_id] = "log_only"
        for task, status in abandoned:
            task.status = status  # all in one statement, so that none of them is withdrawn because of another
        for task, status in abandoned:
            self.end(task, status)
        for task_id, task in self.known.items():
            if task.pointless and task.status not in HELD | TERMINAL:
                expected[task_id] = "withdraw"
                self.end(task, "cancelled")
        report = self.nexus.sweep(config)
        assert {item.task_id: item.action for item in report.items} == expected
        assert report.conflicts == 0
        for task_id, before in reassigned.items():
            given = self.known[task_id].assigned_to = self.nexus.get_task_by_id(task_id).assigned_to
            assert given != before, "not to who let it stall"
            assert given is None or set(self.known[task_id].needs) <= set(AGENTS[given][0])
        for item in sorted(report.items, key=lambda item: item.detail):
            if item.action == "escalate":
                [request] = [
                    task
                    for task in self.nexus.get_all_tasks(tag="escalation")
                    if task.related_task_id == item.task_id and task.task_id not in self.known
                ]
                policy = request.retry_policy
                self.known[request.task_id] = Known(
                    0,
                    10,
                    (),
                    False,
                    policy.max_attempts,
                    policy.max_losses,
                    (),
                    None,
                    present,
                    request.task_id,
                    item.task_id,
                )
                added.append(request.task_id)
        for task in self.nexus.get_all_tasks(tag="escalation"):
            if task.task_id in added:
                self.known[task.task_id].number = next(self.numbers)
        if twice:
            assert self.nexus.sweep(config).items == ()

    # -- promises -----------------------------------------------------------------------------------------

    def written_anew(self, connection: sa.Connection) -> set[str]:
        """Of which tasks the database holds another line than it did when their records were last read.

        What is told of a task comes from its own lines alone; every tenth time all of them are read for all that.
        """
        found: dict[str, list[Any]] = {name: [known.tries.copy()] for name, known in self.known.items()}
        for table in (tasks, attempts, history):
            lines = connection.exec_driver_sql(f"SELECT task_id, {table.name}.* FROM {table.name} ORDER BY 1, 2, 3")
            for line in lines:
                found.setdefault(line[0], []).append((table.name, *line))
        before, self.records = ({} if next(self.looks) % 10 == 0 else self.records), found
        return {name for name, lines in found.items() if before.get(name) != lines}

    @invariant()
    def the_board_is_what_the_model_says(self) -> None:
        for task in self.nexus.get_all_tasks():
            known = self.known[task.task_id]
            assert task.status == known.status
            assert task.claim_no == known.claim_no
            assert task.claimed_by == known.holder
            assert task.lease_expires_at == known.lease_until
            if task.status == "pending":
                assert task.available_at == known.available_at
            assert (task.failure_count, task.loss_count) == (known.failures, known.losses)
            assert task.assigned_to == known.assigned_to
            assert task.attempt_count == len(known.tries)
            assert task.result == known.result

    @invariant()
    def the_promises_hold(self) -> None:
        with self.nexus._database.engine.connect() as connection:
            rows = {row.task_id: row for row in connection.execute(sa.select(tasks))}
            edges = list(connection.execute(sa.select(dependencies)))
            anew = self.written_anew(connection)
        assert len(rows) == len(self.known), "nothing accepted is lost"
        for task_id, row in rows.items():
            held = row.status in ("claimed", "in_progress")
            assert held == (row.lease_expires_at is not None), "a lease is a live claim"
            assert not held or row.claimed_by
            assert row.claim_no >= self.seen_claim_no.get(task_id, 0), "claim_no never shrinks"
            self.seen_claim_no[task_id] = row.claim_no
            waits_for = [edge.depends_on for edge in edges if edge.task_id == task_id]
            assert sorted(waits_for) == sorted(row.depends_on)
            unmet = sum(rows[name].status != "completed" for name in waits_for)
            assert row.unmet_dependencies == unmet
            if task_id in anew:
                self.the_records_are_true(row)

    def the_records_are_true(self, row: Any) -> None:
        mine = self.nexus.attempts(row.task_id)
        running = [one for one in mine if one.outcome == "running"]
        assert len(running) == (row.status == "in_progress"), "in progress is one running attempt"
        assert all(one.claim_no == row.claim_no for one in running), "under the live claim"
        assert [one.number for one in mine] == list(range(1, row.attempt_count + 1))
        assert [one.outcome for one in mine] == self.known[row.task_id].tries
        if row.status == "completed":
            [winner] = [one for one in mine if one.claim_no == row.claim_no]
            assert (winner.outcome, winner.result) == ("completed", row.result)
        self.is_a_legal_path(self.nexus.history(row.task_id), row)

    def is_a_legal_path(self, moves: list[Any], row: Any) -> None:
        assert [one.verb for one in moves].index("add") == 0
        assert (moves[0].from_status, moves[0].to_status) == (None, "pending")
        assert moves[-1].to_status == row.status
        for before, after in pairwise(moves):
            assert after.from_status == before.to_status, "no gap"
            assert after.at >= before.at
            assert after.claim_no == before.claim_no + (after.verb == "claim")
            if after.verb == "reassign":
                assert after.from_status == after.to_status == "pending"
                continue
            move = TRANSITIONS[Verb(after.verb)]
            assert after.from_status in move.sources and after.to_status in move.targets
            assert TaskStatus(before.to_status) not in TERMINAL or after.verb == "retry"


def play(
    open_nexus: Callable[[], TaskNexus], clock: Any, *, examples: int, steps: int, start: int | None = None
) -> None:
    """Let Hypothesis look for an order of verbs that breaks something, by chance or from a certain `start`."""

    def life() -> LifeOnTheBoard:
        return LifeOnTheBoard(open_nexus, clock)

    run_state_machine_as_test(
        life if start is None else seed(start)(life),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            # Shrinking takes minutes here; the order of verbs that broke it reads well enough as it is.
            phases=[Phase.explicit, Phase.generate],
        ),
    )


def test_any_order_of_verbs_on_sqlite(sqlite_template: Path, tmp_path: Path, open_board: Any, clock: Any) -> None:
    copies = count()

    def fresh() -> TaskNexus:
        path = shutil.copy(sqlite_template, tmp_path / f"board{next(copies)}.db")
        return open_board(f"sqlite:///{path}", monitoring=SWEPT)

    play(fresh, clock, examples=40, steps=40)


def test_any_order_of_verbs_on_postgresql(postgres_url: str, open_board: Any, clock: Any) -> None:
    def fresh() -> TaskNexus:
        nexus = open_board(postgres_url, monitoring=SWEPT)
        with nexus._database.engine.begin() as connection:
            for table in (
                "nexus_stalls",
                "nexus_sweeps",
                "nexus_tasks",
                "nexus_attempts",
                "nexus_history",
                "nexus_agents",
            ):
                connection.exec_driver_sql(f"DELETE FROM {table}")
        return nexus

    play(fresh, clock, examples=10, steps=30)


def test_the_model_is_not_blind() -> None:
    """The errors that the machine expects are the nexus's own, and not a common ancestor of everything."""
    assert not issubclass(ClaimLost, IllegalTransition)
    assert not issubclass(NotClaimable, (ClaimLost, IllegalTransition))
    assert issubclass(NotClaimable, NexusError)
