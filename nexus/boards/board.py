"""Files and folders to one `Board`: read, find, map, then settle ids and dependencies across all files.

An id that comes twice with the same content counts once; with other content the first wins, and the later
is a reject that names both places. A dependency becomes an edge only if its target is in this import or
already in the nexus; any other text is kept in `extra["unresolved_dependencies"]` and holds nobody up,
until its record comes again and the target is there.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nexus.boards.mapping import map_record
from nexus.boards.native import VERSION
from nexus.boards.reading import DEFAULT_LIMIT, EXTENSIONS, NO_MEMORY, Document, read_documents
from nexus.boards.recognising import own_id
from nexus.boards.records import (
    UNRESOLVED,
    BadRecord,
    Board,
    BoardTask,
    RawRecord,
    Reject,
    Source,
    check_rejects,
)
from nexus.boards.shapes import MARKER, find_records
from nexus.boards.times import one_line, shown
from nexus.errors import BoardUnreadable
from nexus.progress import EVERY, Progress, unheard
from nexus.values import json_size

Known = Callable[[set[str]], set[str]]
"""Which of these ids does the nexus know already?"""

_MAX_LEFT_NAMES = 12


def read_board(
    paths: Path | str | Iterable[Path | str],
    *,
    limit: int = DEFAULT_LIMIT,
    max_payload_bytes: int | None = None,
    known_ids: Known = lambda _ids: set(),
    progress: Progress = unheard,
) -> Board:
    """All tasks of the files, and of the board files below the folders.

    `BoardUnreadable` where the only file named is broken; among several, a broken one is a reject and the
    others are read. Nothing is written anywhere.
    """
    named = [paths] if isinstance(paths, str | Path) else list(paths)
    board = _Reader(limit, max_payload_bytes, progress)
    single = len(named) == 1 and not _is_folder(Path(named[0]))
    for path in named:
        for file in board_files(Path(path)):
            try:
                board.read(file)
            except MemoryError:
                board.tasks.clear()
                board.rejects.clear()
                raise BoardUnreadable(str(file)[:1000], NO_MEMORY) from None
            except BoardUnreadable as error:
                if single:
                    raise
                board.rejects.append(
                    Reject(file=error.path, location="", reason=str(error).removeprefix(f"{error.path}: "))
                )
                board.files.append(error.path)
    return board.settled(known_ids)


def _is_folder(path: Path) -> bool:
    """A link to a folder is none, and neither is what cannot be a path: reading it says why."""
    try:
        return path.is_dir() and not path.is_symlink()
    except OSError:  # a name that is too long
        return False


def board_files(path: Path) -> Iterator[Path]:
    """`path` itself; for a folder the board files below it, sorted. Links are not followed."""
    if not _is_folder(path):
        yield path
        return
    for folder, folders, names in os.walk(path):
        folders.sort()
        for name in sorted(names):
            file = Path(folder, name)
            if file.suffix.lower() in EXTENSIONS and not file.is_symlink():
                yield file


@dataclass(slots=True)
class _Reader:
    limit: int
    max_payload_bytes: int | None
    tell: Progress
    tasks: dict[str, BoardTask] = field(default_factory=dict)
    rejects: list[Reject] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    duplicates: int = 0
    seen: int = 0
    """Records."""
    rejected: int = 0
    """Of the file that is being read."""

    def read(self, path: Path) -> None:
        """One file; what comes before a fault in the middle of JSON Lines is kept."""
        name = one_line(os.fsencode(path).decode("utf-8", "replace"), 1000)
        documents = read_documents(path, limit=self.limit)
        self.rejected = 0
        first = next(documents, None)
        self.files.append(name)
        found, left = 0, list[str]()
        while first is not None:
            following = next(documents, None)
            found += self._document(first, name, path.stem, left, alone=following is None and found == 0)
            first = following
        names = ", ".join(one_line(part, 60) for part in left[:_MAX_LEFT_NAMES])
        if len(left) > _MAX_LEFT_NAMES:
            names += f" and {len(left) - _MAX_LEFT_NAMES} more"
        if not found:
            self.warnings.append(f"{name}: no task records in it" + (f"; it holds {names}" if names else ""))
        elif names:
            self.warnings.append(f"{name}: not part of any task, and not imported: {names}")

    def _document(self, document: Document, name: str, stem: str, left: list[str], *, alone: bool) -> int:
        self.warnings += [f"{name}: {one_line(message, 300)}" for message in document.warnings[:100]]
        if len(document.warnings) > 100:
            self.warnings.append(f"{name}: and {len(document.warnings) - 100:,} more such warnings")
        if document.fault is not None:
            self.reject(Source(file=name, location=document.location), document.value, document.fault)
            return 0
        version = document.value.get(MARKER) if isinstance(document.value, dict) else None
        if version is not None and version != VERSION:
            raise BoardUnreadable(
                name,
                f"was written by another version of the nexus (form {shown(version)}; this one reads {VERSION})",
            )
        found = find_records(document, name, stem)
        left += found.left
        for stray in found.strays:
            self.reject(stray.source, stray.value, stray.reason)
        only = alone and len(found.records) == 1 and not found.strays
        for record in found.records:
            self.seen += 1
            if self.seen % EVERY == 0:
                self.tell("reading", self.seen, None)
            self._record(replace(record, alone=True) if only else record)
        return len(found.records)

    def _record(self, record: RawRecord) -> None:
        source = record.source
        try:
            task = map_record(record)
            self._check_sizes(task)
        except BadRecord as fault:
            self.reject(source, record.value, str(fault))
            return
        before = self.tasks.get(task.task_id)
        if before is None:
            self.tasks[task.task_id] = task
        elif before.digest == task.digest:
            self.duplicates += 1
            self.warnings.append(
                f"{source}: {one_line(task.task_id)} stands word for word in {before.source} already; it counts once"
            )
        else:
            self.reject(
                source,
                record.value,
                f"its id stands already in {before.source}, with other content; the first is kept",
            )

    def _check_sizes(self, task: BoardTask) -> None:
        parts = {"payload": task.new.payload, "extra": task.new.extra, "result": task.state.result}
        for name, value in parts.items():
            if self.max_payload_bytes is not None and (size := json_size(value)) > self.max_payload_bytes:
                raise BadRecord(f"{name}: has {size:,} bytes as JSON, over the limit of {self.max_payload_bytes:,}")

    def reject(self, source: Source, value: Any, reason: str) -> None:
        self.rejected += 1
        check_rejects(self.rejected, source.file)
        identity = own_id(value) if isinstance(value, dict) else None
        self.rejects.append(
            Reject(
                file=source.file,
                location=one_line(source.location),
                task_id=None if identity is None else one_line(identity),
                reason=one_line(reason, 500),
                record=_excerpt(value),
            )
        )

    def settled(self, known_ids: Known) -> Board:
        """The board, its dependencies made edges or notes, its cycles rejected."""
        targets = {name for task in self.tasks.values() for name in task.new.depends_on}
        here = set(self.tasks)
        elsewhere = known_ids(targets - here) if targets - here else set()
        for cycle in _cycles(self.tasks):
            path = " -> ".join([*cycle[:20], *(["…"] if len(cycle) > 20 else []), cycle[0]])
            for task_id in cycle:
                task = self.tasks.pop(task_id)
                reason = one_line(f"dependency cycle: {path}; take one of these edges out of depends_on", 500)
                self.rejects.append(
                    Reject(
                        file=task.source.file,
                        location=task.source.location,
                        task_id=one_line(task_id),
                        reason=reason,
                        record=_excerpt(task.new.model_dump(mode="json")),
                    )
                )
        exists = set(self.tasks) | elsewhere
        return Board(
            tasks=tuple(_resolved(task, exists) for task in self.tasks.values()),
            rejects=tuple(self.rejects),
            warnings=tuple(self.warnings),
            files=tuple(self.files),
            duplicates=self.duplicates,
        )


def _resolved(task: BoardTask, exists: set[str]) -> BoardTask:
    missing = [name for name in task.new.depends_on if name not in exists]
    if not missing:
        return task
    edges = tuple(name for name in task.new.depends_on if name in exists)
    noted = task.new.extra.get(UNRESOLVED)
    extra = {**task.new.extra, UNRESOLVED: [*(noted if isinstance(noted, list) else []), *missing]}
    names = ", ".join(shown(name) for name in missing[:5])
    warning = f"depends_on: no task has the id {names}; kept as extra.{UNRESOLVED}; import it again once it is there"
    return task.model_copy(
        update={
            "new": task.new.model_copy(update={"depends_on": edges, "extra": extra}),
            "warnings": (*task.warnings, one_line(warning, 400)),
        }
    )


def _cycles(tasks: dict[str, BoardTask]) -> list[list[str]]:
    """Cycles of tasks that wait for one another, found one after another until none is left; without recursion."""
    done: set[str] = set()
    cycles: list[list[str]] = []
    for root in tasks:
        path: dict[str, Iterator[str]] = {}  # each step, and where it can go on to
        step: str | None = root
        while step is not None:
            if step in path:
                cycle: list[str] = []
                while step not in cycle[-1:]:
                    cycle.append(path.popitem()[0])
                cycles.append(cycle[::-1])
                done.update(cycle)  # these are out: what remains is searched without them
            elif step in tasks and step not in done:
                path[step] = iter(tasks[step].new.depends_on)
            step = None
            while path and step is None:
                last = next(reversed(path))
                step = next(path[last], None)
                if step is None:
                    done.add(last)
                    del path[last]
    return cycles


def _excerpt(value: Any, limit: int = 500) -> str:
    """The beginning of a rejected record as text for display; never fails."""
    if isinstance(value, str):
        return one_line(value, limit)
    try:
        return one_line(json.dumps(value, ensure_ascii=False), limit)
    except (ValueError, RecursionError):
        return "(nested too deep, or with a number too long, to be shown)"
