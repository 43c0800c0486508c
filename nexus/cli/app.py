"""The command itself: its options for all verbs, and how errors become one line and an exit code."""

import errno
import io
import os
import sys
from typing import Annotated, Any

import typer

from nexus.cli import agents, boards, database, live, look, operate, prune, stats, watch, work
from nexus.cli.exits import TOLD, Exit, exit_of
from nexus.cli.output import REFUSED, USAGE, say_error
from nexus.errors import NexusError

app = typer.Typer(
    name="nexus",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    epilog=TOLD,
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"nexus-flows {version('nexus-flows')}")  # noqa: T201
        except PackageNotFoundError:
            print("nexus-flows, not installed")  # noqa: T201
        raise typer.Exit


@app.callback(help="A durable task board for fleets of agents: programs, language models, people.")
def options(
    context: typer.Context,
    database_url: Annotated[
        str | None,
        typer.Option(
            "--database", metavar="URL", help="sqlite:///file.db or postgresql+psycopg://… (NEXUS_DATABASE_URL)."
        ),
    ] = None,
    _version_wanted: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Options before the verb."""
    if database_url:
        # The flows, and the processes that run them, read their settings from the environment.
        os.environ["NEXUS_DATABASE_URL"] = database_url
    context.obj = {"database": database_url}


for part in (look, stats, live, work, operate, watch, prune, boards):
    part.attach(app)
app.add_typer(agents.app, name="agents")
app.add_typer(database.app, name="db")


UsageError: type[Any] = typer.BadParameter.__mro__[1]
"""Of click, or of the click that newer versions of typer bring along; typer itself gives it no public name."""

UNWRITTEN = frozenset({errno.EPIPE, errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO})
"""What a write to stdout can meet."""


def run(command: typer.Typer) -> None:
    """Run the command; what goes wrong is one line on stderr and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that knows no umlauts gets them as \\xfc, and no traceback.
            stream.reconfigure(errors="backslashreplace")
    try:
        " ".join(sys.argv).encode()  # bytes that are no text come in as lone surrogates, which nothing can keep
        code = command(prog_name="nexus", standalone_mode=False)
        sys.stdout.flush()
    except UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()
        else:
            where = error.ctx.command_path if error.ctx else "nexus"
            wrong = f"{where}: {' '.join(error.format_message().split())} (help: {where} -h)"
            say_error(wrong, USAGE, "WrongUsage")
        code = USAGE
    except NexusError as error:
        code = exit_of(error)
        say_error(" ".join(str(error).split("\n")), code, type(error).__name__, error)
    except UnicodeEncodeError:
        say_error("An argument is not valid Unicode text.", USAGE, "WrongUsage")
        code = USAGE
    except (MemoryError, RecursionError) as error:
        # The last line of defence: whatever was given is larger, or nested deeper, than this machine can take.
        large = "It needs more memory than there is." if isinstance(error, MemoryError) else "It is nested too deep."
        say_error(large, REFUSED, "TooLarge")
        code = REFUSED
    except KeyboardInterrupt:
        code = Exit.INTERRUPTED
    except SystemExit as ended:
        # Typer's own answer to a closed pipe is exit code 1; a reader who has had enough (`| head`) is no failure.
        code = ended.code if not isinstance(ended.__context__, BrokenPipeError) else _let_go()
    except OSError as error:
        if error.filename is not None or error.errno not in UNWRITTEN:
            raise
        code = _let_go()
        if error.errno != errno.EPIPE:
            say_error(f"The output cannot be written: {error.strerror}.", REFUSED, "Unwritten")
            code = REFUSED
    sys.exit(code or 0)


def _let_go() -> int:
    """Whatever is still to be written goes nowhere: the interpreter would try it again at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 0
