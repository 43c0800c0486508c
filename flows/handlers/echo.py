"""The `echo` handler: the payload is the result. Shows that a board works before any real work is on it."""

from typing import Any

from flows.handlers.contract import TaskContext
from flows.handlers.registry import handler
from nexus.schemas import Task


@handler("echo")
def echo(task: Task, context: TaskContext) -> dict[str, Any]:  # noqa: ARG001 - the contract gives both
    """The payload, unchanged."""
    return task.payload
