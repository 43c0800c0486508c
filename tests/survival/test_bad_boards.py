"""Boards as they really are, then broken in every way: read or refused in one line, written whole or not at all."""

import copy
import json
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nexus import NexusSettings, TaskNexus
from nexus.boards import read_board, records, write_board
from nexus.errors import BoardUnreadable, NexusError

ROOT = Path(__file__).parents[2]

WATER = {"task_id": "water-the-fern", "description": "two cups", "status": "pending", "priority": "high", "tags": ["a"]}
SHAPES: dict[str, Any] = {
    "list": [WATER, {"id": "dust", "title": "the shelves", "depends_on": ["water-the-fern"], "status": "DONE"}],
    "map": {"tasks": {"T-1": {"description": "sweep", "state": "TaskStatus.CLAIMED", "claimed_by": "Agent-2"}}},
    "contracts": {"contracts": [{"contract_id": "C-1", "title": "x", "current_status": "AVAILABLE", "priority": 2}]},
    "states": {"states": {"S": {"state_id": "S", "status": "COMPLETED", "agent_id": "Agent-4", "task_id": "T 4"}}},
    "agents": {"agents": {"Agent-1": {"tasks": {"T-9": {"action": "ring", "params": {"times": 3}, "priority": 1}}}}},
    "working": {"current_task": {"id": "now", "description": "d", "phases": [{"phase": 1}]}, "completed_tasks": []},
    "phases": {"phases": [{"name": "one", "tasks": [{"id": "p1", "task": "x", "deadline": "2026-05-01"}]}]},
    "episode": {"episode_id": "E-7", "tasks": [{"task_id": "e1", "task_type": "echo", "payload": {"n": [1, None]}}]},
    "export": {"nexus_board": 1, "tasks": [{**WATER, "priority": 10, "attempt_count": 0, "extra": {"x": 1}}]},
}
LEAVES: list[Any] = [
    None, True, -1, 2**31, 2**63, 10**400, 1e400, float("nan"), -0.0, "", " ", "\x00", "\ud800", "\u202e", "+-5", "²",
    "9" * 5000, "x" * 300, "{{ now }}", "%s", "'; DROP TABLE tasks; --", "2026-02-30", "99999-01-01", "DONE", [], {},
    [[]], {"id": "x"}, ["water-the-fern"], {"$schema": 1}, {"nexus_board": 1, "tasks": []}, [WATER, WATER], "p1",
]  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the mutated files lie."""
    return tmp_path_factory.mktemp("boards")


@pytest.fixture(scope="module")
def board() -> Iterator[TaskNexus]:
    """One board for thousands of imports."""
    with TaskNexus("sqlite://", settings=NexusSettings(max_payload_bytes=100_000)) as nexus:
        yield nexus


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in inner:
        yield (*path, name)
        yield from places(part, (*path, name))


def mutated(shape: Any, chance: random.Random) -> Any:
    """The document with something put, taken, doubled or moved where it does not belong."""
    document = {"": copy.deepcopy(shape)}
    for _ in range(chance.randint(1, 4)):
        *path, name = chance.choice(list(places(document)))
        holder: Any = document
        for step in path:
            holder = holder[step]
        how = chance.choice(["leaf", "leaf", "leaf", "gone", "copy", "wrapped", "named"])
        if how == "gone" and path:
            del holder[name]
        elif how == "copy":
            holder[name] = copy.deepcopy(chance.choice(list(SHAPES.values())))
        elif how == "wrapped":
            holder[name] = [holder[name]] if chance.random() < 0.5 else {chance.choice(["task", "x"]): holder[name]}
        elif how == "named" and isinstance(holder, dict) and path:
            holder[chance.choice(["task_id", "status", "tasks", "extra", "", "\ud800", "x" * 500])] = holder.pop(name)
        else:
            holder[name] = copy.deepcopy(chance.choice(LEAVES))
    return document[""]


def outcome(nexus: TaskNexus, path: Path) -> None:
    """Every record of the file is counted, what was accepted reads back the same, and what was refused left nothing."""
    before = sum(nexus.stats().values())
    try:
        read = nexus.read_board(path)
        report = nexus.import_board(read)
    except NexusError as refused:
        assert "\n" not in str(refused)
        assert len(str(refused)) < 3000
        assert sum(nexus.stats().values()) == before
        return
    assert report.accepted + report.updated + report.unchanged + report.rejected == (
        len(read.tasks) + len(read.rejects) + read.duplicates
    )
    assert all(one.reason and str(one).isprintable() and len(str(one)) < 3000 for one in report.rejects)
    assert sum(nexus.stats().values()) == before + report.accepted
    again = nexus.import_board(nexus.read_board(path))
    assert (again.accepted, again.updated) == (0, 0)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shape=st.sampled_from(sorted(SHAPES)), seed=st.integers(0, 2**32), name=st.sampled_from(["json", "jsonl"]))
def test_a_board_with_wrong_values_in_it(board: TaskNexus, home: Path, shape: str, seed: int, name: str) -> None:
    path = home / f"b.{name}"
    path.write_text(json.dumps(mutated(SHAPES[shape], random.Random(seed))), encoding="utf-8")
    outcome(board, path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shape=st.sampled_from(sorted(SHAPES)), seed=st.integers(0, 2**32), name=st.sampled_from(["json", "yaml"]))
def test_a_board_with_torn_text(board: TaskNexus, home: Path, shape: str, seed: int, name: str) -> None:
    chance = random.Random(seed)
    content = bytearray(json.dumps(SHAPES[shape], indent=chance.choice([None, 1])).encode())
    for _ in range(chance.randint(1, 6)):
        at, end = sorted(chance.choices(range(len(content) + 1), k=2))
        piece = chance.choice(
            [b"", b"", b"\x00", b"\xff", b"{{", b"}", b"]", b",", b'"', b"//", b"&a ", b"*a", b"!!set "]
        )
        content[at : chance.choice([at, at + 1, end])] = piece
    path = home / f"torn.{name}"
    path.write_bytes(content)
    outcome(board, path)


def test_what_was_accepted_can_be_written_out_and_read_back(board: TaskNexus, home: Path) -> None:
    tasks = board.get_all_tasks(limit=None)
    for name in ("all.json", "all.jsonl", "all.yaml"):
        write_board(home / name, tasks, board.attempts_by_task([task.task_id for task in tasks]))
        report = board.import_board(board.read_board(home / name))
        assert (report.unchanged, report.rejected) == (len(tasks), 0), report.rejects[:3]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[{"task_id": "a", "priority": "+-5"}]', "priority"),
        ('[{"task_id": "a", "description": "d", "priority": "+-5"}]', "priority"),
        ('[{"task_id": "a", "description": "d", "n": ' + "9" * 100_000 + "}]", "JSON does not know"),
        ('[{"task_id": "a", "description": "d", "n": ' + "9" * 400 + "}]", "integer of over 300 digits"),
        ('[{"task_id": "a", "description": "d", "n": ' + "[" * 70 + "]" * 70 + "}]", "nested deeper"),
        ('[{"task_id": "a", "description": "' + "x" * 10_000_000 + '"}]', "description"),
        ('[{"task_id": "a", "description": "d", "n": "\\ud800"}]', "lone surrogate"),
        ('[{"task_id": "a", "description": "d", "n": "\\u0000"}]', "NUL"),
        ('[{"task_id": "a", "description": "d", "n": NaN}]', "nan"),
    ],
)
def test_a_bad_value_costs_its_record_and_no_other(home: Path, text: str, says: str) -> None:
    path = home / "one.json"
    path.write_text(text[:-1] + ', {"task_id": "b", "description": "good"}]', encoding="utf-8")
    read = read_board(path, max_payload_bytes=100_000)
    assert [task.task_id for task in read.tasks] == ["b"]
    assert [says in reject.reason for reject in read.rejects] == [True]


@pytest.mark.parametrize(
    "text",
    [
        '{"tasks": {"\\ud800": {"description": "d", "status": "done"}}}',
        '{"\\ud800": {"description": "d", "status": "done"}}',
        '{"episode_id": "\\ud800", "tasks": [{"task_id": "a", "description": "d"}]}',
        '{"agents": {"Agent-1": {"tasks": {"\\ud800": {"description": "d", "status": "x"}}}}}',
    ],
)
def test_a_bad_word_around_a_task_costs_the_task(home: Path, text: str) -> None:
    path = home / "around.json"
    path.write_text(text, encoding="utf-8")
    read = read_board(path)
    assert ["lone surrogate" in reject.reason for reject in read.rejects] == [True]
    assert not read.tasks


def test_a_reject_is_fit_for_a_terminal(board: TaskNexus, home: Path) -> None:
    path = home / "turned.json"
    for status in ("pending", "done"):
        path.write_text(json.dumps([{"task_id": "a\u202eb", "description": "d", "status": status}]), encoding="utf-8")
        report = board.import_board(board.read_board(path))
    path.write_text(json.dumps([{"task_id": "a\u202eb", "description": "other"}]), encoding="utf-8")
    board.cancel("a\u202eb")
    report = board.import_board(board.read_board(path))
    assert [str(one).isprintable() for one in report.rejects] == [True]


@pytest.mark.parametrize("levels", [100, 100_000])
@pytest.mark.parametrize("name", ["deep.json", "deep.jsonl", "deep.yaml"])
def test_depth_is_no_way_to_break_the_reader(home: Path, name: str, levels: int) -> None:
    path = home / name
    for opening, closing in ("[", "]"), ('{"a":', "}"):
        path.write_text(opening * levels + "1" + closing * levels, encoding="utf-8")
        try:
            assert not read_board(path).tasks
        except BoardUnreadable as refused:
            assert len(str(refused)) < 300


@pytest.mark.parametrize(
    "text", ["!!python/object/apply:os.system [id]", "!!python/name:os.system", "!!set {a}", "!<tag:x> y", "!!binary x"]
)
def test_a_yaml_tag_builds_nothing(home: Path, text: str) -> None:
    path = home / "tag.yaml"
    path.write_text(f"tasks:\n- task_id: a\n  description: {text}\n", encoding="utf-8")
    with pytest.raises(BoardUnreadable, match="is not plain data"):
        read_board(path)


def test_a_yaml_bomb_does_not_go_off(home: Path) -> None:
    path = home / "laughs.yaml"
    lines = ["a0: &a0 {l: lol}", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))]
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(BoardUnreadable, match="aliases repeat"):
        read_board(path)
    path.write_text("a: &a {b: 1}\n" + "".join(f"m{n}: {{<<: *a}}\n" for n in range(300)), encoding="utf-8")
    assert not read_board(path).tasks


@pytest.mark.parametrize("element", ["0", '{"a": 1}'])
def test_a_long_list_of_nothing_takes_no_longer_than_it_must(home: Path, element: str) -> None:
    path = home / "long.json"
    path.write_text('{"a_list": [' + ",".join([element] * 100_000) + '], "description": "d"}', encoding="utf-8")
    began = time.monotonic()
    assert not read_board(path).tasks
    assert time.monotonic() - began < 8


# -- what is no ordinary file ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
        (lambda path: path.symlink_to("/"), "is a directory"),
        (lambda path: path.symlink_to("/dev/zero"), "is not a regular file"),
        (lambda path: path.symlink_to("/dev/stdin"), "is not a regular file|is empty|no such file"),
        (lambda path: path.symlink_to("nowhere"), "there is no such file"),
        (os.mkfifo, "is not a regular file"),
        (lambda path: path.write_bytes(b"\x00" * 100), "NUL bytes"),
    ],
    ids=["itself", "directory", "zero", "stdin", "nowhere", "fifo", "nul"],
)
@pytest.mark.parametrize("name", ["b.json", "b.jsonl", "b.yaml"])
def test_what_is_no_file_of_text_is_refused_at_once(
    tmp_path: Path, name: str, make: Callable[[Path], Any], says: str
) -> None:
    if name == "b.jsonl" and "NUL" in says:
        says = "holds no JSON line"
    make(tmp_path / name)
    with pytest.raises(BoardUnreadable, match=says):
        read_board(tmp_path / name)
    (tmp_path / "good.json").write_text('[{"task_id": "a", "description": "d"}]')
    assert [task.task_id for task in read_board(tmp_path).tasks] == ["a"], "in a folder it holds up nobody"


@pytest.mark.parametrize("path", ["x" * 5000, "x" * 300 + "/b.json", "a\x00b", "/dev/null", "/proc/self/mem", "\udcff"])
def test_a_path_that_cannot_be_is_one_line(path: str) -> None:
    for given_path in (path, [path]):
        with pytest.raises(BoardUnreadable) as refused:
            read_board(given_path)
        assert len(str(refused.value)) < 2000


READ = """
import sys
from nexus.boards import read_board
from nexus.errors import BoardUnreadable
try:
    print(len(read_board(sys.argv[1]).tasks))
except BoardUnreadable as refused:
    print(refused)
"""


def read_in_small_memory(path: Path, mebibytes: int) -> str:
    """What reading says in a process that may have no more than this."""

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (mebibytes * 2**20,) * 2)

    done = subprocess.run(
        [sys.executable, "-c", READ, str(path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=small,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["b.json", "b.jsonl", "b.yaml"])
def test_a_file_of_many_gigabytes_is_refused_and_not_read(tmp_path: Path, name: str) -> None:
    with (tmp_path / name).open("wb") as file:
        file.truncate(50 * 2**30)
    assert "over the limit of 268,435,456; split it" in read_in_small_memory(tmp_path / name, 512)


def test_a_file_that_needs_more_memory_than_there_is_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    path.write_text('{"x": [' + "[]," * 5_000_000 + "[]]}")
    assert "needs more memory than there is; split it" in read_in_small_memory(path, 350)


def test_a_file_of_too_many_values_is_refused_before_they_are_built(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    path.write_text("[" + "[]," * 10_000_000 + "[]]")
    assert "holds more than 20,000,000 values" in read_in_small_memory(path, 600)


@pytest.mark.parametrize(("name", "line"), [("b.json", "0,\n"), ("b.jsonl", "{}\n")])
def test_a_file_of_hardly_anything_but_rejects_is_no_board(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, line: str
) -> None:
    monkeypatch.setattr(records, "MAX_REJECTS", 1000)
    path = tmp_path / name
    path.write_text("[" + line * 1500 + "0]" if name == "b.json" else line * 1500)
    with pytest.raises(BoardUnreadable, match="more than 1,000 records that cannot be imported"):
        read_board(path)


def test_json_lines_larger_than_memory_are_read_line_by_line(tmp_path: Path) -> None:
    from nexus.boards import read_documents

    path = tmp_path / "b.jsonl"
    path.write_text(('{"note": "' + "x" * 1000 + '"}\n') * 20_000)
    began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert sum(1 for _ in read_documents(path)) == 20_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - began < 10_000, "KiB"


def test_a_yaml_that_would_take_half_an_hour_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "b.yaml"
    path.write_text("- x\n" * 9_000_000)
    with pytest.raises(BoardUnreadable, match="characters of YAML; split it, or use JSON"):
        read_board(path)
    (tmp_path / "b.json").write_text("[" + "nonsense, " * 4_000_000)
    began = time.monotonic()
    with pytest.raises(BoardUnreadable, match="is not JSON"):
        read_board(tmp_path / "b.json")
    assert time.monotonic() - began < 5
