"""How tasks come onto the board: checked as a batch, written in one transaction, or refused as a whole."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final

from pydantic import ValidationError

from nexus import queries, records, transitions
from nexus.engine import Again, Tx
from nexus.errors import DependencyCycle, InvalidTask, TaskExists, short
from nexus.schemas import NewTask, RetryPolicy
from nexus.states import TaskStatus
from nexus.values import is_small, json_size, new_ids

BATCH = 2000
"""Rows per INSERT."""

MOST_FAULTS = 20
"""Of one task, that are named."""


def parse(task: NewTask | Mapping[str, Any], max_bytes: int) -> NewTask:
    """A checked task; `InvalidTask` with one line per fault otherwise."""
    if isinstance(task, NewTask):
        new = task
    elif isinstance(task, Mapping):
        try:
            new = NewTask.model_validate(dict(task))
        except ValidationError as error:
            raise InvalidTask(f"{_named(task.get('task_id'))}: {faults(error)}") from None
        except RecursionError:
            raise InvalidTask(f"{_named(task.get('task_id'))}: is nested too deep; flatten it") from None
    else:
        raise InvalidTask(f"a task is a NewTask or a mapping, not {type(task).__name__}")
    for name in ("payload", "extra"):
        if (value := getattr(new, name)) and not is_small(value, max_bytes):
            check_size(f"{_named(new.task_id)}: {name}", value, max_bytes)
    return new


def _named(task_id: Any) -> str:
    """The task in a message of one line, whatever somebody gave as its id."""
    if task_id is None or task_id == "":
        return "task (without id)"
    if isinstance(task_id, str) and task_id.isprintable():
        return f"task {task_id[:80]}"
    return f"task {short(task_id)}"


def faults(error: ValidationError) -> str:
    """Pydantic's findings as one line: `field: what is wrong`."""
    found = []
    for fault in error.errors(include_url=False)[:MOST_FAULTS]:
        where = ".".join(str(part)[:100] for part in fault["loc"])
        what = fault["msg"].removeprefix("Value error, ")[:500]
        found.append(f"{where}: {what}" if where else what)
    more = error.error_count() - len(found)
    return "; ".join(found) + (f"; and {more:,} more" if more else "")


def check_size(what: str, value: Any, max_bytes: int) -> None:
    """`InvalidTask` where `value` is larger than `max_bytes` as JSON, or is none."""
    try:
        size = json_size(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidTask(f"{what} is not JSON: {error}") from None
    if size > max_bytes:
        raise InvalidTask(
            f"{what} has {size:,} bytes as JSON, the limit is {max_bytes:,}; "
            "keep large data elsewhere and a reference here, or raise NEXUS_MAX_PAYLOAD_BYTES"
        )


FRESH: Final[dict[str, Any]] = {
    "status": TaskStatus.PENDING.value,
    "previous_status": None,
    "claimed_by": None,
    "claim_no": 0,
    "lease_expires_at": None,
    "lease_seconds": None,
    "holder": None,
    "claimed_at": None,
    "started_at": None,
    "heartbeat_at": None,
    "note": None,
    "run_ref": None,
    "attempt_count": 0,
    "failure_count": 0,
    "loss_count": 0,
    "result": None,
    "error": None,
    "reason": None,
    "import_digest": None,
    "escalates": None,
}
"""Where a new task stands: what nobody has touched yet."""

_NOTHING: Final[dict[str, Any]] = {}


Draft = dict[str, Any]
"""What somebody asks for, as columns of a row: without what is `FRESH`, and without the time at which it came."""


def draft(task: NewTask, default_policy: RetryPolicy, added_by: str | None = None) -> Draft:
    """The draft of a row. That the task was added is read from it as well (`nexus.moves`)."""
    return {
        "task_id": task.task_id,
        "task_type": task.task_type,
        "description": task.description,
        "payload": task.payload or _NOTHING,
        "priority": task.priority,
        "tags": task.tags,
        "depends_on": task.depends_on,
        "unmet_dependencies": 0,
        "required_capabilities": task.required_capabilities,
        "assigned_to": task.assigned_to,
        "retry_policy": _kept(task.retry_policy or default_policy),
        "timeout_seconds": task.timeout_seconds,
        "requires_review": task.requires_review,
        "available_at": task.available_at,
        "deadline": task.deadline,
        "added_by": added_by,
        "related_task_id": task.related_task_id,
        "episode_id": task.episode_id,
        "idempotency_key": task.idempotency_key,
        "extra": task.extra or _NOTHING,
        "on_dependency_failure": task.on_dependency_failure,
    }


def row_of(drafted: Draft, task_id: str, present: datetime) -> dict[str, Any]:
    """The row of a new, pending task that comes now."""
    return {**FRESH, **drafted, **arriving(present), "task_id": task_id, "available_at": _offered(drafted, present)}


def arriving(present: datetime) -> dict[str, datetime]:
    """The moments of tasks that come now."""
    return dict.fromkeys(("created_at", "updated_at", "pending_since"), present)


def _offered(drafted: Draft, present: datetime) -> datetime:
    asked: datetime | None = drafted["available_at"]
    return present if asked is None else max(asked, present)


@lru_cache(maxsize=256)
def _kept(policy: RetryPolicy) -> dict[str, Any]:
    kept: dict[str, Any] = json.loads(policy.model_dump_json())
    return kept


def add(tx: Tx, drafts: Sequence[Draft]) -> list[str]:
    """Add all of them, or none; their ids in order, the first task's id where an idempotency key repeats.

    Raises `TaskExists`, `InvalidTask` (unknown dependency), `DependencyCycle`.
    """
    keys = [drafted["idempotency_key"] for drafted in drafts if drafted["idempotency_key"]]
    known_keys = queries.ids_of_keys(tx, keys) if keys else {}
    present = tx.present()
    ids: list[str] = []
    fresh: dict[str, Draft] = {}
    made = new_ids()
    for drafted in drafts:
        key = drafted["idempotency_key"]
        task_id = known_keys.get(key) if key else None
        if task_id is None:
            task_id = drafted["task_id"] or next(made)
            if task_id in fresh:
                raise TaskExists(task_id)
            fresh[task_id] = {**drafted, "task_id": task_id, "available_at": _offered(drafted, present)}
            if key:
                known_keys[key] = task_id
        ids.append(task_id)
    edges = {task_id: row["depends_on"] for task_id, row in fresh.items() if row["depends_on"]}
    ended = _count_unmet(tx, fresh, edges) if edges else []
    _insert(tx, list(fresh.values()), FRESH | arriving(present))
    records.add_dependencies(tx, ((task_id, target) for task_id, targets in edges.items() for target in targets))
    if ended:
        transitions.settle_dependants(tx, ended, only=list(edges))
    return ids


def check_cycle(edges: Mapping[str, Iterable[str]]) -> None:
    """`DependencyCycle` where these edges (task to what it waits for) lead round."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        raise DependencyCycle(reversed(error.args[1])) from None


def _count_unmet(tx: Tx, fresh: dict[str, Draft], edges: Mapping[str, Sequence[str]]) -> list[str]:
    """Set what each still waits for; the targets that have ended without success."""
    check_cycle(edges)
    outside = {target for targets in edges.values() for target in targets} - fresh.keys()
    status_of = queries.hold_still(tx, sorted(outside)) if outside else {}
    for task_id, targets in edges.items():
        if unknown := [target for target in targets if target not in fresh and target not in status_of]:
            raise InvalidTask(
                f"task {task_id}: depends_on names {', '.join(map(repr, unknown[:3]))}, which does not exist; "
                "add it first or in the same call"
            )
        done = sum(status_of.get(target) == TaskStatus.COMPLETED for target in targets)
        fresh[task_id]["unmet_dependencies"] = len(targets) - done
    return [target for target, status in status_of.items() if status in (TaskStatus.FAILED, TaskStatus.CANCELLED)]


def _insert(tx: Tx, rows: Sequence[Draft], alike: Mapping[str, Any]) -> None:
    for first in range(0, len(rows), BATCH):
        batch = rows[first : first + BATCH]
        added = records.add_tasks(tx, batch, alike)
        for row in batch if len(added) < len(batch) else ():
            if row["task_id"] not in added:
                there = queries.task_row(tx, row["task_id"])
                if row["idempotency_key"] and (there is None or there.idempotency_key == row["idempotency_key"]):
                    raise Again  # another process added the same key since we looked
                raise TaskExists(row["task_id"])
