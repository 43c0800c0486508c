"""Whatever stands on the command line or comes in by stdin or a file: an exit code, and at most one line on stderr."""

import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nexus.cli.exits import Exit

from .conftest import Said

NASTY = [
    "[" * 60_000, '{"a":' * 20_000 + "1" + "}" * 20_000, "9" * 100_000, '{"a":' + "9" * 5000 + "}", "NaN",
    '{"a":NaN}', '{"a":1e999}', '{"a":1,"a":2}', '"\\ud800"', '{"\\ud800":1}', '{"a":"\\u0000"}', "x" * 100_000,
    "", "-", "@", "@/", "@nope", "-1", "0", "1e308", "1e400", "nan", "inf", "+-5", "²", "\n", "\x1b[31mred\x1b[0m",
    "[red]x[/red]", "{0.__class__}", "%s%n", "{{ x }}", "..", "null", "true", "[]", "{}", "\u202eabc", "--", "--help",
    "'; DROP TABLE tasks; --", "1_0", "9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", "99999999999-01-01",
]  # fmt: skip

COMMANDS = """
add {} | add d --id {} | add d --payload {} | add d --priority {} | add d --tag {} | add d --depends-on {}
add d --timeout {} | add d --not-before {} | add d --max-attempts {} | add d --key {} | add d --by {} | add d --type {}
add d --capability {} | add d --assign {} | add d --episode {} | list --limit {} | list --after {} | list --status {}
list --tag {} | list --agent {} | list --type {} | show {} | history {} | explain {} | explain X --agent {}
stats --episode {} | claim --agent {} | claim --agent A --lease {} | claim --agent A --tag {} | claim --agent A -n {}
claim {} -a A | start X -c 1 --run-ref {} | start X -c {} | heartbeat X -c 1 --note {} | heartbeat X -c 1 --lease {}
complete X -c 9 --result {} | fail X -c 9 -e {} | fail X -c 9 -e e --retry-after {} | release X -c 9 --reason {}
cancel {} | retry {} | block {} --reason x | block X --reason {} | approve X --by {} | reject X --by B --note {}
sweep --what-if {} | sweep --what-if pending_timeout_seconds={} | sweep --what-if policies={} | stalls {} | stalls -n {}
sweep --what-if adaptive={} | sweep --what-if adaptive.factor={} | sweep --pending-timeout {} --dry-run
pause {} | pause t --reason {} | resume {} | agents register {} | agents register A -c {}
agents register A --max-concurrency {} | import {}/b --dry-run | import b.json --episode {} | export {}/x.json
export - --episode {} | --database {} list | --database sqlite:///{} list | db upgrade --database {} | {}
--database sqlite:///x.db?{} list | --database sqlite:///x.db?timeout={} list
--database sqlite:///x.db?check_same_thread={} list | --database postgresql://h:{}/x list
--database postgresql://127.0.0.1:1/x?connect_timeout={} list | --database postgresql://127.0.0.1:1/x?{}=1 list
""".replace("\n", "|").split("|")


def survives(said: Said) -> None:
    """It ended with an exit code of ours; what went wrong is one line that can be read and harms no terminal."""
    assert said.code in (Exit.DONE, Exit.REFUSED, Exit.USAGE, Exit.NOTHING, Exit.STOP), said.code
    assert "Traceback" not in said.err
    if said.code:
        assert said.err.count("\n") <= 1 or "Usage" in said.err or "rejected" in said.err
    assert len(said.err) < 5000
    assert "\x1b" not in said.err + said.out


@pytest.mark.parametrize("words", [words.strip() for words in COMMANDS if words.strip()])
def test_any_word_in_any_place(command: Callable[..., Said], words: str) -> None:
    command("add", "d", "--id", "X")
    Path("b.json").write_text('[{"task_id": "B", "description": "d"}]')
    # Each command gets its own few of them, so that together all are tried often.
    start = sum(map(ord, words)) % len(NASTY)
    for nasty in itertools.islice(itertools.cycle(NASTY), start, start + 2):
        survives(command(*(word.replace("{}", nasty) for word in words.split(" "))))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    words=st.lists(
        st.sampled_from(
            [
                "add",
                "list",
                "show",
                "claim",
                "start",
                "complete",
                "fail",
                "sweep",
                "stalls",
                "pause",
                "resume",
                "agents",
                "register",
                "import",
                "export",
                "db",
                "stats",
                "--id",
                "--json",
                "--limit",
                "--payload",
                "--agent",
                "-a",
                "-c",
                "-n",
                "--dry-run",
                "--what-if",
                "--type",
                "X",
                "1",
                "-1",
                "{}",
                "@x",
                "--",
            ]
        )
        | st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=8),
        max_size=6,
    )
)
def test_any_words_at_all(command: Callable[..., Said], words: list[str]) -> None:
    survives(command(*words, stdin=""))


@pytest.mark.parametrize(
    "text", [*NASTY[:16], '{"a": "' + "x" * 10_000_000 + '"}', "\x00", "\ud800", '{"a": "\ud800"}']
)
def test_any_text_by_stdin_or_from_a_file(command: Callable[..., Said], text: str) -> None:
    Path("given.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    survives(command("add", "d", "--payload", "-", stdin=text))
    survives(command("add", "d", "--payload", "@given.json"))


def test_a_value_without_end_is_not_waited_for(command: Callable[..., Said]) -> None:
    began = time.monotonic()
    said = command("add", "d", "--payload", "@/dev/zero")
    assert said.code == 2
    assert said.line == "--payload has more than 67,108,864 characters; keep large data elsewhere."
    with Path("huge").open("wb") as file:
        file.truncate(50 * 2**30)
    assert "67,108,864" in command("complete", "X", "-c", "1", "--result", "@huge").line
    assert time.monotonic() - began < 10


def test_what_is_no_file(command: Callable[..., Said]) -> None:
    Path("loop").symlink_to("loop")
    Path("folder").mkdir()
    for name in ("loop", "folder", "x" * 5000):
        survives(command("add", "d", "--payload", f"@{name}"))
        survives(command("import", f"{name}/b.json"))
        survives(command("export", f"{name}/x.json"))
    assert not os.path.lexists("folder/x.json.part")
