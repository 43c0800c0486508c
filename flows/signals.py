"""SIGTERM ends a run's work in order: the loop cancels its task, between two steps.

Prefect raises an exception in the main thread instead, wherever that is at the moment. In a callback of the loop
asyncio logs it and goes on: the signal is lost, and with it whatever the callback was there to do. (Measured: of 40
shifts at work on short tasks, five did not end and eleven left attempts behind.)
"""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
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

_LOCK: Final = getattr(engine, "_prefect_sigterm_bridge_lock", None) or threading.RLock()
"""Prefect's, under which the two are compared."""


@contextmanager
def stopped_in_order() -> Iterator[None]:
    """Where SIGTERM comes meanwhile, the task around this is cancelled; that comes out as `TerminationSignal`.

    Outside of the main thread nothing is done: signals are handled there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    task = asyncio.current_task()
    assert task is not None
    stop = _Stop(task)
    try:
        _handler.enter(stop)
        yield
        if stop.is_told:  # the work was done all the same; what comes after it is not to be begun
            raise TerminationSignal(signal=signal.SIGTERM)
    except asyncio.CancelledError as error:
        if not stop.is_told:
            raise
        raise TerminationSignal(signal=signal.SIGTERM) from error
    finally:
        if stop.is_cancelled:
            task.uncancel()
        _handler.leave(stop)


@dataclass(slots=True, eq=False)
class _Stop:
    """What a signal ends: one task."""

    task: asyncio.Task[Any]
    is_told: bool = False
    is_cancelled: bool = False


@dataclass(slots=True, eq=False)
class _Asked:
    """What the loop was asked by one signal: to tell every run."""

    at: float = field(default_factory=time.monotonic)
    is_answered: bool = False
    is_struck: bool = False
    """The loop was held up too long, and what held it up was struck."""

    def is_overdue(self) -> bool:
        return not (self.is_answered or self.is_struck) and time.monotonic() - self.at >= BLOCKED_SECONDS


class _Handler:
    """In the place of Prefect's handler, while there are runs to be stopped in order."""

    def __init__(self) -> None:
        self._stops: list[_Stop] = []
        self._replaced: Callable[..., Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._asked: _Asked | None = None
        """The last signal, as long as there are runs."""
        self._is_late = False
        """A signal came when there was no run to be told any more."""
        self._came: SimpleQueue[_Asked | None] = SimpleQueue()  # unlike others, for handlers of signals too
        self._process = os.getpid()

    def enter(self, stop: _Stop) -> None:
        self._stops.append(stop)
        self._loop = stop.task.get_loop()
        if self._asked is not None:
            self._loop.call_soon(self._take_up, self._asked)  # the others are told, or about to be
        theirs = getattr(engine, _THEIRS, None)
        if theirs is None or theirs is self or _installed() is not theirs:
            return  # Prefect has become another, or somebody else takes the signals: left as it is
        self._replaced, self._came = theirs, SimpleQueue()
        self._put(self, in_place_of=theirs)
        threading.Thread(target=self._watch, args=(self._came,), name="signals", daemon=True).start()

    def leave(self, stop: _Stop) -> None:
        if stop in self._stops:
            self._stops.remove(stop)
        if self._stops or self._replaced is None:
            return
        # From here on it is too late to ask or to strike: a signal that came with the last step comes again, to others.
        asked, self._asked = self._asked, None
        self._is_late |= asked is not None and not stop.is_told
        self._put(self._replaced, in_place_of=self)
        self._replaced = None
        self._came.put(None)
        is_late, self._is_late = self._is_late, False
        if is_late:
            signal.raise_signal(signal.SIGTERM)

    def forget(self) -> None:
        """In a process that was forked amid a run: that goes on elsewhere."""
        if self._replaced is not None:
            self._put(self._replaced, in_place_of=self, lock=nullcontext())

    @staticmethod
    def _put(
        handler: Callable[..., Any], in_place_of: Callable[..., Any], lock: AbstractContextManager[Any] = _LOCK
    ) -> None:
        with lock:
            setattr(engine, _THEIRS, handler)
            if _installed() is in_place_of:
                signal.signal(signal.SIGTERM, handler)

    def __call__(self, number: int, _: FrameType | None) -> None:
        """The main thread may be in the middle of anything: nothing is done here but to ask the loop."""
        asked, loop = self._asked, self._loop
        if os.getpid() != self._process:
            raise TerminationSignal(signal=number)  # forked this very moment, with a loop that is not its own
        if asked is not None and asked.is_overdue():
            asked.is_struck = True
            present = asyncio.current_task(loop)
            for stop in self._stops:
                stop.is_told = stop.is_told or stop.task is present
            raise TerminationSignal(signal=number)
        if not self._stops or loop is None:
            self._is_late = True
        elif asked is None or asked.is_answered or asked.is_struck:
            self._asked = asked = _Asked()
            loop.call_soon_threadsafe(self._take_up, asked)
            self._came.put(asked)

    def _take_up(self, asked: _Asked) -> None:
        for stop in self._stops:
            if not stop.is_told:
                stop.task.cancel()
                stop.is_cancelled = stop.is_told = True
        asked.is_answered = True

    def _watch(self, came: "SimpleQueue[_Asked | None]") -> None:
        """In a thread: a signal that the loop does not take up comes again, and strikes."""
        main = threading.main_thread().ident
        assert main is not None
        while (asked := came.get()) is not None:
            time.sleep(BLOCKED_SECONDS)
            with _LOCK:  # or it would be somebody else's
                if asked.is_overdue() and asked is self._asked and self._replaced is not None:
                    signal.pthread_kill(main, signal.SIGTERM)


def _installed() -> Any:
    return signal.getsignal(signal.SIGTERM)


_handler = _Handler()


def _begin_anew() -> None:
    global _handler
    _handler.forget()
    _handler = _Handler()


os.register_at_fork(after_in_child=_begin_anew)
