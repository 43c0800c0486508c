"""What the arguments of a verb may be: each check gives the value to use, or raises `InvalidTask` that names it."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from nexus.errors import InvalidTask, short
from nexus.schemas import clean
from nexus.states import TaskStatus
from nexus.values import as_utc, check_id, dump_json

MOST: Final = 1_000_000_000


def a_name(text: str, what: str) -> str:
    """The name of an agent or reviewer, without blanks at its ends."""
    return _name(text, what, 255)


def names(given: Iterable[str] | None, what: str) -> list[str] | None:
    """Capabilities or task types, sorted; one text is one name. None is nothing given."""
    if given is None:
        return None
    if not isinstance(given, Iterable):
        raise InvalidTask(f"the {what} are {short(given)}; give a list of names")
    return sorted({_name(name, f"one of the {what}", 100) for name in ([given] if isinstance(given, str) else given)})


def _name(text: str, what: str, longest: int) -> str:
    if not isinstance(text, str):
        raise InvalidTask(f"{what} is {short(text)}, which is no text")
    try:
        name = check_id(text)
    except ValueError as error:
        raise InvalidTask(f"{what} {error}") from None
    if len(name) > longest:
        raise InvalidTask(f"{what} has more than {longest} characters")
    return name


def a_text(text: str | None) -> str | None:
    """A reason or note, made fit to keep."""
    if text is not None and not isinstance(text, str):
        raise InvalidTask(f"a reason or note is {short(text)}, which is no text")
    return None if text is None else clean(text)


def a_count(number: int | None, what: str, *, least: int = 1) -> int | None:
    """How many, where somebody says; both databases can count so far."""
    if number is not None and not (isinstance(number, int) and least <= number <= MOST):
        raise InvalidTask(f"{what} is {short(number)}; it must be {least} to {MOST:,}, or absent")
    return number


def a_window(seconds: float) -> float:
    """How far back is looked."""
    if not (isinstance(seconds, int | float) and 0 < seconds <= 366 * 86_400):
        raise InvalidTask(f"window_seconds is {short(seconds)}; it must be more than 0 and at most a year")
    return seconds


def a_lease(seconds: float | None) -> float | None:
    """How long a claim shall hold."""
    if seconds is not None and not (isinstance(seconds, int | float) and 0 < seconds <= 366 * 86_400):
        raise InvalidTask(f"lease_seconds is {short(seconds)}; it must be more than 0 and at most a year")
    return seconds


def a_moment(moment: datetime | None, what: str) -> datetime | None:
    """A time, in UTC."""
    try:
        return None if moment is None else as_utc(moment)
    except ValueError as error:
        raise InvalidTask(f"{what} {error}") from None


def json_list(values: Iterable[str]) -> str:
    """The JSON list that `nexus.sql.among` and `overlaps` ask for; one text is a list of one."""
    given = {values} if isinstance(values, str) else set(values) if isinstance(values, Iterable) else {values}
    if wrong := [one for one in given if not isinstance(one, str)]:
        raise InvalidTask(f"{short(wrong[0])} is no text; give names")
    return dump_json(sorted(given))


def statuses(status: TaskStatus | str | Sequence[TaskStatus | str] | None) -> list[TaskStatus]:
    """The states that a listing is about; none is all."""
    if status is None:
        return []
    given = [status] if isinstance(status, str) or not isinstance(status, Iterable) else list(status)
    try:
        return [TaskStatus(str(one).lower()) for one in given]
    except ValueError:
        raise InvalidTask(f"{short(status)} is no status; the states are {', '.join(TaskStatus)}") from None
