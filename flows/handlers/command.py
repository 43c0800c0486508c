"""The `command` handler: runs one allowed program with a list of arguments, never through a shell.

Off until an operator names programs in `command.allowed_programs`. What is allowed is a program, not what it
does with its arguments: an allowed interpreter or shell runs whatever the task says.
"""

import errno
import os
import shlex
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field

from flows.handlers.contract import GiveUp, TaskContext
from flows.handlers.environment import check_added, environment
from flows.handlers.errors import CommandFailed
from flows.handlers.payload import Payload, fit
from flows.handlers.process import Ended, run_program, tail_of
from flows.handlers.registry import handler
from nexus.schemas import Task
from nexus.settings import CommandSettings
from nexus.values import Seconds, Text, check_json, check_text

_FAULTS_OF_THE_TASK: Final = frozenset({errno.E2BIG, errno.ENAMETOOLONG, errno.ENOEXEC})
"""Such a task starts on no machine. Any other fault is this one's or this moment's: another try may do."""


def _check_argv(value: Any) -> Any:
    if isinstance(value, str):
        raise ValueError('give an argv list, such as ["git", "status"], never a shell string')
    return value


def _check_env(value: dict[str, str]) -> dict[str, str]:
    check_added(value)
    check_json(value)
    return value


class CommandPayload(Payload):
    """What a `command` task says. The defaults are the settings' (section `command`)."""

    argv: Annotated[list[Text], BeforeValidator(_check_argv)] = Field(
        min_length=1,
        max_length=10_000,
        description="The program, by name or absolute path, and its arguments",
    )
    cwd: Text | None = Field(None, description="Where it runs, relative to command.working_directory and inside it")
    env: Annotated[dict[str, str], AfterValidator(_check_env)] = Field(
        default_factory=dict, description="Variables added to the inherited ones"
    )
    stdin: Annotated[str, AfterValidator(check_text)] | None = Field(
        None, description="Text that it reads; without it, it reads nothing"
    )
    timeout_seconds: Seconds | None = Field(None, description="Longer, and it is stopped; else the task's own timeout")
    accepted_exit_codes: list[int] = Field([0], min_length=1, description="Any other fails the attempt")


@handler("command")
async def command(task: Task, context: TaskContext) -> dict[str, Any]:
    """Runs the program of a `CommandPayload`; returns exit_code, stdout, stderr and seconds (wall time).

    Of each stream the beginning and the end are kept, within `command.max_output_bytes`. Raises `GiveUp` for
    what no other try can better: a wrong payload, a program or a directory that settings do not allow. Raises
    `CommandFailed` for an exit code that is not accepted and where the program cannot be started, and
    `TimeoutError` when it takes too long. However this ends, no process of the program's group outlives it.
    """
    settings = context.settings.command
    payload = CommandPayload.of(task)
    try:
        executable = _executable(payload.argv[0], settings.allowed_programs)
        cwd = _directory(payload.cwd, settings)
        # Not the arguments: they may hold what does not belong into a log.
        context.logger.info("Running %s in %s", executable, cwd)
        ended = await run_program(
            payload.argv,
            executable=executable,
            cwd=cwd,
            env=environment(settings.pass_environment, payload.env) | _about(task, context),
            stdin=payload.stdin,
            timeout_seconds=payload.timeout_seconds or task.timeout_seconds or settings.timeout_seconds,
            max_output_bytes=settings.max_output_bytes,
        )
    except TimeoutError:
        raise
    except OSError as error:
        message = f"{shlex.quote(payload.argv[0])} cannot be started: {error.strerror or error}"
        raise (GiveUp if error.errno in _FAULTS_OF_THE_TASK else CommandFailed)(message) from error
    if ended.exit_code not in payload.accepted_exit_codes:
        raise CommandFailed(_failure(payload, ended), exit_code=ended.exit_code)
    result = {
        "exit_code": ended.exit_code,
        "stdout": ended.stdout,
        "stderr": ended.stderr,
        "seconds": ended.seconds,
    }
    fit(result, context.settings.max_payload_bytes, "stdout", "stderr")
    return result


def _about(task: Task, context: TaskContext) -> dict[str, str]:
    """What a program may want to know of the attempt that it is run for."""
    return {
        "NEXUS_TASK_ID": task.task_id,
        "NEXUS_ATTEMPT": str(context.attempt_number),
        "NEXUS_IDEMPOTENCY_KEY": context.idempotency_key,
    }


def _executable(program: str, allowed: Iterable[str]) -> Path:
    location = _locate(program)
    if location is not None and location in map(_locate, allowed):
        return location
    if location is None and program in allowed:
        raise CommandFailed(f"{program} is allowed, but is not on the PATH of this agent; install it, or give its path")
    raise GiveUp(
        f"{shlex.quote(program)} is not among the programs that may be run here; "
        "an operator can add it to command.allowed_programs (NEXUS_COMMAND__ALLOWED_PROGRAMS)"
    )


def _locate(program: str) -> Path | None:
    """Where a program lies: symlinks in the directory are followed, the file's own name is kept.

    The name stays because some programs (busybox, the one file of a coreutils build) are many: with the last
    link followed, who is allowed `ls` would be allowed `sh`. None for what is not on the PATH, and for a path
    that depends on where it is read.
    """
    if os.sep not in program:
        return next(filter(_is_program, (Path(folder).resolve() / program for folder in _search_path())), None)
    path = Path(program)
    return path.parent.resolve() / path.name if path.is_absolute() and path.name != ".." else None


def _search_path() -> Iterable[str]:
    # The agent's PATH, never the task's. Relative entries would be found where tasks may write.
    return filter(os.path.isabs, os.get_exec_path())


def _is_program(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def _directory(cwd: str | None, settings: CommandSettings) -> Path:
    base = settings.working_directory.resolve()
    try:
        directory = (base / (cwd or "")).resolve()
    except (OSError, RuntimeError) as error:  # a link that leads to itself
        raise GiveUp(f"cwd {cwd!r} cannot be resolved: {error}") from error
    if not directory.is_relative_to(base):
        raise GiveUp(
            f"cwd {cwd!r} leads out of {base}; use a directory inside, "
            "or an operator can change command.working_directory (NEXUS_COMMAND__WORKING_DIRECTORY)"
        )
    if not directory.is_dir():
        raise CommandFailed(f"cwd {cwd!r} is no directory in {base}")
    return directory


def _failure(payload: CommandPayload, ended: Ended) -> str:
    how = f"ended with exit code {ended.exit_code}"
    if ended.exit_code < 0:
        try:
            name = signal.Signals(-ended.exit_code).name
        except ValueError:
            name = f"signal {-ended.exit_code}"
        how = f"was ended by {name} (exit code {ended.exit_code})"
    accepted = ", ".join(map(str, payload.accepted_exit_codes))
    return f"{payload.argv[0]} {how}, accepted: {accepted}{tail_of(ended.stderr) or tail_of(ended.stdout)}"
