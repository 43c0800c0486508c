"""How rows become values, as fast as a claim of a hundred tasks needs it.

The nexus itself wrote these rows, so nothing is checked again. What repeats from task to task (a retry policy,
a list of tags, a moment) is read once. A value is made as unpickling would make it: its fields are there at once,
without a look at each.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from pydantic import BaseModel
from pydantic_core import from_json
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from nexus.schemas import Attempt, Claim, RetryPolicy, Task
from nexus.sql import EPOCH
from nexus.states import AttemptOutcome, TaskStatus

Row = sa.Row[Any]

ClaimKey = tuple[str, int]
"""A claim, by task and number: several may be shown on one task, of which one is current."""

V = TypeVar("V", bound=BaseModel)

FIELDS: Final = tuple(Task.model_fields)


class _AsKept(FunctionElement[Any]):
    """A column as the driver gives it: JSON as text, moments as they come. Reading it is `task_of`'s."""

    type = sa.types.NullType()
    inherit_cache = True


@compiles(_AsKept, "sqlite")
def _as_kept_sqlite(element: _AsKept, compiler: SQLCompiler, **kw: Any) -> str:
    return compiler.process(element.clauses, **kw)


@compiles(_AsKept, "postgresql")
def _as_kept_postgresql(element: _AsKept, compiler: SQLCompiler, **kw: Any) -> str:
    (column,) = element.clauses
    text = compiler.process(column, **kw)
    return f"CAST({text} AS TEXT)" if isinstance(column.type, sa.JSON) else text


def as_kept(column: sa.ColumnElement[Any]) -> sa.Label[Any]:
    """`column` for `task_of`, under its own name."""
    return _AsKept(column).label(column.name)


def fields_of(source: sa.FromClause) -> list[sa.ColumnElement[Any]]:
    """The columns that `task_of` reads, in its order."""
    return [as_kept(source.c[name]) for name in FIELDS]


@cache
def _all_fields(kind: type[BaseModel]) -> set[str]:
    """Shared by all values of a kind: frozen models never change theirs."""
    return set(kind.model_fields)


_set = object.__setattr__  # what is frozen for others


def made(kind: type[V], values: dict[str, Any]) -> V:
    """A value with these fields, all of the model's, unchecked: Pydantic's `model_construct` without a look at each."""
    value = kind.__new__(kind)
    _set(value, "__dict__", values)
    _set(value, "__pydantic_fields_set__", _all_fields(kind))
    _set(value, "__pydantic_extra__", None)
    _set(value, "__pydantic_private__", None)
    return value


@lru_cache(maxsize=1024)
def _names(text: str) -> tuple[str, ...]:
    return tuple(from_json(text))


@lru_cache(maxsize=256)
def _policy(text: str) -> RetryPolicy:
    return policy_of(from_json(text))


@lru_cache(maxsize=1024)
def moment_of(kept: Any) -> datetime:
    """A moment that was selected `as_kept`."""
    return EPOCH + timedelta(microseconds=kept) if isinstance(kept, int) else kept.astimezone(UTC)


def _json(kept: Any) -> Any:
    # SQLite keeps the text of a number as a number.
    return from_json(kept) if isinstance(kept, str) else kept


STATUS: Final = {status.value: status for status in TaskStatus}


def task_of(kept: Iterable[Any]) -> Task:
    """The task of a row that was selected with `fields_of`. Written out: it is half of what a claim costs in Python."""
    (
        task_id, task_type, description, payload, status, priority, tags, depends_on, on_dependency_failure,
        required_capabilities, assigned_to, claimed_by, claim_no, lease_expires_at, attempt_count, failure_count,
        loss_count, retry_policy, timeout_seconds, requires_review, available_at, deadline, created_at, updated_at,
        pending_since, result, error, reason, related_task_id, episode_id, idempotency_key, extra,
    ) = kept  # fmt: skip
    return made(
        Task,
        {
            "task_id": task_id,
            "task_type": task_type,
            "description": description,
            "payload": {} if payload == "{}" else from_json(payload),
            "status": STATUS[status],
            "priority": priority,
            "tags": () if tags == "[]" else _names(tags),
            "depends_on": () if depends_on == "[]" else _names(depends_on),
            "on_dependency_failure": on_dependency_failure,
            "required_capabilities": () if required_capabilities == "[]" else _names(required_capabilities),
            "assigned_to": assigned_to,
            "claimed_by": claimed_by,
            "claim_no": claim_no,
            "lease_expires_at": None if lease_expires_at is None else moment_of(lease_expires_at),
            "attempt_count": attempt_count,
            "failure_count": failure_count,
            "loss_count": loss_count,
            "retry_policy": _policy(retry_policy),
            "timeout_seconds": timeout_seconds,
            "requires_review": bool(requires_review),
            "available_at": moment_of(available_at),
            "deadline": None if deadline is None else moment_of(deadline),
            "created_at": moment_of(created_at),
            "updated_at": moment_of(updated_at),
            "pending_since": None if pending_since is None else moment_of(pending_since),
            "result": None if result is None else _json(result),
            "error": error,
            "reason": reason,
            "related_task_id": related_task_id,
            "episode_id": episode_id,
            "idempotency_key": idempotency_key,
            "extra": {} if extra == "{}" else from_json(extra),
        },
    )


def claim_of(task: Task) -> Claim:
    """The claim that a task in claimed or in_progress stands for."""
    return made(
        Claim,
        {
            "task": task,
            "task_id": task.task_id,
            "agent_id": task.claimed_by,
            "claim_no": task.claim_no,
            "lease_expires_at": task.lease_expires_at,
        },
    )


def policy_of(kept: dict[str, Any]) -> RetryPolicy:
    """A task's own retry policy."""
    return RetryPolicy.model_construct(**{**kept, "non_retryable": tuple(kept["non_retryable"])})


def to_task(row: Row) -> Task:
    """The task of a row whose columns SQLAlchemy has read."""
    kept = row._mapping
    values = {name: kept[name] for name in FIELDS}
    values["status"] = TaskStatus(values["status"])
    for name in ("tags", "depends_on", "required_capabilities"):
        values[name] = tuple(values[name])
    values["retry_policy"] = policy_of(values["retry_policy"])
    return made(Task, values)


def to_claim(row: Row) -> Claim:
    """The claim of such a row."""
    return claim_of(to_task(row))


def to_attempt(row: Row) -> Attempt:
    """An attempt's value."""
    fields = {name: row._mapping[name] for name in Attempt.model_fields}
    return made(Attempt, {**fields, "outcome": AttemptOutcome(row.outcome)})
