"""A task that does not move can say why."""

from datetime import timedelta
from typing import Any

import pytest

from nexus import TaskNexus
from nexus.errors import NotClaimable


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
