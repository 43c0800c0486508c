"""import and export: every record accounted for, in words and as JSON; a broken file is one line."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from nexus import Task, TaskNexus
from nexus.boards import ImportReport

from .conftest import Said
from .process import on_a_terminal, shell

TASKS = TypeAdapter(list[Task])

BOARD = [
    {"task_id": "A", "description": "first", "priority": "high", "colour": "red"},
    {"task_id": "B", "description": "second", "depends_on": ["A"], "tags": ["x"]},
]
YAML = """\
- {task_id: A, description: first, priority: high, colour: red}
- {task_id: B, description: second, depends_on: [A], tags: [x]}
"""


def write(name: str, value: Any) -> str:
    Path(name).write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return name


def everything(done: Callable[..., Said]) -> list[Any]:
    """Each task with its attempts and its history."""
    tasks = done("list", "--json").data
    return [
        (done("show", one["task_id"], "--json").data, done("history", one["task_id"], "--json").data) for one in tasks
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("board.json", json.dumps(BOARD)),
        ("board.json", json.dumps({"tasks": BOARD})),
        ("board.json", json.dumps({one["task_id"]: one for one in BOARD})),
        ("board.jsonl", "\n".join(map(json.dumps, BOARD))),
        ("board.yaml", YAML),
    ],
    ids=["list", "tasks", "map", "lines", "yaml"],
)
def test_every_shape_and_twice(done: Callable[..., Said], name: str, text: str) -> None:
    write(name, text)
    assert done("import", name, "--by", "Eve").out == "2 accepted, 0 updated, 0 unchanged, 0 rejected\n"
    first, second = TASKS.validate_python(done("list", "--json").data)
    assert (first.task_id, first.priority, first.extra) == ("A", 10, {"colour": "red"})
    assert (second.depends_on, second.tags) == (("A",), ("x",))
    assert done("history", "A", "--json").data[0]["actor"] == "Eve"
    before = everything(done)
    assert done("import", name).out == "0 accepted, 0 updated, 2 unchanged, 0 rejected\n"
    assert everything(done) == before


def test_a_folder_of_boards_and_an_episode(done: Callable[..., Said]) -> None:
    Path("boards").mkdir()
    write("boards/a.json", [{"task_id": "A"}])
    write("boards/b.yaml", "- {task_id: B, episode_id: mine}\n")
    done("import", "boards", "--episode", "E")
    assert [one["episode_id"] for one in done("list", "--json").data] == ["E", "mine"]


def test_dry_run_says_the_same_and_writes_nothing(done: Callable[..., Said]) -> None:
    write("board.json", BOARD)
    said = done("import", "board.json", "--dry-run")
    assert said.out == "2 accepted, 0 updated, 0 unchanged, 0 rejected (dry run: nothing was written)\n"
    assert done("list", "--json").data == []
    report = ImportReport.model_validate(done("import", "board.json", "--dry-run", "--json").data)
    assert (report.accepted, report.dry_run) == (2, True)


def test_rejects_are_told_on_stderr_and_the_rest_is_taken(done: Callable[..., Said]) -> None:
    write("board.json", [*BOARD, {"task_id": "C", "priority": "weird"}, 5])
    said = done("import", "board.json")
    assert said.out == "2 accepted, 0 updated, 0 unchanged, 2 rejected\n"
    assert len(said.err.splitlines()) == 2
    assert 'board.json: [2] (C): priority: "weird" is unknown' in said.err
    assert "board.json: [3]: is 5, not a task" in said.err


def test_strict_is_all_or_nothing(command: Callable[..., Said], done: Callable[..., Said]) -> None:
    write("board.json", [*BOARD, 5])
    said = command("import", "board.json", "--strict")
    assert (said.code, said.out) == (1, "0 accepted, 0 updated, 0 unchanged, 1 rejected\n")
    assert said.err.splitlines()[-1] == "Nothing was written (--strict)."
    said = command("import", "board.json", "--strict", "--json")
    assert (said.code, ImportReport.model_validate(said.data).rejected) == (1, 1)
    assert done("list", "--json").data == []
    write("board.json", BOARD)
    assert done("import", "board.json", "--strict").out.startswith("2 accepted")


def test_many_rejects_do_not_flood_the_terminal(command: Callable[..., Said]) -> None:
    write("board.json", list(range(500)))
    said = command("import", "board.json")
    assert said.code == 1, "nothing could be read"
    assert len(said.err.splitlines()) < 30
    assert len(command("import", "board.json", "--json").data["rejects"]) == 500


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("board.json", '[{"task_id": 1', "board.json: is not JSON"),
        ("board.json", "", "board.json: is empty"),
        ("board.json", "  \n", "board.json: holds only blanks"),
        ("board.yaml", "a: [", "board.yaml: is not YAML"),
        ("board.jsonl", "{bad\n{worse", "board.jsonl: "),
        ("board.json", "\x00", "board.json: "),
        ("board.json", "[" * 100_000, "board.json: "),
        ("board.yaml", "- !!python/object/apply:os.system ['true']", "board.yaml: "),
    ],
)
def test_a_broken_file_is_one_line(
    refused: Callable[..., str], done: Callable[..., Said], name: str, text: str, says: str
) -> None:
    done("add", "x", "--id", "here")
    before = everything(done)
    write(name, text)
    for words in (["import", name], ["import", name, "--strict"], ["import", name, "--json"], ["run", name]):
        line = refused(*words)
        line = json.loads(line)["error"]["message"] if "--json" in words else line
        assert line.startswith(says)
        assert len(line) < 300
    assert everything(done) == before


def test_what_is_no_file(refused: Callable[..., str], command: Callable[..., Said], elsewhere: Path) -> None:
    assert refused("import", "missing.json") == "missing.json: there is no such file"
    Path("latin.json").write_bytes(b'["\xff"]')
    assert "is not UTF-8 text" in refused("import", "latin.json")
    os.mkfifo("pipe.json")
    assert "is not a regular file" in refused("import", "pipe.json")
    Path("empty").mkdir()
    said = command("import", "empty")
    assert (said.code, said.line) == (1, "empty: holds no board file (.json, .jsonl, .ndjson, .yaml, .yml)")


def test_a_broken_file_among_others_is_told(done: Callable[..., Said]) -> None:
    write("good.json", BOARD)
    write("bad.json", "[")
    said = done("import", "good.json", "bad.json")
    assert said.out == "2 accepted, 0 updated, 0 unchanged, 1 rejected\n"
    assert said.line.startswith("rejected: bad.json: is not JSON")


# -- export -------------------------------------------------------------------------------------------------


@pytest.fixture
def lived(board: TaskNexus) -> TaskNexus:
    """A board with a past: results, failures, a claim that was lost, a review."""
    board.add_tasks(
        [
            {"task_id": "done", "payload": {"ü": [1, None]}, "episode_id": "E"},
            {"task_id": "failed", "retry_policy": {"max_attempts": 1}, "colour": "red"},
            {"task_id": "waits", "depends_on": ["failed"]},
            {"task_id": "review", "requires_review": True},
            {"task_id": "lost"},
        ]
    )
    for task_id in ("done", "review", "failed"):
        claim = board.claim_task(task_id, "Ada")
        board.start(claim, {"run": task_id})
        board.fail(claim, "no\npaint") if task_id == "failed" else board.complete(claim, {"said": "\x1b[31m"})
    board.start(board.claim_task("lost", "Ada", lease_seconds=0.001))
    board.sweep()
    return board


@pytest.mark.parametrize("name", ["out.json", "out.jsonl", "out.yaml"])
def test_export_imports_back_to_the_same(done: Callable[..., Said], lived: TaskNexus, name: str) -> None:
    assert done("export", name).line == f"5 tasks written to {name}."
    assert done("export", name, "--json").data == {"path": name, "tasks": 5}
    assert done("import", name).out == "0 accepted, 0 updated, 5 unchanged, 0 rejected\n"
    copy = ("--database", "sqlite:///copy.db")
    assert done(*copy, "import", name).out == "5 accepted, 0 updated, 0 unchanged, 0 rejected\n"
    assert done(*copy, "list", "--json").data == done("list", "--json").data
    for task_id in ("done", "failed", "lost"):
        assert done(*copy, "show", task_id, "--json").data == done("show", task_id, "--json").data
    assert done(*copy, "export", "-").out == done("export", "-").out


def test_export_to_stdout_and_of_one_episode(done: Callable[..., Said], lived: TaskNexus) -> None:
    said = done("export", "-")
    assert [one["task_id"] for one in said.data["tasks"]] == ["done", "failed", "waits", "review", "lost"]
    assert said.err == ""
    assert done("export", "-", "--json").out == said.out
    assert [one["task_id"] for one in done("export", "-", "--episode", "E").data["tasks"]] == ["done"]


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("missing/out.json", "missing/out.json: cannot be written: No such file or directory."),
        ("folder", "folder: cannot be written: Is a directory."),
        ("file/out.json", "file/out.json: cannot be written: Not a directory."),
    ],
)
def test_export_to_where_nothing_can_be_written(
    refused: Callable[..., str], elsewhere: Path, path: str, says: str
) -> None:
    Path("file").touch()
    Path("folder").mkdir()
    before = set(elsewhere.iterdir())
    assert refused("export", path) == says
    assert set(elsewhere.iterdir()) - before <= {elsewhere / ".nexus"}


def test_an_export_into_a_process(board: TaskNexus, elsewhere: Path) -> None:
    board.add_task({"task_id": "A"})
    ended = shell("nexus export >(gzip > out.gz); until gzip -t out.gz; do sleep 0.1; done; zcat out.gz")
    assert ended.returncode == 0, ended.stderr
    assert [one["task_id"] for one in json.loads(ended.stdout)["tasks"]] == ["A"]


def test_an_export_that_fails_leaves_the_old_file(refused: Callable[..., str], lived: TaskNexus) -> None:
    Path("out.json").mkdir()
    Path("out.json/precious").touch()
    assert "cannot be written" in refused("export", "out.json")
    assert [path.name for path in Path("out.json").iterdir()] == ["precious"]
    assert not list(Path().glob(".*.part"))


def test_how_far_it_is_stands_on_a_terminal_only(done: Callable[..., Said], board: TaskNexus) -> None:
    write("board.jsonl", "\n".join(json.dumps({"task_id": f"T{number}"}) for number in range(1200)))
    code, shown = on_a_terminal("import", "board.jsonl")
    assert code == 0
    assert "1000/?" in shown, "how many there will be nobody knows while the file is read"
    assert "writing" in shown
    assert "1200/1200" in shown
    assert "1200 accepted" in shown
    assert done("import", "board.jsonl").err == ""
    code, shown = on_a_terminal("export", "out.json")
    assert (code, "1200/1200" in shown, "1200 tasks written" in shown) == (0, True, True)
    assert on_a_terminal("export", "out.json", "--json")[1].startswith("{"), "words would stand in the JSON's way"


def test_ctrl_c_says_what_it_leaves_behind(done: Callable[..., Said], board: TaskNexus) -> None:
    Path("board.jsonl").write_text("".join(f'{{"task_id": "T{n}"}}\n' for n in range(20_000)))
    code, shown = on_a_terminal("import", "board.jsonl", until="reading")
    assert code == 130
    assert "Interrupted. " in shown
    assert done("list", "--json").data == [] or "all or nothing" in shown


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the names of open files are Linux's")
def test_an_export_to_stdout_by_name_is_one_to_stdout(board: TaskNexus) -> None:
    board.add_task({"task_id": "A"})
    board.close()
    assert shell("echo precious > log; nexus export /dev/stdout --json >> log").returncode == 0
    first, *rest = Path("log").read_text().splitlines()
    assert first == "precious"
    assert [one["task_id"] for one in json.loads("\n".join(rest))["tasks"]] == ["A"]


def test_an_import_of_nothing_is_an_error_in_json_too(command: Callable[..., Said]) -> None:
    Path("bad.json").write_text('[{"task_id": "A", "priority": "soonish"}]')
    for strict, why in (([], "Nothing could be imported."), (["--strict"], "Nothing was written (--strict).")):
        said = command("import", "bad.json", "--json", *strict)
        assert (said.code, said.data["rejected"]) == (1, 1)
        assert json.loads(said.line)["error"]["message"] == why
