"""What the stories about handlers share: a task in an agent's hands, and a board's settings of their own."""

import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from flows.handlers.contract import TaskContext
from nexus.schemas import RetryPolicy, Task
from nexus.settings import NexusSettings
from nexus.states import TaskStatus

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)

MakeTask = Callable[..., Task]
MakeContext = Callable[..., TaskContext]


@pytest.fixture(autouse=True)
def no_foreign_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Neither this machine's settings nor its proxies play a part."""
    for name in list(os.environ):
        if name.startswith("NEXUS_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def task() -> MakeTask:
    def make(task_type: str, payload: dict[str, Any], **fields: Any) -> Task:
        return Task(
            **{
                "task_id": "EP07-T3",
                "task_type": task_type,
                "description": "",
                "payload": payload,
                "status": TaskStatus.IN_PROGRESS,
                "priority": 20,
                "tags": (),
                "depends_on": (),
                "required_capabilities": (),
                "assigned_to": None,
                "claimed_by": "Agent-2",
                "claim_no": 1,
                "lease_expires_at": NOON,
                "attempt_count": 1,
                "failure_count": 0,
                "loss_count": 0,
                "retry_policy": RetryPolicy(),
                "timeout_seconds": None,
                "requires_review": False,
                "available_at": NOON,
                "deadline": None,
                "created_at": NOON,
                "updated_at": NOON,
                "pending_since": None,
                "result": None,
                "error": None,
                "reason": None,
                "related_task_id": None,
                "episode_id": None,
                "idempotency_key": None,
                "extra": {},
                **fields,
            }
        )

    return make


@pytest.fixture
def context() -> MakeContext:
    def make(idempotency_key: str = "EP07-T3", **settings: Any) -> TaskContext:
        return TaskContext(
            agent_id="Agent-2",
            attempt_number=1,
            idempotency_key=idempotency_key,
            settings=NexusSettings.load(**settings),
        )

    return make
