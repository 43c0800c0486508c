"""Tasks to a board file that reads back to the same tasks and attempts.

JSON and YAML: `{"nexus_board": 1, "tasks": [...]}`; JSON Lines: one task a line, each with the marker. A
task has all fields of `Task`, and its `attempts`. Written one task at a time, so that memory stays bounded.
"""

import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from stat import S_ISREG
from typing import Any, Literal, TextIO

import yaml

from nexus.boards.native import VERSION
from nexus.boards.reading import LINE_EXTENSIONS, YAML_EXTENSIONS
from nexus.boards.shapes import MARKER
from nexus.schemas import Attempt, Task

Form = Literal["json", "jsonl", "yaml"]
Attempts = Mapping[str, Sequence[Attempt]]
_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def form_of(path: Path | str) -> Form:
    """The form that a file's extension asks for; JSON where it asks for none that is known."""
    extension = Path(path).suffix.lower()
    if extension in LINE_EXTENSIONS:
        return "jsonl"
    return "yaml" if extension in YAML_EXTENSIONS else "json"


def task_records(tasks: Iterable[Task], attempts: Attempts) -> Iterator[dict[str, Any]]:
    """The exported form of each task, its attempts inside."""
    for task in tasks:
        tries = [attempt.model_dump(mode="json") for attempt in attempts.get(task.task_id, ())]
        yield {**task.model_dump(mode="json"), "attempts": tries}


def board_document(tasks: Iterable[Task], attempts: Attempts) -> dict[str, Any]:
    """The whole board as one JSON value."""
    return {MARKER: VERSION, "tasks": list(task_records(tasks, attempts))}


def write_tasks(file: TextIO, tasks: Iterable[Task], attempts: Attempts, *, form: Form = "json") -> int:
    """Write a board to an open text file, one task at a time; returns how many."""
    count = 0
    records = task_records(tasks, attempts)
    if form == "jsonl":
        for record in records:
            file.write(_json({MARKER: VERSION, **record}) + "\n")
            count += 1
        if not count:
            file.write(_json({MARKER: VERSION, "tasks": []}) + "\n")
        return count
    if form == "yaml":
        file.write(f"{MARKER}: {VERSION}\ntasks:\n")
        for record in records:
            file.write(yaml.dump([record], Dumper=_Dumper, allow_unicode=True, sort_keys=False, width=120))
            count += 1
        if not count:
            file.write("  []\n")
        return count
    file.write(f'{{"{MARKER}": {VERSION}, "tasks": [')
    for record in records:
        file.write((",\n" if count else "\n") + _json(record))
        count += 1
    file.write("\n]}\n")
    return count


def write_board(path: Path | str, tasks: Iterable[Task], attempts: Attempts) -> int:
    """Write a board file whole or not at all, in the form of its extension; returns the number of tasks.

    It is written beside its place and renamed, so that a reader never meets half a board; where a link leads to it, the
    link stays. What is no regular file (a pipe, a device) is written into as it stands: to replace it would destroy it.
    """
    path = Path(path)
    place = place_of(path)
    if not isinstance(place, Path):
        # What is open already goes on where it is: to open it once more would empty it, and begin at its head again.
        with open(path if place is None else os.dup(place), "w", encoding="utf-8", newline="\n") as stream:  # noqa: PTH123
            return write_tasks(stream, tasks, attempts, form=form_of(path))
    handle, temporary = tempfile.mkstemp(prefix=f".{place.name[:100]}.", suffix=".part", dir=place.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            count = write_tasks(file, tasks, attempts, form=form_of(path))
            file.flush()
            os.fsync(file.fileno())
        _keep_mode(Path(temporary), place)
        Path(temporary).replace(place)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return count


def place_of(path: Path | str) -> Path | int | None:
    """Where the links of `path` end: the regular file that is there or will be; the number of a file that this process
    has open (/dev/stdout, /dev/fd/63), whatever is behind it; None where it is something else. Raises `OSError`.
    """
    path, is_regular = Path(path), True
    with suppress(FileNotFoundError):  # a new file, or a link to where one is to be
        is_regular = S_ISREG(path.stat().st_mode)
    while True:
        if found := re.fullmatch(r"/proc/(\d+)/fd", os.path.realpath(path.parent)):
            return int(path.name) if int(found[1]) == os.getpid() and path.name.isdigit() else None
        if not path.is_symlink():
            return path if is_regular else None
        path = path.parent / path.readlink()


def _keep_mode(temporary: Path, path: Path) -> None:
    """The mode of the file that is replaced, or the usual one of a new file: a temporary file is private."""
    if path.exists():
        temporary.chmod(path.stat().st_mode & 0o777)
    else:
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
