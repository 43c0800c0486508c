"""The README says what the code does."""

import re
from pathlib import Path

from nexus.states import TRANSITIONS, TaskStatus

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def listed(states: frozenset[TaskStatus]) -> str:
    return ", ".join(status for status in TaskStatus if status in states)


def test_the_table_of_legal_moves_in_the_readme_is_the_one_in_the_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \| (.*?) \|$", README, flags=re.MULTILINE)
    assert rows == [
        (str(verb), listed(move.sources), listed(move.targets), "current claim" if move.fenced else "")
        for verb, move in TRANSITIONS.items()
    ]


def test_the_readme_gives_one_line_to_try_it_and_one_to_test_it() -> None:
    assert "\npip install . && nexus run quickstart\n" in README
    assert '\npip install ".[test]" && pytest\n' in README


def test_every_setting_in_the_readmes_toml_exists() -> None:
    import tomllib

    from nexus import NexusSettings

    blocks = re.findall(r"```toml\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        NexusSettings.load(**tomllib.loads(block))


def test_every_setting_in_the_page_on_security_exists() -> None:
    import tomllib

    from nexus import NexusSettings

    page = (Path(__file__).parents[1] / "docs" / "security.md").read_text(encoding="utf-8")
    [block] = re.findall(r"```toml\n(.*?)```", page, flags=re.DOTALL)
    assert NexusSettings.load(**tomllib.loads(block)).secrets.names == ("password", "token", "pin")
