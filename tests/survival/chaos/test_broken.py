"""What is broken on purpose, to see that the judges notice: the proof that the chaos proves something."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

import pytest

from nexus import NewTask, RetryPolicy, TaskNexus
from nexus.errors import ClaimLost

from ...conftest import Clock
from . import judge
from .ledger import Execution
from .record import Record

ADDED: Final = ("first", "after", "retried", "spent", "skipped", "taken")
AT_ONCE: Final = RetryPolicy(backoff_seconds=0, jitter=0, max_attempts=2)


@pytest.fixture
def nexus(sqlite_url: str, open_board: Callable[..., TaskNexus]) -> TaskNexus:
    """A board on the test's clock."""
    return open_board(sqlite_url)


@pytest.fixture
def record(nexus: TaskNexus, clock: Clock) -> Record:
    """Of a day on which all went as it may: a failure, a dead letter, a lost attempt, a frozen worker."""
    nexus.add_tasks(
        [
            NewTask(task_id="first", retry_policy=AT_ONCE),
            NewTask(task_id="after", retry_policy=AT_ONCE, depends_on=("first",)),
            NewTask(task_id="retried", retry_policy=AT_ONCE),
            NewTask(task_id="spent", retry_policy=AT_ONCE),
            NewTask(task_id="skipped", retry_policy=AT_ONCE, depends_on=("spent",), on_dependency_failure="cancel"),
            NewTask(task_id="taken", retry_policy=AT_ONCE),
        ]
    )
    executed: list[Execution] = []

    def work(task_id: str, agent: str, how: str, after: dict[str, str] | None = None) -> Callable[[], Any]:
        claim = nexus.claim_task(task_id, agent, lease_seconds=60)
        attempt = nexus.start(claim)
        began, name = clock().timestamp(), f"{task_id}-{claim.claim_no}"
        one = Execution(name, task_id, claim.claim_no, attempt.number, agent, f"{agent}.jsonl", began)
        executed.append(one)
        clock.advance(1)

        def end() -> None:
            clock.advance(1)
            one.ended, one.how = clock().timestamp(), how
            if how == "raised":
                nexus.fail(claim, "Untold: so it is")
            else:
                nexus.complete(claim, {"execution": name, "claim": claim.claim_no, "after": after or {}})

        return end

    work("first", "Ada", "returned")()
    work("after", "Ada", "returned", {"first": "first-1"})()
    for how in ("raised", "returned"):
        work("retried", "Ada", how)()
    for _ in range(2):
        work("spent", "Ada", "raised")()
    frozen = work("taken", "Ada", "returned")
    clock.advance(61)
    nexus.sweep()
    successor = work("taken", "Bob", "returned")
    with pytest.raises(ClaimLost):
        frozen()
    successor()

    tasks = {task.task_id: task for task in nexus.get_all_tasks()}
    return Record(
        added=frozenset(ADDED),
        tasks=tasks,
        attempts={task_id: nexus.attempts(task_id) for task_id in tasks},
        histories={task_id: nexus.history(task_id) for task_id in tasks},
        executions={task_id: [one for one in executed if one.task_id == task_id] for task_id in tasks},
    )


def test_a_day_on_which_all_went_as_it_may_is_passed(record: Record) -> None:
    assert judge.wrongs(record) == []
    assert record.attempts["taken"][0].late_result["execution"] == "taken-1"


def test_who_was_frozen_before_he_began_may_begin_after_his_successor(record: Record) -> None:
    frozen, successor = record.executions["taken"]
    frozen.began, frozen.ended = successor.began + 0.1, successor.began + 0.2
    record.executions["taken"] = [successor, frozen]
    assert judge.wrongs(record) == []


Break = Callable[[Record], None]
BROKEN: Final[dict[Break, tuple[Callable[..., Any], str]]] = {}
"""What is done to the record, which judge is to see it, and what it is to say."""


def breaks(by: Callable[..., Any], says: str) -> Callable[[Break], Break]:
    """Register what is done to the record: this judge is to see it, and to say this."""

    def register(break_it: Break) -> Break:
        BROKEN[break_it] = by, says
        return break_it

    return register


def task(record: Record, task_id: str, **values: Any) -> None:
    """The board says something else of a task."""
    record.tasks[task_id] = record.tasks[task_id].model_copy(update=values)


def attempt(record: Record, task_id: str, number: int, **values: Any) -> None:
    """The board says something else of an attempt."""
    tries = record.attempts[task_id]
    tries[number - 1] = tries[number - 1].model_copy(update=values)


def move(record: Record, task_id: str, verb: str, which: int = 0, **values: Any) -> None:
    """The board says something else of a move, of the last by this verb or of one before it."""
    history = record.histories[task_id]
    place = [at for at, event in enumerate(history) if event.verb == verb][which - 1]
    history[place] = history[place].model_copy(update=values)


@breaks(judge.nothing_is_missing, "first was added, and is gone")
def is_gone(record: Record) -> None:
    del record.tasks["first"]


@breaks(judge.nothing_is_missing, "taken is there, and nobody has added it")
def was_never_added(record: Record) -> None:
    record.added -= {"taken"}


@breaks(judge.nothing_is_held, "taken is in_progress, and nobody is there any more")
def is_left_in_progress(record: Record) -> None:
    task(record, "taken", status="in_progress")


@breaks(judge.nothing_is_held, "skipped is pending: it has not ended")
def is_left_waiting(record: Record) -> None:
    task(record, "skipped", status="pending")


@breaks(judge.all_ended_by_their_policies, "taken 0 failures and 0 losses are counted, 0 and 1")
def a_loss_is_not_counted(record: Record) -> None:
    task(record, "taken", loss_count=0)


@breaks(judge.all_ended_by_their_policies, "spent is a dead letter after 2 failures")
def a_dead_letter_too_early(record: Record) -> None:
    task(record, "spent", retry_policy=AT_ONCE.model_copy(update={"max_attempts": 3}))


@breaks(judge.all_ended_by_their_policies, "retried was completed after 1 failures")
def more_attempts_than_the_policy_allows(record: Record) -> None:
    task(record, "retried", retry_policy=AT_ONCE.model_copy(update={"max_attempts": 1}))


@breaks(judge.all_ended_by_their_policies, "skipped was cancelled, and nothing")
def is_cancelled_for_nothing(record: Record) -> None:
    task(record, "spent", status="completed")


@breaks(judge.all_ended_by_their_policies, "retried failed of what it was not meant to")
def fails_of_a_fault_of_the_shift(record: Record) -> None:
    attempt(record, "retried", 1, error="TypeError: None")


@breaks(judge.results_are_those_of_the_winners, "taken has the result")
def has_the_result_of_the_loser(record: Record) -> None:
    task(record, "taken", result=record.attempts["taken"][0].late_result)


@breaks(judge.results_are_those_of_the_winners, "taken is completed, and 2 of its attempts are")
def is_completed_twice(record: Record) -> None:
    attempt(record, "taken", 1, outcome="completed")


@breaks(judge.results_are_those_of_the_winners, "first has a result of first-1")
def has_a_result_that_nobody_returned(record: Record) -> None:
    record.executions["first"][0].how = None


@breaks(judge.results_are_those_of_the_winners, "taken what came late to claim 1")
def has_a_late_result_of_somebody_else(record: Record) -> None:
    attempt(record, "taken", 1, late_result=record.attempts["taken"][1].result)


@breaks(judge.results_are_those_of_the_winners, "after was given results")
def was_given_another_result(record: Record) -> None:
    result = {**record.tasks["after"].result, "after": {"first": "first-2"}}
    task(record, "after", result=result)
    attempt(record, "after", 1, result=result)


@breaks(judge.claims_do_not_overlap, "taken claim 2 was made 1.000000 s before claim 1 ended")
def claims_overlap(record: Record) -> None:
    ended = next(event.at for event in record.histories["taken"] if event.verb == "expire")
    move(record, "taken", "claim", at=ended - timedelta(seconds=1))


@breaks(judge.claims_do_not_overlap, "taken claim 2 was made, and claim 1 never ended")
def a_claim_never_ended(record: Record) -> None:
    record.histories["taken"] = [event for event in record.histories["taken"] if event.verb != "expire"]


@breaks(judge.claims_do_not_overlap, "taken claim 1 was made after claim 1")
def an_older_claim_comes_later(record: Record) -> None:
    move(record, "taken", "claim", claim_no=1)


@breaks(judge.histories_are_possible, "first complete led from pending to completed")
def a_move_that_is_not_legal(record: Record) -> None:
    move(record, "first", "complete", from_status="pending")


@breaks(judge.executions_are_explained, "first was executed by Ada under claim 2")
def an_execution_that_no_attempt_explains(record: Record) -> None:
    one = record.executions["first"][0]
    record.executions["first"].append(
        replace(one, name="first-2", claim_no=2, began=one.began + 9, ended=one.began + 10)
    )


@breaks(judge.executions_are_explained, "first was executed 2 times under claim 1")
def twice_under_one_claim(record: Record) -> None:
    one = record.executions["first"][0]
    record.executions["first"].append(replace(one, name="first-b", began=one.began + 9, ended=one.began + 10))


@breaks(judge.executions_are_explained, "first attempt 1 of Ada was executed as 1 by Bob")
def executed_by_somebody_else(record: Record) -> None:
    record.executions["first"][0].agent_id = "Bob"


@breaks(judge.executions_are_explained, "retried attempt 1 is failed, and its execution was ret")
def a_failure_that_was_none(record: Record) -> None:
    record.executions["retried"][0].how = "returned"


@breaks(judge.executions_are_explained, "retried attempt 1 is failed, and was never")
def an_attempt_that_was_never_executed(record: Record) -> None:
    del record.executions["retried"][0]


@breaks(
    judge.executions_overlap_only_where_one_was_given_up,
    "retried was executed twice at once: by Ada during attempt 1, failed",
)
def twice_at_once_though_nobody_was_given_up(record: Record) -> None:
    one, following = record.executions["retried"]
    following.began = one.began


@breaks(
    judge.executions_overlap_only_where_one_was_given_up,
    "retried was executed twice at once: by Ada during attempt 1, failed",
)
def nobody_was_given_up_and_the_older_claim_begins_later(record: Record) -> None:
    one, following = record.executions["retried"]
    one.began, one.ended = following.began + 0.1, following.began + 0.2
    record.executions["retried"] = [following, one]


@pytest.mark.parametrize("break_it", BROKEN, ids=lambda break_it: break_it.__name__)
def test_what_is_broken_on_purpose_is_noticed(record: Record, break_it: Break) -> None:
    by, says = BROKEN[break_it]
    break_it(record)
    assert [wrong for wrong in judge.wrongs(record) if wrong.startswith(f"{by.__name__}: {says}")]


def test_every_judge_can_find_something() -> None:
    assert {by for by, _ in BROKEN.values()} == set(judge.JUDGES)
