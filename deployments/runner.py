"""The process that serves the deployments: `python -m deployments.runner`.

The service starts it, and holds the other end of its standard input: when that closes, the service is dead,
however it died, and the runner ends itself and its runs. Its signals:

SIGTERM  ends; the service sends it to the whole group, so the runs get it too and hand their claims back
SIGUSR1  takes no more runs, finishes those it has, and ends without pausing the schedules: it has a successor
"""

import argparse
import asyncio
import os
import signal
import sys
import threading
from typing import Any, Final

from nexus.settings import NexusSettings

POLL_SECONDS: Final = 2
"""How often it asks for due runs. Prefect's own 10 s would be the longest part of starting one."""

GRACE_SECONDS: Final = 15
"""How long runs may take to hand back their claims before they are killed."""


async def serve(settings: NexusSettings, ready_fd: int | None, *, pause_at_end: bool) -> None:
    """Registers the deployments and serves them until it is told to stop."""
    from prefect.runner import Runner

    from deployments.catalog import deployments

    class BoardRunner(Runner):
        """A runner that waits for its runs at the end.

        Prefect's own handler (3.8.8) cuts the event loop off on SIGTERM, which leaves runs Running for ever.
        Ending the polling lets the runner leave in its order: schedules paused, runs awaited and reported.
        """

        def handle_sigterm(self, *_: Any, **__: Any) -> None:
            self.finish()

        def drain(self) -> None:
            self.pause_on_shutdown = False
            self.finish()

        def finish(self) -> None:
            polling = getattr(self, "_loops_task_group", None)
            if polling is None:
                sys.exit(0)
            asyncio.get_running_loop().call_soon_threadsafe(polling.cancel_scope.cancel)

    runner = BoardRunner(
        name="nexus",
        limit=settings.service.max_runs,
        query_seconds=POLL_SECONDS,
        # Paused schedules make no runs that would all be late at the next start.
        pause_on_shutdown=pause_at_end,
    )
    for deployment in await deployments(settings):
        await runner.aadd_deployment(deployment)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, runner.drain)
    if ready_fd is not None:
        os.write(ready_fd, b"ready\n")
        os.close(ready_fd)
    await runner.start()


def end_with_owner() -> None:
    """Waits for the service to die, then ends this whole group: first kindly, then not."""
    while os.read(0, 1024):
        pass
    os.killpg(0, signal.SIGTERM)
    threading.Event().wait(GRACE_SECONDS)
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    """The child's entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ready-fd", type=int, help="written to once the deployments are registered")
    parser.add_argument("--go-on", action="store_true", help="leave the schedules on at the end: others serve them")
    arguments = parser.parse_args()
    # Until the runner is there, SIGTERM just ends us; SIGUSR1 must not, since it asks for nothing yet.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if os.getpid() == os.getpgrp():
        threading.Thread(target=end_with_owner, daemon=True).start()
    asyncio.run(serve(NexusSettings.load(), arguments.ready_fd, pause_at_end=not arguments.go_on))


if __name__ == "__main__":
    main()
