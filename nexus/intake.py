"""How tasks come onto the board: checked as a batch, written in one transaction, or refused as a whole."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from graphlib import CycleError, TopologicalSorter
from typing import Any

from pydantic import ValidationError

from nexus import queries, records, transitions
from nexus.engine import Again, Tx
from nexus.errors import DependencyCycle, InvalidTask, TaskExists, short
from nexus.schemas import NewTask, RetryPolicy
from nexus.states import TaskStatus
from nexus.values import json_size, new_id

BATCH = 1000
"""Rows per INSERT."""

MOST_FAULTS = 20
"""Of one task, that are named."""


def parse(task: NewTask | Mapping[str, Any], max_bytes: int) -> NewTask:
    """A checked task; `InvalidTask` with one line per fault otherwise."""
    if isinstance(task, NewTask):
        new = task
    elif isinstance(task, Mapping):
        name = _named(task.get("task_id"))
        try:
            new = NewTask.model_validate(dict(task))
        except ValidationError as error:
            raise InvalidTask(f"{name}: {faults(error)}") from None
        except RecursionError:
            raise InvalidTask(f"{name}: is nested too deep; flatten it") from None
    else:
        raise InvalidTask(f"a task is a NewTask or a mapping, not {type(task).__name__}")
    for name in ("payload", "extra"):
        check_size(f"{_named(new.task_id)}: {name}", getattr(new, name), max_bytes)
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


def row_of(
    task: NewTask, task_id: str, present: datetime, default_policy: RetryPolicy, added_by: str | None = None
) -> dict[str, Any]:
    """The row of a new, pending task. That it was added is read from here (`nexus.moves`)."""
    policy = task.retry_policy or default_policy
    return {
        "task_id": task_id,
        "task_type": task.task_type,
        "description": task.description,
        "payload": task.payload,
        "status": TaskStatus.PENDING.value,
        "previous_status": None,
        "priority": task.priority,
        "tags": list(task.tags),
        "depends_on": list(task.depends_on),
        "unmet_dependencies": 0,
        "required_capabilities": list(task.required_capabilities),
        "assigned_to": task.assigned_to,
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
        "retry_policy": json.loads(policy.model_dump_json()),
        "timeout_seconds": task.timeout_seconds,
        "requires_review": task.requires_review,
        "available_at": max(task.available_at or present, present),
        "deadline": task.deadline,
        "created_at": present,
        "added_by": added_by,
        "updated_at": present,
        "pending_since": present,
        "result": None,
        "error": None,
        "reason": None,
        "related_task_id": task.related_task_id,
        "episode_id": task.episode_id,
        "idempotency_key": task.idempotency_key,
        "extra": task.extra,
        "import_digest": None,
        "on_dependency_failure": task.on_dependency_failure,
        "stall_id": None,
        "previous_stall_id": None,
        "overdue_id": None,
        "escalates": None,
    }


def add(tx: Tx, new: Sequence[NewTask], default_policy: RetryPolicy, actor: str | None) -> list[str]:
    """Add all of `new`, or none; their ids in order, the first task's id where an idempotency key repeats.

    Raises `TaskExists`, `InvalidTask` (unknown dependency), `DependencyCycle`.
    """
    known_keys = queries.ids_of_keys(tx, [task.idempotency_key for task in new if task.idempotency_key])
    present = tx.present()
    ids: list[str] = []
    fresh: dict[str, dict[str, Any]] = {}
    for task in new:
        task_id = known_keys.get(task.idempotency_key or "")
        if task_id is None:
            task_id = task.task_id or new_id()
            if task_id in fresh:
                raise TaskExists(task_id)
            fresh[task_id] = row_of(task, task_id, present, default_policy, actor)
            if task.idempotency_key:
                known_keys[task.idempotency_key] = task_id
        ids.append(task_id)
    edges = {task_id: row["depends_on"] for task_id, row in fresh.items() if row["depends_on"]}
    ended = _count_unmet(tx, fresh, edges)
    _insert(tx, list(fresh.values()))
    records.add_dependencies(tx, ((task_id, target) for task_id, targets in edges.items() for target in targets))
    if ended:
        transitions.settle_dependants(tx, ended)
    return ids


def check_cycle(edges: Mapping[str, Iterable[str]]) -> None:
    """`DependencyCycle` where these edges (task to what it waits for) lead round."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        raise DependencyCycle(reversed(error.args[1])) from None


def _count_unmet(tx: Tx, fresh: dict[str, dict[str, Any]], edges: Mapping[str, Sequence[str]]) -> list[str]:
    """Set what each still waits for; the targets that have ended without success."""
    check_cycle(edges)
    outside = {target for targets in edges.values() for target in targets} - fresh.keys()
    status_of = queries.lock_targets(tx, sorted(outside)) if outside else {}
    for task_id, targets in edges.items():
        if unknown := [target for target in targets if target not in fresh and target not in status_of]:
            raise InvalidTask(
                f"task {task_id}: depends_on names {', '.join(map(repr, unknown[:3]))}, which does not exist; "
                "add it first or in the same call"
            )
        done = sum(status_of.get(target) == TaskStatus.COMPLETED for target in targets)
        fresh[task_id]["unmet_dependencies"] = len(targets) - done
    return [target for target, status in status_of.items() if status in (TaskStatus.FAILED, TaskStatus.CANCELLED)]


def _insert(tx: Tx, rows: Sequence[dict[str, Any]]) -> None:
    for first in range(0, len(rows), BATCH):
        batch = rows[first : first + BATCH]
        added = records.add_tasks(tx, batch)
        for row in batch:
            if row["task_id"] not in added:
                there = queries.task_row(tx, row["task_id"])
                if row["idempotency_key"] and (there is None or there.idempotency_key == row["idempotency_key"]):
                    raise Again  # another process added the same key since we looked
                raise TaskExists(row["task_id"])
