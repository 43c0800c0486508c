"""Files to documents: which format, how much, and one clear line where it cannot be read.

The extension decides first (`.json`; `.jsonl`, `.ndjson`; `.yaml`, `.yml`), then the content: YAML under a
JSON name is read as YAML, with a warning. JSON Lines are read line by line: one broken line costs that line
only, unless no line is JSON at all.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from nexus.boards.json_reading import JsonFault, parse_json, parse_loose_json
from nexus.boards.yaml_reading import YamlFault, parse_yaml
from nexus.errors import BoardUnreadable

DEFAULT_LIMIT: Final = 256 * 2**20
"""Bytes of one file."""

SLOW_LIMIT: Final = 32 * 2**20
"""Characters of a text that has to be repaired, or is YAML: a megabyte takes seconds, a large file half an hour."""

MAX_VALUES: Final = 20_000_000
"""Of one document: each takes some hundred bytes of memory, though it may be two in the file."""

NO_MEMORY: Final = "needs more memory than there is; split it, or use JSON Lines"

LINE_EXTENSIONS: Final = frozenset({".jsonl", ".ndjson"})
YAML_EXTENSIONS: Final = frozenset({".yaml", ".yml"})
EXTENSIONS: Final = frozenset({".json"}) | LINE_EXTENSIONS | YAML_EXTENSIONS


@dataclass(slots=True)
class Document:
    """One parsed value of a file, or one line that could not be parsed."""

    location: str
    """`line 12` in JSON Lines, `document 2` where several stand in one file, else empty."""
    value: Any = None
    fault: str | None = None
    """Why this line is no JSON; then `value` is its text."""
    line: bool = False
    warnings: list[str] = field(default_factory=list)


def read_documents(path: Path | str, *, limit: int = DEFAULT_LIMIT) -> Iterator[Document]:
    """The documents of one file, JSON Lines one at a time; `BoardUnreadable`, one line, where it is broken."""
    path = Path(path)
    try:
        _check_file(path, limit)
        if path.suffix.lower() in LINE_EXTENSIONS:
            yield from _read_lines(path)
        else:
            yield from _read_whole(path)
    except OSError as error:
        raise BoardUnreadable(_shown(path), f"cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise BoardUnreadable(
            _shown(path), f"is not UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}"
        ) from None
    except ValueError as error:
        if isinstance(error, BoardUnreadable):
            raise
        raise BoardUnreadable(_shown(path), str(error)) from None
    except MemoryError:
        raise BoardUnreadable(_shown(path), NO_MEMORY) from None


def _shown(path: Path) -> str:
    """The path fit to print: undecodable bytes and line breaks in a file's name made harmless."""
    text = os.fsencode(path).decode("utf-8", "replace")
    text = text if len(text) <= 1000 else f"{text[:999]}…"
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _check_file(path: Path, limit: int) -> None:
    if "\x00" in str(path):
        raise BoardUnreadable(_shown(path), "a path cannot hold a NUL character")
    try:
        found = path.stat()
    except FileNotFoundError:
        raise BoardUnreadable(_shown(path), "there is no such file") from None
    if stat.S_ISDIR(found.st_mode):
        raise BoardUnreadable(_shown(path), "is a directory; name a file in it, or import the directory")
    if not stat.S_ISREG(found.st_mode):
        raise BoardUnreadable(_shown(path), "is not a regular file")
    if found.st_size == 0:
        raise BoardUnreadable(_shown(path), "is empty (zero bytes)")
    if found.st_size > limit:
        raise BoardUnreadable(_shown(path), f"has {found.st_size:,} bytes, over the limit of {limit:,}; split it")


def _decode(path: Path, content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise BoardUnreadable(_shown(path), "is UTF-16 text; save it as UTF-8")
    if b"\x00" in content:
        every = "only" if not content.strip(b"\x00") else "byte"
        what = "holds only NUL bytes" if every == "only" else f"holds a NUL byte at offset {content.index(0):,}"
        raise BoardUnreadable(_shown(path), f"{what}; it is no text")
    return content.decode("utf-8-sig")


def _read_lines(path: Path) -> Iterator[Document]:
    good = 0
    broken: list[Document] = []
    with path.open("rb") as file:
        for number, content in enumerate(file, 1):
            document = Document(location=f"line {number}", line=True)
            try:
                text = content.decode("utf-8-sig" if number == 1 else "utf-8")
                if not text.strip():
                    continue
                values = parse_json(text, document.warnings.append)
                if len(values) != 1:
                    raise JsonFault(f"{len(values)} values stand in one line")
                document.value = values[0]
            except (JsonFault, UnicodeDecodeError) as fault:
                why = (
                    "not UTF-8 text"
                    if isinstance(fault, UnicodeDecodeError)
                    else str(fault).replace(" in line 1,", " in")
                )
                document.fault = f"no JSON: {why}"
                document.value = content.decode("utf-8", "replace").strip()
                if good:
                    yield document
                elif len(broken) < 1000:
                    broken.append(document)
                else:
                    break
                continue
            if not good:
                yield from broken
            good += 1
            yield document
    if not good:
        raise BoardUnreadable(
            _shown(path),
            f"holds no JSON line; {broken[0].location}: {broken[0].fault}" if broken else "holds only blanks",
        )


def _read_whole(path: Path) -> Iterator[Document]:
    text = _decode(path, path.read_bytes())
    if not text or text.isspace():
        raise BoardUnreadable(_shown(path), "holds only blanks")
    if sum(map(text.count, "[{,")) > MAX_VALUES:
        raise BoardUnreadable(_shown(path), f"holds more than {MAX_VALUES:,} values; split it, or use JSON Lines")
    warnings: list[str] = []
    values = _parse(path, text, warnings)
    if not values:
        raise BoardUnreadable(_shown(path), "holds no document")
    for number, value in enumerate(values, 1):
        place = f"document {number}" if len(values) > 1 else ""
        yield Document(location=place, value=value, warnings=warnings if number == 1 else [])


def _parse(path: Path, text: str, warnings: list[str]) -> list[Any]:
    if path.suffix.lower() in YAML_EXTENSIONS:
        if len(text) > SLOW_LIMIT:
            raise BoardUnreadable(_shown(path), f"has over {SLOW_LIMIT:,} characters of YAML; split it, or use JSON")
        try:
            return parse_yaml(text, warnings.append)
        except YamlFault as fault:
            raise BoardUnreadable(_shown(path), f"is not YAML: {fault}") from None
    heard: list[str] = []
    try:
        values = parse_json(text, heard.append)
    except JsonFault as fault:
        if len(text) > SLOW_LIMIT:
            raise BoardUnreadable(_shown(path), f"is not JSON: {fault}") from None
        return _parse_unlike_its_name(path, text, str(fault), warnings)
    warnings += heard
    if len(values) > 1:
        warnings.append(f"{len(values)} JSON documents stand one after another; all were read")
    return values


def _parse_unlike_its_name(path: Path, text: str, fault: str, warnings: list[str]) -> list[Any]:
    """Not strict JSON: try the repairs, then YAML; the fault that is told is the first one."""
    heard: list[str] = []
    try:
        values = parse_loose_json(text, heard.append)
        warnings += heard
        return values
    except JsonFault:
        heard.clear()
    try:
        values = parse_yaml(text, heard.append)
    except YamlFault as yaml_fault:
        why = (
            f"is not JSON: {fault}"
            if path.suffix.lower() == ".json"
            else f"is neither JSON ({fault}) nor YAML ({yaml_fault})"
        )
        raise BoardUnreadable(_shown(path), why) from None
    if not all(isinstance(value, dict | list) for value in values):
        raise BoardUnreadable(_shown(path), f"is not JSON: {fault}")
    warnings.append(f"read as YAML, because it is not JSON: {fault}")
    warnings += heard
    return values
