"""A fleet that misbehaves: hundreds of agents and some operators, drawn from one seed, on a clock of their own.

Nobody sleeps: months pass in seconds. What the world does it does through the public verbs, as anybody would; what
it was told, it writes down (`Ledger`), and the judges compare that with what the board says.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from random import Random
from typing import Any

from nexus import Claim, SweepReport, TaskMonitoringConfig, TaskNexus, TaskStatus
from nexus.errors import ClaimLost, IllegalTransition, NexusError

DAY = 86_400.0
SKILLS = ("gpu", "web", "sql")
TYPES = ("build", "deploy", "write", "look")

MONITORING = TaskMonitoringConfig(
    check_interval_seconds=30 * DAY,  # the world says when somebody sweeps
    pending_timeout_seconds=7200,
    escalation_strategy="log_only",
    max_per_sweep=40,
    policies=[
        {
            "name": "urgent",
            "priority": "high",
            "pending_timeout_seconds": 1800,
            "steps": [
                "notify",
                {"action": "reassign", "after_seconds": 1800},
                {"action": "escalate", "after_seconds": 7200},
                {"action": "mark_stalled", "after_seconds": 5 * DAY},
                {"action": "fail", "after_seconds": 6 * DAY},
            ],
        },
        {"name": "deploys", "task_types": ["deploy"], "steps": ["escalate", {"action": "fail", "after_seconds": DAY}]},
        {"name": "optional", "tags": ["optional"], "steps": ["mark_stalled"]},
        {"name": "rest", "steps": ["log_only", "reassign", {"action": "escalate", "after_seconds": DAY}]},
    ],
)


@dataclass
class Grant:
    """A claim as its holder knows it."""

    claim: Claim
    until: datetime
    started: bool = False
    over: bool = False
    """Its holder, an operator or the sweep has ended it."""


@dataclass
class Ledger:
    """What the world was told, in order."""

    grants: dict[str, list[Grant]] = field(default_factory=dict)
    wrongs: list[str] = field(default_factory=list)
    """Things that must not be, noticed while they happened."""
    late: list[tuple[str, int, Any]] = field(default_factory=list)
    """Results that were refused: task, claim number, result."""
    reports: list[SweepReport] = field(default_factory=list)
    counted: dict[str, int] = field(default_factory=dict)

    def granted(self, claim: Claim, now: datetime) -> Grant:
        """A claim was given; the one before must be over, or its lease."""
        before = self.grants.setdefault(claim.task_id, [])
        if before:
            last = before[-1]
            if claim.claim_no <= last.claim.claim_no:
                self.wrongs.append(f"{claim.task_id}: claim {claim.claim_no} after claim {last.claim.claim_no}")
            if not last.over and last.until > now:
                self.wrongs.append(
                    f"{claim.task_id}: claim {claim.claim_no} at {now}, while claim {last.claim.claim_no} held until "
                    f"{last.until}: two live claims"
                )
        grant = Grant(claim, claim.lease_expires_at)
        before.append(grant)
        return grant

    def wrote(self, grant: Grant, verb: str) -> None:
        """A holder's write was accepted; its claim must be the latest."""
        latest = self.grants[grant.claim.task_id][-1]
        if latest is not grant:
            self.wrongs.append(
                f"{grant.claim.task_id}: {verb} by old claim {grant.claim.claim_no} was accepted, the latest is "
                f"{latest.claim.claim_no}"
            )

    def moved(self, task_id: str) -> None:
        """An operator has taken it from whoever held it."""
        for grant in self.grants.get(task_id, ())[-1:]:
            grant.over = True

    def count(self, what: str) -> None:
        """For the record of what has really happened."""
        self.counted[what] = self.counted.get(what, 0) + 1


@dataclass
class Agent:
    """Somebody who works, more or less."""

    name: str
    skills: tuple[str, ...]
    temper: str
    held: list[Grant] = field(default_factory=list)
    away_until: datetime | None = None
    dead: bool = False


TEMPERS = {
    "diligent": 45, "dies": 12, "hangs": 10, "sleeps": 12, "forgets to start": 5, "fails": 10, "hands back": 6,
}  # fmt: skip


class World:
    """The whole of it. `boards` are handles on one database: two processes, as far as the board can tell."""

    def __init__(self, boards: list[TaskNexus], clock: Any, seed: int, *, agents: int) -> None:
        self.boards, self.clock, self.random = boards, clock, Random(seed)
        self.ledger = Ledger()
        self.tasks: list[str] = []
        tempers = self.random.choices(list(TEMPERS), list(TEMPERS.values()), k=agents)
        self.agents = [
            Agent(f"{temper.split()[0]}-{number}", self._skills(), temper) for number, temper in enumerate(tempers)
        ]
        for agent in self.agents:
            limit = self.random.choice([None, 1, 3])
            types = self.random.choice([None, None, None, [*self.random.sample(TYPES, 3), "escalation"]])
            self.board.register_agent(agent.name, agent.skills, limit, task_types=types)

    @property
    def board(self) -> TaskNexus:
        """One of the handles."""
        return self.random.choice(self.boards)

    def _skills(self) -> tuple[str, ...]:
        return tuple(self.random.sample(SKILLS, self.random.randint(0, 3)))

    def live(self, days: float, step: Callable[[], None] = lambda: None) -> None:
        """Let time pass, and everybody do what they do."""
        end = self.clock().timestamp() + days * DAY
        while self.clock().timestamp() < end:
            self.clock.advance(self.random.expovariate(1 / 6000))
            for _ in range(self.random.randint(0, 2)):
                self.arrive()
            for agent in self.random.sample(self.agents, k=min(6, len(self.agents))):
                self.act(agent)
            for agent in self.hanging():
                self.act(agent)
            if self.random.random() < 0.25:
                self.operate()
            if self.random.random() < 0.4:
                self.sweep()
            step()

    def hanging(self) -> list[Agent]:
        """Some of those who renew what they hold again and again, and never end it."""
        busy = [agent for agent in self.agents if agent.temper == "hangs" and agent.held and not agent.dead]
        return self.random.sample(busy, k=min(3, len(busy)))

    # -- tasks and operators ------------------------------------------------------------------------------

    def arrive(self) -> None:
        """A task, of whatever kind."""
        draw = self.random
        task_id = f"T{len(self.tasks)}"
        others = draw.sample(self.tasks[-30:], k=min(len(self.tasks[-30:]), draw.choice([0, 0, 0, 1, 2])))
        task: dict[str, Any] = {
            "task_id": task_id,
            "task_type": draw.choice(TYPES),
            "priority": draw.choice(["critical", "high", "medium", "low", "low"]),
            "tags": draw.choice([[], [], ["optional"]]),
            "depends_on": others,
            "on_dependency_failure": draw.choice(["wait", "cancel", "run"]),
            "required_capabilities": draw.sample(SKILLS, k=draw.choice([0, 0, 1, 2])),
            "assigned_to": draw.choice([None, None, None, draw.choice(self.agents).name]),
            "requires_review": draw.random() < 0.1,
            "timeout_seconds": draw.choice([None, 3600, DAY / 2]),
            "retry_policy": {"max_attempts": draw.randint(1, 4), "max_losses": draw.randint(1, 3)},
        }
        if draw.random() < 0.2:
            task["available_at"] = self.later(draw.random() * DAY)
        if draw.random() < 0.2:
            task["deadline"] = self.later(draw.random() * 3 * DAY)
        self.board.add_task(task)
        self.tasks.append(task_id)

    def later(self, seconds: float) -> datetime:
        """The present, and some."""
        return datetime.fromtimestamp(self.clock().timestamp() + seconds, tz=self.clock().tzinfo)

    def operate(self) -> None:
        """Somebody decides something; most of it is refused."""
        draw = self.random
        open_tasks = self.board.get_all_tasks([one for one in TaskStatus if one != "completed"], limit=200)
        if not open_tasks:
            return
        task = draw.choice(open_tasks)
        verb = draw.choice(["cancel", "retry", "retry", "block", "unblock", "approve", "approve", "reject", "pause"])
        board = self.board
        if verb == "pause":
            what = draw.choice(["*", *TYPES])
            if board.pauses():
                for pause in board.pauses():
                    board.resume(pause.task_type)
            else:
                board.pause(what, "because")
            return
        moves: dict[str, Callable[[], Any]] = {
            "cancel": lambda: board.cancel(task.task_id, actor=draw.choice([None, task.claimed_by])),
            "retry": lambda: board.retry(task.task_id),
            "block": lambda: board.block(task.task_id, "wait"),
            "unblock": lambda: board.unblock(task.task_id),
            "approve": lambda: board.approve(task.task_id, "Rita"),
            "reject": lambda: board.reject(task.task_id, "Rita", "again"),
        }
        try:
            moves[verb]()
        except IllegalTransition:
            return
        self.ledger.moved(task.task_id)
        self.ledger.count(verb)

    def sweep(self) -> None:
        """One pass, or two at once on two handles."""
        if self.random.random() < 0.2:
            self.board.sweep(dry_run=True)
        if self.random.random() < 0.7 or len(self.boards) < 2:
            self.swept(self.board.sweep())
            return
        reports: list[SweepReport] = []
        both = [threading.Thread(target=lambda board=board: reports.append(board.sweep())) for board in self.boards]
        for one in both:
            one.start()
        for one in both:
            one.join()
        assert len(reports) == len(both), "a sweep failed"
        for report in reports:
            self.swept(report)

    def swept(self, report: SweepReport) -> None:
        """The sweep says what it took back: those claims are over for everybody but their holders."""
        self.ledger.reports.append(report)
        for item in report.items:
            self.ledger.count(f"sweep: {item.action}")
            if item.action == "time_out":
                self.ledger.moved(item.task_id)

    # -- agents -------------------------------------------------------------------------------------------

    def act(self, agent: Agent) -> None:
        """An agent's moment: it goes on with what it holds, or looks for more."""
        now = self.clock()
        if agent.dead or (agent.away_until is not None and agent.away_until > now):
            return
        agent.away_until = None
        for grant in list(agent.held):
            self.work_on(agent, grant)
        if not agent.dead and len(agent.held) < 2:
            try:
                claims = self.board.claim(agent.name, self.random.randint(1, 2), lease_seconds=self.lease())
            except NexusError as error:
                self.ledger.wrongs.append(f"{agent.name} could not claim: {error}")
                return
            for claim in claims:
                agent.held.append(self.ledger.granted(claim, self.clock()))
                self.ledger.count("claim")

    def lease(self) -> float:
        """Some agents ask for an odd one."""
        return self.random.choice([0.5, 60, 3600, DAY / 4, DAY, DAY])

    def work_on(self, agent: Agent, grant: Grant) -> None:
        """What its temper makes of it."""
        draw = self.random
        if not grant.started:
            if agent.temper == "forgets to start" and draw.random() < 0.8:
                return
            if not self.write(
                agent, grant, "start", lambda: self.board.start(grant.claim, {"said": "my clock is right"})
            ):
                return
            grant.started = True
        mood = agent.temper if draw.random() < 0.5 else "diligent"
        if mood == "dies":
            agent.dead = True
        elif mood == "hangs":
            self.beat(agent, grant)
        elif mood == "sleeps":
            agent.away_until = self.later(draw.random() * DAY)
        elif mood == "fails":
            self.write(agent, grant, "fail", lambda: self.board.fail(grant.claim, ValueError("no")), ends=True)
        elif mood == "hands back":
            self.write(agent, grant, "release", lambda: self.board.release(grant.claim, "not mine"), ends=True)
        elif draw.random() < 0.5:
            result = {"by": agent.name, "claim": grant.claim.claim_no}
            done = self.write(agent, grant, "complete", lambda: self.board.complete(grant.claim, result), ends=True)
            if not done:
                self.ledger.late.append((grant.claim.task_id, grant.claim.claim_no, result))
        else:
            self.beat(agent, grant)

    def beat(self, agent: Agent, grant: Grant) -> None:
        """Renew, with a note that lies about the time."""
        seconds = self.lease()
        note = f"it is {self.later(self.random.uniform(-DAY, DAY))} here"
        beat: list[Any] = []
        told = self.write(
            agent, grant, "heartbeat",
            lambda: beat.append(self.board.heartbeat(grant.claim, note, lease_seconds=seconds)),
        )  # fmt: skip
        if told and beat[0].cancel_requested:
            grant.over = True
            agent.held.remove(grant)
        elif told:
            grant.until = beat[0].lease_expires_at

    def write(self, agent: Agent, grant: Grant, verb: str, act: Callable[[], Any], *, ends: bool = False) -> bool:
        """A holder's write; whether it was accepted."""
        try:
            act()
        except (ClaimLost, IllegalTransition):
            grant.over = True
            agent.held.remove(grant)
            self.ledger.count(f"{verb} refused")
            return False
        self.ledger.wrote(grant, verb)
        self.ledger.count(verb)
        if verb == "start":
            grant.until = self.board.current_claim(grant.claim.task_id).lease_expires_at
        if ends:
            grant.over = True
            agent.held.remove(grant)
        return True
