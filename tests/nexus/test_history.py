"""Every move of a task: what, who, when and why."""

from typing import Any

from nexus import TaskNexus


def test_a_life_in_full(nexus: TaskNexus, clock: Any) -> None:
    nexus.add_task(
        {"task_id": "T1", "requires_review": True, "retry_policy": {"backoff_seconds": 0, "max_attempts": 2}},
        actor="Olga",
    )
    steps = [
        lambda: nexus.start(nexus.claim_task("T1", "Ada")),
        lambda: nexus.fail(nexus.current_claim("T1"), "no paper"),
        lambda: nexus.release(nexus.claim_task("T1", "Bo"), "closing time"),
        lambda: nexus.block("T1", "wait", actor="Olga"),
        lambda: nexus.unblock("T1", actor="Olga"),
        lambda: nexus.start(nexus.claim_task("T1", "Ada")),
        lambda: (clock.advance(100), nexus.sweep()),
        lambda: nexus.mark_task_in_progress("T1", "Bo"),
        lambda: nexus.mark_task_failed("T1", "no ink"),
        lambda: nexus.retry("T1", actor="Olga"),
        lambda: nexus.mark_task_in_progress("T1", "Bo"),
        lambda: nexus.mark_task_completed("T1", "letter"),
        lambda: nexus.reject("T1", "Rita", "no stamp"),
        lambda: nexus.mark_task_in_progress("T1", "Bo"),
        lambda: nexus.mark_task_completed("T1", "letter with stamp"),
        lambda: nexus.approve("T1", "Rita", "good"),
    ]
    for step in steps:
        clock.advance(1)
        step()
    life = [
        (event.verb, event.from_status, event.to_status, event.actor, event.claim_no, event.reason)
        for event in nexus.history("T1")
    ]
    assert life == [
        ("add", None, "pending", "Olga", 0, None),
        ("claim", "pending", "claimed", "Ada", 1, None),
        ("start", "claimed", "in_progress", "Ada", 1, None),
        ("fail", "in_progress", "pending", "Ada", 1, "failure 1 of 2: no paper"),
        ("claim", "pending", "claimed", "Bo", 2, None),
        ("release", "claimed", "pending", "Bo", 2, "closing time"),
        ("block", "pending", "blocked", "Olga", 2, "wait"),
        ("unblock", "blocked", "pending", "Olga", 2, None),
        ("claim", "pending", "claimed", "Ada", 3, None),
        ("start", "claimed", "in_progress", "Ada", 3, None),
        ("expire", "in_progress", "pending", "sweep", 3, "the lease ended"),
        ("claim", "pending", "claimed", "Bo", 4, None),
        ("start", "claimed", "in_progress", "Bo", 4, None),
        ("fail", "in_progress", "failed", "Bo", 4, "2 of 2 attempts are spent: no ink"),
        ("retry", "failed", "pending", "Olga", 4, None),
        ("claim", "pending", "claimed", "Bo", 5, None),
        ("start", "claimed", "in_progress", "Bo", 5, None),
        ("complete", "in_progress", "in_review", "Bo", 5, None),
        ("reject", "in_review", "pending", "Rita", 5, "no stamp"),
        ("claim", "pending", "claimed", "Bo", 6, None),
        ("start", "claimed", "in_progress", "Bo", 6, None),
        ("complete", "in_progress", "in_review", "Bo", 6, None),
        ("approve", "in_review", "completed", "Rita", 6, "good"),
    ]
    moments = [event.at for event in nexus.history("T1")]
    assert moments == sorted(moments)
    assert moments[-1] == clock()
    assert [(attempt.number, attempt.outcome) for attempt in nexus.attempts("T1")] == [
        (1, "failed"), (2, "lost"), (3, "failed"), (4, "completed"), (5, "completed"),
    ]  # fmt: skip


def test_a_heartbeat_is_no_move(nexus: TaskNexus, at_work: Any) -> None:
    nexus.add_task({"task_id": "T1"})
    claim = at_work("T1")
    before = nexus.history("T1")
    nexus.heartbeat(claim, "note")
    assert nexus.history("T1") == before


def test_the_confirmation_of_an_agent_is_kept(nexus: TaskNexus, everything: Any) -> None:
    nexus.confirm_agent("Ada", task_types=["echo"])
    [event] = everything()["nexus_history"]
    assert "'confirm'" in event and "'Ada'" in event and "'registration is open'" in event


def test_each_task_has_a_history_of_its_own(nexus: TaskNexus, done: Any) -> None:
    nexus.add_tasks([{"task_id": "A"}, {"task_id": "B"}])
    done("A")
    assert [event.verb for event in nexus.history("B")] == ["add"]
