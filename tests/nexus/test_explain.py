"""A task that does not move can say why."""

from contextlib import suppress
from datetime import timedelta
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nexus import TaskMonitoringConfig, TaskNexus
from nexus.errors import AgentNotConfirmed, IllegalTransition, NexusError, NotClaimable
from nexus.tables import Base


def codes(nexus: TaskNexus, task_id: str = "T1", agent_id: str | None = None) -> list[str]:
    """The codes of the reasons, strongest first."""
    return [reason.code for reason in nexus.explain(task_id, agent_id)]


def test_nothing_keeps_a_task_that_can_be_claimed(nexus: TaskNexus) -> None:
    nexus.add_task({"task_id": "T1"})
    assert codes(nexus) == []
    nexus.confirm_agent("Ada", task_types=["task"])
    assert codes(nexus) == codes(nexus, agent_id="Ada") == codes(nexus, agent_id="newcomer") == []


def test_dependency(nexus: TaskNexus, done: Any) -> None:
    nexus.add_tasks([{"task_id": "A"}, {"task_id": "B"}, {"task_id": "T1", "depends_on": ["A", "B"]}])
    nexus.cancel("B")
    done("A")
    [reason] = nexus.explain("T1")
    assert (reason.code, reason.details) == ("dependency", {"task_id": "B", "status": "cancelled"})
    assert reason.message == "it waits for B, which is cancelled and will not be completed unless it is retried"


def test_not_before(nexus: TaskNexus, clock: Any) -> None:
    due = clock() + timedelta(hours=1)
    nexus.add_task({"task_id": "T1", "available_at": due})
    [reason] = nexus.explain("T1")
    assert (reason.code, reason.details) == ("not_before", {"until": due.isoformat()})
    clock.advance(3600)
    assert codes(nexus) == []


def test_backoff(nexus: TaskNexus, at_work: Any, clock: Any) -> None:
    nexus.add_task({"task_id": "T1", "retry_policy": {"jitter": 0}})
    nexus.fail(at_work("T1"), ValueError("bad page"))
    [reason] = nexus.explain("T1")
    assert reason.code == "backoff"
    assert reason.message == "backoff until 2030-06-01 12:00:10 UTC after failure 1: ValueError: bad page"


def test_assigned(nexus: TaskNexus) -> None:
    nexus.add_task({"task_id": "T1", "assigned_to": "Ada"})
    assert codes(nexus) == ["assigned"], "to somebody who has not been seen here"
    assert codes(nexus, agent_id="Bo") == ["assigned"]
    nexus.register_agent("Ada")
    assert codes(nexus) == []
    assert codes(nexus, agent_id="Bo") == ["assigned"]


def test_assigned_to_an_agent_that_has_not_come_yet(nexus: TaskNexus) -> None:
    """An empty list means that it can be claimed, and the other way round."""
    nexus.add_tasks(
        [
            {"task_id": "T1", "assigned_to": "Ada"},
            {"task_id": "T2", "required_capabilities": ["x"], "assigned_to": "Ada"},
        ]
    )
    assert codes(nexus, agent_id="Ada") == []
    assert codes(nexus, "T2", "Ada") == ["capability"]
    assert nexus.claim_task("T1", "Ada")


def test_capability(nexus: TaskNexus) -> None:
    nexus.add_task({"task_id": "T1", "required_capabilities": ["a", "b"]})
    [reason] = nexus.explain("T1")
    assert (reason.code, reason.details) == ("capability", {"missing": ["a", "b"]})
    nexus.register_agent("Ada", ["a"])
    nexus.register_agent("Bo", [])
    [reason] = nexus.explain("T1")
    assert reason.details == {"missing": ["b"]}, "of whom lacks least"
    nexus.register_agent("Bo", ["a", "b", "c"])
    assert codes(nexus) == []
    assert codes(nexus, agent_id="Ada") == ["capability"]


def test_agent_limit(nexus: TaskNexus) -> None:
    nexus.register_agent("Ada", max_concurrency=1)
    nexus.add_tasks([{"task_id": "T0"}, {"task_id": "T1"}])
    nexus.claim_task("T0", "Ada")
    [reason] = nexus.explain("T1")
    assert (reason.code, reason.details) == ("agent_limit", {"live_claims": {"Ada": 1}})
    nexus.register_agent("Bo")
    assert codes(nexus) == []
    assert codes(nexus, agent_id="Ada") == ["agent_limit"]


def test_no_handler(nexus: TaskNexus) -> None:
    nexus.add_task({"task_id": "T1", "task_type": "paint"})
    nexus.confirm_agent("Ada", task_types=["echo"])
    [reason] = nexus.explain("T1")
    assert (reason.code, reason.details) == ("no_handler", {"task_type": "paint"})
    nexus.confirm_agent("Bo", task_types=["echo", "paint"])
    assert codes(nexus) == []


def test_held(nexus: TaskNexus, clock: Any) -> None:
    nexus.add_task({"task_id": "T1"})
    claim = nexus.claim_task("T1", "Ada")
    [reason] = nexus.explain("T1")
    assert (reason.code, reason.details["agent_id"], reason.details["claim_no"]) == ("held", "Ada", 1)
    assert reason.details["until"] == (clock() + timedelta(seconds=60)).isoformat()
    nexus.start(claim)
    clock.advance(30)
    nexus.heartbeat(claim)
    assert nexus.explain("T1")[0].message == (
        "Ada holds it (claim 1) until 2030-06-01 12:01:30 UTC, last heartbeat 2030-06-01 12:00:30 UTC"
    )


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("in_review", "in_review"),
        ("blocked", "blocked"),
        ("stalled", "stalled"),
        ("completed", "ended"),
        ("failed", "ended"),
        ("cancelled", "ended"),
    ],
)
def test_where_it_stands(nexus: TaskNexus, bring_to: Any, status: str, code: str) -> None:
    bring_to("T1", status)
    reason, *_ = nexus.explain("T1")
    assert (reason.code, reason.details["status"]) == (code, status)


def test_several_reasons_at_once(nexus: TaskNexus, clock: Any) -> None:
    nexus.add_tasks(
        [
            {"task_id": "A"},
            {
                "task_id": "T1",
                "depends_on": ["A"],
                "available_at": clock() + timedelta(hours=1),
                "required_capabilities": ["x"],
            },
        ]
    )
    assert codes(nexus) == ["dependency", "not_before", "capability"]
    with pytest.raises(NotClaimable) as refused:
        nexus.claim_task("T1", "Ada")
    assert refused.value.reasons == tuple(reason.message for reason in nexus.explain("T1", "Ada"))


def test_explaining_changes_nothing(nexus: TaskNexus, bring_to: Any, everything: Any) -> None:
    bring_to("T1", "pending")
    before = everything()
    nexus.explain("T1", "a stranger")
    assert everything() == before


def test_no_live_agent(nexus: TaskNexus, clock: Any) -> None:
    """Who was not seen for an hour and holds nothing is not counted on; asking in one's own name is being alive."""
    nexus.add_tasks([{"task_id": "T1", "required_capabilities": ["gpu"]}, {"task_id": "T2"}])
    nexus.register_agent("Ada", ["gpu"])
    nexus.claim("Ada", task_types=["nothing of this"])
    seen = clock()
    clock.advance(3600)
    assert codes(nexus) == []
    clock.advance(1)
    [reason] = nexus.explain("T1")
    assert (reason.code, reason.details) == (
        "no_live_agent",
        {"capabilities": ["gpu"], "agents": {"Ada": seen.isoformat()}},
    )
    assert reason.message == "no live agent with the capability gpu: Ada was last seen 2030-06-01 12:00:00 UTC"
    assert codes(nexus, agent_id="Ada") == []
    nexus.claim_task("T2", "Ada", lease_seconds=9 * 3600)
    clock.advance(2 * 3600)
    assert codes(nexus) == [], "it holds something"


def test_a_handler_that_nobody_has_is_not_offered_either(nexus: TaskNexus) -> None:
    nexus.add_task({"task_id": "T1", "task_type": "summarise"})
    nexus.confirm_agent("Ada", task_types=["echo"])
    assert codes(nexus) == codes(nexus, agent_id="Ada") == ["no_handler"]
    assert nexus.claim("Ada") == []
    with pytest.raises(NotClaimable, match="summarise"):
        nexus.claim_task("T1", "Ada")
    assert nexus.claim("Ada", task_types=["summarise"]), "who asks for a type has a handler for it"


def test_a_stranger_under_closed_registration(make_nexus: Any) -> None:
    nexus = make_nexus(registration="closed")
    nexus.add_task({"task_id": "T1"})
    assert codes(nexus) == codes(nexus, agent_id="stranger") == ["not_confirmed"]
    nexus.register_agent("Ada")
    assert codes(nexus) == codes(nexus, agent_id="Ada") == []
    assert codes(nexus, agent_id="stranger") == ["not_confirmed"]


def test_what_the_last_sweep_found(nexus: TaskNexus, clock: Any) -> None:
    nexus.add_task({"task_id": "T1", "required_capabilities": ["x"]})
    clock.advance(3600)
    nexus.sweep()
    [_, reason] = nexus.explain("T1")
    assert (reason.code, reason.message) == (
        "sweep",
        "the last sweep was at 2030-06-01 13:00:00 UTC and looked at 1 and acted on 1",
    )
    nexus.register_agent("Ada", ["x"])
    assert nexus.explain("T1") == [], "never alone: an empty list means that it can be claimed"


def test_a_lease_that_is_over(nexus: TaskNexus, clock: Any) -> None:
    nexus.add_task({"task_id": "T1"})
    nexus.claim_task("T1", "Ada", lease_seconds=60)
    [held] = nexus.explain("T1")
    assert held.message == "Ada holds it (claim 1) until 2030-06-01 12:01:00 UTC"
    clock.advance(60)
    [over] = nexus.explain("T1")
    assert over.code == "held"
    assert over.message == (
        "Ada held it (claim 1) until 2030-06-01 12:01:00 UTC; that is over, and the next sweep gives it to others"
    )
    nexus.sweep()
    clock.advance(3600)
    assert nexus.explain("T1", "Bo") == []


AGENTS = {"Ada": ((), None, None), "Bo": (("x",), 1, None), "Cy": (("x", "y"), 2, ("echo", "task"))}
names = st.sampled_from([*AGENTS, "Newcomer"])
tasks = st.fixed_dictionaries(
    {
        "task_type": st.sampled_from(["task", "echo", "other"]),
        "required_capabilities": st.sets(st.sampled_from(["x", "y"])).map(sorted),
        "assigned_to": st.none() | names,
        "delay": st.sampled_from([0, 0, 0, 50]),
        "depends": st.booleans(),
        "ends": st.sampled_from([None, None, "completed", "cancelled"]),
        "on_dependency_failure": st.sampled_from(["wait", "cancel", "run"]),
        "then": st.sampled_from([None, None, None, "block", "cancel", "claim", "fail", "stall"]),
    }
)


@pytest.fixture
def boards(database_url: str, open_board: Any) -> Any:
    """The board under open and under closed registration, each opened once for all examples."""
    return cache(lambda registration: open_board(database_url, registration=registration))


@given(
    task=tasks,
    paused=st.none() | st.sampled_from(["*", "task", "echo"]),
    busy=st.sets(st.sampled_from([*AGENTS])),
    later=st.sampled_from([0, 5, 60, 4000]),
    registration=st.sampled_from(["open", "closed"]),
    by=st.sampled_from(["claim", "claim_task"]),
)
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_it_says_nothing_exactly_when_a_claim_succeeds(
    boards: Any, clock: Any, task: Any, paused: Any, busy: Any, later: int, registration: str, by: str
) -> None:
    """Whatever the task, the agents, the pauses and the time: for each agent, known or not. (Where nobody has swept for
    long a claim that finds nothing does so first, and may then find what an explanation still calls held.)"""
    nexus = boards(registration)
    with nexus._database.engine.begin() as connection:
        for table in reversed(Base.metadata.sorted_tables):
            connection.execute(table.delete())
    for agent_id, (capabilities, limit, types) in AGENTS.items():
        nexus.register_agent(agent_id, capabilities, limit, task_types=types)
    for agent_id in sorted(busy):
        nexus.add_task({"task_id": f"work of {agent_id}", "task_type": "task"})
        nexus.claim_task(f"work of {agent_id}", agent_id, lease_seconds=9000)
    nexus.add_task({"task_id": "first", "required_capabilities": ["nobody has this"]})
    wanted = {
        name: task[name] for name in ("task_type", "required_capabilities", "assigned_to", "on_dependency_failure")
    }
    due = clock() + timedelta(seconds=task["delay"])
    nexus.add_task({"task_id": "T1", "available_at": due, "depends_on": ["first"] if task["depends"] else [], **wanted})
    if task["ends"] == "cancelled":
        nexus.cancel("first")
    elif task["ends"] == "completed":
        nexus.register_agent("Omnia", ["nobody has this"])
        nexus.mark_task_in_progress("first", "Omnia")
        nexus.mark_task_completed("first")
    with suppress(NexusError):
        if task["then"] in ("block", "cancel"):
            getattr(nexus, task["then"])("T1", "because")
        elif task["then"] == "claim":
            nexus.claim_task("T1", "Cy")
        elif task["then"] == "fail":
            nexus.mark_task_in_progress("T1", "Cy")
            nexus.mark_task_failed("T1", "no")
        elif task["then"] == "stall":
            nexus.sweep(TaskMonitoringConfig(escalation_strategy="mark_stalled", pending_timeout_seconds=0.001))
    if paused:
        nexus.pause(paused)
    clock.advance(later)
    nexus.sweep()
    could = {}
    for agent_id in (*AGENTS, "Newcomer"):
        says = nexus.explain("T1", agent_id)
        try:
            if by == "claim_task":
                claims = [nexus.claim_task("T1", agent_id)]
            else:
                claims = [claim for claim in nexus.claim(agent_id, 50, tags=None) if claim.task_id == "T1"]
        except (NotClaimable, IllegalTransition, AgentNotConfirmed):
            claims = []
        could[agent_id] = bool(claims)
        assert could[agent_id] == (not says), (agent_id, says)
        for claim in claims:
            nexus.release(claim)
