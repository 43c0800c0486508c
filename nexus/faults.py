"""What goes wrong with a database: which faults pass, how long one waits for that, and what is said of the others."""

import random
import sqlite3
import time
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from sqlalchemy import exc
from sqlalchemy.pool import Pool, QueuePool

from nexus.errors import DatabaseUnavailable, NotANexusDatabase, UnusableDatabase

TRIES: Final = 6
"""Of a transaction that others are in the way of; about a second and a half in all."""

FIRST_CONTACT_SECONDS: Final = 2.0
"""For a server that refuses and was never reached: most likely the URL is wrong, and somebody waits to hear it."""

LONGEST_PAUSE: Final = 1.0
"""Between two tries, so that a server that is back is soon noticed."""

DOUBT: Final = " Whether this was written is not known: look, before you do it again."

_CONFLICTS: Final = ("40001", "40P01", "55P03")
_OUTAGES: Final = ("57P01", "57P02", "57P03", "57P05", "08", "53300")
_SOON: Final = (
    "starting up",
    "shutting down",
    "recovery mode",
    "not yet accepting",
    "too many clients",
    "connection slots",
)
_WRONG: Final = ("password authentication", "does not exist", "no pg_hba.conf entry")
"""What a server says to a URL that will not do, however often it is tried."""
_CLOSED: Final = ("unable to open", "readonly")
"""What SQLite says where there is no folder, or no permission."""
_REFUSED: Final = ("onnection refused", "server closed the connection", "No such file or directory")


class Fault(Enum):
    """What kind of fault it is, by what helps."""

    CONFLICT = "somebody else is in the way: the same transaction may well succeed in a moment"
    OUTAGE = "the server is away, restarts or fails over: it may be back in some seconds"
    OTHER = "waiting does not help"


def kind(error: exc.DBAPIError) -> Fault:
    """Whether to try again, and what to wait for."""
    text = str(error.orig)
    if isinstance(error.orig, sqlite3.Error):
        busy = isinstance(error.orig, sqlite3.OperationalError) and ("locked" in text or "busy" in text)
        return Fault.CONFLICT if busy else Fault.OTHER
    state = str(getattr(error.orig, "sqlstate", None) or "")
    if state.startswith(_CONFLICTS):
        return Fault.CONFLICT
    # Without a state nobody answered: no connection was made (then there is no statement either), or it broke.
    unanswered = not state and error.statement is None and isinstance(error, exc.OperationalError)
    if error.connection_invalidated or unanswered or state.startswith(_OUTAGES):
        return Fault.OUTAGE
    return Fault.OTHER


def is_cut_off(error: exc.DBAPIError) -> bool:
    """The connection broke, or is about to: what was sent on it last may have been done all the same."""
    return kind(error) is Fault.OUTAGE and not isinstance(error.orig, sqlite3.Error)


@dataclass
class Patience:
    """How long one verb is tried. Pauses grow and are drawn by lot: a fleet must not come back all at once."""

    outage_seconds: float
    reached: bool
    """The server has answered this process before; then an outage is one, whatever is said."""
    pauses: int = field(default=0, init=False)
    conflicts: int = field(default=0, init=False)
    away_since: float | None = field(default=None, init=False)

    def allows(self, fault: Fault, text: str = "") -> bool:
        """Whether to try again; the pause before that is over when this returns."""
        pause = min(LONGEST_PAUSE, 0.1 * 2**self.pauses) * random.random()
        if fault is Fault.OUTAGE:
            present = time.monotonic()
            self.away_since = present if self.away_since is None else self.away_since
            left = self.away_since + self._seconds(text) - present
            if left <= 0:
                return False
            pause = min(pause, left)
        else:
            self.conflicts += 1
            if fault is Fault.OTHER or self.conflicts >= TRIES:
                return False
        self.pauses = min(self.pauses + 1, 10)
        time.sleep(pause)
        return True

    def _seconds(self, text: str) -> float:
        if self.reached or any(part in text for part in _SOON):
            return self.outage_seconds
        return min(self.outage_seconds, FIRST_CONTACT_SECONDS) if any(part in text for part in _REFUSED) else 0.0


def explained(name: str, error: exc.DBAPIError, *, unsure: bool = False) -> Exception:
    """The typed error for a fault of the database itself; others (bugs) stay as they are.

    `unsure`: whether the transaction was committed is not known.
    """
    text = str(error.orig).strip().replace("\n", " ")
    if isinstance(error.orig, sqlite3.DatabaseError) and "not a database" in text:
        return NotANexusDatabase(f"{name} is not an SQLite database; nothing was written to it. Choose another file.")
    connecting = error.statement is None
    if isinstance(error, exc.OperationalError | exc.InterfaceError) or error.connection_invalidated or connecting:
        wrong = connecting and (isinstance(error, exc.ProgrammingError) or any(part in text for part in _WRONG))
        wrong = wrong or (isinstance(error.orig, sqlite3.Error) and any(part in text for part in _CLOSED))
        kind_of_it = UnusableDatabase if wrong else DatabaseUnavailable
        return kind_of_it(f"{name}: {text}. {_advice(text)}".rstrip() + (DOUBT if unsure else ""))
    return error


def crowded(name: str, pool: Pool, *, unsure: bool = False) -> DatabaseUnavailable:
    """The error where a thread waited in vain for a connection: others have them all. `unsure` as in `explained`."""
    most = f"all {pool.checkedout()} connections" if isinstance(pool, QueuePool) else "all connections"
    return DatabaseUnavailable(
        f"{name}: {most} of this process are in use, and none became free in time. Let fewer threads work on one "
        "TaskNexus at once or give some another one; and see whether a transaction of another program holds them up."
        + (DOUBT if unsure else "")
    )


def _advice(text: str) -> str:
    hints = {
        "unable to open": "Does its folder exist, and may you write there?",
        "readonly": "The file or its folder is read-only: give write permission or choose another database.",
        "disk is full": "Free some space; what was accepted before is safe.",
        "disk I/O error": "Is the disk full, or broken? What was accepted before is safe.",
        "locked": "Another program holds the file; close it and try again.",
        "onnection refused": "Is the server running, and are host and port right?",
        "timeout expired": "Nothing answers there: are host and port right, and does a firewall let you through?",
        "starting up": "The server is about to be there; try again in a moment.",
        "shutting down": "The server is stopped or restarted; try again when it is back.",
        "password authentication": "Check user and password in the URL.",
        "does not exist": "Create it, or correct the URL.",
    }
    return next((hint for part, hint in hints.items() if part in text), "")
