"""What is wrong with the places that settings come from, before Pydantic looks at the values: names, JSON, the file.

Pydantic ignores a variable whose name it does not know. For a misspelt one that is the worst answer: the nexus runs,
on another database perhaps. So a name that looks like a setting and is none is an error. A name that looks like none
(another program's: Sonatype's Nexus has `NEXUS_URL`; Kubernetes sets `NEXUS_SERVICE_HOST` beside a service of that
name) is told once in the log and left alone.
"""

import json
import logging
import os
import re
import stat
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Final, get_origin

from pydantic import BaseModel

from nexus.errors import InvalidSettings, short

PREFIX: Final = "NEXUS_"

MAX_FILE_BYTES: Final = 256 * 2**10
"""Of `nexus.toml`; a few hundred lines are a few kilobytes."""

_OURS: Final = frozenset({"agent", "task_id", "attempt", "idempotency_key", "command_run"})
"""Variables that are no settings: who claims (`nexus claim`), and what a `command` task tells its program."""

_OTHERS: Final = re.compile(r"test_.*|(service_)?port(_.*)?|service_host")
"""Of the tests, and what Kubernetes sets for a service that is called nexus."""

_logger = logging.getLogger(__name__)


def check_names(settings: type[BaseModel]) -> None:
    """`InvalidSettings` for a `NEXUS_*` variable that looks like a setting and is none."""
    known = sorted(_flat(settings))
    wrong = []
    for name in os.environ:
        key = name.lower().removeprefix(PREFIX.lower())
        section = key.partition("__")[0]
        known_here = key in settings.model_fields or (section in settings.model_fields and _section(settings, section))
        if key == name.lower() or known_here or key in _OURS or _OTHERS.fullmatch(key):
            continue
        close = get_close_matches(key, known, n=1, cutoff=0.8)
        if close:
            wrong.append(f"{_named(name)} is no setting; is {PREFIX}{close[0].upper()} meant?")
        elif "__" in key:
            sections = ", ".join(key.upper() for key in settings.model_fields if _section(settings, key))
            wrong.append(f"{_named(name)} is no setting; the sections are {sections}")
        else:
            _tell_once(_named(name))
    if wrong:
        raise InvalidSettings(f"Wrong settings (NEXUS_* environment): {'; '.join(wrong[:10])}")


@cache
def _tell_once(name: str) -> None:
    _logger.warning("%s is no setting of this program and is left alone", name)


def _named(name: str) -> str:
    return name if name.isprintable() and len(name) <= 100 else short(name)


def _section(model: type[BaseModel], key: str) -> type[BaseModel] | None:
    annotation = model.model_fields[key].annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _flat(model: type[BaseModel], above: str = "") -> Iterator[str]:
    for key in model.model_fields:
        yield above + key
        if inner := _section(model, key):
            yield from _flat(inner, f"{above}{key}__")


def not_json(settings: type[BaseModel]) -> Iterator[tuple[str, str]]:
    """The variables that are to hold JSON and do not, each with its key: pydantic-settings names their section only."""
    for name, value in os.environ.items():
        path = name.lower().removeprefix(PREFIX.lower()).split("__")
        if name.lower().startswith(PREFIX.lower()) and _takes_json(settings, path):
            try:
                json.loads(value)
            except (ValueError, RecursionError):
                yield ".".join(path), name


def _takes_json(model: type[BaseModel], path: list[str]) -> bool:
    field = model.model_fields.get(path[0])
    if field is None:
        return False
    inner = _section(model, path[0])
    if inner is not None and path[1:]:
        return _takes_json(inner, path[1:])
    return inner is not None or get_origin(field.annotation) is tuple


def check_file(path: Path) -> None:
    """`InvalidSettings` where `path` is there and cannot be a file of settings: it would be ignored, or never end."""
    try:
        found = path.stat()
    except FileNotFoundError:
        if path.is_symlink():
            raise InvalidSettings(f"{path} cannot be read: it is a link to nothing") from None
        return
    except OSError as error:  # a link to itself
        raise InvalidSettings(f"{path} cannot be read: {error.strerror or error}") from None
    if not stat.S_ISREG(found.st_mode):
        raise InvalidSettings(f"{path} cannot be read: it is no file")
    if found.st_size > MAX_FILE_BYTES:
        raise InvalidSettings(f"{path} cannot be read: it has {found.st_size:,} bytes, over {MAX_FILE_BYTES:,}")
