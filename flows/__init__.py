"""How work gets done: handlers, and the Prefect flows that claim, execute, complete, sweep and prune.

The flows load on first use: a module of handlers need not pay for importing Prefect.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from flows.handlers import GiveUp, Retry, TaskContext, handler

if TYPE_CHECKING:
    from flows.episode import run_episode
    from flows.execute import execute_task
    from flows.overview import show_board
    from flows.prune import prune_finished_tasks
    from flows.reports import EpisodeReport, ShiftReport
    from flows.shift import process_agent_tasks
    from flows.sweep import sweep_stalled_tasks

_MODULE_OF = {
    "EpisodeReport": "flows.reports",
    "ShiftReport": "flows.reports",
    "execute_task": "flows.execute",
    "process_agent_tasks": "flows.shift",
    "prune_finished_tasks": "flows.prune",
    "run_episode": "flows.episode",
    "show_board": "flows.overview",
    "sweep_stalled_tasks": "flows.sweep",
}

__all__ = [
    "EpisodeReport",
    "GiveUp",
    "Retry",
    "ShiftReport",
    "TaskContext",
    "execute_task",
    "handler",
    "process_agent_tasks",
    "prune_finished_tasks",
    "run_episode",
    "show_board",
    "sweep_stalled_tasks",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'flows' has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
