"""JSON to values: strict first, then with the few repairs that cannot change a meaning.

The repairs are those that real boards need: comments, commas before a closing bracket, and a `{{ … }}` pair
that a template step left around the document. Each is named in a warning. Numbers that JSON does not know
(NaN, Infinity, integers of thousands of digits) come through as floats that `check_json` refuses, so that
they cost their record and not the file.
"""

import json
from collections.abc import Callable
from typing import Any, Final

Warn = Callable[[str], None]

_MAX_DIGITS: Final = 4000


class JsonFault(ValueError):
    """The text is no JSON; the message says where."""


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MAX_DIGITS else float("inf")


def keep_repeats(pairs: list[tuple[str, Any]], warn: Warn) -> dict[str, Any]:
    """A dict of `pairs` that loses none: of a repeated name the last value has it, earlier ones `name (1)`,
    …
    """
    data: dict[str, Any] = {}
    taken = {name for name, _ in pairs}
    number = 0
    for name, value in pairs:
        if name in data:
            number += 1
            while f"{name} ({number})" in taken:
                number += 1
            other = f"{name} ({number})"
            taken.add(other)
            data[other] = data[name]
            warn(f"the member {name!r} stands twice in one object; the earlier one is kept as {other!r}")
        data[name] = value
    return data


def _decoder(warn: Warn) -> json.JSONDecoder:
    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        data = dict(pairs)
        return data if len(data) == len(pairs) else keep_repeats(pairs, warn)

    return json.JSONDecoder(object_pairs_hook=build, parse_int=_integer)


def parse_json(text: str, warn: Warn) -> list[Any]:
    """The documents of `text`, which may stand one after another; `JsonFault` with line and column."""
    decoder = _decoder(warn)
    documents = []
    at = _skip_blanks(text, 0)
    try:
        while at < len(text):
            value, at = decoder.raw_decode(text, at)
            documents.append(value)
            at = _skip_blanks(text, at)
    except json.JSONDecodeError as error:
        raise JsonFault(f"{error.msg} in line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise JsonFault("it is nested too deep") from None
    return documents


def parse_loose_json(text: str, warn: Warn) -> list[Any]:
    """As `parse_json`, after the repairs; `JsonFault` where there is nothing to repair or it does not help."""
    repaired, repairs = repair(text)
    if not repairs:
        raise JsonFault("nothing to repair")
    heard: list[str] = []
    documents = parse_json(repaired, heard.append)
    warn(f"read after a repair: {', '.join(repairs)} left out")
    for message in heard:
        warn(message)
    return documents


def _skip_blanks(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def repair(text: str) -> tuple[str, list[str]]:
    """`text` with comments, stray commas and a template wrapper blanked out, and the names of what was."""
    kept: list[str] = []
    repairs: list[str] = []
    last = ""  # the last character that is neither blank nor comment
    comma = -1  # where in `kept` a comma stands that nothing has followed yet
    at, end = 0, len(text)

    def note(name: str) -> None:
        if name not in repairs:
            repairs.append(name)

    while at < end:
        char = text[at]
        if char == '"':
            stop = _string_end(text, at)
            kept.append(text[at:stop])
            at, last, comma = stop, '"', -1
            continue
        if char == "/" and text[at : at + 2] in ("//", "/*"):
            close = "\n" if text[at + 1] == "/" else "*/"
            found = text.find(close, at + 2)
            stop = end if found < 0 else found + (0 if close == "\n" else 2)
            kept.append("\n" * text.count("\n", at, stop))  # so that line numbers stay true
            note("comments")
            at = stop
            continue
        if char in "]}" and comma >= 0:
            kept[comma] = ""
            note("a comma before a closing bracket")
        if char == ",":
            comma = len(kept) if last not in ("", "[", "{", ",") else -1
        elif not char.isspace():
            comma = -1
        if not char.isspace():
            last = char
        kept.append(char)
        at += 1
    joined = "".join(kept)
    bare = joined.strip()
    if bare.startswith("{{") and bare.endswith("}}") and bare[2:-2].strip().startswith("{"):
        joined = joined.replace("{{", "  ", 1)
        cut = joined.rindex("}}")
        joined = joined[:cut] + joined[cut + 2 :]
        note("a {{ }} wrapper")
    return joined, repairs


def _string_end(text: str, at: int) -> int:
    """The place after the string that opens at `at`; a broken one ends with its line."""
    at += 1
    while at < len(text) and text[at] != "\n":
        if text[at] == "\\":
            at += 1
        elif text[at] == '"':
            return at + 1
        at += 1
    return min(at, len(text))
