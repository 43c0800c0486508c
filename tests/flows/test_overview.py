"""`show_board`: the whole board on one standing page."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prefect import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from flows import show_board
from flows.board import working_on
from flows.overview import BOARD, page
from nexus import NewTask, Overview, RetryPolicy, TaskNexus

from .conftest import MakeNexus, claimed, flow_run_of

pytestmark = pytest.mark.usefixtures("prefect_api")


@pytest.fixture(autouse=True)
def at_work(nexus: TaskNexus) -> Iterator[None]:
    with working_on(nexus):
        yield


async def pages() -> list[Any]:
    async with get_client() as client:
        return await client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[BOARD])))


async def test_one_page_that_is_kept_up_to_date(nexus: TaskNexus) -> None:
    nexus.add_task(NewTask(task_id="EP07-T1", task_type="summarise"))
    first = await show_board(return_state=True)

    assert isinstance(await first.aresult(), Overview)
    run = await flow_run_of(first)
    assert (run.name, run.state.message) == ("board", "1 pending")
    assert "nexus" in run.tags
    [shown] = await pages()
    assert "| summarise | 1 | 1 | EP07-T1 |" in shown.data

    nexus.complete(nexus.claim("Agent-2", start=True)[0])
    await show_board()

    [later] = await pages()
    assert later.id == shown.id, "it is replaced, not added to"
    assert "**1 completed**" in later.data
    assert "| summarise | 1 |  |" in later.data
    assert "| Agent-2 | 0 |" in later.data


async def test_a_page_with_everything_that_can_go_wrong(make_nexus: MakeNexus) -> None:
    present = datetime.now(UTC)
    long_ago = present - timedelta(hours=2)
    with TaskNexus(settings=make_nexus().settings, clock=lambda: long_ago) as then:
        then.add_tasks([NewTask(task_id="EP07-T1", task_type="summarise"), NewTask(depends_on=["EP07-T1"])])
    with TaskNexus(settings=make_nexus().settings, clock=lambda: present) as nexus:
        nexus.sweep()
        nexus.pause("deploy", reason="release | freeze")
        once = RetryPolicy(max_attempts=1)
        claim = claimed(nexus, task_id="EP07-T2", task_type="draw", priority="high", retry_policy=once)
        nexus.start(claim)
        nexus.fail(claim, "the page is gone")
        nexus.start(claimed(nexus, task_id="EP07-T3", by="Agent-3", lease_seconds=60))
        text = page(nexus.overview())

    assert "- 1 dead letter in the last 1 h: `nexus list" in text
    assert "- paused: tasks of type deploy" in text
    assert "release \\| freeze" in text
    assert "- EP07-T1 waits for 2 h (log_only)" in text
    assert "1 more wait for other tasks" in text
    assert "| Agent-3 | 1 | EP07-T3 | 0 s ago |" in text
    assert "| draw | 1 | 1 |" in text
    assert "Swept 0 s ago." in text
    assert text.count("░") > text.count("█") == 1, "what failed is drawn; the only full block stands in the head"


async def test_foreign_words_cannot_break_the_page(nexus: TaskNexus) -> None:
    nexus.add_task(NewTask(task_id="<img src=x>|`", task_type="[a](javascript:b)"))
    text = page(nexus.overview())
    assert "<img" not in text
    assert "[a](" not in text.replace("\\[a\\](", "")
    assert "&lt;img src=x&gt;\\|\\`" in text


async def test_an_empty_board(nexus: TaskNexus) -> None:
    text = page(nexus.overview())
    assert text.startswith("**no tasks**")
    assert "To be looked at" not in text
    assert "█" not in text
