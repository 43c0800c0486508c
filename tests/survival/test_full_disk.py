"""No space left, or nothing may be written (SQLite): refused in words, nothing is lost, and work goes on afterwards."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from nexus import NexusSettings, TaskNexus
from nexus.errors import DatabaseUnavailable

ROOT = Path(__file__).resolve().parents[2]
FULL = "database or disk is full. Free some space; what was accepted before is safe."


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a megabyte and a half."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root may mount a small disk here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def view(tmp_path: Path) -> Iterator[Path]:
    """The folder `rw` once more, at another place where nobody may write."""
    view, folder = tmp_path / "ro", tmp_path / "rw"
    view.mkdir()
    folder.mkdir()
    try:
        subprocess.run(["mount", "--bind", folder, view], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root may mount a folder for reading only here")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", view], check=True, capture_output=True)
        yield view
    finally:
        subprocess.run(["umount", "--lazy", view], check=True)


@pytest.fixture
def board() -> Iterator[Callable[[Path], TaskNexus]]:
    """`board(path)`: opens the board in this file."""
    opened: list[TaskNexus] = []

    def open_(path: Path) -> TaskNexus:
        opened.append(TaskNexus(f"sqlite:///{path}", settings=NexusSettings()))
        return opened[-1]

    yield open_
    for nexus in opened:
        nexus.close()


def command(path: Path, *words: str) -> tuple[int, str, str]:
    """`nexus …` on the board in this file: exit code, stdout, stderr."""
    run = [sys.executable, "-P", "-c", "from deployments.cli import main; main()"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NEXUS_DATABASE_URL": f"sqlite:///{path}"}
    done = subprocess.run([*run, *words], env=environment, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout, done.stderr


def fill(nexus: TaskNexus) -> set[str]:
    """Add tasks until there is no more room; those that were accepted."""
    accepted = set()
    with pytest.raises(DatabaseUnavailable, match=FULL):
        for _ in range(5000):
            accepted.add(nexus.add_task({"payload": {"text": "word " * 100}}).task_id)
    return accepted


def check_that_work_stops_and_goes_on(nexus: TaskNexus, make_room: Callable[[], None]) -> None:
    """The story of a full disk: an agent has a task in its hands when there is no more room."""
    nexus.add_task({"task_id": "T1", "priority": 0})
    claim = nexus.claim_task("T1", "Ada")
    nexus.start(claim)
    accepted = fill(nexus)
    result = "word " * 40_000
    for verb in (lambda: nexus.complete(claim, result), lambda: nexus.fail(claim, result)):
        with pytest.raises(DatabaseUnavailable, match=FULL):
            verb()
    assert nexus.get_task_by_id("T1").status == "in_progress", "one may still look, and nothing is half done"
    assert nexus.stats() == {"in_progress": 1, "pending": len(accepted)}
    make_room()
    assert nexus.complete(claim, result).status == "completed"
    assert {task.task_id for task in nexus.get_all_tasks()} == accepted | {"T1"}
    assert nexus.claim("Ada", 2)
    assert nexus.doctor() == []


def test_a_full_disk(disk: Path, board: Callable[[Path], TaskNexus]) -> None:
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(600_000))
    nexus = board(disk / "board.db")

    def make_room() -> None:
        words = ["complete", "T1", "--agent", "Ada", "--result", f'"{"x" * 90_000}"']
        code, said, why = command(disk / "board.db", *words)
        assert (code, said, why.count("\n")) == (5, "", 1)
        assert why.endswith(f"{FULL}\n")
        assert command(disk / "board.db", "show", "T1")[0] == 0
        ballast.unlink()

    check_that_work_stops_and_goes_on(nexus, make_room)


def test_a_database_that_may_not_grow(tmp_path: Path, board: Callable[[Path], TaskNexus]) -> None:
    """The same without root: SQLite is told a limit."""
    nexus = board(tmp_path / "board.db")

    def limit(pages: int) -> None:
        nexus.close()
        sa.event.listen(
            nexus._database.engine, "connect", lambda driver, _: driver.execute(f"PRAGMA max_page_count = {pages}")
        )

    limit(120)
    check_that_work_stops_and_goes_on(nexus, lambda: limit(1_000_000))


def test_a_full_disk_has_no_room_for_a_new_board(disk: Path, board: Callable[[Path], TaskNexus]) -> None:
    (disk / "ballast").write_bytes(bytes(1_400_000))
    with pytest.raises(DatabaseUnavailable, match=FULL):
        board(disk / "board.db")
    (disk / "ballast").unlink()
    assert board(disk / "board.db").add_task({"task_id": "T1"}).task_id == "T1"


def test_a_folder_in_which_nobody_may_write(tmp_path: Path, board: Callable[[Path], TaskNexus], view: Path) -> None:
    """Seen through a mount that may only be read: permissions would not keep root from writing."""
    nexus = board(tmp_path / "rw" / "board.db")
    nexus.add_task({"task_id": "T1"})
    code, said, _ = command(view / "board.db", "list")
    assert (code, "T1" in said) == (0, True), "somebody who may write has it open: one can look"
    code, said, why = command(view / "board.db", "add", "one more")
    assert (code, said, why.count("\n")) == (1, "", 1)
    assert "is read-only: give write permission or choose another database" in why
    nexus.close()
    for words in (["list"], ["add", "one more"]):
        code, said, why = command(view / "board.db", *words)
        assert (code, said, why.count("\n")) == (1, "", 1)
        assert "may you write there?" in why
    assert nexus.add_task({"task_id": "T2"}).task_id == "T2"
    assert nexus.stats() == {"pending": 2}
