"""add, list, show, history, explain, agents: what they take, what they print, and the schema of their JSON."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from nexus import Agent, Attempt, HistoryEvent, NexusSettings, Reason, Task, TaskNexus

from .conftest import Said

TASKS = TypeAdapter(list[Task])


def test_add_prints_the_id(done: Callable[..., Said], board: TaskNexus) -> None:
    said = done("add", "write it")
    task = board.get_task_by_id(said.out.strip())
    assert task is not None
    assert task.description == "write it"
    assert said.err == ""


def test_add_with_everything(done: Callable[..., Said]) -> None:
    done("add", "first", "--id", "T0")
    words = (
        *("add", "write it", "--id", "T1", "--type", "report", "--payload", '{"pages": [1, 2]}', "--priority", "high"),
        *("--tag", "x", "--tag", "y", "--depends-on", "T0", "--capability", "gpu", "--assign", "Ada"),
        *("--max-attempts", "7", "--timeout", "2.5", "--review", "--not-before", "2190-12-01T08:00:00+02:00"),
        *("--episode", "E", "--key", "K", "--by", "Eve", "--json"),
    )
    task = Task.model_validate(done(*words).data)
    assert (task.task_id, task.task_type, task.description, task.payload) == (
        "T1",
        "report",
        "write it",
        {"pages": [1, 2]},
    )
    assert (task.priority, task.tags, task.depends_on) == (10, ("x", "y"), ("T0",))
    assert (task.required_capabilities, task.assigned_to, task.timeout_seconds) == (("gpu",), "Ada", 2.5)
    assert (task.requires_review, task.episode_id, task.idempotency_key) == (True, "E", "K")
    assert f"{task.available_at:%Y-%m-%dT%H:%M}" == "2190-12-01T06:00"
    assert task.retry_policy == NexusSettings().retry.model_copy(update={"max_attempts": 7})
    assert done("history", "T1", "--json").data[0]["actor"] == "Eve"
    again = Task.model_validate(done("add", "write it", "--key", "K", "--json").data)
    assert again.task_id == "T1", "the same key: the same task"


@pytest.mark.parametrize("given", ["-", "@payload.json"])
def test_a_payload_from_elsewhere(done: Callable[..., Said], given: str) -> None:
    text = '{"a": "ü"}'
    Path("payload.json").write_text(text, encoding="utf-8")
    assert done("add", "x", "--payload", given, "--json", stdin=text).data["payload"] == {"a": "ü"}


def test_list_filters(done: Callable[..., Said], board: TaskNexus) -> None:
    board.add_tasks(
        [
            {"task_id": "A", "task_type": "x", "tags": ["t"], "episode_id": "E"},
            {"task_id": "B", "task_type": "y", "assigned_to": "Ada"},
            {"task_id": "C", "task_type": "y", "tags": ["t"]},
        ]
    )
    board.claim_task("C", "Ada")
    board.cancel("A")

    def ids(*words: str) -> str:
        return "".join(task.task_id for task in TASKS.validate_python(done("list", *words, "--json").data))

    assert ids() == "ABC"
    assert ids("--status", "cancelled") == "A"
    assert ids("-s", "cancelled", "-s", "CLAIMED") == "AC"
    assert ids("--type", "y") == "BC"
    assert ids("--tag", "t") == "AC"
    assert ids("--agent", "Ada") == "BC"
    assert ids("--episode", "E") == "A"
    assert ids("--limit", "1") == "A"
    assert ids("--after", "A", "--limit", "1") == "B"


def test_list_for_people(done: Callable[..., Said], board: TaskNexus) -> None:
    board.add_tasks(
        [{"task_id": "A", "description": "write it", "priority": "high"}, {"task_id": "B", "task_type": "y"}]
    )
    board.claim_task("A", "Ada")
    board.add_task({"task_id": "C", "assigned_to": "Bo"})
    assert [line.split() for line in done("list").out.splitlines()] == [
        ["task", "status", "prio", "tries", "agent", "what"],
        ["A", "claimed", "10", "0", "Ada", "write", "it"],
        ["B", "pending", "20", "0", "y"],
        ["C", "pending", "20", "0", "(Bo)", "task"],
    ]


@pytest.fixture
def told(board: TaskNexus) -> str:
    """A task with a history: a failed attempt, another under way; its id."""
    board.add_task({"task_id": "A", "description": "write it", "retry_policy": {"backoff_seconds": 0}}, actor="Eve")
    claim = board.claim_task("A", "Ada")
    board.start(claim, {"run": 1})
    board.fail(claim, "no paper")
    claim = board.claim_task("A", "Bo")
    board.start(claim)
    board.heartbeat(claim, "page 3")
    return "A"


def test_show(done: Callable[..., Said], board: TaskNexus, told: str) -> None:
    shown = done("show", told)
    assert shown.err == ""
    lines = shown.out.splitlines()
    assert ["description", "write", "it"] in [line.split() for line in lines]
    assert lines[-3].split() == ["#", "agent", "outcome", "started", "(UTC)", "seconds", "said"]
    assert "no paper" in lines[-2]
    assert "page 3" in lines[-1]
    data: dict[str, Any] = done("show", told, "--json").data
    attempts = TypeAdapter(list[Attempt]).validate_python(data.pop("attempts"))
    assert attempts == board.attempts(told)
    assert Task.model_validate(data) == board.get_task_by_id(told)


def test_history(done: Callable[..., Said], board: TaskNexus, told: str) -> None:
    rows = [line.split()[2:6] for line in done("history", told).out.splitlines()[1:]]
    assert [row[0] for row in rows] == ["add", "claim", "start", "fail", "claim", "start"]
    assert rows[0] == ["add", "pending", "Eve"]
    assert rows[3][:4] == ["fail", "in_progress", "pending", "Ada"]
    events = TypeAdapter(list[HistoryEvent]).validate_python(done("history", told, "--json").data)
    assert events == board.history(told)


def test_explain(done: Callable[..., Said], board: TaskNexus, told: str) -> None:
    assert done("explain", told).out.startswith("held: Bo holds it (claim 2) until ")
    board.add_task({"task_id": "B", "depends_on": [told], "assigned_to": "Ada"})
    assert [line.partition(":")[0] for line in done("explain", "B", "--agent", "Bo").out.splitlines()] == [
        "dependency",
        "assigned",
    ]
    reasons = TypeAdapter(list[Reason]).validate_python(done("explain", "B", "--json").data)
    assert [reason.code for reason in reasons] == ["dependency"]
    board.add_task({"task_id": "C"})
    board.cancel(told, "not wanted")
    assert done("explain", told).out == "ended: it has ended: cancelled: not wanted\n"
    assert done("explain", "C").out == "claimable: nothing keeps it from being claimed now\n"
    assert done("explain", "C", "--json").data == []


def test_agents(done: Callable[..., Said], board: TaskNexus) -> None:
    assert done("agents", "list", "--json").data == []
    assert done("agents", "list").line == "No agents yet: one registers by its first claim, or nexus agents register."
    registered = done("agents", "register", "Ada", "-c", "gpu", "-c", "paint", "--max-concurrency", "2", "--json").data
    assert Agent.model_validate(registered) == board.agents()[0]
    assert done("agents", "register", "Ada", "--max-concurrency", "3").line == "Ada is registered."
    [ada] = TypeAdapter(list[Agent]).validate_python(done("agents", "list", "--json").data)
    assert (ada.capabilities, ada.max_concurrency) == (("gpu", "paint"), 3), "what is not given stays"
    assert done("agents", "list").out.splitlines()[1].split() == ["Ada", "gpu,", "paint", "0/3"]


def test_the_database_can_be_named_in_three_ways(done: Callable[..., Said], command: Callable[..., Said]) -> None:
    done("--database", "sqlite:///one.db", "add", "x", "--id", "one")
    done("add", "x", "--id", "two", NEXUS_DATABASE_URL="sqlite:///two.db")
    Path("nexus.toml").write_text("database_url = 'sqlite:///three.db'\n")
    done("add", "x", "--id", "three")
    for name in ("one", "two", "three"):
        [task] = done("--database", f"sqlite:///{name}.db", "list", "--json").data
        assert task["task_id"] == name
    assert done("db", "upgrade", "--json").data["database"] == "sqlite:///three.db"


def test_db_upgrade_creates_and_then_has_nothing_to_do(done: Callable[..., Said]) -> None:
    first = done("db", "upgrade", "--database", "sqlite:///new.db", "--json").data
    assert (first["database"], first["before"]) == ("sqlite:///new.db", None)
    assert done("db", "upgrade", "--database", "sqlite:///new.db").line == (
        f"sqlite:///new.db is up to date: schema version {first['after']}."
    )
    assert done("db", "upgrade").line == f"sqlite:///.nexus/nexus.db was created: schema version {first['after']}."


RUN = {"flow_run_id": "01990000-0000-7000-8000-000000000001", "task_run_id": "01990000-0000-7000-8000-000000000002"}


@pytest.mark.parametrize("verb", ["show", "history"])
def test_the_run_of_each_attempt_can_be_opened(done: Callable[..., Said], board: TaskNexus, verb: str) -> None:
    board.add_task({"task_id": "T1", "retry_policy": {"backoff_seconds": 0, "jitter": 0}})
    for ref in (RUN, {"flow_run_id": RUN["flow_run_id"]}, {"pid": 7}):
        claim = board.claim_task("T1", "Ada")
        board.start(claim, ref)
        board.fail(claim, "no luck")
    address = {"PREFECT_API_URL": "http://board.example:4300/api"}
    links = [
        f"run of attempt 1: http://board.example:4300/v2/runs/task-run/{RUN['task_run_id']}",
        f"run of attempt 2: http://board.example:4300/v2/runs/flow-run/{RUN['flow_run_id']}",
    ]
    assert done(verb, "T1", **address).out.splitlines()[-2:] == links
    assert done(verb, "T1").out.splitlines()[-1] == "(not served now: `nexus up` serves them)"
