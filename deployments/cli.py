"""The `nexus` command: the nexus's own verbs, and `run` and `up`, which need Prefect and load it only then."""

from typing import TYPE_CHECKING, Annotated

import typer

from deployments import automations_cli
from nexus.cli.app import app
from nexus.cli.app import run as run_command
from nexus.cli.links import Pages, shown_at
from nexus.cli.output import REFUSED, Json, emit, flat, print_json, say

if TYPE_CHECKING:
    from nexus import NexusSettings

Port = Annotated[
    int | None, typer.Option(min=1, max=65_535, metavar="PORT", help="Of its own Prefect server (NEXUS_SERVICE__PORT).")
]
MetricsPort = Annotated[
    int | None,
    typer.Option(min=1, max=65_535, metavar="PORT", help="Serve /metrics there (NEXUS_SERVICE__METRICS_PORT)."),
]


app.add_typer(automations_cli.app, name="automations")


@app.command()
def run(
    board: Annotated[
        str,
        typer.Argument(metavar="BOARD", help="A board file (JSON, JSONL, YAML), or `quickstart`.", show_default=False),
    ],
    agent: Annotated[
        list[str] | None,
        typer.Option("--agent", "-a", metavar="AGENT", help="Who works; may be repeated. Default: three."),
    ] = None,
    concurrency: Annotated[
        int, typer.Option("--concurrency", "-c", min=1, max=100, metavar="N", help="Tasks at once, per agent.")
    ] = 2,
    capability: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="What the agents can do; may be repeated.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the Prefect server up at the end.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Work a copy of a board that was worked before.")] = False,
    port: Port = None,
    as_json: Json = False,
) -> None:
    """Work a board to its end, and show how it went.

    It brings agents of its own, and starts a Prefect server where none is configured. Exit code 1 where a task
    ended failed.
    """
    _set_port(port)
    from deployments.run import Order
    from deployments.run import run as run_board

    order = Order(board, tuple(agent or ()), concurrency, keep, again, tuple(capability or ()))
    code, report = run_board(order, say, quiet=as_json)
    if as_json and report is not None:
        print_json(report)
    raise typer.Exit(code)


@app.command()
def up(port: Port = None, metrics_port: MetricsPort = None) -> None:
    """Run the service until Ctrl-C.

    A Prefect server (where none is configured), the deployments, and the scheduled sweep.
    """
    _set_port(port)
    _set_port(metrics_port, "METRICS_PORT")
    from deployments.service import up as run_service
    from nexus import NexusSettings, TaskNexus

    settings = NexusSettings.load()
    TaskNexus(settings=settings).close()  # a database that cannot be opened is said now, not by every run
    run_service(settings, say=say)


@app.command()
def doctor(
    context: typer.Context,
    no_prefect: Annotated[bool, typer.Option("--no-prefect", help="Leave Prefect out.")] = False,
    as_json: Json = False,
) -> None:
    """Say what is wrong, a line each; exit code 1 if anything is.

    The last sweep is late, clocks differ, the schema is behind, a promise is broken, Prefect does not answer.
    It reads the whole board once or twice and changes nothing.
    """
    from deployments.doctor import diagnose
    from nexus import NexusSettings

    found = diagnose(NexusSettings.load(), (context.find_root().obj or {}).get("database"), prefect=not no_prefect)

    def show() -> None:
        for finding in found:
            print(f"{finding.code}: {flat(finding.message)}")  # noqa: T201
        if not found:
            say("All is well.")

    emit(found, as_json, show)
    raise typer.Exit(REFUSED if found else 0)


def _set_port(port: int | None, name: str = "PORT") -> None:
    if port is not None:
        import os

        # The processes that the service starts read their settings from the environment.
        os.environ[f"NEXUS_SERVICE__{name}"] = str(port)


def _pages_of_runs(settings: "NexusSettings") -> Pages:
    from deployments.prefect_ui import pages_of_runs

    return pages_of_runs(settings)


def main() -> None:
    """The console script."""
    shown_at(_pages_of_runs)
    run_command(app)
