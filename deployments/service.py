"""`nexus up`: a Prefect server (where none is configured) and the runner of the deployments, until told to stop.

One process that starts the others, watches them, starts again what dies, and at the end stops them in the
order that loses least: the runner with its runs, then what these left open in Prefect, then the server.
"""

import asyncio
import os
import time
from collections import deque
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

from deployments.catalog import BOARD, EPISODE, EXECUTE, PAGE, SHIFT, SWEEP
from deployments.errors import AlreadyUp, RunnerFailed, ServerFailed
from deployments.metrics import exporting
from deployments.prefect_server import Api, Say, healthy, prefect_server, unreachable
from deployments.prefect_ui import of_api
from deployments.processes import FileLock
from deployments.reap import Spared
from deployments.runner_process import RunnerProcess, end_leftover
from deployments.stopping import Stop, Stopped, stop_signals
from nexus import NexusSettings, TaskNexus

_TICK: Final = 0.5
_CHECK_SECONDS: Final = 2.0

_OUTAGE: Final = 2
"""Unanswered checks in a row that make an outage; a single one is a busy server."""

_RESTARTS: Final = 5
_RESTART_WINDOW: Final = 60.0

_FIRST_SWEEP_SECONDS: Final = 30.0
"""The scheduler looks for new deployments every 5 s; this leaves room for a busy machine."""


def up(settings: NexusSettings, *, say: Say) -> None:
    """Runs the embedded service until Ctrl-C, SIGTERM or SIGHUP; then stops all that it started and returns.

    A second Ctrl-C stops without waiting. Raises a `ServiceError` where it cannot start or go on; what it had
    started is stopped then as well. `say` gets the lines for the user. Only in the main thread.
    """
    home = settings.make_home()
    only_one = FileLock(home / "up.lock")
    if not only_one.try_acquire():
        owner = only_one.read()
        only_one.release()
        raise AlreadyUp(home, owner)
    only_one.write(str(os.getpid()))
    try:
        with stop_signals() as stop, exporting(settings, say):
            try:
                _run(settings, stop, say)
            except Stopped:
                say("stopped")
    finally:
        only_one.release()


def _run(settings: NexusSettings, stop: Stop, say: Say) -> None:
    # Before the server: a runner that outlived its service would pause the schedules under the new one.
    if end_leftover(settings):
        say("ended the runner that a killed service had left behind")
    with prefect_server(settings, adopt=True, say=say, check=stop.check) as api:
        say(f"Prefect UI: {api.ui_url}")
        service = _Service(settings, api, stop, say)
        with _relay(settings):
            try:
                service.clear()
                service.serve()
            finally:
                service.shut_down()


@contextmanager
def _relay(settings: NexusSettings) -> Iterator[None]:
    """Tells Prefect of every move on the board, until the last run has handed back what it held."""
    from flows.relay import Relay

    if not settings.events.enabled:
        yield
        return
    with TaskNexus(settings=settings) as nexus:
        relay = Relay(nexus, insists=True)
        relay.start()
        try:
            yield
        finally:
            relay.end()


class _Service:
    """The runner, and the watch over it and the API."""

    def __init__(self, settings: NexusSettings, api: Api, stop: Stop, say: Say) -> None:
        self.settings, self.api, self.stop, self.say = settings, api, stop, say
        self.runner: RunnerProcess | None = None
        self.draining: list[RunnerProcess] = []
        self.deaths: deque[float] = deque(maxlen=_RESTARTS + 1)
        self.announced = False
        self.sweep_expected_by: float | None = None
        self.missed = 0
        self.died: datetime | None = None
        """When a runner was found dead whose runs are not yet closed in Prefect."""
        self.died_alone = True
        """Whether no other runner lived then, which may have been about to begin what is Pending."""

    def clear(self) -> None:
        """Closes what an earlier life left open: a sweep believed to run keeps every other from running."""
        from deployments.reap import close_earlier_life, drop_stale

        if self.api.server is not None:
            for line in self._ask(close_earlier_life(alone=self.api.owned)) or ():
                self.say(f"closed from an earlier life: {line}")
        if dropped := self._ask(drop_stale()):
            self.say(f"dropped {dropped} sweeps that had been due while nothing was there to run them")

    def serve(self) -> None:
        """Serves until told to stop; starts again what dies."""
        self.stop.check()
        self._start_runner()
        checked = time.monotonic()
        while True:
            self.stop.sleep(_TICK)
            self._watch_server()
            self._watch_runner()
            if time.monotonic() - checked >= _CHECK_SECONDS:
                self._check()
                checked = time.monotonic()

    def _check(self) -> None:
        """What is looked at less often: it asks Prefect."""
        self._watch_api()
        self._watch_schedule()
        if not self.missed:
            self._close_left()

    def shut_down(self) -> None:
        """The runner with its runs first, then what these left open; the server goes last, by itself."""
        runners = [*self.draining, *([self.runner] if self.runner else [])]
        if not runners:
            return
        self.say("stopping: runs at work hand their tasks back (Ctrl-C again: at once)")
        for runner in runners:
            runner.terminate()
        for runner in runners:
            runner.end(self.stop.hurry)
        if self.api.server and self.api.server.alive():
            self._ask(tell_resting())
            self._close("The service was stopped while this ran.")

    def _watch_server(self) -> None:
        """Starts our own server again if it died; the runner is renewed once it answers."""
        server = self.api.server
        if server is None or server.alive():
            return
        self.missed = _OUTAGE
        if self._dies_too_often():
            raise ServerFailed(f"died {_RESTARTS} times within a minute", server.log)
        self.say("the Prefect server died and is started again; runs at work go on")
        server.restart(self.say, self.stop.check)

    def _watch_runner(self) -> None:
        """Tells once the deployments are there; starts a new runner if it died."""
        for runner in [runner for runner in self.draining if not runner.alive()]:
            # It may have been killed: what it still ran outlives it, and Prefect believes that it runs.
            self._bury(runner)
            self.draining.remove(runner)
            if not self.missed:
                self._close_left()
        assert self.runner is not None
        if self.runner.alive():
            if self.runner.registered() and not self.announced:
                self._announce()
        elif not self.announced:
            raise RunnerFailed("ended before it had registered them", self.runner.log)
        elif not self.missed:
            if self._dies_too_often():
                raise RunnerFailed(f"died {_RESTARTS} times within a minute", self.runner.log)
            self.say("the runner died and is started again; the runs that it left are ended")
            self._bury(self.runner)
            self._close_left()
            self._start_runner()

    def _watch_api(self) -> None:
        """Notices an outage and its end: after one a runner hears of no cancellation (Prefect 3.8)."""
        answers = healthy(self.api.url, 5) if self.api.server else not unreachable(self.api.url, 5)
        if not answers:
            self.missed += 1
            if self.missed == _OUTAGE:
                self.say("the Prefect API does not answer; runs at work go on, new ones wait for it")
            return
        if self.missed >= _OUTAGE and self.runner:
            self.say("the Prefect API answers again; a new runner takes over, the old one finishes its runs")
            self.runner.drain()
            self.draining.append(self.runner)
            self._start_runner()
        self.missed = 0

    def _watch_schedule(self) -> None:
        """Sees the first sweep scheduled: on SQLAlchemy 2.1 Prefect 3.8's scheduler fails without a word."""
        if self.sweep_expected_by is None:
            return
        if self._ask(_sweep_is_scheduled()):
            self.say(f"sweeping every {self.settings.monitoring.check_interval_seconds:g} s")
        elif time.monotonic() > self.sweep_expected_by:
            self.say(
                f"WARNING: no sweep is scheduled {_FIRST_SWEEP_SECONDS:.0f} s after the start, so nothing looks for "
                "stalled tasks; see the Prefect server's log (SQLAlchemy 2.1 is a known cause: install <2.1)"
            )
        else:
            return
        self.sweep_expected_by = None

    def _start_runner(self) -> None:
        self.runner = RunnerProcess(self.settings, pause_at_end=self.api.server is not None)

    def _announce(self) -> None:
        assert self.runner is not None
        self.announced = True
        self.sweep_expected_by = time.monotonic() + _FIRST_SWEEP_SECONDS
        self.say(f"serving {SHIFT}, {EPISODE}, {EXECUTE}, {SWEEP} and others; log: {self.runner.log}")
        address = f"PREFECT_API_URL={self.api.url} " if self.api.server else ""
        # The newer UI has no menu entry that leads there.
        every = self.settings.board.interval_seconds
        self.say(f"the board, every {every:g} s: {of_api(self.api.url)}/artifacts/key/{PAGE}")
        self._ask(_show_board())  # the schedule's own first run may be minutes away, and until then there is no page
        self.say(f"start a shift: {address}prefect deployment run '{SHIFT}' -p agent_id=Agent-1")

    def _dies_too_often(self) -> bool:
        self.deaths.append(time.monotonic())
        return len(self.deaths) > _RESTARTS and self.deaths[-1] - self.deaths[0] < _RESTART_WINDOW

    def _bury(self, runner: RunnerProcess) -> None:
        """Ends what a dead runner left, and notes that its runs are to be closed."""
        runner.bury(self.stop.hurry)
        self.died_alone = (self.died is None or self.died_alone) and not self._living()
        self.died = datetime.now(UTC)

    def _living(self) -> list[RunnerProcess]:
        return [runner for runner in (self.runner, *self.draining) if runner and runner.alive()]

    def _close_left(self) -> None:
        """Closes what runners were executing that have died; once more later where the API could not be asked."""
        if self.died is None:
            return
        held = [runner.runs() for runner in self._living()]
        if None in held:
            return  # where processes cannot be told apart it waits for the others' end
        spared = Spared(since=self.died, runs=frozenset().union(*filter(None, held)), submitted=not self.died_alone)
        if self._close("The process that executed this run died.", spared):
            self.died = None

    def _close(self, message: str, spared: Spared | None = None) -> bool:
        """Closes the runs of runners that are gone; on a server of our own every runner is ours. Whether it could."""
        from deployments.reap import close_abandoned

        if self.api.server is None:
            return True
        closed = self._ask(close_abandoned(message, deployed_only=True, spared=spared))
        for line in closed or ():
            self.say(f"closed: {line}")
        return closed is not None

    def _ask(self, question: Coroutine[Any, Any, Any]) -> Any:
        """Asks the API; None where that fails, since no question of ours is worth ending the service."""
        try:
            return asyncio.run(question)
        except Exception as error:
            self.say(f"the Prefect API could not be asked ({type(error).__name__}: {error})")
            return None


async def tell_resting() -> None:
    """Tells automations that no sweep comes: the schedules rest with the service, and nobody need be alarmed."""
    from prefect.events import Event, Resource
    from prefect.events.clients import get_events_client

    from flows.sweep import RESTING

    resource = Resource({"prefect.resource.id": "nexus.sweep", "prefect.resource.name": "sweep"})
    async with get_events_client() as client:
        await client.emit(Event(event=RESTING, resource=resource))


async def _show_board() -> None:
    """Has the page of the board made now."""
    from prefect import get_client

    async with get_client() as client:
        board = await client.read_deployment_by_name(BOARD)
        await client.create_flow_run_from_deployment(board.id)


async def _sweep_is_scheduled() -> bool:
    """Whether a sweep lies ahead."""
    from prefect import get_client
    from prefect.client.schemas import filters as f
    from prefect.client.schemas.objects import StateType

    async with get_client() as client:
        sweep = await client.read_deployment_by_name(SWEEP)
        scheduled = f.FlowRunFilter(
            deployment_id=f.FlowRunFilterDeploymentId(any_=[sweep.id]),
            state=f.FlowRunFilterState(type=f.FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
        )
        return bool(await client.read_flow_runs(flow_run_filter=scheduled, limit=1))
