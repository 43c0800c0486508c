"""SIGTERM ends a run's work in order: the loop cancels its task, between two steps.

Prefect raises an exception in the main thread instead, wherever that is at the moment. In a callback of the loop
asyncio logs it and goes on: the signal is lost, and with it whatever the callback was there to do. (Measured: of 40
shifts at work on short tasks, five did not end and eleven left attempts behind.)
"""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from types import FrameType
from typing import Any, Final

from prefect.exceptions import TerminationSignal
from prefect.utilities import engine

BLOCKED_SECONDS: Final = 2.0
"""A loop that has not taken up a signal for so long is held up by something; that is struck then, as by Prefect."""

_THEIRS: Final = "_prefect_sigterm_handler"
"""Prefect's own handler, replaced under its name: there is no public way, and while another than the one of that name
is installed a runner's cancellation is taken for a crash."""


@contextmanager
def stopped_in_order() -> Iterator[None]:
    """Where SIGTERM comes meanwhile, the task around this is cancelled; that comes out as `TerminationSignal`."""
    task = asyncio.current_task()
    assert task is not None
    stop = _Stop(task)
    _handler.enter(stop)
    try:
        yield
    except asyncio.CancelledError as error:
        if stop.number is None or not stop.is_taken_up.is_set():
            raise
        task.uncancel()
        raise TerminationSignal(signal=stop.number) from error
    finally:
        _handler.leave(stop)


class _Stop:
    """What a signal ends: one task."""

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self.task, self.loop = task, task.get_loop()
        self.number: int | None = None
        self.is_taken_up = threading.Event()

    def come(self, number: int) -> None:
        """In the handler of the signal, which may be in the middle of anything: the loop is asked, no more."""
        self.number = number
        self.loop.call_soon_threadsafe(self._take_up)

    def _take_up(self) -> None:
        if not self.is_taken_up.is_set():
            self.is_taken_up.set()
            self.task.cancel()


class _Handler:
    """In the place of Prefect's handler, while there are runs to be stopped in order."""

    def __init__(self) -> None:
        self._stops: list[_Stop] = []
        self._replaced: Callable[..., Any] | None = None
        self._is_overdue = False
        self._came: SimpleQueue[list[_Stop] | None] = SimpleQueue()  # unlike others, for handlers of signals too

    def enter(self, stop: _Stop) -> None:
        self._stops.append(stop)
        theirs = getattr(engine, _THEIRS, None)
        if theirs is None or theirs is self or _installed() is not theirs:
            return  # Prefect has become another, or somebody else takes the signals: left as it is
        self._replaced = theirs
        self._put(self, in_place_of=theirs)
        threading.Thread(target=self._watch, name="signals", daemon=True).start()

    def leave(self, stop: _Stop) -> None:
        self._stops.remove(stop)
        came_last = stop.number is not None and not stop.is_taken_up.is_set()  # with the last step of the work
        stop.is_taken_up.set()
        if self._stops or self._replaced is None:
            return
        self._put(self._replaced, in_place_of=self)
        self._replaced = None
        self._came.put(None)
        if came_last:
            signal.raise_signal(signal.SIGTERM)

    @staticmethod
    def _put(handler: Callable[..., Any], in_place_of: Callable[..., Any]) -> None:
        setattr(engine, _THEIRS, handler)
        if _installed() is in_place_of:
            signal.signal(signal.SIGTERM, handler)

    def __call__(self, number: int, _: FrameType | None) -> None:
        if self._is_overdue:
            self._is_overdue = False
            raise TerminationSignal(signal=number)
        for stop in self._stops:
            stop.come(number)
        self._came.put(self._stops.copy())

    def _watch(self) -> None:
        """In a thread: a signal that a loop does not take up comes again, and strikes."""
        main = threading.main_thread().ident
        assert main is not None
        while (stops := self._came.get()) is not None:
            if not all(stop.is_taken_up.wait(BLOCKED_SECONDS) for stop in stops):
                self._is_overdue = True
                signal.pthread_kill(main, signal.SIGTERM)


def _installed() -> Any:
    return signal.getsignal(signal.SIGTERM)


_handler = _Handler()
