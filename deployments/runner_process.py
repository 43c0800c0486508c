"""The service's handle on its runner: starting it, ending it, and one that a killed service left behind."""

import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from deployments.processes import ProcessRef, environment_holds, spawn
from deployments.runner import GRACE_SECONDS
from nexus.settings import NexusSettings

_HEARTBEAT_SECONDS: Final = "30"


class RunnerProcess:
    """One `python -m deployments.runner`, the leader of a session in which its flow runs live too.

    `pause_at_end`: it is the only one that serves the deployments, so their schedules rest while it is away.
    """

    def __init__(self, settings: NexusSettings, *, pause_at_end: bool) -> None:
        home = settings.home.absolute()
        self.log, self._state = home / "runner.log", _state(home)
        # Its standard input is our lifeline to it: the kernel closes our end when we die, however we die.
        stdin, self._lifeline = os.pipe()
        self._ready_fd, ready = os.pipe()
        os.set_blocking(self._ready_fd, False)
        self.ready = False
        try:
            self.process = spawn(
                [
                    *(sys.executable, "-m", "deployments.runner", "--ready-fd", str(ready)),
                    *(() if pause_at_end else ("--go-on",)),
                ],
                env=runner_environment(settings),
                log=self.log,
                stdin=stdin,
                pass_fds=(ready,),
            )
        finally:
            os.close(stdin)
            os.close(ready)
        state = {"pid": self.process.pid, "started": self.process.started}
        self._state.write_text(json.dumps(state), encoding="utf-8")

    def registered(self) -> bool:
        """Whether it has registered the deployments."""
        if not self.ready:
            with suppress(BlockingIOError):
                self.ready = bool(os.read(self._ready_fd, 16))
        return self.ready

    def alive(self) -> bool:
        return self.process.alive()

    def runs(self) -> set[str] | None:
        """The ids of the flow runs that its processes execute; None where processes cannot be told apart."""
        return self.process.group_values("PREFECT__FLOW_RUN_ID")

    def drain(self) -> None:
        """Takes no more runs, finishes those it has, then ends: nothing that is being worked on is lost."""
        if self.ready:
            self.process.signal(signal.SIGUSR1)
        else:
            self.process.signal(signal.SIGTERM, group=True)

    def terminate(self) -> None:
        """Asks it and all its runs to end."""
        self.process.signal(signal.SIGTERM, group=True)

    def end(self, hurry: Callable[[], bool]) -> None:
        """Waits for the end of what was asked to, and kills what has not ended in time."""
        if not self.process.wait(GRACE_SECONDS, hurry):
            self.process.signal(signal.SIGKILL, group=True)
            self.process.wait(5)
        self.bury(hurry)

    def bury(self, hurry: Callable[[], bool]) -> None:
        """After its death: its runs outlive it (Prefect 3.8), unreported and deaf to cancellation, so they end too."""
        self.process.end_group(GRACE_SECONDS, hurry=hurry)
        self.close()

    def close(self) -> None:
        """Tidies up once it is gone: our ends of the pipes, and the note for a successor if it is still about it."""
        if _leftover(self._state) == self.process:
            self._state.unlink(missing_ok=True)
        for end in (self._lifeline, self._ready_fd):
            with suppress(OSError):
                os.close(end)


def end_leftover(settings: NexusSettings) -> bool:
    """Ends the runner of a service that was killed; True where there was one.

    It ends by itself, but what it does last is to pause the schedules, and they shall not pause under us.
    """
    home = settings.home.absolute()
    leftover = _leftover(_state(home))
    if leftover is None:
        return False
    lived = leftover.alive()
    if lived:
        leftover.stop(GRACE_SECONDS, group=True)
    leftover.end_group(GRACE_SECONDS, ours=environment_holds(f"NEXUS_HOME={home}"))
    _state(home).unlink(missing_ok=True)
    return lived


def runner_environment(settings: NexusSettings) -> dict[str, str]:
    """Our own environment with exactly these settings: what came as an argument reaches the flow runs too."""
    env = {name: value for name, value in os.environ.items() if not name.upper().startswith("NEXUS_")}
    for name, value in settings.model_dump(mode="json").items():
        env[f"NEXUS_{name.upper()}"] = value if isinstance(value, str) else json.dumps(value)
    env["NEXUS_HOME"] = str(settings.home.absolute())
    # A project of the user's in the working directory may well have a `flows` of its own: it is not ours.
    env["PYTHONSAFEPATH"] = "1"
    # Beats that the UI can show; Prefect's own 180 s says little about an agent at work.
    env.setdefault("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", _HEARTBEAT_SECONDS)
    return env


def _leftover(state: Path) -> ProcessRef | None:
    with suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(state.read_text(encoding="utf-8"))
        return ProcessRef(known["pid"], known["started"])
    return None


def _state(home: Path) -> Path:
    return home / "runner.json"
