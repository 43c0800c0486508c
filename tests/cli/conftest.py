"""The command as a user has it: words in, an exit code and two streams out."""

import io
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deployments.cli import main
from nexus import TaskNexus


@dataclass(frozen=True)
class Said:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)

    @property
    def line(self) -> str:
        """The one line on stderr."""
        [line] = self.err.splitlines()
        return line


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eighty columns, as on a pipe."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """`command("add", "write it", "--id", "T1")` runs `nexus add …` on the board of this folder."""

    def run(*words: str, stdin: str = "", **environment: str) -> Said:
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["nexus", *words])
            patch.setattr(sys, "stdin", io.StringIO(stdin))
            for name in ("NEXUS_DATABASE_URL", "NEXUS_SERVICE__PORT"):
                # Options leave these behind, for the processes that one command starts.
                patch.setenv(name, "")
                patch.delenv(name)
            for name, value in environment.items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as ended:
                main()
        captured = capsys.readouterr()
        code = ended.value.code
        assert isinstance(code, int | None)
        return Said(code or 0, captured.out, captured.err)

    return run


@pytest.fixture
def done(command: Callable[..., Said]) -> Callable[..., Said]:
    """As `command`, for what is to succeed."""

    def run(*words: str, **given: str) -> Said:
        said = command(*words, **given)
        assert said.code == 0, said
        return said

    return run


@pytest.fixture
def refused(command: Callable[..., Said]) -> Callable[..., str]:
    """As `command`, for what is to be refused: exit code 1, nothing on stdout, and the one line that says why."""

    def run(*words: str, code: int = 1, **given: str) -> str:
        said = command(*words, **given)
        assert (said.code, said.out) == (code, ""), said
        assert "Traceback" not in said.err
        return said.line

    return run


@pytest.fixture
def board(elsewhere: Path) -> Iterator[TaskNexus]:
    """The board of this folder, as `nexus` finds it without being told."""
    with TaskNexus() as nexus:
        yield nexus
