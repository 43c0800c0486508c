"""Times as boards write them, and foreign values made fit to print."""

import json
import re
from datetime import UTC, datetime
from typing import Any

from nexus.schemas import clean
from nexus.values import EARLIEST, LATEST


class AbsurdTime(ValueError):
    """A time that cannot be: outside 1970 to 2200, or no date at all although it looks like one."""


_ISO = re.compile(
    r"(?P<day>\d{4,}-\d{1,2}-\d{1,2})"
    r"(?:[T ](?P<clock>\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?)"
    r"\s*(?P<zone>Z|[+-]\d{2}(?::?\d{2})?)?Z?(?:-[A-Z]+)?)?",
    re.IGNORECASE,
)
_EPOCH = re.compile(r"[+-]?\d{9,}(?:\.\d+)?")


def instant_of(value: Any) -> datetime | None:
    """The moment that `value` names; None for a placeholder or any other text; `AbsurdTime` for an
    impossible one.

    Read are ISO 8601 with Z, an offset, or both (the offset counts), a date alone (midnight), and seconds
    since 1970. Where no zone is given, UTC is assumed; the mapping keeps the raw text, which shows it.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str):
        text = value.strip()
        if not _EPOCH.fullmatch(text):
            return _iso(text)
        value = float(text)
    try:
        moment = datetime.fromtimestamp(value, UTC)
    except (OverflowError, OSError, ValueError):
        raise AbsurdTime(f"{shown(value)} seconds since 1970 is no time between 1970 and 2200") from None
    return _sensible(moment, value)


def _iso(text: str) -> datetime | None:
    match = _ISO.fullmatch(text)
    if match is None:
        return None
    year, month, day = match["day"].split("-")
    hour, _, clock = (match["clock"] or "00:00").replace(",", ".").partition(":")
    zone = "+00:00" if match["zone"] in (None, "Z", "z") else match["zone"]
    try:
        moment = datetime.fromisoformat(
            f"{year}-{int(month):02}-{int(day):02}T{int(hour):02}:{clock}{zone}"
        ).astimezone(UTC)
    except (ValueError, OverflowError):
        raise AbsurdTime(f"{shown(text)} is no date that exists") from None
    return _sensible(moment, text)


def _sensible(moment: datetime, raw: Any) -> datetime:
    if not EARLIEST <= moment < LATEST:
        raise AbsurdTime(f"{shown(raw)} lies outside the years 1970 to 2200")
    return moment


def says_all(value: Any) -> bool:
    """Does `value` name date, clock and zone, so that nothing is lost when only the moment is kept?"""
    match = _ISO.fullmatch(value.strip()) if isinstance(value, str) else None
    return bool(match and match["clock"] and match["zone"])


def shown(value: Any, limit: int = 60) -> str:
    """`value` in one short printable line: text in quotes, anything else as JSON."""
    if isinstance(value, dict | list) and not value:
        return "an empty object" if isinstance(value, dict) else "an empty list"
    if isinstance(value, dict | list):
        return f"an object of {len(value)} members" if isinstance(value, dict) else f"a list of {len(value)} elements"
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except ValueError:
        text = "an integer of thousands of digits"
    return one_line(text, limit)


def one_line(text: str, limit: int = 200) -> str:
    """Foreign text made fit for one line of a terminal."""
    if text.isprintable() and len(text) <= limit and "  " not in text:
        return text.strip()
    text = "".join(char if char.isprintable() else " " for char in clean(text[: limit * 4], limit * 4))
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
