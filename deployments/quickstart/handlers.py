"""What the quickstart's own tasks do: inventory, checksums, report. A model for handlers of yours."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, Field

from flows.handlers import GiveUp, TaskContext, handler
from flows.reports import cell
from nexus.schemas import Task

SKIPPED: Final = frozenset({"__pycache__", "node_modules", "venv", "site-packages"})
"""Folders with thousands of files that nobody wrote; hidden ones are left out as well."""

INVENTORY: Final = "quickstart-inventory.txt"
"""The list that the inventory leaves in the nexus's home, and the checksums read."""

_BLOCK: Final = 1 << 20


class InventoryPayload(BaseModel):
    """Which directory, and how many files at the most."""

    path: str = "."
    max_files: int = Field(20_000, ge=1)


class ChecksumPayload(BaseModel):
    """Which share of the files: those whose number modulo `of` is `share`."""

    share: int = Field(ge=0)
    of: int = Field(ge=1)
    max_bytes: int = Field(200_000_000, ge=1)


class ReportPayload(BaseModel):
    """The report's name inside the nexus's home."""

    file: str


def files_below(top: Path) -> Iterator[Path]:
    """The regular files below `top` in a fixed order, without hidden and generated folders; links are not followed."""
    for folder, folders, names in os.walk(top):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in SKIPPED)
        for name in sorted(names):
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink():
                yield path


def listed(name: str) -> str:
    """A file's name on a line of a list: itself, or as JSON where it would not stand on one line."""
    return name if name.isprintable() and not name.startswith('"') else json.dumps(name)


def name_of(line: str) -> str:
    """The name that `listed` wrote."""
    return str(json.loads(line)) if line.startswith('"') else line


@handler("quickstart.inventory")
def inventory(task: Task, context: TaskContext) -> dict[str, Any]:
    """List the files and write the list into the nexus's home; the result is their number, size and kinds."""
    asked = InventoryPayload.model_validate(task.payload)
    names: list[str] = []
    kinds: Counter[str] = Counter()
    size = 0
    complete = True
    for path in files_below(Path(asked.path)):
        if len(names) == asked.max_files:
            complete = False
            break
        try:
            size += path.stat().st_size
        except OSError:
            continue  # gone since its folder was read
        names.append(listed(str(path)))
        kinds[_shown(path.suffix.lower()) or "(none)"] += 1
        if context.stop.is_set():
            raise GiveUp("told to stop")
        if len(names) % 1000 == 0:
            context.note(f"{len(names)} files so far")
    kept = _home(context) / INVENTORY
    kept.write_text("\n".join(names), encoding="utf-8")
    return {
        "directory": _shown(Path(asked.path).resolve()),
        "files": len(names),
        "bytes": size,
        "complete": complete,
        "kinds": dict(kinds.most_common(10)),
        "list": _shown(kept),
    }


@handler("quickstart.checksum")
def checksum(task: Task, context: TaskContext) -> dict[str, Any]:
    """SHA-256 of each file of one share of the inventory, kept in the nexus's home; the result sums them up."""
    asked = ChecksumPayload.model_validate(task.payload)
    text = (_home(context) / INVENTORY).read_text(encoding="utf-8")
    names = text.split("\n")[asked.share :: asked.of] if text else []
    lines: list[str] = []
    skipped: list[str] = []
    read = 0
    for line in names:
        name = name_of(line)
        if context.stop.is_set():
            raise GiveUp("told to stop")
        try:
            size = Path(name).stat().st_size
            if read + size > asked.max_bytes:
                skipped.append(line)
                continue
            lines.append(f"{_digest(Path(name))}  {line}")
            read += size
        except OSError:
            skipped.append(line)  # gone or unreadable since the inventory
        context.note(f"{len(lines)} of {len(names)} files")
    kept = _home(context) / f"quickstart-sha256-{asked.share + 1}.txt"
    kept.write_text("\n".join(lines), encoding="utf-8")
    whole = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return {"files": len(lines), "bytes": read, "skipped": len(skipped), "sha256_of_list": whole, "list": _shown(kept)}


@handler("quickstart.report")
def report(task: Task, context: TaskContext) -> dict[str, Any]:
    """Write what the other tasks found as Markdown."""
    asked = ReportPayload.model_validate(task.payload)
    found = dict(context.dependency_results)
    files = next(result for result in found.values() if "kinds" in result)
    sums = {task_id: result for task_id, result in found.items() if "sha256_of_list" in result}
    commands = {task_id: result for task_id, result in found.items() if "exit_code" in result}
    lines = [f"# What is in {cell(files['directory'])}", ""]
    lines += [f"{files['files']:,} files, {files['bytes']:,} bytes.", "", "| kind | files |", "|---|---|"]
    lines += [f"| {cell(kind)} | {number:,} |" for kind, number in files["kinds"].items()]
    lines += ["", "| checksums by | files | bytes | skipped | SHA-256 of the list |", "|---|---|---|---|---|"]
    lines += [
        f"| {cell(task_id)} | {one['files']:,} | {one['bytes']:,} | {one['skipped']} | {one['sha256_of_list'][:16]}… |"
        for task_id, one in sums.items()
    ]
    lines += ["", *(f"`{task_id}` said: {cell(one['stdout'])}" for task_id, one in commands.items())]
    path = _home(context) / Path(asked.file).name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {"report": _shown(path), "files": files["files"], "bytes": files["bytes"]}


def _shown(path: Path | str) -> str:
    """A path as text that JSON can hold: names of files may be any bytes."""
    return os.fsencode(path).decode("utf-8", "replace")


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _home(context: TaskContext) -> Path:
    home = context.settings.home.resolve()
    home.mkdir(parents=True, exist_ok=True)
    return home
