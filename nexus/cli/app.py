"""The command itself: its options for all verbs, and how errors become one line and an exit code."""

import os
import sys
from typing import Annotated

import typer

from nexus.cli import agents, boards, database, look, operate, work
from nexus.cli.output import REFUSED, say
from nexus.errors import NexusError

app = typer.Typer(
    name="nexus",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
)


@app.callback(help="A durable task board for fleets of agents: programs, language models, people.")
def options(
    context: typer.Context,
    database_url: Annotated[
        str | None,
        typer.Option(
            "--database", metavar="URL", help="sqlite:///file.db or postgresql+psycopg://… (NEXUS_DATABASE_URL)."
        ),
    ] = None,
) -> None:
    """Options before the verb."""
    if database_url:
        # The flows, and the processes that run them, read their settings from the environment.
        os.environ["NEXUS_DATABASE_URL"] = database_url
    context.obj = {"database": database_url}


for part in (look, work, operate, boards):
    part.attach(app)
app.add_typer(agents.app, name="agents")
app.add_typer(database.app, name="db")


def run(command: typer.Typer) -> None:
    """Run the command; errors made on purpose are one line on stderr and exit code 1."""
    try:
        command()
    except NexusError as error:
        say(" ".join(str(error).split("\n")))
        sys.exit(REFUSED)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # Whoever reads us has had enough (`nexus list | head`).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
