"""A board that was read comes into the nexus: every record accounted for, the nexus's own state never overruled."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nexus import Claim, Task, TaskNexus, TaskStatus
from nexus.boards import ImportReport, write_board
from nexus.errors import BoardUnreadable

from .boards.test_real_boards import FOLDER
from .conftest import Load


def counts(report: ImportReport) -> tuple[int, int, int, int]:
    return report.accepted, report.updated, report.unchanged, report.rejected


def task_of(nexus: TaskNexus, task_id: str) -> Task:
    task = nexus.get_task_by_id(task_id)
    assert task is not None
    return task


def everything(nexus: TaskNexus) -> list[dict[str, Any]]:
    return [task.model_dump() for task in nexus.get_all_tasks()]


def test_a_board_is_accepted_and_a_second_import_changes_nothing(nexus: TaskNexus, load: Load) -> None:
    board = [{"task_id": "a", "colour": "red"}, {"task_id": "b", "depends_on": ["a"], "priority": "high"}]
    assert counts(load(board)) == (2, 0, 0, 0)
    before = everything(nexus)
    assert counts(load(board)) == (0, 0, 2, 0)
    assert everything(nexus) == before
    assert before[0]["extra"] == {"colour": "red"}
    assert [reason.code for reason in nexus.explain("b")] == ["dependency"]


def test_a_second_import_does_not_reset_what_was_done_meanwhile(
    nexus: TaskNexus, load: Load, done: Callable[..., None]
) -> None:
    board = [{"task_id": "a"}, {"task_id": "b", "depends_on": ["a"]}]
    load(board)
    done("a", {"pages": 3})
    assert counts(load(board)) == (0, 0, 2, 0)
    task = nexus.get_task_by_id("a")
    assert task is not None
    assert (task.status, task.result) == (TaskStatus.COMPLETED, {"pages": 3})
    assert nexus.claim("Ada")[0].task_id == "b"


def test_a_changed_record_redefines_a_task_that_nobody_works_on(nexus: TaskNexus, load: Load) -> None:
    load([{"task_id": "a", "description": "old"}, {"task_id": "b"}])
    report = load([{"task_id": "a", "description": "new", "depends_on": ["b"]}, {"task_id": "b"}])
    assert counts(report) == (0, 1, 1, 0)
    task = nexus.get_task_by_id("a")
    assert task is not None
    assert task.description == "new"
    assert [claim.task_id for claim in nexus.claim("Ada", 5)] == ["b"]


def test_a_changed_record_of_a_task_at_work_is_rejected_with_a_reason(
    nexus: TaskNexus, load: Load, at_work: Callable[..., Claim]
) -> None:
    load([{"task_id": "a", "description": "old"}])
    at_work("a")
    report = load([{"task_id": "a", "description": "new"}])
    assert counts(report) == (0, 0, 0, 1)
    assert "in_progress" in report.rejects[0].reason
    assert report.rejects[0].location == "[0]"
    assert nexus.get_all_tasks()[0].description == "old"


def test_a_dry_run_says_the_same_and_writes_nothing(nexus: TaskNexus, load: Load) -> None:
    report = load([{"task_id": "a"}, {"task_id": "b", "priority": "soonish"}], dry_run=True)
    assert counts(report) == (1, 0, 0, 1)
    assert report.dry_run
    assert everything(nexus) == []


def test_a_strict_import_is_all_or_nothing(nexus: TaskNexus, load: Load) -> None:
    report = load([{"task_id": "a"}, {"task_id": "b", "priority": "soonish"}], strict=True)
    assert counts(report) == (0, 0, 0, 1)
    assert everything(nexus) == []
    assert counts(load([{"task_id": "a"}], strict=True)) == (1, 0, 0, 0)


def test_tasks_that_wait_for_one_another_are_rejected_and_what_waits_for_them(nexus: TaskNexus, load: Load) -> None:
    report = load(
        [
            {"task_id": "a", "depends_on": ["b"]},
            {"task_id": "b", "depends_on": ["a"]},
            {"task_id": "c", "depends_on": ["d"]},
            {"task_id": "d"},
        ]
    )
    assert {reject.task_id for reject in report.rejects} == {"a", "b"}
    assert all("cycle" in reject.reason.lower() for reject in report.rejects)
    assert [task.task_id for task in nexus.get_all_tasks()] == ["c", "d"]


def test_a_cycle_that_closes_through_tasks_of_the_nexus_is_rejected(nexus: TaskNexus, load: Load) -> None:
    load([{"task_id": "a"}, {"task_id": "b", "depends_on": ["a"]}, {"task_id": "c", "depends_on": ["b"]}])
    report = load([{"task_id": "a", "depends_on": ["c"]}], "changed.json")
    assert counts(report) == (0, 0, 0, 1)
    assert "cycle" in report.rejects[0].reason.lower()
    assert [claim.task_id for claim in nexus.claim("Ada", 5)] == ["a"]


def test_a_dependency_on_a_completed_task_of_the_nexus_is_met(
    nexus: TaskNexus, load: Load, done: Callable[..., None]
) -> None:
    nexus.add_task({"task_id": "base"})
    done("base")
    load([{"task_id": "a", "depends_on": ["base"]}])
    assert [claim.task_id for claim in nexus.claim("Ada")] == ["a"]


def test_a_text_that_names_no_task_holds_nobody_up(nexus: TaskNexus, load: Load) -> None:
    load([{"task_id": "a", "depends_on": ["when the weather is fine"]}])
    [claim] = nexus.claim("Ada")
    assert claim.task.extra["unresolved_dependencies"] == ["when the weather is fine"]


def test_a_dependency_that_was_not_there_yet_becomes_one_when_its_board_is_imported_again(
    nexus: TaskNexus, load: Load
) -> None:
    board = [{"task_id": "b", "depends_on": ["a"]}]
    assert "import it again once it is there" in load(board).warnings[0]
    load([{"task_id": "a"}])

    assert counts(load(board)) == (0, 1, 0, 0)

    assert [reason.code for reason in nexus.explain("b")] == ["dependency"]
    assert "unresolved_dependencies" not in task_of(nexus, "b").extra
    assert counts(load(board)) == (0, 0, 1, 0)


def test_a_late_dependency_changes_nothing_else(nexus: TaskNexus, load: Load) -> None:
    """The record says what it said: whom the sweep gave the task to since keeps it."""
    board = [{"task_id": "b", "depends_on": ["a"], "assigned_to": "Agent-1"}]
    load(board)
    with nexus._database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE nexus_tasks SET assigned_to = 'Agent-2' WHERE task_id = 'b'")
    load([{"task_id": "a"}])
    assert counts(load(board)) == (0, 1, 0, 0)
    assert (task_of(nexus, "b").assigned_to, task_of(nexus, "b").depends_on) == ("Agent-2", ("a",))


def test_a_record_that_notes_its_dependency_itself_settles(nexus: TaskNexus, load: Load) -> None:
    board = [{"task_id": "b", "depends_on": ["a"], "extra": {"unresolved_dependencies": ["a"]}}]
    load(board)
    load([{"task_id": "a"}])
    assert [counts(load(board)) for _ in range(2)] == [(0, 1, 0, 0), (0, 0, 1, 0)]


def test_a_dependency_that_comes_too_late_leaves_its_task_at_work(
    nexus: TaskNexus, load: Load, at_work: Callable[..., Claim]
) -> None:
    board = [{"task_id": "b", "depends_on": ["a"]}]
    load(board)
    at_work("b")
    load([{"task_id": "a"}])
    assert counts(load(board)) == (0, 0, 1, 0)
    assert task_of(nexus, "b").status == TaskStatus.IN_PROGRESS


def test_a_changed_record_does_not_move_its_task_and_says_so(nexus: TaskNexus, load: Load) -> None:
    load([{"task_id": "a", "description": "old"}])
    report = load([{"task_id": "a", "description": "new", "status": "done"}])
    assert counts(report) == (0, 1, 0, 0)
    assert "the board says completed, here it is pending and stays so" in report.warnings[0]


def test_what_is_at_work_on_a_board_is_held_by_its_agent_and_comes_back_when_nothing_is_heard(
    nexus: TaskNexus, load: Load, clock: Any
) -> None:
    load([{"task_id": "a", "status": "IN_PROGRESS", "assigned_agent": "Agent2"}, {"id": "b", "status": "Done"}])
    assert nexus.stats() == {"in_progress": 1, "completed": 1}
    assert nexus.complete(nexus.current_claim("a", "Agent-2"), "at last").status == TaskStatus.COMPLETED
    load([{"task_id": "c", "status": "claimed", "claimed_by": "agent_002"}], "more.json")
    clock.advance(61)
    nexus.sweep()
    assert nexus.get_task_by_id("c").status == TaskStatus.PENDING  # type: ignore[union-attr]


def test_two_files_with_the_same_key_for_two_tasks(nexus: TaskNexus, load: Load) -> None:
    load([{"task_id": "a", "idempotency_key": "k"}])
    report = load([{"task_id": "b", "idempotency_key": "k"}], "other.json")
    assert counts(report) == (0, 0, 0, 1)
    assert "idempotency_key" in report.rejects[0].reason


def test_a_payload_over_the_limit_is_a_reject(nexus: TaskNexus, load: Load) -> None:
    report = load([{"task_id": "a", "payload": {"text": "x" * 1_100_000}}, {"task_id": "b"}])
    assert counts(report) == (1, 0, 0, 1)
    assert "bytes" in report.rejects[0].reason


def test_a_board_goes_to_one_episode_even_when_it_was_loaded_before(
    nexus: TaskNexus, load: Load, tmp_path: Path
) -> None:
    load([{"task_id": "a"}, {"task_id": "b", "episode_id": "EP07"}])
    board = nexus.read_board(tmp_path / "board.json").in_episode("run", all_of_them=True)
    assert counts(nexus.import_board(board)) == (0, 2, 0, 0)
    assert {task.task_id: task.episode_id for task in nexus.get_all_tasks()} == {"a": "run", "b": "run"}


def test_a_copy_of_a_board_is_new_work(nexus: TaskNexus, load: Load, tmp_path: Path, done: Callable[..., None]) -> None:
    load([{"task_id": "a"}, {"task_id": "b", "depends_on": ["a"]}])
    done("a")
    assert counts(nexus.import_board(nexus.read_board(tmp_path / "board.json").renamed("-2"))) == (2, 0, 0, 0)
    assert nexus.get_task_by_id("b-2").depends_on == ("a-2",)  # type: ignore[union-attr]
    assert {claim.task_id for claim in nexus.claim("Ada", 5)} == {"b", "a-2"}


@pytest.mark.parametrize("name", ["backup.json", "backup.jsonl", "backup.yaml"])
def test_an_export_imports_back_to_the_same_tasks_and_attempts(
    nexus: TaskNexus, open_board: Callable[..., TaskNexus], tmp_path: Path, clock: Any, name: str
) -> None:
    nexus.add_tasks(
        [
            {"task_id": "done", "payload": {"n": 1.0, "text": "ä☂"}, "tags": ["x"], "foo": [1, None]},
            {"task_id": "failed", "retry_policy": {"max_attempts": 1}},
            {"task_id": "backoff"},
            {"task_id": "waits", "depends_on": ["done", "failed"], "deadline": "2031-01-01T00:00:00+02:00"},
            {"task_id": "held"},
            {"task_id": "working"},
            {"task_id": "review", "requires_review": True},
            {"task_id": "blocked"},
            {"task_id": "cancelled"},
        ]
    )
    for task_id in ("done", "failed", "backoff", "working", "review"):
        claim = nexus.claim_task(task_id, "Ada")
        nexus.start(claim, {"flow_run_id": "f", "run_count": 1})
        clock.advance(1.5)
        if task_id in ("done", "review"):
            nexus.complete(claim, {"pages": [1, 2]})
        elif task_id != "working":
            nexus.fail(claim, "no luck")
    nexus.claim_task("held", "Bob", lease_seconds=600)
    nexus.block("blocked", "no key")
    nexus.cancel("cancelled", "not needed")
    tasks = nexus.get_all_tasks()
    attempts = nexus.attempts_by_task(task.task_id for task in tasks)
    write_board(tmp_path / name, tasks, attempts)

    other = open_board(f"sqlite:///{tmp_path / 'other.db'}")
    assert counts(other.import_board(other.read_board(tmp_path / name))) == (9, 0, 0, 0)
    assert [task.model_dump() for task in other.get_all_tasks()] == [task.model_dump() for task in tasks]
    assert other.attempts_by_task(task.task_id for task in tasks) == attempts
    assert counts(other.import_board(other.read_board(tmp_path / name))) == (0, 0, 9, 0)
    assert other.complete(other.current_claim("working"), "on").status == TaskStatus.COMPLETED


def test_a_broken_file_leaves_everything_as_it_is(nexus: TaskNexus, load: Load) -> None:
    load([{"task_id": "a"}])
    before = everything(nexus)
    with pytest.raises(BoardUnreadable) as refused:
        load('{"tasks": [{"task_id": "b"}, {"task_id": ', "broken.json")
    assert "\n" not in str(refused.value)
    assert everything(nexus) == before


@pytest.mark.skipif(not (FOLDER / "mapping.md").is_file(), reason=f"the fleet's boards are not at {FOLDER}")
def test_the_real_boards_of_the_fleet_come_in_without_a_lost_record_and_once(nexus: TaskNexus) -> None:
    board = nexus.read_board(FOLDER)
    first = nexus.import_board(board)
    assert first.accepted + first.updated + first.unchanged + first.rejected == (
        len(board.tasks) + len(board.rejects) + board.duplicates
    )
    assert first.accepted == nexus.stats().total() > 1000
    assert all(reject.reason and reject.file for reject in first.rejects)
    before = everything(nexus)
    second = nexus.import_board(nexus.read_board(FOLDER))
    assert (second.accepted, second.updated, second.rejected) == (0, 0, first.rejected)
    assert everything(nexus) == before


def test_it_tells_how_far_it_is(nexus: TaskNexus, tmp_path: Path) -> None:
    path = tmp_path / "board.jsonl"
    path.write_text("\n".join(json.dumps({"task_id": f"T{number}"}) for number in range(2100)), encoding="utf-8")
    told: list[tuple[str, int, int | None]] = []
    board = nexus.read_board(path, progress=lambda *how_far: told.append(how_far))
    assert told == [("reading", 1000, None), ("reading", 2000, None)]
    told.clear()
    nexus.import_board(board, progress=lambda *how_far: told.append(how_far))
    for what in ("comparing", "writing"):
        heard = [done for word, done, total in told if word == what and total == 2100]
        assert heard == sorted(heard)
        assert heard[-1] == 2100
