"""Several records, several files: duplicates, dependencies, cycles, folders."""

import json
from pathlib import Path

import pytest

from nexus.boards import ImportReport, read_board
from nexus.errors import BoardUnreadable


def task(task_id, *depends_on, **more):
    return {"task_id": task_id, "description": "d", "depends_on": list(depends_on)} | more


def test_the_same_record_twice_counts_once(read):
    board = read([task("a"), task("a")])
    assert (len(board.tasks), board.duplicates, len(board.rejects)) == (1, 1, 0)
    assert "word for word" in board.warnings[0]


def test_the_same_id_with_other_content_is_a_reject_that_names_both_places(read):
    board = read([task("a"), task("a", priority=1)])
    assert len(board.tasks) == 1
    (reject,) = board.rejects
    assert reject.location == "[1]"
    assert "[0]" in reject.reason


def test_an_edge_needs_a_target_and_other_text_holds_nobody_up(read):
    board = read([task("b", "a", "src/core/", "Batch 2 complete"), task("a")])
    b = board.tasks[0]
    assert b.new.depends_on == ("a",)
    assert b.new.extra == {"unresolved_dependencies": ["src/core/", "Batch 2 complete"]}
    assert "no task has the id" in b.warnings[0]


def test_a_target_may_be_in_the_nexus_already(read):
    asked = []

    def known(ids):
        asked.append(ids)
        return ids & {"old"}

    board = read([task("b", "old", "a", "gone"), task("a")], known_ids=known)
    assert asked == [{"old", "gone"}]
    assert board.tasks[0].new.depends_on == ("old", "a")


@pytest.mark.parametrize("member", ["dependencies", "deps", "blocked_by"])
def test_dependencies_go_by_several_names(read, member):
    board = read([task("a"), {"id": "b", "title": "t", member: ["a"]}, {"id": "c", "title": "t", member: "a"}])
    assert [part.new.depends_on for part in board.tasks] == [(), ("a",), ("a",)]


def test_entries_that_are_no_text_are_kept(read):
    board = read([task("a"), {"id": "b", "title": "t", "blocked_by": [{"task_id": "a", "why": "w"}, {"note": "n"}, 5]}])
    b = board.tasks[1].new
    assert b.depends_on == ("a",)
    assert b.extra == {
        "raw_dependencies": [{"task_id": "a", "why": "w"}],
        "unresolved_dependencies": [{"note": "n"}, "5"],
    }


def test_a_cycle_is_rejected_and_the_rest_is_imported(read):
    board = read([task("a", "b"), task("b", "c"), task("c", "b"), task("d", "d"), task("e", "a")])
    assert [part.task_id for part in board.tasks] == ["a", "e"]
    assert {reject.task_id for reject in board.rejects} == {"b", "c", "d"}
    assert "dependency cycle: b -> c -> b" in board.rejects[0].reason
    assert board.tasks[0].new.extra["unresolved_dependencies"] == ["b"]


def test_overlapping_cycles_all_end(read):
    board = read([task("a", "b", "c"), task("b", "a"), task("c", "a", "c"), task("d", "a", "b", "c")])
    assert [part.task_id for part in board.tasks] == ["d"]


def test_a_long_chain_is_no_cycle(read):
    count = 5000
    board = read([task(f"t{n}", f"t{n + 1}") for n in range(count)] + [task(f"t{count}")])
    assert (len(board.tasks), len(board.rejects)) == (count + 1, 0)


def test_a_folder_is_read_in_order_and_a_broken_file_in_it_is_a_reject(tmp_path: Path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "z.yaml").write_text("- {id: z, title: t, depends_on: [a]}\n")
    (tmp_path / "a.json").write_text(json.dumps([task("a")]))
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "notes.txt").write_text("not looked at")
    (tmp_path / "link.json").symlink_to(tmp_path / "a.json")
    (tmp_path / "loop").symlink_to(tmp_path)
    board = read_board(tmp_path)
    assert [part.task_id for part in board.tasks] == ["a", "z"]
    assert board.tasks[1].new.depends_on == ("a",)
    assert [Path(reject.file).name for reject in board.rejects] == ["broken.json"]
    assert [Path(name).name for name in board.files] == ["a.json", "broken.json", "z.yaml"]
    with pytest.raises(BoardUnreadable):
        read_board(tmp_path / "broken.json")
    assert len(read_board([tmp_path / "a.json", tmp_path / "broken.json"]).rejects) == 1


def test_an_empty_folder_is_an_empty_board(tmp_path: Path):
    assert read_board(tmp_path) == read_board([])


def test_a_report_is_json():
    assert json.loads(ImportReport(accepted=2).model_dump_json())["accepted"] == 2
