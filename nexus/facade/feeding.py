"""The verbs for those who look on: what moves, and who tells it elsewhere."""

from datetime import datetime

from nexus import feed, relays
from nexus.arguments import a_moment
from nexus.facade.base import OpenBoard
from nexus.feed import Feed
from nexus.reports import Place


class Feeding(OpenBoard):
    """What moves, as it moves."""

    def feed(self, since: datetime | Place | None = None) -> Feed:
        """The moves of the whole board, a look at a time: `feed.read()` brings what is new, each move once.

        `since`: a moment, or the place where an earlier feed has stopped; None is the present.
        """
        if not isinstance(since, Place):
            moment = a_moment(since, "since")
            since = self._database.read(lambda tx: feed.place_at(tx, moment))
        return Feed(self._database, since)

    def take_relay(
        self, target: str, holder: str, seconds: float, *, insists: bool = False
    ) -> tuple[bool, Place | None]:
        """Become the one who tells `target` what moves, for `seconds`; and how far whoever did it before has come.

        False where another is at it and the holder does not insist: who does takes over.
        """
        taken, place = self._database.write(lambda tx: relays.take(tx, target, holder, seconds, insists=insists))
        return taken, None if place is None else Place.model_validate(place)

    def keep_relay(self, target: str, holder: str, seconds: float, place: Place) -> bool:
        """All up to `place` was told; the relay is held for `seconds` more, or given up with 0. False: it was lost."""
        told = place.model_dump(mode="json")
        return self._database.write(lambda tx: relays.keep(tx, target, holder, seconds, told))
