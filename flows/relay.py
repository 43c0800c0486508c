"""Tells Prefect of every move on the board, in a thread of its own: who works waits for nothing here.

It reads what moved from the nexus (`TaskNexus.feed`), whoever moved it, and sends it as events. For a Prefect server
one relay at a time does so, under a lease in the nexus, which also keeps how far it has come: the next one goes on
from there. So what moved while Prefect was away is told when it is back; a little of it perhaps twice, under the same
ids.
"""

import asyncio
import contextvars
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final
from uuid import uuid4

from prefect.events import Event
from prefect.events.clients import EventsClient, get_events_client
from prefect.settings import PREFECT_API_URL

from flows.events import chosen, event_of, left_out
from nexus import TaskNexus
from nexus.feed import Feed
from nexus.masking import mask_of
from nexus.reports import News, Place

THREAD: Final = "nexus relay"

LOOK_SECONDS: Final = 1.0
"""Between two looks at what moved."""

LEASE_SECONDS: Final = 30.0

TRY_SECONDS: Final = 10.0
"""Between two looks whether somebody else still relays."""

OUTAGE_SECONDS: Final = 5.0
"""Between two tries to reach a Prefect server that is away."""

AT_ONCE_SECONDS: Final = 10.0
"""One look tells no more than what is told in so long; the rest is counted."""

END_SECONDS: Final = 5.0
"""What the last look may take, when the work is over."""

CONFIRMED: Final = 50
"""After so many the server is asked whether it has them all. What it lost of the others is told again by whoever relays
next: a feed goes back a little."""

FIRST: Final = timedelta(hours=1)
"""How far back the very first relay of a server begins."""

logger = logging.getLogger("nexus.relay")

# A relay that finds Prefect away tries again, which is nobody's trouble: the client's own warnings stay away.
logging.getLogger("prefect.events.clients").addFilter(lambda record: record.threadName != THREAD)


@asynccontextmanager
async def relaying(nexus: TaskNexus) -> AsyncIterator[None]:
    """Tell Prefect what moves for as long as this is open, unless somebody else does; at the end, what is left.

    Never raises, and keeps nobody waiting but the end of the work, by `END_SECONDS` at most.
    """
    if not nexus.settings.events.enabled:
        yield
        return
    relay = Relay(nexus)
    relay.start()
    try:
        yield
    finally:
        await asyncio.to_thread(relay.end)


class Relay:
    """One thread's relay.

    `insists`: take over from whoever relays now (the service, from a shift that was there first).
    """

    def __init__(self, nexus: TaskNexus, *, insists: bool = False) -> None:
        self.nexus, self.insists = nexus, insists
        self.stop = threading.Event()
        self.target = PREFECT_API_URL.value() or "ephemeral"
        self.holder = str(uuid4())
        self.pace = nexus.settings.events.per_second
        self.room = int(self.pace * AT_ONCE_SECONDS)
        self._over: float | None = None
        self._kept = 0.0
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Relay in a thread, until `end`."""
        # In this context: in tests Prefect's settings are the context's own.
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self.run,), name=THREAD, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Tell what is left, and stop."""
        self.stop.set()
        if self._thread is not None:
            self._thread.join(END_SECONDS + 1)

    def run(self) -> None:
        """Relay until told to stop; where another does, once more at the end: it may have ended before.

        A shift of a second is over before anything is told, and is not held up by it.
        """
        if not self.insists:
            self.stop.wait(LOOK_SECONDS)
        while True:
            ending, pause = self.stop.is_set(), OUTAGE_SECONDS
            try:
                feed = self._take()
                if feed is None:
                    pause = TRY_SECONDS
                elif asyncio.run(self._relay(feed)):
                    return
            except Exception as error:
                logger.info("Prefect hears nothing of the board for a moment: %s: %s", type(error).__name__, error)
            if ending:
                return
            self.stop.wait(pause)

    def _take(self) -> Feed | None:
        """The feed, from where the last relay has stopped; None where another is at it."""
        taken, place = self.nexus.take_relay(self.target, self.holder, LEASE_SECONDS, insists=self.insists)
        if not taken:
            return None
        self.insists = False
        return self.nexus.feed(place or self.nexus.now() - FIRST)

    async def _relay(self, feed: Feed) -> bool:
        """Tell what moves. True once it was told to stop and has; False where another has taken over.

        Raises where Prefect, or the database, is away.
        """
        async with get_events_client(reconnection_attempts=0, checkpoint_every=CONFIRMED) as client:
            while True:
                ending = self.stop.is_set()
                events = self._events(await asyncio.to_thread(feed.read, self.room))
                if not await self._tell(client, events):
                    return self.stop.is_set()
                if not await asyncio.to_thread(self._keep, feed.place, bool(events), ending):
                    return False
                if ending:
                    return True
                await asyncio.to_thread(self.stop.wait, LOOK_SECONDS)

    def _keep(self, place: Place, told: bool, ending: bool) -> bool:
        """Put down how far it is; False where another has taken over.

        Where nothing moves only now and then: a write that wakes who waits for work, and may have to reach the disk.
        """
        present = time.monotonic()
        if not told and not ending and present - self._kept < LEASE_SECONDS / 3:
            return True
        self._kept = present
        return self.nexus.keep_relay(self.target, self.holder, 0 if ending else LEASE_SECONDS, place)

    def _events(self, news: News) -> list[Event]:
        moves, more = chosen(news.moves, self.room)
        mask = mask_of(self.nexus.settings, os.environ)
        events = []
        for move in moves:
            try:
                events.append(event_of(move, mask))
            except Exception as error:  # of this one only: else nothing would be told from here on
                more += 1
                logger.warning("a move of %s cannot be told: %s: %s", move.task_id, type(error).__name__, error)
        if left := news.left_out + more:
            events.append(left_out(left, moves[-1] if moves else None))
        return events

    async def _tell(self, client: EventsClient, events: Sequence[Event]) -> bool:
        """Send them at the pace that is set, at the end as fast as it goes.

        False where there was no time to send all, or another has taken over: the next relay goes on from before.
        """
        renewed = began = time.monotonic()
        for number, event in enumerate(events):
            await client.emit(event)
            present = time.monotonic()
            if self.stop.is_set():
                self._over = self._over or present + END_SECONDS
                if present > self._over:
                    return False
                continue
            if present - renewed > LEASE_SECONDS / 3:
                renewed = present
                taken, _ = await asyncio.to_thread(self.nexus.take_relay, self.target, self.holder, LEASE_SECONDS)
                if not taken:
                    return False
            await asyncio.sleep(max(0.0, began + number / self.pace - present))
        return True
