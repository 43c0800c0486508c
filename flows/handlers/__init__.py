"""What does the work of a task: the contract, the registry, and the handlers that are built in."""

from flows.handlers.contract import GiveUp, Retry, TaskContext
from flows.handlers.registry import find, handler, runnable_types, task_types

__all__ = ["GiveUp", "Retry", "TaskContext", "find", "handler", "runnable_types", "task_types"]
