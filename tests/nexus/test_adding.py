"""How tasks come onto the board, and what is kept off it."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import ValidationError

from nexus import NewTask, RetryPolicy, TaskNexus, TaskStatus, intake
from nexus.errors import DependencyCycle, InvalidTask, TaskExists, TaskNotFound


def test_a_new_task_is_pending_and_has_the_defaults(nexus: TaskNexus, clock: Any) -> None:
    task = nexus.add_task({})
    assert (task.status, task.priority, task.task_type) == (TaskStatus.PENDING, 20, "task")
    assert (task.claim_no, task.attempt_count, task.claimed_by, task.lease_expires_at) == (0, 0, None, None)
    assert task.created_at == task.updated_at == task.pending_since == task.available_at == clock()
    assert task.retry_policy == RetryPolicy()
    assert len(task.task_id) == 26
    assert nexus.get_task_by_id(task.task_id) == task


def test_everything_that_is_asked_for_comes_back(nexus: TaskNexus, clock: Any) -> None:
    nexus.add_task({"task_id": "T0"})
    wanted = {
        "task_id": "T1",
        "task_type": "summarise",
        "description": "Read \N{OPEN BOOK} and tell",
        "payload": {"b": 1, "a": [1.0, None, True, {"ü": "\u2028"}], "big": 2**80},
        "priority": 7,
        "tags": ("x", "y"),
        "depends_on": ("T0",),
        "required_capabilities": ("python",),
        "assigned_to": "Ada",
        "retry_policy": RetryPolicy(max_attempts=7, non_retryable=("ValueError",)),
        "timeout_seconds": 12.5,
        "requires_review": True,
        "available_at": clock() + timedelta(hours=1),
        "deadline": clock() + timedelta(hours=2),
        "related_task_id": "elsewhere",
        "episode_id": "EP07",
        "idempotency_key": "k1",
        "extra": {"colour": "blue"},
    }
    nexus.add_task(NewTask(**wanted))
    task = nexus.get_task_by_id("T1")
    assert {name: getattr(task, name) for name in wanted} == wanted
    assert json.dumps(task.payload) == json.dumps(wanted["payload"]), "the order of keys, and 1.0 stays 1.0"


def test_a_model_and_a_dict_are_the_same_task(nexus: TaskNexus) -> None:
    fields = {"task_type": "echo", "payload": {"a": 1}, "tags": ["x"], "priority": "high"}
    one = nexus.add_task(fields).model_dump(exclude={"task_id"})
    assert one == nexus.add_task(NewTask(**fields)).model_dump(exclude={"task_id"})


def test_fields_that_nobody_knows_are_kept(nexus: TaskNexus) -> None:
    nexus.add_task({"task_id": "T1", "colour": "blue", "nested": {"a": [1]}, "extra": {"size": 3}})
    assert nexus.get_task_by_id("T1").extra == {"colour": "blue", "nested": {"a": [1]}, "size": 3}


@pytest.mark.parametrize("extra", [[1], "text", 7, True])
def test_extra_is_an_object(nexus: TaskNexus, extra: Any) -> None:
    for task in ({"extra": extra}, {"extra": extra, "colour": "blue"}):
        with pytest.raises(InvalidTask, match="extra"):
            nexus.add_task(task)


def test_a_field_that_is_in_both_places_is_lost_in_neither(nexus: TaskNexus) -> None:
    with pytest.raises(InvalidTask, match="extra: 'colour' is given twice"):
        nexus.add_task({"colour": "blue", "extra": {"colour": "red"}})
    assert nexus.add_task({"colour": "blue", "extra": {"colour": "blue"}}).extra == {"colour": "blue"}


def test_what_only_the_nexus_decides_cannot_be_brought_along(nexus: TaskNexus) -> None:
    brought = {"claim_no": 9, "claimed_by": "Eve", "result": "done", "attempt_count": 4}
    task = nexus.add_task({"task_id": "T1", **brought})
    assert (task.claim_no, task.claimed_by, task.result, task.attempt_count) == (0, None, None, 0)
    assert task.extra == brought


@pytest.mark.parametrize(
    ("given", "number"),
    [("critical", 0), ("high", 10), ("medium", 20), ("low", 30), (" HIGH ", 10), (5, 5), (-3, -3), ("15", 15)],
)
def test_priorities_are_numbers_and_the_four_words(nexus: TaskNexus, given: Any, number: int) -> None:
    assert nexus.add_task({"priority": given}).priority == number


@pytest.mark.parametrize("given", ["urgent", "", "1e3", "--1", "²", 1.5, True, None, 10**7, [1]])
def test_other_priorities_are_refused(nexus: TaskNexus, given: Any) -> None:
    with pytest.raises(InvalidTask, match="priority"):
        nexus.add_task({"priority": given})


def test_the_same_id_twice_is_refused(nexus: TaskNexus) -> None:
    nexus.add_task({"task_id": "T1", "payload": {"first": True}})
    with pytest.raises(TaskExists) as refused:
        nexus.add_task({"task_id": " T1 "})
    assert refused.value.task_id == "T1"
    assert nexus.get_task_by_id("T1").payload == {"first": True}
    with pytest.raises(TaskExists):
        nexus.add_tasks([{"task_id": "T2"}, {"task_id": "T2"}])
    assert nexus.get_task_by_id("T2") is None


def test_the_same_key_twice_is_the_same_task(nexus: TaskNexus, clock: Any) -> None:
    first = nexus.add_task({"idempotency_key": "k1", "payload": {"n": 1}})
    clock.advance(10)
    again = nexus.add_task({"idempotency_key": "k1", "payload": {"n": 2}, "task_id": "another"})
    assert again == first
    assert nexus.stats() == {"pending": 1}
    ids = nexus.add_tasks([{"idempotency_key": "k2"}, {"idempotency_key": "k1"}, {"idempotency_key": "k2"}])
    assert ids == [ids[0], first.task_id, ids[0]]
    assert nexus.stats() == {"pending": 2}


def test_the_same_id_and_key_added_twice_at_once(postgres_url: str, open_board: Any) -> None:
    """The second has looked for the key before the first wrote it, and meets the first's row when it writes."""
    first, second = open_board(postgres_url), open_board(postgres_url)
    task = {"task_id": "T1", "idempotency_key": "k1"}

    def add_while_the_other_adds(tx: Any) -> Any:
        first_ids = intake.add(tx, [intake.draft(NewTask(**task), RetryPolicy())])
        other = pool.submit(second.add_task, task)
        wait_for_somebody_to_wait(tx)
        return first_ids, other

    with ThreadPoolExecutor(1) as pool:
        first_ids, other = first._database.write(add_while_the_other_adds)
        assert first_ids == ["T1"] == [other.result(timeout=30).task_id]
    assert first.stats() == {"pending": 1}


def wait_for_somebody_to_wait(tx: Any) -> None:
    """Until another connection waits for a lock that ours holds (PostgreSQL)."""
    until = time.monotonic() + 30
    waits = sa.text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    while not tx.plain(sa.text("SELECT pg_stat_clear_snapshot()")) or not tx.plain(waits).scalar():
        assert time.monotonic() < until, "nobody waits"
        time.sleep(0.01)


def test_a_repeated_batch_adds_nothing(nexus: TaskNexus, everything: Any) -> None:
    batch = [
        {"task_id": "A", "idempotency_key": "a"},
        {"task_id": "B", "idempotency_key": "b", "depends_on": ["A"]},
    ]
    assert nexus.add_tasks(batch) == ["A", "B"]
    before = everything()
    assert nexus.add_tasks(batch) == ["A", "B"]
    assert everything() == before


def test_a_batch_may_depend_on_itself_in_any_order(nexus: TaskNexus) -> None:
    ids = nexus.add_tasks([{"task_id": "C", "depends_on": ["B", "A"]}, {"task_id": "A"}, {"task_id": "B"}])
    assert ids == ["C", "A", "B"]
    assert [task.task_id for task in nexus.get_all_tasks()] == ["C", "A", "B"]
    assert [task.task_id for task in nexus.get_pending_tasks()] == ["A", "B"]


@pytest.mark.parametrize(
    "bad",
    [
        {"task_id": "T1"},  # is there
        {"priority": "urgent"},
        {"depends_on": ["nobody"]},
        {"payload": {"x": float("nan")}},
        {"task_id": "A", "depends_on": ["A"]},
        "not a task",
    ],
    ids=["exists", "priority", "dependency", "nan", "cycle", "no task"],
)
def test_a_batch_is_added_as_a_whole_or_not_at_all(nexus: TaskNexus, everything: Any, bad: Any) -> None:
    nexus.add_task({"task_id": "T1"})
    before = everything()
    with pytest.raises((InvalidTask, TaskExists)):
        nexus.add_tasks([{"task_id": "T2"}, bad, {"task_id": "T3"}])
    assert everything() == before


def test_thousands_at_once(nexus: TaskNexus) -> None:
    ids = nexus.add_tasks({"task_id": f"T{n:04}", "depends_on": [f"T{n - 1:04}"] if n % 2 else []} for n in range(2500))
    assert len(ids) == 2500
    assert nexus.stats() == {"pending": 2500}
    assert len(nexus.get_pending_tasks()) == 1250


def test_nothing_to_add(nexus: TaskNexus, everything: Any) -> None:
    before = everything()
    assert nexus.add_tasks([]) == []
    assert everything() == before


NUL, SURROGATE = "a\x00b", "a\ud800b"


@pytest.mark.parametrize("text", [NUL, SURROGATE], ids=["NUL", "lone surrogate"])
@pytest.mark.parametrize(
    "where",
    [
        lambda text: {"task_id": text},
        lambda text: {"task_type": text},
        lambda text: {"description": text},
        lambda text: {"idempotency_key": text},
        lambda text: {"assigned_to": text},
        lambda text: {"episode_id": text},
        lambda text: {"related_task_id": text},
        lambda text: {"tags": [text]},
        lambda text: {"required_capabilities": [text]},
        lambda text: {"depends_on": [text]},
        lambda text: {"retry_policy": {"non_retryable": [text]}},
        lambda text: {"payload": {"key": [text]}},
        lambda text: {"payload": {text: 1}},
        lambda text: {"extra": {text: 1}},
        lambda text: {"unknown field": text},
        lambda text: {text: "unknown field"},
    ],
)
def test_text_that_a_database_cannot_keep_is_refused_everywhere(
    nexus: TaskNexus, everything: Any, where: Any, text: str
) -> None:
    before = everything()
    with pytest.raises(InvalidTask):
        nexus.add_task(where(text))
    assert everything() == before


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"payload": {"x": float("nan")}}, "payload: holds nan"),
        ({"payload": {"x": float("-inf")}}, "payload: holds -inf"),
        ({"weight": float("inf")}, "extra: holds inf"),
        ({"payload": {"x": 10**400}}, "over 300 digits"),
        ({"payload": {"x": -(10**400)}}, "over 300 digits"),
        ({"payload": {"x": {1, 2}}}, "holds a set"),
        ({"payload": {"x": datetime.now(UTC)}}, "holds a datetime"),
        ({"payload": {1: 2}}, "key 1"),
        ({"payload": ["a list"]}, "payload"),
        ({"payload": None}, "payload"),
        ({"available_at": "soon"}, "available_at"),
        ({"available_at": "2030-01-01T00:00:00"}, "time zone"),
        ({"available_at": "9999-12-31T23:59:59-23:00"}, "1970 to 2200"),
        ({"available_at": "1969-12-31T23:59:59Z"}, "1970 to 2200"),
        ({"deadline": 10**30}, "deadline"),
        ({"deadline": float("nan")}, "deadline"),
        ({"timeout_seconds": 0}, "timeout_seconds"),
        ({"timeout_seconds": float("inf")}, "timeout_seconds"),
        ({"timeout_seconds": 10**400}, "timeout_seconds"),
        ({"status": "completed"}, "status: a new task is pending"),
        ({"status": "dreaming"}, "status: a new task is pending"),
        ({"status": ["pending"]}, "status: a new task is pending"),
        ({"task_id": "  "}, "task_id"),
        ({"task_id": "a\nb"}, "control character"),
        ({"task_id": "x" * 256}, "task_id"),
        ({"task_id": 7}, "task_id"),
        ({"tags": "one"}, "tags"),
        ({"tags": [str(n) for n in range(101)]}, "tags"),
        ({"description": "x" * 100_001}, "description"),
        ({"retry_policy": {"max_attempts": 0}}, "retry_policy.max_attempts"),
        ({"retry_policy": {"multiplier": float("nan")}}, "retry_policy.multiplier"),
        ({"retry_policy": {"jitter": 1.1}}, "retry_policy.jitter"),
    ],
)
def test_what_cannot_be_a_task_is_refused_in_one_line(
    nexus: TaskNexus, everything: Any, fields: dict[str, Any], says: str
) -> None:
    before = everything()
    with pytest.raises(InvalidTask, match=says) as refused:
        nexus.add_task(fields)
    assert "\n" not in str(refused.value)
    assert everything() == before


def test_a_refusal_is_short_however_long_the_id(nexus: TaskNexus) -> None:
    with pytest.raises(InvalidTask) as refused:
        nexus.add_task({"task_id": "x" * 1_000_000})
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("not_a_task", [None, 7, "T1", ["task_id", "T1"], NewTask])
def test_what_is_no_mapping_is_no_task(nexus: TaskNexus, not_a_task: Any) -> None:
    with pytest.raises(InvalidTask, match="a NewTask or a mapping"):
        nexus.add_task(not_a_task)


def test_a_misspelt_part_of_the_retry_policy_is_not_dropped(nexus: TaskNexus) -> None:
    with pytest.raises(InvalidTask, match=r"retry_policy\.max_attempt"):
        nexus.add_task({"retry_policy": {"max_attempt": 9}})


def test_a_task_that_says_it_is_pending_is_welcome(nexus: TaskNexus) -> None:
    task = nexus.add_task({"status": "pending"})
    assert (task.status, task.extra) == ("pending", {})


@pytest.mark.parametrize("name", ["payload", "extra", "an unknown field"])
def test_the_limit_is_a_mebibyte_of_json(nexus: TaskNexus, name: str) -> None:
    def task(letters: int) -> dict[str, Any]:
        return {name: "ü" * letters} if name == "an unknown field" else {name: {"text": "ü" * letters}}

    frame = len(json.dumps({"an unknown field" if name == "an unknown field" else "text": ""}, separators=(",", ":")))
    fits = (1_048_576 - frame) // 2
    nexus.add_task({"task_id": "fits", **task(fits)})
    with pytest.raises(InvalidTask, match=r"the limit is 1,048,576"):
        nexus.add_task({"task_id": "too large", **task(fits + 1)})
    assert nexus.get_task_by_id("too large") is None


def test_the_limit_is_a_setting(make_nexus: Any) -> None:
    nexus = make_nexus(max_payload_bytes=1024)
    with pytest.raises(InvalidTask, match="NEXUS_MAX_PAYLOAD_BYTES"):
        nexus.add_task({"payload": {"text": "x" * 1024}})


def nested(levels: int) -> Any:
    value: Any = "bottom"
    for _ in range(levels):
        value = [value]
    return value


def test_depth_has_a_limit(nexus: TaskNexus) -> None:
    nexus.add_task({"task_id": "deep", "payload": {"x": nested(63)}})
    assert nexus.get_task_by_id("deep").payload == {"x": nested(63)}
    for levels in (64, 5_000):
        with pytest.raises(InvalidTask, match="deeper than 64"):
            nexus.add_task({"payload": {"x": nested(levels)}})
    endless: dict[str, Any] = {}
    endless["itself"] = endless
    with pytest.raises(InvalidTask, match="deeper than 64"):
        nexus.add_task({"payload": endless})


def test_the_model_refuses_as_the_nexus_does() -> None:
    with pytest.raises(ValidationError):
        NewTask(payload={"x": float("nan")})


def test_times_are_kept_in_utc(nexus: TaskNexus) -> None:
    local = datetime(2031, 1, 1, 12, 0, 0, 123456, tzinfo=timezone(timedelta(hours=2)))
    nexus.add_task({"task_id": "T1", "available_at": local, "deadline": "2031-01-01T12:00:00+02:00"})
    task = nexus.get_task_by_id("T1")
    assert (task.available_at, task.available_at.tzinfo) == (local, UTC)
    assert task.deadline == datetime(2031, 1, 1, 10, tzinfo=UTC)


def test_a_past_available_at_is_now(nexus: TaskNexus, clock: Any) -> None:
    task = nexus.add_task({"available_at": clock() - timedelta(days=3)})
    assert task.available_at == clock(), "a task that has just come has not waited for three days"


def test_a_dependency_must_exist(nexus: TaskNexus) -> None:
    with pytest.raises(InvalidTask, match=r"task T1: depends_on names 'T0', which does not exist"):
        nexus.add_task({"task_id": "T1", "depends_on": ["T0"]})
    assert nexus.get_task_by_id("T1") is None


def test_tasks_that_wait_for_one_another_are_refused(nexus: TaskNexus) -> None:
    with pytest.raises(DependencyCycle) as refused:
        nexus.add_tasks(
            [
                {"task_id": "A", "depends_on": ["C"]},
                {"task_id": "B", "depends_on": ["A"]},
                {"task_id": "C", "depends_on": ["B"]},
                {"task_id": "D", "depends_on": ["A"]},
            ]
        )
    cycle = refused.value.cycle
    assert cycle[0] == cycle[-1] and set(cycle) == {"A", "B", "C"}
    assert all((waits, for_) in {("A", "C"), ("C", "B"), ("B", "A")} for waits, for_ in pairwise(cycle))
    with pytest.raises(DependencyCycle):
        nexus.add_task({"task_id": "A", "depends_on": ["A"]})
    assert nexus.stats() == {}


def test_the_arrival_is_in_the_history(nexus: TaskNexus, clock: Any) -> None:
    nexus.add_task({"task_id": "T1"}, actor="Olga")
    [event] = nexus.history("T1")
    assert (event.verb, event.from_status, event.to_status) == ("add", None, "pending")
    assert (event.actor, event.at, event.claim_no) == ("Olga", clock(), 0)


def test_listing_by_each_filter(nexus: TaskNexus) -> None:
    nexus.add_tasks(
        [
            {"task_id": "A", "task_type": "echo", "tags": ["x", "y"], "episode_id": "E1"},
            {"task_id": "B", "task_type": "http", "tags": ["y"], "assigned_to": "Ada"},
            {"task_id": "C", "task_type": "echo", "episode_id": "E2"},
        ]
    )
    nexus.claim_task("C", "Ada")

    def listed(*args: Any, **filters: Any) -> str:
        return "".join(task.task_id for task in nexus.get_all_tasks(*args, **filters))

    assert listed() == "ABC"
    assert listed("pending") == listed(TaskStatus.PENDING) == "AB"
    assert listed(["pending", "CLAIMED"]) == "ABC"
    assert listed(task_type="echo") == "AC"
    assert listed(tag="y") == "AB"
    assert listed(episode_id="E1") == "A"
    assert listed(agent_id="Ada") == "BC" == "".join(task.task_id for task in nexus.get_tasks_by_agent("Ada"))
    assert listed(limit=2) == "AB"
    assert listed(after="A") == "BC"
    assert listed(after="C") == ""
    assert listed(limit=0) == ""
    assert nexus.stats() == {"pending": 2, "claimed": 1}
    assert nexus.stats("E2") == {"claimed": 1}
    with pytest.raises(InvalidTask, match="the states are pending"):
        nexus.get_all_tasks("dreaming")


ODD_QUESTIONS = {
    "get_task_by_id": lambda nexus, text: nexus.get_task_by_id(text),
    "history": lambda nexus, text: nexus.history(text),
    "attempts": lambda nexus, text: nexus.attempts(text),
    "explain": lambda nexus, text: nexus.explain(text),
    "results": lambda nexus, text: nexus.results([text]),
    "claim_task": lambda nexus, text: nexus.claim_task(text, "Ada"),
    "claim by type": lambda nexus, text: nexus.claim("Ada", task_types=[text]),
    "claim by tag": lambda nexus, text: nexus.claim("Ada", tags=[text]),
    "next task": lambda nexus, text: nexus.get_next_task("Ada", text),
    "listing by type": lambda nexus, text: nexus.get_all_tasks(task_type=text),
    "listing by tag": lambda nexus, text: nexus.get_all_tasks(tag=text),
    "listing after": lambda nexus, text: nexus.get_all_tasks(after=text),
    "actor": lambda nexus, text: nexus.add_task({"task_id": "T1"}, actor=text),
    "canceller": lambda nexus, text: nexus.cancel("T0", actor=text),
}


@pytest.mark.parametrize("text", [NUL, SURROGATE], ids=["NUL", "lone surrogate"])
@pytest.mark.parametrize("question", ODD_QUESTIONS)
def test_a_question_with_odd_text_has_an_answer_or_a_typed_refusal(nexus: TaskNexus, question: str, text: str) -> None:
    nexus.add_task({"task_id": "T0"})
    try:
        ODD_QUESTIONS[question](nexus, text)
    except (InvalidTask, TaskNotFound) as refused:
        assert "\n" not in str(refused)


@pytest.mark.parametrize("limit", [-1, 2**40, 2**70])
def test_odd_limits(nexus: TaskNexus, limit: int) -> None:
    for ask in (
        lambda: nexus.get_all_tasks(limit=limit),
        lambda: nexus.get_pending_tasks(limit),
        lambda: nexus.claim("Ada", limit),
        lambda: nexus.register_agent("Ada", max_concurrency=limit),
    ):
        with pytest.raises(InvalidTask, match=r"limit|max_concurrency"):
            ask()


def test_a_listing_after_a_task_that_is_not_there(nexus: TaskNexus) -> None:
    """An empty page would say that the listing is over."""
    with pytest.raises(TaskNotFound):
        nexus.get_all_tasks(after="nobody")


def test_what_is_not_there(nexus: TaskNexus) -> None:
    assert nexus.get_task_by_id("nobody") is None
    for look in (nexus.history, nexus.attempts, nexus.explain, nexus.current_claim):
        with pytest.raises(TaskNotFound):
            look("nobody")
    assert nexus.results(["nobody"]) == {} == nexus.attempts_by_task(["nobody"])
