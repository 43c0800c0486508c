"""What no agent at work can bring to an end, and why: a run of a board has to end by itself."""

from typing import Any

import sqlalchemy as sa

from nexus import TaskNexus


def left(nexus: TaskNexus, *types: str) -> dict[str, str]:
    """What Ada, who handles these types, can do nothing about."""
    _, reasons = nexus.stuck(["Ada"], types or ["task"])
    return reasons


def test_what_can_still_move_is_not_stuck(nexus: TaskNexus, at_work: Any) -> None:
    nexus.register_agent("Ada")
    nexus.add_tasks([{"task_id": "A"}, {"task_id": "B", "depends_on": ["A"]}])
    assert left(nexus) == {}
    at_work("A", "Somebody else")
    assert left(nexus) == {}


def test_what_waits_for_what_failed(nexus: TaskNexus) -> None:
    nexus.register_agent("Ada")
    nexus.add_tasks(
        [
            {"task_id": "A"},
            {"task_id": "wait", "depends_on": ["A"]},
            {"task_id": "run", "depends_on": ["A"], "on_dependency_failure": "run"},
            {"task_id": "after", "depends_on": ["wait"]},
        ]
    )
    nexus.cancel("A")
    assert left(nexus) == {
        "wait": "it waits for A, which is cancelled",
        "after": "it waits for wait, which is pending",
    }


def test_what_is_paused(nexus: TaskNexus) -> None:
    nexus.register_agent("Ada")
    nexus.add_tasks([{"task_id": "A"}, {"task_id": "D", "task_type": "deploy"}])
    nexus.pause("deploy")
    assert left(nexus, "task", "deploy") == {"D": "'deploy' tasks are paused"}
    nexus.pause()
    assert left(nexus, "task", "deploy").keys() == {"A", "D"}
    nexus.resume()
    nexus.resume("deploy")
    assert left(nexus, "task", "deploy") == {}


def test_what_nobody_at_work_may_do(nexus: TaskNexus) -> None:
    nexus.register_agent("Ada", ["x"])
    nexus.add_tasks(
        [
            {"task_id": "type", "task_type": "other"},
            {"task_id": "skill", "required_capabilities": ["y"]},
            {"task_id": "name", "assigned_to": "Bo"},
            {"task_id": "blocked"},
        ]
    )
    nexus.block("blocked", "because")
    reasons = left(nexus)
    assert reasons.keys() == {"type", "skill", "name", "blocked"}
    assert reasons["blocked"] == "it is blocked: because"


def test_looking_at_all_that_is_open_loads_no_payloads(nexus: TaskNexus) -> None:
    """A run looks every few seconds, and a board of fat payloads would come into memory each time."""
    nexus.add_tasks([{"task_id": "A", "payload": {"text": "x" * 1000}}, {"task_id": "B", "depends_on": ["A"]}])
    asked: list[str] = []
    engine = nexus._database.engine
    sa.event.listen(engine, "before_cursor_execute", lambda *said: asked.append(said[2]))
    nexus.stuck(["Ada"], ["task"])
    assert [text for text in asked if "depends_on" in text]
    assert [text for text in asked if "payload" in text or "nexus_tasks.*" in text] == []
