"""Files that are read, files that are repaired, and files that are refused in one line."""

import os
from pathlib import Path

import pytest

from nexus.boards import read_board, read_documents
from nexus.errors import BoardUnreadable

TASK = '{"task_id": "a", "description": "d"}'


def ids(board):
    return [task.task_id for task in board.tasks]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("b.json", f"[{TASK}]"),
        ("b.json", '\ufeff[{"task_id": "a", "description": "d"}]'),
        ("b.json", TASK),
        ("b.json", f'{{"tasks": [{TASK}]}}'),
        ("b.json", '{"a": {"description": "d"}}'),
        ("b.jsonl", f"{TASK}\n\n"),
        ("b.ndjson", TASK),
        ("b.yaml", "- task_id: a\n  description: d\n"),
        ("b.yml", "tasks:\n  a:\n    description: d\n"),
        ("b.json", "- task_id: a\n  description: d\n"),
        ("b.txt", "tasks:\n- task_id: a\n  description: d\n"),
        ("b.json", f"// note\n[{TASK},]  /* end */"),
        ("b.json", f"{{{{\n{TASK}\n}}}}"),
    ],
)
def test_every_form_gives_the_same_task(read, name, content):
    board = read(content, name)
    assert [(task.task_id, task.new.description) for task in board.tasks] == [("a", "d")]
    assert not board.rejects


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("b.json", b"", "is empty"),
        ("b.json", b" \n", "only blanks"),
        ("b.json", b"\x00\x00", "only NUL bytes"),
        ("b.json", b'["a\x00"]', "a NUL byte at offset 3"),
        ("b.json", b'["\xff"]', "is not UTF-8"),
        ("b.json", "[]".encode("utf-16"), "is UTF-16"),
        ("b.json", b'{"tasks": [', "is not JSON: Expecting value in line 1, column 12"),
        ("b.json", b"# A report\n\nAll is well.\n", "is not JSON"),
        ("b.json", b"[" * 100_000, "is not JSON"),
        ("b.yaml", b"[" * 100_000, "nested deeper"),
        ("b.yaml", b"- a\nb: c\n", "is not YAML"),
        ("b.yaml", b"a: !!python/object/apply:os.system [id]\n", "is not plain data"),
        ("b.yaml", b"a: &a [*a]\n", "or to itself"),
        ("b.yaml", b"? [a]\n: b\n", "a member name is a list"),
        ("b.yaml", b"# nothing\n", "holds no document"),
        ("b.jsonl", b"one\ntwo\n", "holds no JSON line; line 1"),
        ("b.jsonl", b"\n\n", "only blanks"),
        ("b.json", b'{"nexus_board": 2, "tasks": []}', "another version"),
    ],
)
def test_a_broken_file_is_one_clear_line(read, name, content, why):
    with pytest.raises(BoardUnreadable) as caught:
        read(content, name)
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(caught.value.path)


def test_what_is_no_file_is_refused(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.json")
    for path, why in [
        (tmp_path / "none.json", "no such file"),
        (tmp_path / "pipe.json", "not a regular file"),
        (Path("a\x00b"), "NUL"),
    ]:
        with pytest.raises(BoardUnreadable, match=why):
            read_board(path)
    with pytest.raises(BoardUnreadable, match="is a directory"):
        list(read_documents(tmp_path))


def test_a_file_over_the_limit_is_not_loaded(read):
    with pytest.raises(BoardUnreadable, match="over the limit of 10"):
        read([{"task_id": "a"}], limit=10)


def test_aliases_that_multiply_are_refused(read):
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10))
    with pytest.raises(BoardUnreadable, match="aliases repeat more than"):
        read(bomb, "b.yaml")


def test_aliases_and_merges_that_are_meant_work(read):
    text = "base: &b {status: done, priority: high}\ntasks:\n- {<<: *b, id: a}\n- {<<: *b, id: b, priority: low}\n"
    board = read(text, "b.yaml")
    assert [(task.task_id, task.status, task.new.priority) for task in board.tasks] == [
        ("a", "completed", 10),
        ("b", "completed", 30),
    ]


def test_yaml_changes_no_id_and_no_time(read):
    text = "- {id: 007, title: t, created_at: 2025-01-02, priority: 1}\n- {id: 12:30, title: yes, tags: [no, 1.0]}\n"
    first, second = read(text, "b.yaml").tasks
    assert (first.task_id, second.task_id) == ("007", "12:30")
    assert first.state.created_at is not None
    assert first.new.priority == 1
    assert (second.new.description, second.new.tags) == ("yes", ("no", "1.0"))


def test_a_repeated_member_loses_neither_value(read):
    board = read('{"current_task": {"id": "a", "title": "x"}, "current_task": {"id": "b", "title": "y"}}')
    assert sorted(ids(board)) == ["a", "b"]
    assert any("stands twice" in warning for warning in board.warnings)
    board = read("- id: a\n  title: one\n  title: two\n", "b.yaml")
    assert board.tasks[0].new.description == "two"
    assert board.tasks[0].new.extra == {"title (1)": "one"}


def test_a_broken_line_costs_only_itself(read):
    board = read(f'nonsense\n{TASK}\n{{"task_id": "b", \n\xe9\n[1]\n', "b.jsonl")
    assert ids(board) == ["a"]
    assert [reject.location for reject in board.rejects] == ["line 1", "line 3", "line 4", "line 5"]
    assert "no JSON" in board.rejects[0].reason
    assert board.rejects[0].record == "nonsense"


def test_the_first_bad_bytes_of_a_line_cost_only_itself(read):
    board = read(TASK.encode() + b'\n{"task_id": "\xff"}\n', "b.jsonl")
    assert ids(board) == ["a"]
    assert "not UTF-8" in board.rejects[0].reason


def test_documents_one_after_another_are_all_read(read):
    assert ids(read(f'{TASK} {{"task_id": "b", "title": "t"}}')) == ["a", "b"]
    assert ids(read("id: a\ntitle: t\n---\nid: b\ntitle: t\n", "b.yaml")) == ["a", "b"]


def test_what_was_repaired_is_told(read):
    assert "comments" in read(f"[{TASK} // x\n]").warnings[0]
    assert "read as YAML" in read('{"tasks": [{"id": "a", "lines": 400", "title": "t"}]}').warnings[0]


def test_a_comment_in_a_string_is_no_comment(read):
    board = read('[{"task_id": "a", "description": "http://x, ]"},] // end')
    assert board.tasks[0].new.description == "http://x, ]"


def test_json_lines_are_read_one_at_a_time(tmp_path: Path):
    path = tmp_path / "b.jsonl"
    path.write_text(TASK + "\n" + "broken\n" * 3)
    documents = read_documents(path)
    assert next(documents).value["task_id"] == "a"
    assert [document.location for document in documents] == ["line 2", "line 3", "line 4"]
