"""Programs that agents run for tasks: what may run, where, with which variables, and what is left of it."""

import asyncio
import os
import signal
import sys
import time
import tracemalloc
from contextlib import suppress
from pathlib import Path

import pytest

from flows.handlers import GiveUp
from flows.handlers.command import command
from flows.handlers.errors import CommandFailed
from nexus.values import check_json, json_size


@pytest.fixture
def workshop(tmp_path):
    """Where commands run."""
    folder = tmp_path / "workshop"
    folder.mkdir()
    return folder


@pytest.fixture
def run(task, context, workshop):
    """Runs a payload where `sh`, `cat` and this Python are allowed."""

    async def run(payload, *, task_timeout=None, max_payload_bytes=1_048_576, **settings):
        settings = {
            "allowed_programs": ["sh", "cat", sys.executable],
            "working_directory": workshop,
            "timeout_seconds": 20,
            **settings,
        }
        if isinstance(payload, list):
            payload = {"argv": payload}
        return await command(
            task("command", payload, timeout_seconds=task_timeout),
            context(command=settings, max_payload_bytes=max_payload_bytes),
        )

    return run


def sh(script, **payload):
    return {"argv": ["sh", "-c", script], **payload}


def py(script, *arguments, **payload):
    return {"argv": [sys.executable, "-I", "-S", "-c", script, *arguments], **payload}


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    with suppress(OSError):
        return not Path("/proc").is_dir() or stat.read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def open_files():
    return len(list(Path("/dev/fd").iterdir()))


async def until(fact, seconds=10):
    """Waits for a fact that another process brings about."""
    deadline = time.monotonic() + seconds
    while not (found := fact()):
        assert time.monotonic() < deadline, "it never came about"
        await asyncio.sleep(0.01)
    return found


def pid_in(file):
    return int(file.read_text()) if file.exists() and file.read_text().endswith("\n") else None


async def test_a_program_is_run_and_its_output_is_the_result(run):
    result = await run(sh("echo out; echo err >&2"))

    assert result.pop("seconds") > 0
    assert result == {"exit_code": 0, "stdout": "out\n", "stderr": "err\n"}


async def test_arguments_reach_the_program_as_they_are_and_no_shell_reads_them(run):
    odd = ["$(id)", "; rm -rf .", "*", "", "two words", "über", "--"]

    result = await run(py("import sys; print(ascii(sys.argv[1:]))", *odd))

    assert result["stdout"].strip() == ascii(odd)


async def test_text_is_given_to_the_program_and_without_it_there_is_nothing_to_read(run):
    assert (await run({"argv": ["cat"], "stdin": "größer\n"}))["stdout"] == "größer\n"
    assert (await run(["cat"]))["stdout"] == ""


async def test_more_input_than_a_pipe_holds_and_nobody_who_reads_it_hang_nothing(run):
    much = "x" * 1_000_000

    assert (await run(py("import sys; print(len(sys.stdin.read()))", stdin=much)))["stdout"] == "1000000\n"
    assert (await run(sh("exit 0", stdin=much)))["exit_code"] == 0


async def test_an_exit_code_that_is_not_accepted_fails_and_the_message_holds_code_and_last_words(run):
    with pytest.raises(CommandFailed, match=r"exit code 3.*disk is full") as failure:
        await run(sh("echo working; echo 'disk is full' >&2; exit 3"))
    assert failure.value.exit_code == 3

    with pytest.raises(CommandFailed, match="no stderr, so stdout speaks"):
        await run(sh("echo no stderr, so stdout speaks; exit 1"))

    assert (await run(sh("exit 3", accepted_exit_codes=[0, 3])))["exit_code"] == 3
    with pytest.raises(CommandFailed, match="exit code 0"):
        await run(sh("exit 0", accepted_exit_codes=[3]))


async def test_a_program_that_a_signal_ends_says_which(run):
    with pytest.raises(CommandFailed, match="SIGSEGV") as failure:
        await run(sh("kill -SEGV $$"))
    assert failure.value.exit_code == -signal.SIGSEGV


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        ({"argv": "rm -rf /"}, "never a shell string"),
        ({}, "argv: Field required"),
        ({"argv": []}, "argv"),
        ({"argv": ["sh", 1]}, "argv.1"),
        ({"argv": ["sh", "a\x00b"]}, "NUL"),
        ({"argv": ["sh"], "stdin": "a\x00b"}, "NUL"),
        ({"argv": ["sh"], "stdin": "\ud800"}, "stdin"),
        ({"argv": ["sh"], "cwd": "a\x00b"}, "NUL"),
        ({"argv": ["sh"], "shell": True}, "shell: Extra inputs"),
        ({"argv": ["sh"], "timeout_seconds": 0}, "timeout_seconds"),
        ({"argv": ["sh"], "timeout_seconds": float("nan")}, "timeout_seconds"),
        ({"argv": ["sh"], "accepted_exit_codes": []}, "accepted_exit_codes"),
        ({"argv": ["sh"], "env": {"A=B": "1"}}, "no name of a variable"),
        ({"argv": ["sh"], "env": {"A": "1\x002"}}, "NUL"),
    ],
)
async def test_a_payload_that_cannot_be_is_given_up_with_the_field_that_is_wrong(run, payload, told):
    with pytest.raises(GiveUp, match=told):
        await run(payload)


async def test_a_refusal_does_not_repeat_what_may_be_secret(run):
    with pytest.raises(GiveUp) as refusal:
        await run({"argv": ["sh"], "env": {"API_KEY": "s3cret\x00"}, "stdin": ["s3cret"]})
    assert "s3cret" not in str(refusal.value)


@pytest.mark.parametrize("program", ["rm", "", ".", "..", "./sh", "bin/sh", "/", "sh\n", "~/sh", "x" * 5000])
async def test_a_program_that_is_not_allowed_is_given_up_and_the_setting_is_named(run, program):
    with pytest.raises(GiveUp, match=r"command\.allowed_programs|cannot be started|File name too long"):
        await run([program])


async def test_nothing_is_allowed_until_an_operator_says_so(run):
    with pytest.raises(GiveUp, match="NEXUS_COMMAND__ALLOWED_PROGRAMS"):
        await run(["sh", "-c", "true"], allowed_programs=[])


def program_in(folder, name, says):
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_text(f"#!/bin/sh\necho {says}\n")
    file.chmod(0o755)
    return file


async def test_a_path_and_a_name_that_mean_one_file_allow_one_another(run, tmp_path, monkeypatch):
    tool = program_in(tmp_path / "tools", "tool", "real")
    other = program_in(tmp_path / "other", "tool", "other")
    (tmp_path / "link").symlink_to(tmp_path / "tools")
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")

    for asked in ("tool", str(tool), str(tmp_path / "link" / "tool"), f"{tool.parent}/../tools/tool"):
        assert (await run([asked], allowed_programs=["tool"]))["stdout"] == "real\n"
        assert (await run([asked], allowed_programs=[str(tool)]))["stdout"] == "real\n"
    with pytest.raises(GiveUp, match="allowed_programs"):
        await run([str(other)], allowed_programs=["tool", str(tool)])
    with pytest.raises(GiveUp, match="allowed_programs"):
        await run(["tool"], allowed_programs=[str(other)])


async def test_one_name_of_a_program_with_many_names_allows_no_other(run, tmp_path):
    many = program_in(tmp_path / "bin", "many", '"$0"')
    for name in ("list", "shell"):
        (many.parent / name).symlink_to(many)

    assert (await run([str(many.parent / "list")], allowed_programs=[str(many.parent / "list")]))["exit_code"] == 0
    with pytest.raises(GiveUp, match="allowed_programs"):
        await run([str(many.parent / "shell")], allowed_programs=[str(many.parent / "list")])


async def test_a_program_in_the_working_directory_does_not_stand_in_for_one_on_the_path(run, workshop, monkeypatch):
    program_in(workshop, "tool", "planted")
    monkeypatch.chdir(workshop)
    monkeypatch.setenv("PATH", f".::{os.environ['PATH']}")

    with pytest.raises(CommandFailed, match="not on the PATH"):
        await run(["tool"], allowed_programs=["tool"])


async def test_an_allowed_program_that_is_missing_here_may_be_there_another_time(run, tmp_path):
    for program in ("not-installed", str(tmp_path / "not-installed")):
        with pytest.raises(CommandFailed, match="not-installed"):
            await run([program], allowed_programs=[program])


async def test_arguments_that_no_system_takes_are_given_up(run):
    with pytest.raises(GiveUp, match="too long"):
        await run(["sh", "-c", "true", *["x" * 90_000] * 100])


REFUSED = """
PATH path HOME LD_PRELOAD LD_LIBRARY_PATH DYLD_INSERT_LIBRARIES PYTHONPATH PYTHONSTARTUP BASH_ENV ENV IFS
NODE_OPTIONS PERL5OPT RUBYOPT GIT_SSH_COMMAND JAVA_TOOL_OPTIONS npm_config_script_shell PAGER MAKEFLAGS
"""


@pytest.mark.parametrize("name", REFUSED.split())
async def test_a_task_sets_no_variable_that_changes_what_is_loaded(run, name):
    with pytest.raises(GiveUp, match=rf"env: a task must not set {name}.*command\.pass_environment"):
        await run(sh("true", env={name: "/tmp/evil"}))


async def test_a_command_sees_the_listed_variables_those_of_its_task_and_its_attempt_and_no_other(run, monkeypatch):
    monkeypatch.setenv("AGENT_SECRET", "s3cret")
    monkeypatch.setenv("LANG", "C")
    monkeypatch.setenv("TZ", "UTC")

    script = "import os; print(sorted(os.environ.items()))"
    payload = py(
        script,
        env={"CHAPTER": "7", "TZ": "Asia/Tokyo", "GIT_AUTHOR_NAME": "Ada", "PYTHONHASHSEED": "0", "NEXUS_ATTEMPT": "9"},
    )
    result = await run(payload, pass_environment=["LANG", "TZ", "NOT_SET_HERE"])

    seen = dict(eval(result["stdout"]))
    seen.pop("LC_CTYPE", None)  # Python adds it to its own
    assert len(seen.pop("NEXUS_COMMAND_RUN")) == 32, "the mark by which who is left is found"
    assert seen == {
        "LANG": "C",
        "TZ": "Asia/Tokyo",
        "CHAPTER": "7",
        "GIT_AUTHOR_NAME": "Ada",
        "PYTHONHASHSEED": "0",
        "NEXUS_TASK_ID": "EP07-T3",
        "NEXUS_ATTEMPT": "1",
        "NEXUS_IDEMPOTENCY_KEY": "EP07-T3",
    }


async def test_a_command_runs_in_the_working_directory_or_below(run, workshop):
    (workshop / "chapter").mkdir()
    (workshop / "inside").symlink_to(workshop / "chapter")

    for cwd, folder in [
        (None, workshop),
        (".", workshop),
        ("chapter", workshop / "chapter"),
        ("inside", workshop / "chapter"),
        (str(workshop / "chapter"), workshop / "chapter"),
        ("chapter/../chapter", workshop / "chapter"),
    ]:
        assert (await run(py("import os; print(os.getcwd())", cwd=cwd)))["stdout"].strip() == str(folder.resolve())


@pytest.mark.parametrize("cwd", ["..", "/", "../workshop2", "way-out", "way-out/deeper", "loop/x"])
async def test_no_directory_outside_is_reached_neither_by_dots_nor_by_symlinks(run, workshop, cwd):
    outside = workshop.parent / "workshop2"
    (outside / "deeper").mkdir(parents=True)
    (workshop / "way-out").symlink_to(outside)
    (workshop / "loop").symlink_to(outside / "loop")
    (outside / "loop").symlink_to(workshop / "loop")

    with pytest.raises((GiveUp, CommandFailed), match=r"working_directory|cannot be resolved|no directory") as refusal:
        await run(sh("pwd", cwd=cwd))
    if "loop" not in cwd:
        assert "NEXUS_COMMAND__WORKING_DIRECTORY" in str(refusal.value)


async def test_a_directory_that_is_not_there_yet_may_be_there_at_the_next_try(run):
    with pytest.raises(CommandFailed, match="'later' is no directory"):
        await run(sh("pwd", cwd="later"))


async def test_output_over_the_limit_keeps_its_beginning_and_its_end(run):
    script = "import sys; sys.stdout.write('A' * 600 + 'm' * 100_000 + 'Z' * 600); sys.stderr.write('short')"

    result = await run(py(script), max_output_bytes=1000)

    assert result["stdout"] == "A" * 500 + "\n… 100,200 bytes left out …\n" + "Z" * 500
    assert result["stderr"] == "short"
    assert (await run(py("print('x' * 999)"), max_output_bytes=1000))["stdout"] == "x" * 999 + "\n"
    assert (await run(py("print('gone')"), max_output_bytes=0))["stdout"] == "\n… 5 bytes left out …\n"


async def test_a_flood_on_both_streams_neither_hangs_nor_fills_the_memory(run):
    script = "import os; [os.write(fd, b'x' * 65536) for _ in range(400) for fd in (1, 2)]"
    tracemalloc.start()
    try:
        result = await run(py(script), max_output_bytes=10_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    left_out = 400 * 65536 - 10_000
    assert f"{left_out:,} bytes left out" in result["stdout"]
    assert f"{left_out:,} bytes left out" in result["stderr"]
    assert peak < 5 * 2**20, "26 MiB a stream went by"


async def test_binary_output_becomes_text_that_the_board_can_keep(run):
    result = await run(py(r"import os; os.write(1, bytes(range(256))); os.write(2, b'\xff\x00')"))

    check_json(result)
    assert "ABC" in result["stdout"]
    assert result["stderr"] == "\N{REPLACEMENT CHARACTER}" * 2


async def test_a_result_that_is_longer_as_json_than_a_task_may_hold_is_cut_to_fit(run):
    result = await run(py(r"print('BEGIN' + '\x01' * 3000 + 'END')"), max_payload_bytes=4096)

    assert json_size(result) <= 4096
    assert result["stdout"].startswith("BEGIN")
    assert result["stdout"].endswith("END\n")
    assert "left out" in result["stdout"]


async def test_a_program_that_takes_too_long_is_stopped_with_its_children(run, workshop):
    script = "sleep 300 & echo $! > child; echo 'still thinking' >&2; wait"

    with pytest.raises(TimeoutError, match=r"sh did not end within 0\.5 s.*still thinking"):
        await run(sh(script, timeout_seconds=0.5))

    assert not is_alive(pid_in(workshop / "child"))


@pytest.mark.parametrize(("of_the_task", "of_the_settings"), [(0.2, 20), (None, 0.2)])
async def test_without_its_own_timeout_the_tasks_holds_and_else_the_settings(run, of_the_task, of_the_settings):
    with pytest.raises(TimeoutError, match=r"within 0\.2 s"):
        await run(["sh", "-c", "sleep 300"], task_timeout=of_the_task, timeout_seconds=of_the_settings)


async def test_a_task_with_more_time_than_the_settings_give_gets_it(run):
    assert (await run(sh("sleep 0.3"), task_timeout=20, timeout_seconds=0.1))["exit_code"] == 0


async def test_a_cancelled_attempt_leaves_neither_program_nor_grandchild(run, workshop):
    working = asyncio.create_task(run(sh("echo $$ > self; sh -c 'echo $$ > grandchild; sleep 300; true' & wait")))
    pids = [await until(lambda name=name: pid_in(workshop / name)) for name in ("self", "grandchild")]
    assert all(map(is_alive, pids))

    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working

    assert not any(map(is_alive, pids))


@pytest.mark.parametrize("steps", range(2, 7))
async def test_a_cancellation_in_the_middle_of_the_start_leaves_nothing_either(run, workshop, steps):
    working = asyncio.create_task(run(sh("sleep 300 & echo $! > child; wait")))
    for _ in range(steps):
        await asyncio.sleep(0)
    # The loop stands still until the program has a child, so that for asyncio its start is not over yet.
    deadline = time.monotonic() + 10
    while not (child := pid_in(workshop / "child")) and time.monotonic() < deadline:
        time.sleep(0.01)  # noqa: ASYNC251
    working.cancel()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(working, 10)
    assert not is_alive(child)


async def test_a_program_may_tidy_up_before_it_goes(run, workshop):
    script = "trap 'echo tidy > state; exit' TERM; echo ready > state; while :; do sleep 0.05; done"
    working = asyncio.create_task(run(sh(script)))
    await until(lambda: (workshop / "state").exists() and (workshop / "state").read_text() == "ready\n")

    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working

    assert (workshop / "state").read_text() == "tidy\n"


DEAF = "trap '' TERM; echo $$ > deaf; while :; do sleep 0.05; done"


async def test_who_does_not_hear_is_killed_after_the_grace(run, workshop):
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        await run(sh(DEAF, timeout_seconds=0.5))

    assert 2 < time.monotonic() - started < 8
    assert not is_alive(pid_in(workshop / "deaf"))


async def test_a_second_cancellation_waits_for_no_grace_and_still_leaves_nothing(run, workshop):
    working = asyncio.create_task(run(sh(DEAF)))
    pid = await until(lambda: pid_in(workshop / "deaf"))

    working.cancel()
    await asyncio.sleep(0.1)  # into the grace
    assert is_alive(pid)
    cancelled = time.monotonic()
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working

    assert time.monotonic() - cancelled < 1
    await until(lambda: not is_alive(pid))


async def test_a_child_that_a_program_leaves_behind_ends_with_it_and_holds_nobody_up(run, workshop):
    result = await run(sh("sleep 300 & echo $! > child; echo done"))

    assert result["stdout"] == "done\n"
    assert result["seconds"] < 2, "the child held the pipe open"
    assert not is_alive(pid_in(workshop / "child"))


AWAY = """
import os, time
with open("away", "w") as file:
    print(os.getpid(), file=file)
time.sleep(300)
"""


async def test_a_descendant_that_got_away_and_hid_holds_nobody_up(run, workshop):
    script = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    os.execve(sys.executable, [sys.executable, "-I", "-S", "-c", sys.argv[1]], {})
while not os.path.exists("away"):
    time.sleep(0.01)
print("done", flush=True)
"""
    before = open_files()
    try:
        result = await run(py(script, AWAY))
        await until(lambda: open_files() == before)
    finally:
        os.kill(await until(lambda: pid_in(workshop / "away")), signal.SIGKILL)

    assert result["stdout"] == "done\n"
    assert result["seconds"] < 8


async def test_commands_run_side_by_side(run):
    started = time.monotonic()
    results = await asyncio.gather(*(run(sh(f"sleep 0.5; echo {number}")) for number in range(4)))

    assert [result["stdout"] for result in results] == [f"{number}\n" for number in range(4)]
    assert time.monotonic() - started < 1.9


async def test_the_log_tells_the_program_and_not_its_arguments(run, caplog):
    caplog.set_level("DEBUG")
    await run(["sh", "-c", "true", "s3cret-token"])

    assert "s3cret-token" not in caplog.text
    assert "/sh" in caplog.text
