"""Many at once: each of a batch has its own end, and leaves what it would have left alone."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from nexus import Attempt, AttemptOutcome, Claim, TaskNexus, TaskStatus
from nexus.errors import ClaimLost, IllegalTransition, InvalidTask, TaskNotFound

from ..conftest import Clock


def add(nexus: TaskNexus, *task_ids: str, **fields: Any) -> None:
    nexus.add_tasks([{"task_id": task_id, **fields} for task_id in task_ids])


def moves(nexus: TaskNexus, task_id: str) -> list[tuple[str, str | None, str | None]]:
    return [(event.verb, event.from_status, event.to_status) for event in nexus.history(task_id)]


def test_a_claim_that_starts_is_a_claim_and_a_start(nexus: TaskNexus, clock: Clock) -> None:
    add(nexus, "T1", "T2")
    clock.advance(30)

    first, second = nexus.claim("Ada", 2, start=True, run_ref={"flow_run_id": "f-1"})

    assert (first.task.status, first.task.attempt_count) == (TaskStatus.IN_PROGRESS, 1)
    assert first == nexus.current_claim("T1")
    [attempt] = nexus.attempts("T1")
    assert (attempt.outcome, attempt.agent_id, attempt.claim_no) == (AttemptOutcome.RUNNING, "Ada", 1)
    assert (attempt.started_at, attempt.run_ref) == (clock.present, {"flow_run_id": "f-1"})
    assert moves(nexus, "T1")[1:] == [("claim", "pending", "claimed"), ("start", "claimed", "in_progress")]
    assert [event.waited_seconds for event in nexus.history("T2")] == [None, 30, None]
    assert second.task_id == "T2"


def test_the_same_as_one_by_one(make_nexus: Callable[..., TaskNexus], nexus: TaskNexus) -> None:
    """What stands on the board afterwards does not tell in which way it was done."""
    add(nexus, *(f"T{number}" for number in range(6)), payload={"n": 1})

    for claim in nexus.claim("Ada", 2):
        nexus.start(claim)
        nexus.complete(claim, {"done": True})
    two = nexus.claim("Ada", 2)
    assert [attempt.number for attempt in nexus.start_many(two)] == [1, 1]
    assert nexus.complete_many([(claim, {"done": True}) for claim in two]) == [TaskStatus.COMPLETED] * 2
    last = nexus.claim("Ada", 2, start=True)
    nexus.complete_many([(claim, {"done": True}) for claim in last])

    known = [task.model_dump(exclude={"task_id"}) for task in nexus.get_all_tasks()]
    assert all(task == known[0] for task in known)
    assert len({tuple(moves(nexus, f"T{number}")) for number in range(6)}) == 1
    attempts = [nexus.attempts(f"T{number}")[0].model_dump(exclude={"task_id"}) for number in range(6)]
    assert all(attempt == attempts[0] for attempt in attempts)


def test_one_that_is_refused_keeps_no_other_from_being_done(nexus: TaskNexus, clock: Clock) -> None:
    add(nexus, "done", "cancelled", "expired", "good")
    claims = {claim.task_id: claim for claim in nexus.claim("Ada", 4, start=True)}
    nexus.complete(claims["done"], 1)
    nexus.cancel("cancelled")
    clock.advance(nexus.settings.lease_seconds + 1)
    nexus.heartbeat(claims["good"])
    nexus.sweep()
    gone = claims["good"].model_copy(update={"task_id": "nowhere"})

    ends = nexus.complete_many(
        [
            (claims["done"], 2),
            (claims["cancelled"], "late"),
            (gone, None),
            (claims["expired"], "late too"),
            (claims["good"], float("nan")),
            (claims["good"], "first"),
            (claims["good"], "second"),
        ]
    )

    kinds = [end if isinstance(end, TaskStatus) else type(end) for end in ends]
    assert kinds[:5] == [IllegalTransition, ClaimLost, TaskNotFound, ClaimLost, InvalidTask]
    assert sorted(kinds[5:], key=str) == [IllegalTransition, TaskStatus.COMPLETED] or TaskStatus.COMPLETED in kinds[5:]
    assert nexus.get_task_by_id("done").result == 1
    assert nexus.get_task_by_id("good").result in ("first", "second")
    assert [nexus.attempts(name)[0].late_result for name in ("cancelled", "expired")] == ["late", "late too"]


def test_starts_that_are_refused(nexus: TaskNexus) -> None:
    add(nexus, "T1", "T2")
    first, second = nexus.claim("Ada", 2)
    nexus.release(first)

    lost, begun = nexus.start_many([first, second], {"run": 1})

    assert isinstance(lost, ClaimLost)
    assert (begun.task_id, begun.run_ref) == ("T2", {"run": 1})
    assert nexus.attempts("T1") == []
    assert nexus.start_many([]) == []
    assert nexus.complete_many([]) == []


@pytest.mark.parametrize("odd", ['"', "\\", '\\"', "{a,b}", "NULL", "null", "a,b", "'", "%s", "ü\U0001f41d", "[]"])
def test_ids_and_values_of_any_characters(nexus: TaskNexus, odd: str) -> None:
    add(nexus, odd, "plain")
    claims = nexus.claim("Ada", 2)
    value = {odd: [odd, None, "\n\t"]}
    assert [attempt.run_ref for attempt in nexus.start_many(claims, run_refs=[odd, value])] == [odd, value]
    assert nexus.complete_many(zip(claims, [value, odd], strict=True)) == [TaskStatus.COMPLETED] * 2
    assert [nexus.attempts(claim.task_id)[0].run_ref for claim in claims] == [odd, value]
    assert [nexus.get_task_by_id(claim.task_id).result for claim in claims] == [value, odd]


def test_each_begins_in_a_run_of_its_own(nexus: TaskNexus) -> None:
    add(nexus, "T1", "T2", "T3")
    claims = nexus.claim("Ada", 3)
    runs = [{"task_run_id": "1"}, None, {"b": 1, "a": "ü"}]
    assert [attempt.run_ref for attempt in nexus.start_many(claims, run_refs=runs)] == runs
    assert [nexus.attempts(claim.task_id)[0].run_ref for claim in claims] == runs
    nexus.complete_many([(claim, None) for claim in claims])
    assert [nexus.attempts(claim.task_id)[0].run_ref for claim in claims] == runs


def test_there_is_a_run_for_each_or_nothing_begins(nexus: TaskNexus) -> None:
    add(nexus, "T1", "T2")
    claims = nexus.claim("Ada", 2)
    with pytest.raises(InvalidTask, match="2 claims and 1 runs"):
        nexus.start_many(claims, run_refs=[None])
    with pytest.raises(InvalidTask, match=r"NaN|nan"):
        nexus.start_many(claims, run_refs=[None, {"n": float("nan")}])
    assert nexus.stats() == {"claimed": 2}


def test_who_waited_for_them_is_freed_and_reviews_are_asked_for(nexus: TaskNexus) -> None:
    add(nexus, "A", "B", "C")
    add(nexus, "reviewed", requires_review=True)
    add(nexus, "after", depends_on=["A", "B", "reviewed"])
    claims = nexus.claim("Ada", 10, start=True)
    assert "after" not in {claim.task_id for claim in claims}

    ends = nexus.complete_many([(claim, None) for claim in claims])

    assert dict(zip([claim.task_id for claim in claims], ends, strict=True)) == {
        "A": TaskStatus.COMPLETED,
        "B": TaskStatus.COMPLETED,
        "C": TaskStatus.COMPLETED,
        "reviewed": TaskStatus.IN_REVIEW,
    }
    assert nexus.claim("Ada") == []
    nexus.approve("reviewed", "Grace")
    assert [claim.task_id for claim in nexus.claim("Ada")] == ["after"]


def test_a_question_about_a_deadline_ends_with_the_task(nexus: TaskNexus, clock: Clock) -> None:
    add(nexus, "T1", deadline=clock.present + timedelta(seconds=10))
    [claim] = nexus.claim("Ada", start=True, lease_seconds=3600)
    clock.advance(60)
    nexus.sweep()
    [question] = nexus.get_all_tasks("pending")
    assert question.related_task_id == "T1"

    nexus.complete_many([(claim, "late, but done")])

    assert nexus.get_task_by_id(question.task_id).status == TaskStatus.CANCELLED
    assert nexus.stalls(open_only=True) == []


def test_more_than_a_plan_is_kept_for(nexus: TaskNexus) -> None:
    add(nexus, *(f"T{number}" for number in range(1203)))
    claims = nexus.claim("Ada", 1201, start=True)
    assert len(claims) == 1201
    assert set(nexus.complete_many([(claim, None) for claim in claims])) == {TaskStatus.COMPLETED}
    assert [claim.task_id for claim in nexus.claim("Ada", 1201)] == ["T1201", "T1202"]


class TestWhatAProcessRemembersOfAnAgent:
    def test_what_it_can_do_changes_at_once(self, nexus: TaskNexus, make_nexus: Callable[..., TaskNexus]) -> None:
        operator = make_nexus()
        nexus.register_agent("Ada", ["python"])
        add(nexus, "T1", "T2", required_capabilities=["python"])
        assert nexus.claim("Ada")

        operator.register_agent("Ada", ["rust"])

        assert nexus.claim("Ada") == []
        operator.register_agent("Ada", ["python"])
        assert nexus.claim("Ada")

    def test_a_limit_holds_from_the_next_claim_on(self, nexus: TaskNexus, make_nexus: Callable[..., TaskNexus]) -> None:
        operator = make_nexus()
        add(nexus, "T1", "T2", "T3")
        assert nexus.claim("Ada")

        operator.register_agent("Ada", max_concurrency=2)

        assert len(nexus.claim("Ada", 5)) == 1
        assert nexus.claim("Ada") == []

    def test_it_is_seen_to_live(self, nexus: TaskNexus, clock: Clock) -> None:
        add(nexus, *(f"T{number}" for number in range(10)))
        for _ in range(10):
            assert nexus.claim("Ada")
            clock.advance(7)
        seen = nexus.agents()[0].last_seen_at
        assert clock.present - seen < timedelta(seconds=30)


@pytest.mark.parametrize("value", [0, 6, -1.5, True, "text", "6", [], {}, {"a": [1, None]}, 10**15])
def test_a_result_of_a_batch_comes_back_as_it_was(nexus: TaskNexus, value: Any) -> None:
    add(nexus, "T1")
    [claim] = nexus.claim("Ada", start=True)
    nexus.complete_many([(claim, value)])
    for result in (nexus.get_task_by_id("T1").result, nexus.attempts("T1")[0].result):
        assert result == value
        assert type(result) is type(value)


def test_a_claim_is_what_is_read_of_it_later(nexus: TaskNexus) -> None:
    """The quick way from a row to a value, and the long one."""
    nexus.add_task(
        {
            "task_id": "T1",
            "payload": {"deep": [1, {"a": 2.5}]},
            "tags": ["a", "b"],
            "required_capabilities": ["python"],
            "retry_policy": {"max_attempts": 7, "non_retryable": ["ValueError"]},
            "timeout_seconds": 9.5,
            "requires_review": True,
            "deadline": "2031-01-01T00:00:00Z",
            "idempotency_key": "k",
            "unknown": "kept",
        }
    )
    nexus.register_agent("Ada", ["python"])
    [claim] = nexus.claim("Ada")
    assert claim.task == nexus.get_task_by_id("T1")
    assert Claim.model_validate(claim.model_dump()) == claim


@pytest.fixture
def old_and_new(nexus: TaskNexus, clock: Clock) -> Callable[..., tuple[Claim, Claim]]:
    """Ada's claim on T, which she lost, and Bo's, which is current; `start` begins to work under each."""

    def take(*, start: bool) -> tuple[Claim, Claim]:
        add(nexus, "T")
        [old] = nexus.claim("Ada", start=start)
        clock.advance(61)
        nexus.sweep()
        clock.advance(61)
        [new] = nexus.claim("Bo", start=start)
        return old, new

    return take


@pytest.mark.parametrize("old_first", [True, False])
def test_an_old_claim_does_not_stand_in_the_way_of_the_current_one_on_the_same_task(
    nexus: TaskNexus, old_and_new: Callable[..., tuple[Claim, Claim]], old_first: bool
) -> None:
    old, new = old_and_new(start=True)
    pairs = [(old, "Ada's"), (new, "Bo's")]

    ends = nexus.complete_many(pairs if old_first else pairs[::-1])

    of_old, of_new = ends if old_first else ends[::-1]
    assert isinstance(of_old, ClaimLost)
    assert of_new == TaskStatus.COMPLETED
    assert [(attempt.agent_id, attempt.result, attempt.late_result) for attempt in nexus.attempts("T")] == [
        ("Ada", None, "Ada's"),
        ("Bo", "Bo's", None),
    ]


@pytest.mark.parametrize("old_first", [True, False])
def test_an_old_claim_does_not_begin_in_place_of_the_current_one(
    nexus: TaskNexus, old_and_new: Callable[..., tuple[Claim, Claim]], old_first: bool
) -> None:
    old, new = old_and_new(start=False)
    shown, runs = ([old, new], ["Ada's", "Bo's"]) if old_first else ([new, old], ["Bo's", "Ada's"])

    ends = nexus.start_many(shown, run_refs=runs)

    of_old, of_new = ends if old_first else ends[::-1]
    assert isinstance(of_old, ClaimLost)
    assert isinstance(of_new, Attempt)
    assert (of_new.claim_no, of_new.agent_id, of_new.run_ref) == (new.claim_no, "Bo", "Bo's")
    assert nexus.attempts("T") == [of_new]


def test_whoever_waited_for_it_is_freed_by_the_current_holder(
    nexus: TaskNexus, old_and_new: Callable[..., tuple[Claim, Claim]]
) -> None:
    old, new = old_and_new(start=True)
    nexus.add_task({"task_id": "next", "depends_on": ["T"]})
    nexus.complete_many([(new, None), (old, None)])
    assert [claim.task_id for claim in nexus.claim("Eve")] == ["next"]
