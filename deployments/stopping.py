"""Ctrl-C, SIGTERM and a closed terminal as a request that is looked at where stopping is safe."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Stopped(Exception):
    """Somebody asked us to stop."""


class Stop:
    """Whether somebody asked us to stop, and how often.

    A KeyboardInterrupt could strike between the start of a child and the noting of its pid; a request cannot.
    """

    def __init__(self) -> None:
        self.requests = 0
        self._event = threading.Event()

    def request(self, *_: Any) -> None:
        """The signals' handler."""
        self.requests += 1
        self._event.set()

    def check(self) -> None:
        """Raises `Stopped` once asked to stop."""
        if self.requests:
            raise Stopped

    def sleep(self, seconds: float) -> None:
        """Sleeps, and raises `Stopped` as soon as it is asked to stop."""
        self._event.wait(seconds)
        self.check()

    def hurry(self) -> bool:
        """Whether somebody has lost patience."""
        return self.requests > 1


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Turns the signals into requests for the time of the block."""
    stop = Stop()
    before = {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # nohup ignores SIGHUP for us, and that is to stay so.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            before[number] = signal.signal(number, stop.request)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
