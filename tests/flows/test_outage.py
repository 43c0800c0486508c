"""A shift outlives a database that is away for longer than its leases, however its attempts are shown."""

import asyncio
from typing import Any

import pytest

from flows import TaskContext, process_agent_tasks
from flows.board import working_on
from nexus import Task, TaskNexus
from nexus.errors import DatabaseUnavailable

from .conftest import Handles, MakeNexus, until

pytestmark = pytest.mark.usefixtures("prefect_api")

LEASE = 1


class Away(TaskNexus):
    """A board whose database is away as long as somebody says so."""

    is_away = False
    refused = 0

    def _reach(self) -> None:
        if self.is_away:
            self.refused += 1
            raise DatabaseUnavailable("the server is restarting.")

    def claim(self, *given: Any, **named: Any) -> Any:
        self._reach()
        return super().claim(*given, **named)

    def complete_many(self, results: Any) -> Any:
        self._reach()
        return super().complete_many(results)

    def heartbeat_many(self, beats: Any) -> Any:
        self._reach()
        return super().heartbeat_many(beats)

    def lose(self, *given: Any) -> bool:
        self._reach()
        return super().lose(*given)


@pytest.mark.parametrize("observe", ["task", "shift"])
async def test_what_could_not_be_written_of_one_attempt_ends_no_shift(
    make_nexus: MakeNexus, handles: Handles, monkeypatch: pytest.MonkeyPatch, observe: Any
) -> None:
    monkeypatch.setattr("flows.shift.POLL_SECONDS", 0.1)
    nexus = make_nexus(Away)

    async def do(task: Task, context: TaskContext) -> str:
        nexus.is_away = task.task_id == "T-1"  # while its result is to be written
        return "done"

    handles("summarise", do)
    nexus.add_task({"task_id": "T-1", "task_type": "summarise"})

    with working_on(nexus):
        shift = asyncio.create_task(
            process_agent_tasks("Agent-1", mode="wait", max_tasks=2, lease_seconds=LEASE, observe=observe)
        )
        await until(lambda: nexus.is_away)
        await asyncio.sleep(2.5 * LEASE)
        nexus.add_task({"task_id": "T-2", "task_type": "summarise"})
        nexus.is_away = False
        async with asyncio.timeout(30):
            report = await shift

    assert nexus.refused > 1
    assert [one.task_id for one in report.attempts] == ["T-2"]
    assert nexus.sweep().expired == 1, "the first is done again when its lease is over"
    task = nexus.get_task_by_id("T-1")
    assert task is not None
    assert (task.status, task.loss_count) == ("pending", 1)
