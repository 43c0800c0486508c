"""Calls in threads that a stop does not cut in half.

Cancelling a coroutine that waits for a thread stops the waiting, not the thread: a claim that is taken or a
result that is written meanwhile would be nobody's. So what touches the nexus is waited for to its end.
"""

import asyncio
import contextvars
import functools
import gc
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from typing import Any, Final, Self, TypeVar

from nexus import TaskNexus

T = TypeVar("T")

COLLECTED_AFTER: Final = 50_000
"""New objects before the collector looks at them; Python's own 700 suit small programs."""

QUIET_SECONDS: Final = 0.005
"""Between two rings of a bell."""


async def to_the_end(call: Callable[..., T], *given: Any, **named: Any) -> T:
    """`call` in a thread, waited for also by a caller who is cancelled meanwhile: that strikes at its next await."""
    context = contextvars.copy_context()
    work = functools.partial(context.run, call, *given, **named)
    running = asyncio.get_running_loop().run_in_executor(None, work)
    stopped = await outlast(running)
    if stopped is not None:
        _this_task().cancel(*stopped.args)
    return running.result()


async def end_of(waited_for: asyncio.Future[Any], seconds: float | None = None) -> bool:
    """Wait for an end, however it is, at most `seconds`; whether it came.

    What `asyncio.wait` does for one, in 8 µs instead of 10: a shift waits twice an attempt.
    """
    if waited_for.done():
        return True
    loop = asyncio.get_running_loop()
    here: asyncio.Future[None] = loop.create_future()

    def wake(_: object = None) -> None:
        if not here.done():
            here.set_result(None)

    waited_for.add_done_callback(wake)
    clock = None if seconds is None else loop.call_later(seconds, wake)
    try:
        await here
    finally:
        waited_for.remove_done_callback(wake)
        if clock is not None:
            clock.cancel()
    return waited_for.done()


async def outlast(waited_for: asyncio.Future[Any], seconds: float | None = None) -> asyncio.CancelledError | None:
    """Wait for an end, at most `seconds`, whoever cancels; the cancellation that came meanwhile, for the caller."""
    deadline = None if seconds is None else time.monotonic() + seconds
    stopped = None
    while not waited_for.done():
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            break
        try:
            await end_of(waited_for, left)
        except asyncio.CancelledError as error:
            _this_task().uncancel()
            stopped = error
    return stopped


def in_own_thread(call: Callable[[], T], name: str) -> asyncio.Future[T]:
    """`call` in a thread of its own, which holds up neither the others nor the end of the process.

    The pools of Python do both: a call that never returns keeps its place, and the interpreter waits for it.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    context = contextvars.copy_context()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result: T | None = None
        error: BaseException | None = None
        try:
            result = context.run(call)
        except BaseException as raised:
            error = raised
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


@contextmanager
def rarely_collected() -> Iterator[None]:
    """Let the garbage collector look at what is new, and seldom, until the last who asked for it is done.

    What Prefect has loaded is half a million objects; looking at them again and again took two thirds of the time of
    a shift of short tasks (measured: 2,100 tasks a second, then 6,300).
    """
    with _calm:
        _calm.asked += 1
        if _calm.asked == 1:
            _calm.before = gc.get_threshold()
            gc.freeze()
            gc.set_threshold(COLLECTED_AFTER, *_calm.before[1:])
    try:
        yield
    finally:
        with _calm:
            _calm.asked -= 1
            if not _calm.asked:
                gc.set_threshold(*_calm.before)
                gc.unfreeze()


class _Calm(AbstractContextManager["_Calm"]):
    """How many in this process have asked for it, and what held before the first did."""

    def __init__(self) -> None:
        self.asked, self.before = 0, gc.get_threshold()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._lock.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()


_calm = _Calm()


@asynccontextmanager
async def ringing(nexus: TaskNexus, event: asyncio.Event) -> AsyncIterator[None]:
    """Set `event` whenever there may be work."""
    loop, bell = asyncio.get_running_loop(), nexus.bell()
    over = threading.Event()

    def listen() -> None:
        while not over.is_set():
            if bell.wait(1.0):
                with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    loop.call_soon_threadsafe(event.set)
                over.wait(QUIET_SECONDS)  # whoever is busy with many rings has no time for work

    threading.Thread(target=listen, name="bell", daemon=True).start()
    try:
        yield
    finally:
        over.set()
        bell.close()


def _this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task
