"""What a text, a JSON value, a time may be. The checks that every door of the nexus shares."""

import json
import math
import re
import secrets
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue
from pydantic_core import PydanticSerializationError, from_json, to_json

from nexus.errors import short

MAX_JSON_DEPTH: Final = 64
"""Nesting beyond this is refused: some JSON readers recurse, and nobody means it."""

MAX_INTEGER_BITS: Final = 1024
"""Python refuses to print integers of over 4,300 digits; this is far below and far above any use."""

EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
LATEST: Final = datetime(2200, 1, 1, tzinfo=UTC)

_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")

_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"


def new_id() -> str:
    """A ULID in lower case: 48 bits of milliseconds, 80 of chance; sorts by time, so indexes stay dense."""
    return next(new_ids())


def new_ids() -> Iterator[str]:
    """ULIDs without end that sort in the order in which they are made: the next of one moment is one more.

    (https://github.com/ulid/spec, "Monotonicity".) Whoever makes others at the same moment begins somewhere else, by 80
    bits of chance.
    """
    number = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    while True:
        head = "".join(_CROCKFORD[number >> shift & 31] for shift in range(125, 9, -5))
        for last in range(number & 1023, 1024):
            yield head + _CROCKFORD[last >> 5] + _CROCKFORD[last & 31]
        number = (number | 1023) + 1


def check_text(text: str) -> str:
    """`text` itself; ValueError where neither database can keep it."""
    if "\x00" in text:
        raise ValueError("holds a NUL character; take it out")
    if not text.isascii() and _SURROGATE.search(text):
        raise ValueError("holds a lone surrogate (text that is not valid Unicode); take it out")
    return text


def check_id(text: str) -> str:
    """`text` without blanks at its ends; ValueError for control characters or nothing at all."""
    stripped = check_text(text).strip()
    if not stripped:
        raise ValueError("is empty; give it at least one visible character")
    if _CONTROL.search(stripped):
        raise ValueError("holds a control character (a line break or tab, say); take it out")
    return stripped


def check_json(value: Any) -> Any:
    """`value` itself; ValueError, saying what to do, where it is no JSON that both databases can keep.

    Refused are NaN and infinities, NUL and lone surrogates, integers beyond reason, nesting beyond
    `MAX_JSON_DEPTH` and anything that is not text, number, truth value, null, list or object.
    """
    _check_part(value, 0)
    return value


def _check_part(value: Any, depth: int) -> None:
    if depth > MAX_JSON_DEPTH:
        raise ValueError(f"is nested deeper than {MAX_JSON_DEPTH} levels; flatten it")
    if isinstance(value, str):
        check_text(value)
    elif isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise ValueError(f"has the key {key!r}, which is not text; JSON keys are text")
            check_text(key)
            _check_part(inner, depth + 1)
    elif isinstance(value, int):
        if value.bit_length() > MAX_INTEGER_BITS:
            raise ValueError("holds an integer of over 300 digits; keep it as text")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"holds {value}, which JSON does not know; use null or text instead")
    elif isinstance(value, list | tuple):
        for inner in value:
            _check_part(inner, depth + 1)
    elif value is not None:
        raise ValueError(f"holds a {type(value).__name__}, which is not JSON; convert it first")


def json_size(value: Any) -> int:
    """Bytes of `value` as compact JSON in UTF-8."""
    return len(dump_json(value).encode())


_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def dump_json(value: Any) -> str:
    """Compact JSON text; ValueError for NaN and infinities, TypeError for what is no JSON."""
    return _ENCODER.encode(value)


def fast_json(value: Any) -> str:
    """The same, in a tenth of the time, of what is JSON for certain: it was checked, or made here."""
    text = to_json(value).decode()
    # A payload is frozen only as far as its task is. What holds such a word may be sound as well.
    return dump_json(value) if "NaN" in text or "Infinity" in text else text


def same_json(one: Any, other: Any) -> bool:
    """Both are the same JSON, in whatever order their members stand; 1 is not true, as it would be in Python."""
    return _in_order(one) == _in_order(other)


def _in_order(value: Any) -> str:
    return json.dumps(from_json(fast_json(value)), sort_keys=True)


def is_small(value: Any, max_bytes: int) -> bool:
    """Whether `value` is JSON of at most so many bytes; where it is not, `json_size` tells why."""
    try:
        return len(to_json(value)) <= max_bytes
    except (PydanticSerializationError, RecursionError):
        return False


def canonical_json(value: Any) -> str:
    """The same text for the same value, whatever the order of its keys; used for digests."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))


def as_utc(value: datetime) -> datetime:
    """`value` in UTC; ValueError where it has no zone or lies outside 1970 to 2200."""
    if value.tzinfo is None or value.utcoffset() is None:
        raise ValueError("has no time zone; add Z or an offset such as +02:00")
    try:
        moment = value.astimezone(UTC)
    except OverflowError:
        raise ValueError("lies outside the years 1970 to 2200; correct it") from None
    if not EARLIEST <= moment < LATEST:
        raise ValueError("lies outside the years 1970 to 2200; correct it")
    return moment


PRIORITY_WORDS: Final = {"critical": 0, "high": 10, "medium": 20, "low": 30}
"""Smaller is first; the steps leave room between them."""


def parse_priority(value: Any) -> Any:
    """A word of `PRIORITY_WORDS`, in any letter case, becomes its number; anything else stays."""
    if isinstance(value, bool):
        raise ValueError("is a truth value; use an integer (smaller is first) or critical, high, medium, low")
    if isinstance(value, str):
        word = value.strip().lower()
        if word in PRIORITY_WORDS:
            return PRIORITY_WORDS[word]
        if not word.lstrip("+-").isdigit():
            raise ValueError(
                f"{short(value)} is no priority; use an integer (smaller is first) or {', '.join(PRIORITY_WORDS)}"
            )
    return value


def _unique(values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))


Id = Annotated[str, Field(max_length=255), AfterValidator(check_id)]
"""1 to 255 characters without control characters; blanks at the ends are dropped."""

Name = Annotated[str, Field(max_length=100), AfterValidator(check_id)]
"""1 to 100 characters without control characters: task types, tags, capabilities."""

Names = Annotated[tuple[Name, ...], Field(max_length=100), AfterValidator(_unique)]
Ids = Annotated[tuple[Id, ...], Field(max_length=10_000), AfterValidator(_unique)]
Text = Annotated[str, Field(max_length=100_000), AfterValidator(check_text)]
Instant = Annotated[datetime, AfterValidator(as_utc)]
Priority = Annotated[int, Field(ge=-1_000_000, le=1_000_000), BeforeValidator(parse_priority)]
Json = Annotated[JsonValue, BeforeValidator(check_json)]
JsonObject = Annotated[dict[str, JsonValue], BeforeValidator(check_json)]
Seconds = Annotated[float, Field(gt=0, le=366 * 86_400, allow_inf_nan=False)]
