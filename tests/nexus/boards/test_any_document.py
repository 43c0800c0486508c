"""Whatever stands in a file, reading it gives a board or one clear line, and nothing gets lost."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus.boards import Board, read_board
from nexus.boards.vocabulary import DEPENDENCIES, FIELDS, FINISHED_AT, ID, TEXT
from nexus.errors import BoardUnreadable

words = st.sampled_from(
    sorted(
        {*ID, *TEXT, *DEPENDENCIES, *FINISHED_AT, *(name for names in FIELDS.values() for name in names)}
        | {
            "tasks",
            "task_board",
            "contracts",
            "current_task",
            "completed_tasks",
            "milestones",
            "episode",
            "phases",
            "body",
        }
        | {"nexus_board", "attempts", "extra", "retry_policy", "timeout_seconds", "$schema", "Agent-1"}
    )
)
keys = words | st.text(max_size=8)
leaves = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | words
    | st.sampled_from(["PENDING", "done", "claimed", "HIGH", "2025-01-01", "9999-12-31", "{{NOW}}", "Agent-2", "x"])
)  # fmt: skip
documents = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=6), max_leaves=30
)


def outcome(path: Path) -> Board | None:
    try:
        board = read_board(path, limit=100_000, max_payload_bytes=10_000)
    except BoardUnreadable as error:
        assert "\n" not in str(error)
        return None
    board.model_dump_json()
    assert all(str(reject).isprintable() and reject.reason for reject in board.rejects)
    assert all(warning.isprintable() for warning in board.warnings)
    assert len({task.task_id for task in board.tasks}) == len(board.tasks)
    exists = {task.task_id for task in board.tasks}
    assert all(exists.issuperset(task.new.depends_on) for task in board.tasks)
    return board


@settings(max_examples=300, deadline=None)
@given(document=documents, name=st.sampled_from(["b.json", "b.jsonl", "b.yaml", "completed_tasks.json"]))
def test_any_json_value_gives_a_board_or_one_line(tmp_path_factory, document, name):
    path = tmp_path_factory.mktemp("any") / name
    path.write_text(json.dumps(document), encoding="utf-8")
    first = outcome(path)
    assert first == outcome(path)


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
@pytest.mark.parametrize("name", ["b.json", "b.jsonl", "b.yaml"])
def test_any_bytes_give_a_board_or_one_line(tmp_path_factory, name, content):
    path = tmp_path_factory.mktemp("bytes") / name
    path.write_bytes(content)
    outcome(path)


@settings(max_examples=200, deadline=None)
@given(
    records=st.lists(
        st.dictionaries(keys.filter(lambda key: key not in ("nexus_board", "$schema")), leaves, max_size=6), max_size=6
    )
)
def test_every_element_of_a_list_is_a_task_a_duplicate_or_a_reject(tmp_path_factory, records):
    path = tmp_path_factory.mktemp("list") / "b.json"
    path.write_text(json.dumps(records), encoding="utf-8")
    board = outcome(path)
    assert board is not None
    assert len(board.tasks) + len(board.rejects) + board.duplicates == len(records)
