"""`nexus agents`: who works here."""

from typing import TYPE_CHECKING, Annotated

import typer

from nexus.cli.output import MOST, Json, at_most, emit, open_nexus, say, table, when

if TYPE_CHECKING:
    from nexus import Agent

app = typer.Typer(help="Register agents, and see who works here.", no_args_is_help=True)


@app.command("list")
def list_agents(context: typer.Context, as_json: Json = False) -> None:
    """Every agent, with what it can do and what it holds."""
    agents = open_nexus(context).agents()

    def row(agent: "Agent") -> tuple[object, ...]:
        limit = agent.max_concurrency or "-"
        return agent.agent_id, ", ".join(agent.capabilities), f"{agent.live_claims}/{limit}", when(agent.last_seen_at)

    def show() -> None:
        if agents:
            columns = ["agent", "capabilities", "holds", "last seen (UTC)"]
            table(columns, map(row, agents), whole=columns[2:], ids=("agent",), folds=("capabilities",))
        else:
            say("No agents yet: one registers by its first claim, or nexus agents register.")

    emit(agents, as_json, show)


@app.command()
def register(
    context: typer.Context,
    agent_id: Annotated[str, typer.Argument(metavar="AGENT", help="The agent's id.", show_default=False)],
    capability: Annotated[
        list[str] | None, typer.Option("--capability", "-c", metavar="NAME", help="What it can do; may be repeated.")
    ] = None,
    max_concurrency: Annotated[
        int | None, typer.Option(min=1, callback=at_most(MOST), metavar="N", help="Claims that it may hold at once.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Register an agent, or change what is given of one."""
    agent = open_nexus(context).register_agent(agent_id, capability, max_concurrency)
    emit(agent, as_json, lambda: say(f"{agent.agent_id} is registered."))
