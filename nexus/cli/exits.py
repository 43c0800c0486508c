"""How the command ends: the one table of exit codes, which error is which, and how an error is told to programs."""

import json
import sys
from enum import IntEnum
from itertools import takewhile
from typing import Any, Final

from nexus.errors import ClaimLost, DatabaseUnavailable, NexusError, TaskBusy, UnusableDatabase


class Exit(IntEnum):
    """The exit codes. An agent decides by them whether to go on, so what one means never changes."""

    DONE = 0
    REFUSED = 1
    USAGE = 2
    NOTHING = 3
    STOP = 4
    AGAIN = 5
    INTERRUPTED = 130


MEANING: Final = {
    Exit.DONE: "done",
    Exit.REFUSED: "refused, or another error: stderr says why",
    Exit.USAGE: "wrong usage",
    Exit.NOTHING: "nothing to claim now",
    Exit.STOP: "stop: the claim is lost, or the task was cancelled",
    Exit.AGAIN: "try again: the database is away, full or busy; the claim may still hold",
    Exit.INTERRUPTED: "interrupted (Ctrl-C)",
}

ENDS: Final[tuple[tuple[type[NexusError], Exit], ...]] = (
    (ClaimLost, Exit.STOP),
    (UnusableDatabase, Exit.REFUSED),
    (DatabaseUnavailable, Exit.AGAIN),
    (TaskBusy, Exit.AGAIN),
    (NexusError, Exit.REFUSED),
)
"""The exit code of each error: the first line that fits."""

TOLD: Final = "Exit codes:\n\n\b\n" + "\n".join(f"{code:>5}  {meaning}" for code, meaning in MEANING.items())
"""For the end of `nexus --help`; the \\b keeps it from being filled like a paragraph."""


def exit_of(error: NexusError) -> Exit:
    """How the command ends with this error."""
    return next(code for kind, code in ENDS if isinstance(error, kind))


def as_json() -> bool:
    """`--json` was asked for: where no verb was reached, only the words themselves say so."""
    return "--json" in takewhile(lambda word: word != "--", sys.argv[1:])


def document(kind: str, message: str, code: int, error: BaseException | None = None) -> str:
    """An error as one line of JSON; with what it carries (task_id, claim_no …), by the names of `nexus.errors`."""
    from pydantic_core import to_jsonable_python

    known = vars(error) if isinstance(error, NexusError) else {}
    carried: dict[str, Any] = {name: value for name, value in known.items() if not name.startswith("_")}
    told = {**carried, "code": kind, "message": message, "exit_code": int(code)}
    return json.dumps({"error": to_jsonable_python(told, fallback=str)}, ensure_ascii=True)
