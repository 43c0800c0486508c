"""An export reads back to the same tasks and attempts, field by field."""

import json
import os
import stat
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus.boards import BoardTask, board_document, read_board, write_board
from nexus.schemas import Attempt, RetryPolicy, Task
from nexus.states import AttemptOutcome, TaskStatus
from nexus.values import EARLIEST, LATEST

FORMS = ["board.json", "board.jsonl", "board.yaml"]

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)
names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20).map(str.strip).filter(bool)
moments = st.datetimes(
    EARLIEST.replace(tzinfo=None), LATEST.replace(tzinfo=None) - timedelta(1), timezones=st.just(UTC)
)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(texts, values, max_size=3)
policies = st.builds(
    RetryPolicy, max_attempts=st.integers(1, 9), non_retryable=st.lists(names, max_size=2, unique=True)
)


@st.composite
def boards(draw):
    tasks, attempts = [], {}
    ids = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    for place, task_id in enumerate(ids):
        status = draw(st.sampled_from(TaskStatus))
        held = status in (TaskStatus.CLAIMED, TaskStatus.IN_PROGRESS)
        attempts[task_id] = [
            Attempt(
                task_id=task_id, number=number, claim_no=draw(st.integers(1, 99)), agent_id=draw(names),
                outcome=draw(st.sampled_from([outcome for outcome in AttemptOutcome if outcome != "running"])),
                started_at=draw(moments), heartbeat_at=draw(st.none() | moments), finished_at=draw(moments),
                error=draw(st.none() | texts), result=draw(values), late_result=draw(values),
                note=draw(st.none() | texts), run_ref=draw(values),
            )
            for number in range(1, draw(st.integers(1, 3)))
        ]  # fmt: skip
        tasks.append(
            Task(
                task_id=task_id, task_type=draw(names), description=draw(texts), payload=draw(objects), status=status,
                priority=draw(st.integers(-1000, 1000)), tags=tuple(draw(st.lists(names, max_size=2, unique=True))),
                depends_on=tuple(ids[:place]) if draw(st.booleans()) else (),
                required_capabilities=tuple(draw(st.lists(names, max_size=2, unique=True))),
                assigned_to=draw(st.none() | names), claimed_by=draw(names) if held else draw(st.none() | names),
                claim_no=draw(st.integers(0, 99)), lease_expires_at=draw(moments) if held else None,
                attempt_count=len(attempts[task_id]), failure_count=draw(st.integers(0, 9)),
                loss_count=draw(st.integers(0, 9)), retry_policy=draw(policies),
                timeout_seconds=draw(st.none() | st.just(2.5)), requires_review=draw(st.booleans()),
                on_dependency_failure=draw(st.sampled_from(["wait", "cancel", "run"])),
                available_at=draw(moments), deadline=draw(st.none() | moments),
                created_at=draw(moments), updated_at=draw(moments), pending_since=draw(st.none() | moments),
                result=draw(values), error=draw(st.none() | texts), reason=draw(st.none() | texts),
                related_task_id=draw(st.none() | names), episode_id=draw(st.none() | names),
                idempotency_key=draw(st.none() | names), extra=draw(objects),
            )
        )  # fmt: skip
    return tasks, attempts


def restored(board_task: BoardTask) -> tuple[Task, list[Attempt]]:
    """The task and attempts that a board task carries; every field has to come from it."""
    fields = {**board_task.new.__dict__, **board_task.state.__dict__, "status": board_task.status}
    return Task(**{name: fields[name] for name in Task.model_fields}), list(board_task.state.attempts)


@settings(max_examples=60, deadline=None)
@given(board=boards(), form=st.sampled_from(FORMS))
def test_an_export_reads_back_identical(tmp_path_factory, board, form):
    tasks, attempts = board
    path = tmp_path_factory.mktemp("export") / form
    assert write_board(path, tasks, attempts) == len(tasks)
    read = read_board(path)
    assert not read.rejects
    assert [restored(part) for part in read.tasks] == [(task, attempts[task.task_id]) for task in tasks]
    assert all(part.exact for part in read.tasks)


def task(task_id="a", **fields) -> Task:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    blank = dict.fromkeys(Task.model_fields)
    known = {
        "task_id": task_id, "task_type": "echo", "description": "d", "payload": {}, "status": "pending", "priority": 20,
        "tags": (), "depends_on": (), "required_capabilities": (), "claim_no": 0, "attempt_count": 0,
        "failure_count": 0, "loss_count": 0, "retry_policy": RetryPolicy(), "requires_review": False,
        "on_dependency_failure": "wait",
        "available_at": moment, "created_at": moment, "updated_at": moment, "pending_since": moment, "extra": {},
    }  # fmt: skip
    return Task(**(blank | known | fields))


@pytest.mark.parametrize("form", FORMS)
def test_an_empty_board_is_a_board(tmp_path: Path, form):
    path = tmp_path / form
    assert write_board(path, [], {}) == 0
    assert not read_board(path).tasks
    assert not read_board(path).rejects


def test_the_three_forms_say_the_same(tmp_path: Path):
    document = board_document([task("a"), task("b")], {})
    assert document["nexus_board"] == 1
    for form in FORMS:
        write_board(tmp_path / form, [task("a"), task("b")], {})
    assert json.loads((tmp_path / "board.json").read_text()) == document
    assert yaml.safe_load((tmp_path / "board.yaml").read_text())["tasks"][0]["task_id"] == "a"
    lines = [json.loads(line) for line in (tmp_path / "board.jsonl").read_text().splitlines()]
    assert lines == [{"nexus_board": 1, **part} for part in document["tasks"]]


def test_a_failed_export_leaves_the_old_file_and_no_litter(tmp_path: Path):
    path = tmp_path / "board.json"
    path.write_text("old")
    path.chmod(0o640)

    def tasks():
        yield task()
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_board(path, tasks(), {})
    assert (path.read_text(), [part.name for part in tmp_path.iterdir()]) == ("old", ["board.json"])
    write_board(path, [task()], {})
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_field_misspelt_by_hand_is_pointed_out(read):
    document = board_document([task("a")], {})
    document["tasks"][0]["requires_reviews"] = True
    del document["tasks"][0]["requires_review"]
    assert "is requires_review meant?" in read(document).tasks[0].warnings[0]


def test_members_added_by_hand_land_in_extra(read):
    document = board_document([task(extra={"a": 1})], {})
    document["tasks"][0]["colour"] = "red"
    assert read(document).tasks[0].new.extra == {"a": 1, "colour": "red"}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"status": "flying"}, "status"),
        ({"task_id": None}, "it has no task_id"),
        ({"status": "claimed"}, "claimed_by names nobody"),
        ({"lease_expires_at": "2026-01-01T00:00:00Z"}, "nobody holds it"),
        ({"priority": None}, "new.priority"),
        ({"extra": 5}, "new.extra"),
        ({"claim_no": -1}, "state.claim_no"),
        ({"created_at": "2026-01-01"}, "state.created_at"),
        ({"attempts": [{"number": 1}]}, "state.attempts.0"),
    ],
)
def test_an_export_changed_to_nonsense_is_rejected(read, change, why):
    document = board_document([task()], {})
    document["tasks"][0] |= change
    board = read(document)
    assert not board.tasks
    assert why in board.rejects[0].reason


def attempt(**fields) -> Attempt:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    known = {"task_id": "a", "number": 1, "claim_no": 1, "agent_id": "x", "outcome": "failed", "started_at": moment}
    return Attempt(**(dict.fromkeys(Attempt.model_fields) | known | {"finished_at": moment} | fields))


@pytest.mark.parametrize(
    ("attempts", "why"),
    [
        ([attempt(task_id="b")], "belongs to another task"),
        ([attempt(), attempt()], "stands twice"),
        ([attempt(number=0)], "cannot be"),
        ([attempt(outcome="running")], "does not fit"),
        ([attempt(outcome="running", finished_at=None)], "does not fit"),
        ([attempt(finished_at=None)], "does not fit"),
    ],
)
def test_attempts_that_cannot_be_are_rejected(read, attempts, why):
    assert why in read(board_document([task()], {"a": attempts})).rejects[0].reason


# -- what is there already --------------------------------------------------------------------------------------


def read_from(path: Path) -> "Future[str]":
    """What a reader of this pipe is going to have read; open() on either side waits for the other."""
    return ThreadPoolExecutor(1).submit(path.read_text, encoding="utf-8")


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "kept" / "target.json"
    target.parent.mkdir()
    target.write_text("old")
    target.chmod(0o640)
    (tmp_path / "near.json").symlink_to("kept/target.json")
    (tmp_path / "far.json").symlink_to(tmp_path / "near.json")
    write_board(tmp_path / "far.json", [task("a")], {})
    assert (tmp_path / "far.json").is_symlink() and (tmp_path / "near.json").is_symlink()
    assert [one.task_id for one in read_board(target).tasks] == ["a"]
    assert target.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in target.parent.iterdir()] == ["target.json"]


def test_a_link_to_a_file_that_is_still_to_be_written(tmp_path: Path) -> None:
    (tmp_path / "link.json").symlink_to("new.json")
    write_board(tmp_path / "link.json", [task("a")], {})
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "new.json").is_file()


def test_links_that_lead_nowhere_are_an_error_and_stay(tmp_path: Path) -> None:
    (tmp_path / "a.json").symlink_to("b.json")
    (tmp_path / "b.json").symlink_to("a.json")
    with pytest.raises(OSError, match="levels of symbolic links"):
        write_board(tmp_path / "a.json", [task("a")], {})
    assert (tmp_path / "a.json").is_symlink()


@pytest.mark.parametrize("through_a_link", [False, True])
def test_a_pipe_is_written_into_and_stays(tmp_path: Path, through_a_link: bool) -> None:
    pipe = tmp_path / "pipe.jsonl"
    os.mkfifo(pipe)
    (tmp_path / "link.jsonl").symlink_to(pipe)
    reader = read_from(pipe)
    assert write_board(tmp_path / "link.jsonl" if through_a_link else pipe, [task("a"), task("b")], {}) == 2
    assert [json.loads(line)["task_id"] for line in reader.result(10).splitlines()] == ["a", "b"]
    assert pipe.is_fifo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.jsonl", "pipe.jsonl"]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the names of open files are Linux's")
def test_an_open_file_is_written_into_under_its_number(tmp_path: Path) -> None:
    out, into = os.pipe()
    write_board(f"/dev/fd/{into}", [task("a")], {})
    os.close(into)
    with os.fdopen(out, encoding="utf-8") as file:
        assert [one["task_id"] for one in json.load(file)["tasks"]] == ["a"]
    with (tmp_path / "out.json").open("w+", encoding="utf-8") as file:
        print("precious", file=file, flush=True)
        write_board(f"/dev/fd/{file.fileno()}", [task("b")], {})
        print("after", file=file, flush=True)
        file.seek(0)
        before, *board, after = file.read().splitlines()
        assert (before, after) == ("precious", "after"), "it is the very file that is open, and goes on where it was"
        assert [one["task_id"] for one in json.loads("\n".join(board))["tasks"]] == ["b"]
