"""Help for every command and option, and a command that answers before Prefect and SQLAlchemy are loaded."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from deployments.cli import app

from .conftest import Said
from .process import environment


def commands(group: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with the words that call it."""
    yield path, group
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, *path, name)


COMMANDS = list(commands(typer.main.get_command(app)))
IDS = [" ".join(path) or "nexus" for path, _ in COMMANDS]


def test_the_verbs_of_the_design_are_there() -> None:
    wanted = (
        "run up add import export list show history explain stats claim start heartbeat complete fail release cancel "
        "retry approve reject block unblock agents sweep prune db"
    )
    assert set(wanted.split()) <= {path[0] for path, _ in COMMANDS if path}


@pytest.mark.parametrize(("path", "verb"), COMMANDS, ids=IDS)
def test_every_command_and_option_is_explained(path: tuple[str, ...], verb: Any, done: Callable[..., Said]) -> None:
    assert verb.help
    unexplained = [one.name for one in verb.params if not getattr(one, "help", "")]
    assert not unexplained
    shown = done(*path, "--help")
    assert shown.err == ""
    assert max(map(len, shown.out.splitlines())) <= 80
    options = shown.out.partition("Options:")[2]
    assert not re.search("<(str|int|float|list)|range", options), "the names of Python's types say nothing to a user"
    assert not re.search(r"\d{5}", options.replace("65535", "")), "nor does a limit that nobody ever meets"
    assert shown.out == done(*path, "-h").out


@pytest.mark.parametrize("path", [path for path, command in COMMANDS if hasattr(command, "commands")])
def test_the_list_of_commands_is_not_cut_off(path: tuple[str, ...], done: Callable[..., Said]) -> None:
    assert "..." not in done(*path, "--help").out.partition("Commands:")[2]


def test_without_a_word_there_is_help(command: Callable[..., Said]) -> None:
    for words in ([], ["agents"], ["db"]):
        said = command(*words)
        assert said.code == 2
        assert "Commands:" in said.out + said.err


def test_the_version(done: Callable[..., Said]) -> None:
    assert done("--version").out.startswith("nexus-flows")


def loaded_by(elsewhere: Path, *words: str) -> set[str]:
    """The top-level modules that a command leaves loaded."""
    code = (
        "import atexit, sys; from deployments.cli import main; "
        "atexit.register(lambda: print('\\nloaded', *{name.partition('.')[0] for name in sys.modules})); main()"
    )
    command = [sys.executable, "-P", "-c", code, *words]
    ended = subprocess.run(command, env=environment(), cwd=elsewhere, capture_output=True, text=True, check=True)
    return set(ended.stdout.rpartition("loaded ")[2].split())


def test_help_loads_neither_prefect_nor_sqlalchemy(elsewhere: Path) -> None:
    for words in (
        ["--help"],
        ["run", "--help"],
        ["up", "--help"],
        ["claim", "--help"],
        ["automations", "apply", "--help"],
    ):
        assert not loaded_by(elsewhere, *words) & {"prefect", "sqlalchemy", "alembic", "flows"}


def test_the_verbs_of_the_nexus_do_not_load_prefect(elsewhere: Path) -> None:
    assert not loaded_by(elsewhere, "add", "x", "--id", "A") & {"prefect", "flows"}
    for words in (["claim", "-a", "Ada"], ["start", "A", "-a", "Ada"], ["show", "A"], ["list"], ["sweep"], ["stats"]):
        assert not loaded_by(elsewhere, *words) & {"prefect", "flows", "alembic"}
