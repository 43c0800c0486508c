"""What the tasks of the chaos do: they take their time, fail, or hang, as their payload says, and put down each run."""

import asyncio
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ledger import Ledger

from flows import GiveUp, TaskContext, handler
from nexus import Task


class Untold(Exception):
    """What a handler raises that is to be tried again."""


def register(ledger: Ledger) -> None:
    """Register the handlers of this process; they write to its ledger."""

    @contextmanager
    def written(task: Task, context: TaskContext) -> Iterator[dict[str, Any]]:
        name = uuid.uuid4().hex
        ledger.begins(name, task.task_id, task.claim_no, context.attempt_number, context.agent_id)
        how = "stopped"
        try:
            yield {
                "execution": name,
                "claim": task.claim_no,
                "agent": context.agent_id,
                "after": {other: done["execution"] for other, done in context.dependency_results.items() if done},
            }
            how = "returned"
        except Exception:
            how = "raised"
            raise
        finally:
            ledger.ends(name, how)

    @handler("waits")
    async def waits(task: Task, context: TaskContext) -> dict[str, Any]:
        """Most work: it waits for somebody else."""
        with written(task, context) as result:
            await asyncio.sleep(task.payload["seconds"])
            return result

    @handler("blocks")
    def blocks(task: Task, context: TaskContext) -> dict[str, Any]:
        """In a thread, which nobody can stop."""
        with written(task, context) as result:
            time.sleep(task.payload["seconds"])
            return result

    @handler("fails")
    async def fails(task: Task, context: TaskContext) -> dict[str, Any]:
        """So many times, then it works; or it gives up."""
        with written(task, context) as result:
            await asyncio.sleep(task.payload["seconds"])
            if task.payload.get("gives_up"):
                raise GiveUp("no further try will help")
            if task.failure_count < task.payload["times"]:
                raise Untold(f"failure {task.failure_count + 1}")
            return result

    @handler("hangs")
    async def hangs(task: Task, context: TaskContext) -> dict[str, Any]:
        """The first time for longer than its timeout."""
        with written(task, context) as result:
            await asyncio.sleep(60 if task.failure_count == 0 else task.payload["seconds"])
            return result
