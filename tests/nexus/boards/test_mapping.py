"""One record to one task: names, words, numbers, times, agents, and what is refused."""

from datetime import UTC, datetime

import pytest


@pytest.fixture
def one(read):
    """The task, or the reject, that a board of one record gives."""

    def run(**record):
        board = read([{"task_id": "t", "description": "d"} | record])
        assert len(board.tasks) + len(board.rejects) == 1
        return (*board.tasks, *board.rejects)[0]

    return run


def test_our_own_names_are_taken_as_they_are(one):
    task = one(
        task_type="echo",
        payload={"a": [1]},
        status="pending",
        priority=15,
        tags=["x"],
        required_capabilities=["gpu"],
        retry_policy={"max_attempts": 7},
        timeout_seconds=9,
        requires_review=True,
        deadline="2030-01-01T00:00:00Z",
        idempotency_key="k",
        related_task_id="r",
        episode_id="e",
    )
    new = task.new
    assert (new.task_type, new.payload, new.priority, new.tags) == ("echo", {"a": [1]}, 15, ("x",))
    assert new.retry_policy.max_attempts == 7
    assert (new.timeout_seconds, new.requires_review, new.idempotency_key) == (9, True, "k")
    assert (new.related_task_id, new.episode_id, new.required_capabilities) == ("r", "e", ("gpu",))
    assert new.deadline == datetime(2030, 1, 1, tzinfo=UTC)
    assert new.extra == {}
    assert task.warnings == ()


def test_unknown_fields_land_in_extra(one):
    assert one(colour="red", extra={"a": 1}).new.extra == {"colour": "red", "a": 1}


@pytest.mark.parametrize(
    ("member", "meant"),
    [
        ("dependson", "depends_on"),
        ("depend_on", "depends_on"),
        ("timout_seconds", "timeout_seconds"),
        ("retry_polcy", "retry_policy"),
        ("required_capability", "required_capabilities"),
        ("requiresReview", "requires_review"),
    ],
)
def test_a_misspelt_field_is_kept_and_pointed_out(one, member, meant):
    task = one(**{member: 1})
    assert task.new.extra == {member: 1}
    assert task.warnings == (f"{member}: is no field of a task, and kept in extra; is {meant} meant?",)


@pytest.mark.parametrize("member", ["colour", "notes", "review", "timeout", "tag", "policy", "dependents", "results"])
def test_a_field_of_somebody_elses_is_kept_without_a_word(one, member):
    assert one(**{member: 1}).warnings == ()


def test_a_title_beside_a_description_is_kept(one, read):
    assert one(title="T").new.extra == {"title": "T"}
    assert read([{"id": "x", "title": "T"}]).tasks[0].new.description == "T"


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        ("TODO", "pending"),
        ("In Progress", "in_progress"),
        ("TaskStatus.COMPLETED", "completed"),
        ("COMPLETED - all tests green ✅", "completed"),
        ("in_progress_with_bells", "in_progress"),
        ("BLOCKED_BY_WEATHER", "blocked"),
        ("needs-review", "in_review"),
        ("stalled", "stalled"),
        (None, "pending"),
        ("", "pending"),
    ],
)
def test_a_status_is_read_in_any_dress(one, raw, status):
    assert one(status=raw, assigned_to="Agent-1").status == status


def test_a_raw_word_that_says_more_is_kept(one):
    task = one(status="PAUSED_BY_DIRECTIVE", priority="IMMEDIATE")
    assert (task.status, task.state.reason, task.new.priority) == ("blocked", "PAUSED_BY_DIRECTIVE", 0)
    assert task.new.extra == {"raw_status": "PAUSED_BY_DIRECTIVE", "raw_priority": "IMMEDIATE"}
    assert one(status="PENDING", priority="HIGH").new.extra == {}


@pytest.mark.parametrize(
    ("raw", "priority"),
    [
        ("critical", 0),
        ("P1", 10),
        ("TaskPriority.NORMAL", 20),
        ("low", 30),
        (7, 7),
        ("7", 7),
        (-3, -3),
        (2.0, 2),
        (None, 20),
    ],
)
def test_a_priority_is_a_word_or_our_own_number(one, raw, priority):
    assert one(priority=raw).new.priority == priority


@pytest.mark.parametrize(("rank", "priority"), [(1, 0), (2, 10), (3, 20), (4, 30), (5, 30), (10, 30)])
def test_whole_numbers_are_ranks_where_the_origins_names_are_used(one, rank, priority):
    task = one(priority=rank, action="refactor", params={"x": 1})
    assert (task.new.priority, task.new.extra["raw_priority"]) == (priority, rank)
    assert task.new.payload == {"x": 1}


@pytest.mark.parametrize(
    ("raw", "moment"),
    [
        ("2025-04-15T20:55:26Z", datetime(2025, 4, 15, 20, 55, 26, tzinfo=UTC)),
        ("2025-04-15T20:55:26.5+02:00", datetime(2025, 4, 15, 18, 55, 26, 500000, tzinfo=UTC)),
        ("2025-04-29T20:21:21.378+00:00Z", datetime(2025, 4, 29, 20, 21, 21, 378000, tzinfo=UTC)),
        ("2025-05-02T19:42:14.1696851-05:00", datetime(2025, 5, 3, 0, 42, 14, 169685, tzinfo=UTC)),
        ("2025-05-07T18:12:25.000Z-MIGRATION", datetime(2025, 5, 7, 18, 12, 25, tzinfo=UTC)),
        ("2025-08-25 17:23:21.332065", datetime(2025, 8, 25, 17, 23, 21, 332065, tzinfo=UTC)),
        ("2024-12-19", datetime(2024, 12, 19, tzinfo=UTC)),
        (1755307477.5, datetime(2025, 8, 16, 1, 24, 37, 500000, tzinfo=UTC)),
        ("1755307477", datetime(2025, 8, 16, 1, 24, 37, tzinfo=UTC)),
        ("{{iso_timestamp_utc()}}", None),
        ("[NOW_UTC_ISO]", None),
        ("AUTO_TIMESTAMP", None),
        (True, None),
        ({"at": 1}, None),
    ],
)
def test_a_time_is_read_or_kept_raw(one, raw, moment):
    task = one(created_at=raw)
    assert task.state.created_at == moment
    assert task.new.extra.get("raw_created_at", raw) == raw
    assert "raw_created_at" in task.new.extra or moment is not None


def test_a_time_without_a_zone_is_utc_and_shows_it(one):
    assert one(created_at="2025-01-01T10:00:00").new.extra == {"raw_created_at": "2025-01-01T10:00:00"}
    assert one(created_at="2025-01-01T10:00:00Z").new.extra == {}


@pytest.mark.parametrize(
    "member", ["created_at", "timestamp_updated", "deadline", "claimed_at", "completed_at", "due_date"]
)
@pytest.mark.parametrize(
    "raw", ["9999-01-01T00:00:00Z", "0001-01-01", "1969-12-31T23:59:59Z", "2025-13-45", 1e300, -5, 99999999999999]
)
def test_an_absurd_time_rejects_its_record_whatever_the_member(one, member, raw):
    reject = one(**{member: raw})
    assert reject.task_id == "t"
    assert member in reject.reason


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ({"status": "flying"}, 'status: "flying" is unknown; use one of pending,'),
        ({"status": 7}, "status: 7 is not text"),
        ({"status": "TEMPLATE"}, "a form to copy"),
        ({"priority": "soonish"}, 'priority: "soonish" is unknown'),
        ({"priority": True}, "priority: true is unknown"),
        ({"priority": 10**9}, "priority"),
        ({"priority": 1.5}, "priority: 1.5 is unknown"),
        ({"payload": {"a": float("nan")}}, "holds nan"),
        ({"x": float("inf")}, "holds inf"),
        ({"x": "a\x00b"}, "a NUL character"),
        ({"x\x00": 1}, "a NUL character"),
        ({"x": "\ud800"}, "a lone surrogate"),
        ({"x": 10**400}, "an integer of over 300 digits"),
        ({"description": 5}, "description: 5 is not text"),
        ({"description": "x" * 100_001}, "description"),
        ({"task_id": "a\nb"}, "control character"),
        ({"task_id": "x" * 256}, "task_id"),
        ({"task_id": ["x"]}, "task_id: a list of 1 elements is no id"),
        ({"task_id": "<unique_task_id>"}, "unfilled placeholder"),
        ({"tags": [["a"]]}, "tags"),
        ({"retry_policy": {"max_attempts": 0}}, "retry_policy.max_attempts"),
        ({"timeout_seconds": -1}, "timeout_seconds"),
    ],
)
def test_bad_input_is_one_reject_with_a_reason(one, record, why):
    reject = one(**record)
    assert why in reject.reason
    assert "\n" not in str(reject)
    assert str(reject).isprintable()
    assert reject.model_dump_json()


def test_deep_nesting_is_a_reject(read):
    board = read('[{"task_id": "a", "x": ' + "[" * 70 + "]" * 70 + "}]")
    assert "nested deeper" in board.rejects[0].reason


def test_a_number_of_thousands_of_digits_costs_its_record(read):
    board = read('[{"id": "a", "x": ' + "9" * 5000 + '}, {"id": "b", "x": NaN}, {"id": "c"}]')
    assert [task.task_id for task in board.tasks] == ["c"]
    assert len(board.rejects) == 2


def test_parts_over_the_payload_limit_are_rejected(read):
    board = read([{"id": "a", "payload": {"x": "y" * 2000}}, {"id": "b", "notes": "y" * 2000}], max_payload_bytes=1024)
    assert [reject.reason.split(":")[0] for reject in board.rejects] == ["payload", "extra"]


@pytest.mark.parametrize(
    ("raw", "agent"),
    [
        ("Agent-3", "Agent-3"),
        ("agent_003", "Agent-3"),
        ("Agent 3", "Agent-3"),
        ("AGENT3", "Agent-3"),
        ("Agent-3 (Gemini)", "Agent-3"),
        ("Captain-Agent-3", "Agent-3"),
        ("Captain-3", "Agent-3"),
        ("UNASSIGNED", None),
        ("TBD", None),
        ("Thea", "Thea"),
        ("AgentGemini", "AgentGemini"),
        ("Agent-Unknown (from backlog)", "Agent-Unknown (from backlog)"),
    ],
)
def test_an_agents_name_is_normalised_and_the_raw_one_kept(one, raw, agent):
    task = one(assigned_to=raw)
    assert task.new.assigned_to == agent
    assert task.new.extra.get("raw_assigned_to", agent) == raw or raw == agent


def test_who_holds_a_task_depends_on_its_state(one):
    task = one(status="ASSIGNED", assigned_agent="Agent-4")
    assert (task.status, task.new.assigned_to, task.state.claimed_by) == ("claimed", "Agent-4", "Agent-4")
    task = one(status="claimed")
    assert (task.status, task.state.claimed_by, task.new.extra["raw_status"]) == ("pending", None, "claimed")
    assert "by nobody" in task.warnings[0]
    task = one(status="COMPLETED", claimed_by="agent1", completed_by="agent2")
    assert (task.state.claimed_by, task.new.extra["raw_completed_by"]) == ("Agent-2", "agent2")
    task = one(status="todo", claimed_by="Agent-1")
    assert (task.status, task.state.claimed_by, task.new.extra["raw_claimed_by"]) == ("pending", None, "Agent-1")


def test_a_record_that_says_when_it_was_done_is_done(one):
    assert one(completed_at="2025-01-01T00:00:00Z").status == "completed"
    assert one(completed_by="Agent-1").status == "completed"
    assert one(completed_at="[NOW]").status == "pending"


def test_result_error_and_reason_go_where_the_state_has_them(one):
    done = one(status="done", completion_summary="All fine")
    assert (done.state.result, done.new.extra["raw_status"]) == ("All fine", "done")
    assert one(status="failed", error="ValueError: x").state.error == "ValueError: x"
    assert one(status="blocked", blocker_reason="rain").state.reason == "rain"
    assert one(status="todo", result={"a": 1}).new.extra["result"] == {"a": 1}


def test_a_task_without_an_id_gets_a_stable_one(read):
    (first,) = read({"description": "d", "status": "todo"}, "clean_up.yaml.json").tasks
    assert first.task_id == "clean_up.yaml"
    listed = [{"title": "a", "status": "todo"}, {"title": "b", "status": "todo"}]
    ids = [task.task_id for task in read(listed, "left.json").tasks]
    assert ids == [task.task_id for task in read(listed[::-1], "left.json").tasks][::-1]
    assert all(task_id.startswith("left-") and len(task_id) == len("left-") + 8 for task_id in ids)


def test_a_digest_is_of_what_the_record_says(read):
    def digest(document):
        return read(document).tasks[0].digest

    assert digest([{"id": "a", "title": "t"}]) == digest([{"title": "t", "id": "a"}])
    assert digest([{"id": "a", "title": "t"}]) != digest([{"id": "a", "title": "u"}])
