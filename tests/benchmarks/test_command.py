"""`python -m benchmarks`: what it is asked, what it answers, and what it leaves behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.contenders import CONTENDERS, Entry
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["throghput"], "nothing here measures throghput; there are throughput, growth"),
        (["--rounds", "0"], "'0' is not a number of at least 1"),
        (["--tasks", "many"], "'many' is not a number of at least 1"),
        (["--database", "oracle"], "invalid choice: 'oracle'"),
        (["--contender", "celery"], "invalid choice: 'celery'"),
        (["sweep", "--chart", "chart.svg"], "about throughput, which is not asked for"),
        (["--markdown", "no/such/folder/tables.md"], "'no/such/folder/tables.md' cannot be written"),
        (["--markdown", "."], "'.' cannot be written"),
        (["--fast"], "unrecognized arguments: --fast"),
    ],
)
def test_a_wrong_argument_is_told_before_anything_is_measured(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_without_a_server_only_sqlite_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.databases.server_is_installed", lambda: False)
    with pytest.raises(SystemExit):
        main(["throughput"])
    assert "--database sqlite" in capsys.readouterr().err


def test_a_contender_that_is_not_installed_is_left_out_with_a_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = Entry("Nobody", "nobody:Nobody", "peer", ("sqlite",), "nothing", needs=("no-such-distribution",))
    monkeypatch.setitem(CONTENDERS, "litequeue", absent)
    with pytest.raises(SystemExit):
        main(["throughput", "--database", "sqlite", "--contender", "litequeue"])
    said = capsys.readouterr().err
    assert "left out, as they are not installed: Nobody; they come with: pip install '.[peers]'" in said
    assert "none of the contenders that were asked for is installed" in said


def test_tables_and_a_chart_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = ["--markdown", str(tmp_path / "tables.md"), "--chart", str(tmp_path / "chart.svg")]
    small = ["--database", "sqlite", "--contender", "core", "--rounds", "1", "--tasks", "100"]
    assert main(["throughput", *small, *written]) == 0
    told = capsys.readouterr().out
    assert "**SQLite, 100 at once**" in told and "| SQLAlchemy Core | attempt |" in told
    assert (tmp_path / "tables.md").read_text().split() == told.split()
    assert (tmp_path / "chart.svg").read_text().startswith("<svg ")


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill -9"])
def test_who_is_stopped_leaves_no_server_and_no_process_behind(sent: signal.Signals, tmp_path: Path) -> None:
    command = ("throughput", "--database", "postgresql", "--contender", "least_sql", "--rounds", "1000")
    running = subprocess.Popen(
        [sys.executable, "-m", "benchmarks", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
    )
    assert running.stderr is not None
    for line in running.stderr:
        if "round 2 of" in line:
            break
    else:
        pytest.fail("it ended by itself")
    assert left_by(tmp_path)
    running.send_signal(sent)
    assert running.wait(60) == (130 if sent == signal.SIGINT else -sent)
    until = time.monotonic() + 60
    while (left := left_by(tmp_path)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not left
    assert list(tmp_path.glob("nexus-bench-*")) == []
    running.stderr.close()


def left_by(folder: Path) -> list[str]:
    """The processes in whose environment `folder` is the one for temporary files, or which work in it."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                told = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            except OSError:
                continue
            if os.fsencode(folder) in told:
                found.append(process.name)
    return found
