"""Short words for what many stories begin with."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from nexus import Claim, TaskNexus, TaskStatus
from nexus.boards import ImportReport
from nexus.tables import Base

Load = Callable[..., ImportReport]


@pytest.fixture
def at_work(nexus: TaskNexus) -> Callable[..., Claim]:
    """`at_work("T1", "Ada")`: Ada has claimed T1 and started."""

    def take(task_id: str, agent_id: str = "Ada", **claiming: Any) -> Claim:
        claim = nexus.claim_task(task_id, agent_id, **claiming)
        nexus.start(claim)
        return claim

    return take


@pytest.fixture
def done(nexus: TaskNexus, at_work: Callable[..., Claim]) -> Callable[..., None]:
    """`done("T1")`: Ada has claimed, started and completed it."""

    def do(task_id: str, result: Any = None) -> None:
        nexus.complete(at_work(task_id), result)

    return do


@pytest.fixture
def bring_to(nexus: TaskNexus, at_work: Callable[..., Claim]) -> Callable[[str, TaskStatus], Claim | None]:
    """`bring_to("T1", status)`: adds T1 and leads it to a status by legal verbs; the claim that it once had."""

    def bring(task_id: str, status: TaskStatus) -> Claim | None:
        nexus.add_task({"task_id": task_id, "requires_review": status == TaskStatus.IN_REVIEW})
        claim = None
        if status == TaskStatus.CLAIMED:
            claim = nexus.claim_task(task_id, "Ada")
        elif status in (TaskStatus.IN_PROGRESS, TaskStatus.COMPLETED, TaskStatus.IN_REVIEW, TaskStatus.FAILED):
            claim = at_work(task_id)
        if status in (TaskStatus.COMPLETED, TaskStatus.IN_REVIEW):
            nexus.complete(claim, "done")
        elif status == TaskStatus.FAILED:
            nexus.fail(claim, FinalError("no use"))
        elif status == TaskStatus.BLOCKED:
            nexus.block(task_id, "waits for a person")
        elif status == TaskStatus.CANCELLED:
            nexus.cancel(task_id, "not needed")
        elif status == TaskStatus.STALLED:
            monitoring = nexus.settings.monitoring.model_copy(update={"escalation_strategy": "mark_stalled"})
            later = nexus.now().timestamp() + monitoring.pending_timeout_seconds + 1
            nexus.sweep(monitoring, now=nexus.now().fromtimestamp(later, nexus.now().tzinfo))
        assert nexus.get_task_by_id(task_id).status == status
        return claim

    return bring


class FinalError(Exception):
    """A failure that no further attempt will mend."""

    retryable = False


@pytest.fixture
def everything(nexus: TaskNexus) -> Callable[[], dict[str, list[tuple[Any, ...]]]]:
    """`everything()`: every row of every table, to show that something changed nothing."""

    def look() -> dict[str, list[tuple[Any, ...]]]:
        with nexus._database.engine.connect() as connection:
            return {
                table.name: [
                    tuple(map(repr, row))
                    for row in connection.execute(sa.select(table).order_by(*table.primary_key.columns))
                ]
                for table in Base.metadata.sorted_tables
                if table.name != "nexus_sweeps"  # every pass puts itself down, also one that does nothing
            }

    return look


@pytest.fixture
def statuses(nexus: TaskNexus) -> Callable[..., Sequence[str]]:
    """`statuses("A", "B")`: where these tasks stand."""

    def look(*task_ids: str) -> Sequence[str]:
        return [str(nexus.get_task_by_id(task_id).status) for task_id in task_ids]

    return look


@pytest.fixture
def load(nexus: TaskNexus, tmp_path: Path) -> Load:
    """`load([...tasks])`: writes them to a board file and imports it."""

    def load_(document: Any, name: str = "board.json", *, into: TaskNexus = nexus, **how: Any) -> ImportReport:
        path = tmp_path / name
        path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
        return into.import_board(into.read_board(path), **how)

    return load_
