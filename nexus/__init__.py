"""The nexus: the one true state of every task, and of every attempt that was ever made at it.

The names load on first use, so that `nexus --help` need not load SQLAlchemy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nexus.figures import Figures, Spread, Work
    from nexus.monitoring import EscalationPolicy, EscalationStep, TaskMonitoringConfig
    from nexus.overview import Overview
    from nexus.reports import PruneReport, Stall, Sweep, SweepItem, SweepReport
    from nexus.retention import Retention
    from nexus.schemas import (
        Agent,
        Attempt,
        Claim,
        Failure,
        Heartbeat,
        HistoryEvent,
        NewTask,
        Reason,
        RetryPolicy,
        Task,
    )
    from nexus.settings import NexusSettings
    from nexus.states import AttemptOutcome, TaskStatus
    from nexus.task_nexus import TaskNexus

_HOME = {
    "nexus.schemas": (
        "Agent", "Attempt", "Claim", "Failure", "Heartbeat", "HistoryEvent", "NewTask", "Reason", "RetryPolicy",
        "Task",
    ),
    "nexus.figures": ("Figures", "Spread", "Work"),
    "nexus.reports": ("PruneReport", "Stall", "Sweep", "SweepItem", "SweepReport"),
    "nexus.monitoring": ("EscalationPolicy", "EscalationStep", "TaskMonitoringConfig"),
    "nexus.overview": ("Overview",),
    "nexus.retention": ("Retention",),
    "nexus.settings": ("NexusSettings",),
    "nexus.states": ("AttemptOutcome", "TaskStatus"),
    "nexus.task_nexus": ("TaskNexus",),
}  # fmt: skip
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "Agent",
    "Attempt",
    "AttemptOutcome",
    "Claim",
    "EscalationPolicy",
    "EscalationStep",
    "Failure",
    "Figures",
    "Heartbeat",
    "HistoryEvent",
    "NewTask",
    "NexusSettings",
    "Overview",
    "PruneReport",
    "Reason",
    "Retention",
    "RetryPolicy",
    "Spread",
    "Stall",
    "Sweep",
    "SweepItem",
    "SweepReport",
    "Task",
    "TaskMonitoringConfig",
    "TaskNexus",
    "TaskStatus",
    "Work",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'nexus' has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
