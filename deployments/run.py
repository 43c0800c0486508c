"""`nexus run BOARD`: import a board, start what is missing, work it with agents, show it, say how it ended."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deployments import quickstart
from deployments.display import Display, final_table
from deployments.prefect_server import Api, prefect_server
from deployments.prefect_ui import of_api
from nexus import NexusSettings, TaskNexus
from nexus.boards import Board, ImportReport
from nexus.errors import AgentNotConfirmed
from nexus.states import TERMINAL

if TYPE_CHECKING:
    from flows import EpisodeReport

AGENTS: Final = ("Agent-1", "Agent-2", "Agent-3")

LEASE_SECONDS: Final = 15.0
"""Short: agents and board are on one machine, and a second run takes over from a killed one this much later."""

STOPPING: Final = (signal.SIGTERM, signal.SIGHUP)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Order:
    """What to run, and how."""

    board: str
    """A path, or the name `quickstart`."""
    agents: tuple[str, ...] = ()
    """Empty: three, and whoever the board assigns tasks to."""
    concurrency: int = 2
    keep: bool = False
    again: bool = False
    """Work a copy of a board that was worked before: every id gets a new suffix."""
    capabilities: tuple[str, ...] = ()

    @property
    def is_quickstart(self) -> bool:
        """The board that ships with the package; a file of that name in this directory comes first."""
        return self.board == "quickstart" and not Path(self.board).exists()


def settings_for(order: Order) -> NexusSettings:
    """The settings; the quickstart may run the Python interpreter, which its flaky command needs."""
    settings = NexusSettings.load()
    if not order.is_quickstart:
        return settings
    # Its tasks name `python3`: the one that runs this command has to be the one that is found.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    update = {
        "allowed_programs": (*settings.command.allowed_programs, "python3"),
        # Where this package was not installed but found there, its commands find it there too.
        "pass_environment": (*settings.command.pass_environment, "PYTHONPATH"),
    }
    return settings.model_copy(update={"command": settings.command.model_copy(update=update)})


def load(nexus: TaskNexus, order: Order, say: Say) -> tuple[str, Board, ImportReport]:
    """Read the board and bring it into the nexus: its episode, what was read, what became of it.

    Raises `BoardUnreadable`.
    """
    path = quickstart.BOARD if order.is_quickstart else Path(order.board)
    board = nexus.read_board(path)
    named = {task.new.episode_id for task in board.tasks} - {None}
    episode = str(named.pop()) if len(named) == 1 else ("quickstart" if order.is_quickstart else path.stem)
    if order.again:
        suffix, number = "", 1
        while nexus.stats(f"{episode}{suffix}"):
            number += 1
            suffix = f"-{number}"
        board, episode = board.renamed(suffix), f"{episode}{suffix}"
    board = board.in_episode(episode, all_of_them=True)
    report = nexus.import_board(board, actor="nexus run")
    counts = ("accepted", "updated", "unchanged", "rejected")
    say(f"Board {episode}: " + ", ".join(f"{getattr(report, name)} {name}" for name in counts) + ".")
    for reject in report.rejects[:20]:
        say(f"  rejected: {' '.join(str(reject).split())}")
    return episode, board, report


def agents_for(order: Order, board: Board) -> tuple[str, ...]:
    """Who works: those that were asked for, or three and whoever the board assigns tasks to."""
    assigned = sorted({task.new.assigned_to for task in board.tasks if task.new.assigned_to})
    return tuple(dict.fromkeys(order.agents or (*AGENTS, *assigned)))


def run(order: Order, say: Say, *, quiet: bool = False) -> tuple[int, "EpisodeReport | None"]:
    """Run a board to its end; the exit code, and how it ended (None where it was stopped before).

    Raises `NexusError`s: the board cannot be read, no server can be started, an agent is not confirmed.
    """
    settings = settings_for(order)
    settings.make_home()
    with TaskNexus(settings=settings) as nexus:
        episode, board, imported = load(nexus, order, say)
        if not (imported.accepted or imported.updated or imported.unchanged):
            say("Nothing to run.")
            return 1, None
        if order.is_quickstart:
            say("It may run python3, for the command that fails.")
        agents = agents_for(order, board)
        known = {agent.agent_id for agent in nexus.agents()}
        for agent_id in agents:
            if settings.registration == "open":  # closed: an operator has said who may work, and what they can do
                nexus.register_agent(agent_id, order.capabilities or None)
            elif agent_id not in known:
                raise AgentNotConfirmed(agent_id)
        done_before = not set(nexus.stats(episode)) - TERMINAL
        _stop_on_signals()
        with prefect_server(settings, any_port=True, keep=order.keep, say=say) as api:
            say(f"Prefect UI: {api.ui_url}   Database: {nexus.url}")
            report, run_id = _work(nexus, api, episode, agents, order, say)
        if report is None:
            say("Stopped: what was held is handed back. The same command goes on from here.")
            return 130, None
        if not quiet:
            final_table(report)
        if done_before:
            say("Nothing was left to do. --again works a copy; `nexus retry TASK` offers a failed task again.")
        _say_where(report, api, run_id, nexus, order, say)
    return _exit_code(report, order, say), report


def _stop_on_signals() -> None:
    """SIGTERM, and a terminal that closes, stop as Ctrl-C does."""
    for number in STOPPING:
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup wants it
            signal.signal(number, _as_interrupt)


async def _stopping(stop: Callable[[], Any]) -> None:
    """Has the signals call `stop`, from the event loop, where no code of ours is cut in half.

    Again and again: a flow run of Prefect's (3.8) puts a handler of its own into the place of SIGTERM's, which
    raises wherever the main thread just is.
    """
    stops = [number for number in STOPPING if signal.getsignal(number) != signal.SIG_IGN]
    while True:
        for number in stops:
            asyncio.get_running_loop().add_signal_handler(number, stop)
        await asyncio.sleep(0.2)


def _as_interrupt(_signal: int, _frame: Any) -> None:
    raise KeyboardInterrupt


def _work(
    nexus: TaskNexus, api: Api, episode: str, agents: Sequence[str], order: Order, say: Say
) -> "tuple[EpisodeReport | None, str | None]":
    from prefect.exceptions import TerminationSignal
    from prefect.logging.handlers import APILogHandler

    from flows import run_episode  # only now: Prefect reads the address of its API when it is imported
    from flows.board import working_on

    if order.is_quickstart:
        import deployments.quickstart.handlers  # noqa: F401 - they are there also where the package is not installed
    if api.owned:
        _close_earlier_life(say)
    quiet_prefect()

    async def work() -> tuple["EpisodeReport", str | None]:
        task = asyncio.current_task()
        assert task is not None
        stopping = asyncio.create_task(_stopping(task.cancel))
        with Display(nexus, episode, agents) as display, working_on(nexus):
            watching = asyncio.create_task(display.follow())
            try:
                state = await run_episode(
                    episode,
                    agents=list(agents),
                    concurrency=order.concurrency,
                    lease_seconds=LEASE_SECONDS,
                    return_state=True,
                )
            finally:
                stopping.cancel()
                watching.cancel()
                await asyncio.gather(stopping, watching, return_exceptions=True)
        return await state.aresult(), str(state.state_details.flow_run_id)

    try:
        return asyncio.run(work())
    except (KeyboardInterrupt, asyncio.CancelledError, TerminationSignal):
        say("Stopping …")
        return None, None
    finally:
        _stop_on_signals()  # the event loop has set them back to what ends us at once
        # While the server is still there: what Prefect's own exit hooks would send later finds it gone.
        APILogHandler().flush()


def _close_earlier_life(say: Say) -> None:
    from deployments.reap import close_earlier_life

    try:
        for line in asyncio.run(close_earlier_life(alone=True)):
            say(f"closed from an earlier life: {line}")
    except Exception as error:
        say(f"Prefect could not be asked about earlier runs ({type(error).__name__}: {error})")


def quiet_prefect() -> None:
    """Prefect's lines go to its UI only: on the terminal stands the display."""
    for name in ("", *logging.root.manager.loggerDict):
        logger = logging.getLogger(name)
        for handler in [one for one in logger.handlers if type(one).__name__ == "PrefectConsoleHandler"]:
            logger.removeHandler(handler)
    logging.getLogger("prefect").addHandler(logging.NullHandler())
    for worker in ("EventsWorker", "APILogWorker"):
        logging.getLogger(worker).setLevel(logging.ERROR)  # they announce that they are still sending


def _say_where(report: "EpisodeReport", api: Api, run_id: str | None, nexus: TaskNexus, order: Order, say: Say) -> None:
    say(f"{report.summary()} in {(report.finished_at - report.started_at).total_seconds():.0f} s.")
    for task_id, why in report.left.items():
        say(f"left: {task_id}: {why}")
    for task in report.tasks:
        if isinstance(task.result, dict) and "report" in task.result:
            say(f"Report:  {task.result['report']}")
    say(f"Results: nexus list --episode {report.episode_id}   (all of a task: nexus show TASK)   in {nexus.url}")
    page = f"{of_api(api.url)}/runs/flow-run/{run_id}" if run_id else api.ui_url
    if api.server is None or order.keep or api.server.kept() or not api.owned:
        say(f"Runs:    {page}")
    else:
        say(f"Runs:    nexus up --port {api.ui_url.rpartition(':')[2]}   shows them at {page}")


def _exit_code(report: "EpisodeReport", order: Order, say: Say) -> int:
    unexpected = 0
    for task in report.tasks:
        if task.task_id in report.failed:
            meant = order.is_quickstart and task.task_id.startswith(quickstart.EXPECTED_DEAD_LETTER)
            say(f"failed{' (as it should)' if meant else ''}: {task.task_id}: {' '.join((task.error or '').split())}")
            unexpected += not meant
    return int(bool(unexpected))
