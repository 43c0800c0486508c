"""`sweep_stalled_tasks`: one pass as a flow; what it did, and what a person sees of it."""

import asyncio
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prefect import get_client

from flows import sweep_stalled_tasks
from flows.board import working_on
from flows.sweep import FINISHED
from nexus import NewTask, SweepReport, TaskMonitoringConfig, TaskNexus
from nexus.errors import DatabaseUnavailable

from .conftest import MakeNexus, artifact_of, flow_run_of, until

pytestmark = pytest.mark.usefixtures("prefect_api")

LONG_AGO = datetime.now(UTC) - timedelta(days=2)


@pytest.fixture(autouse=True)
def at_work(nexus: TaskNexus) -> Iterator[None]:
    with working_on(nexus):
        yield


def wait_long(nexus: TaskNexus, task_id: str = "T-1", **fields: Any) -> None:
    """A task that has been waiting since the day before yesterday."""
    with TaskNexus(settings=nexus.settings, clock=lambda: LONG_AGO) as then:
        then.add_task(NewTask(**{"task_id": task_id, "task_type": "summarise", **fields}))


async def test_nothing_stuck(nexus: TaskNexus) -> None:
    nexus.add_task(NewTask(task_id="T-1"))

    state = await sweep_stalled_tasks(return_state=True)

    report = await state.aresult()
    assert isinstance(report, SweepReport)
    assert report.items == ()
    run = await flow_run_of(state)
    assert (run.name, run.state.message) == ("sweep", "nothing stuck")
    assert "nexus" in run.tags
    page = (await artifact_of(state, "nexus-sweep")).data
    assert "**nothing stuck**" in page
    assert f"| settings | {report.settings_hash} |" in page
    assert "| task |" not in page, "a pass that finds nothing proves that it was there, in a few lines"
    assert nexus.last_sweep().source == "deployment"


async def test_what_a_dead_agent_held_is_offered_again(nexus: TaskNexus) -> None:
    nexus.add_task(NewTask(task_id="T-1"))
    nexus.start(nexus.claim("Agent-1", lease_seconds=0.01)[0])
    await until(lambda: nexus.current_claim("T-1").lease_expires_at < nexus.now())

    state = await sweep_stalled_tasks(return_state=True)

    assert (await state.aresult()).expired == 1
    assert state.message == "1 leases expired"
    assert nexus.attempts("T-1")[0].outcome == "lost"
    page = (await artifact_of(state, "nexus-sweep")).data
    assert "| T-1 | expire |" in page
    assert "offered again" in page


async def passes_told() -> list[dict[str, Any]]:
    """What Prefect's events say of the sweep's passes, the newest first."""
    async with get_client() as client:
        answer = await client._client.post("/events/filter", json={"filter": {"event": {"name": [FINISHED]}}})
    found: list[dict[str, Any]] = answer.raise_for_status().json()["events"]
    return found


def started(event: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(event["payload"]["started_at"])


async def test_that_a_pass_is_over_is_an_event(nexus: TaskNexus) -> None:
    wait_long(nexus)

    state = await sweep_stalled_tasks(return_state=True)

    report = await state.aresult()
    for _ in range(100):
        told = [one for one in await passes_told() if started(one) == report.started_at]
        if told:
            break
        await asyncio.sleep(0.2)
    assert told[0]["resource"]["prefect.resource.id"] == "nexus.sweep"
    assert (told[0]["payload"]["logged"], told[0]["payload"]["summary"]) == (1, "1 logged")
    run = f"prefect.flow-run.{state.state_details.flow_run_id}"
    assert run in [one["prefect.resource.id"] for one in told[0]["related"]]


async def test_that_nobody_can_be_told_does_not_fail_the_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(**_: Any) -> None:
        raise ConnectionError("no Prefect here")

    monkeypatch.setattr("flows.sweep.emit_event", away)
    assert (await sweep_stalled_tasks(return_state=True)).is_completed()


@pytest.mark.parametrize(
    ("strategy", "message", "after"),
    [
        ("log_only", "1 logged", {"T-1": "pending"}),
        ("mark_stalled", "1 marked as stalled", {"T-1": "stalled"}),
        ("reassign", "1 reassigned", {"T-1": "pending"}),
        ("escalate", "1 escalated", {"T-1": "pending", "escalation": "pending"}),
    ],
)
async def test_the_strategy_is_a_parameter(
    nexus: TaskNexus, strategy: str, message: str, after: dict[str, str]
) -> None:
    wait_long(nexus, assigned_to="Agent-9")
    config = TaskMonitoringConfig.model_validate({"escalation_strategy": strategy, "pending_timeout_seconds": 3600})

    first = await sweep_stalled_tasks(config, return_state=True)
    again = await sweep_stalled_tasks(config, return_state=True)

    assert first.message == message
    assert again.message == "nothing stuck", "once per waiting period"
    page = (await artifact_of(first, "nexus-sweep")).data
    assert re.search(rf"\| T-1 \| {strategy} \| 17\d{{4}} \|", page), "two days, in seconds"
    tasks = nexus.get_all_tasks()
    assert {"T-1" if one.task_id == "T-1" else one.task_type: str(one.status) for one in tasks} == after
    assert tasks[0].assigned_to == (None if strategy == "reassign" else "Agent-9")


async def test_as_a_form_sends_it(nexus: TaskNexus) -> None:
    wait_long(nexus)

    report = await sweep_stalled_tasks({"escalation_strategy": "mark_stalled"})  # type: ignore[arg-type]

    assert report.stalled == 1


async def test_without_a_parameter_the_settings_decide(make_nexus: MakeNexus) -> None:
    strict = make_nexus(monitoring=TaskMonitoringConfig(escalation_strategy="mark_stalled"))
    wait_long(strict)

    with working_on(strict):
        assert (await sweep_stalled_tasks()).stalled == 1


async def test_a_full_pass_says_that_it_was_full(nexus: TaskNexus) -> None:
    for number in range(3):
        wait_long(nexus, f"T-{number}")

    state = await sweep_stalled_tasks(TaskMonitoringConfig(max_per_sweep=2), return_state=True)

    assert state.message == "2 logged (the pass was full: the next one continues)"


class Away(TaskNexus):
    """A database that is away for some sweeps."""

    away = 0

    def sweep(self, *given: Any, **named: Any) -> SweepReport:
        if self.away:
            self.away -= 1
            raise DatabaseUnavailable("the server is restarting.")
        return super().sweep(*given, **named)


async def test_a_database_that_is_away_for_a_moment_costs_only_the_wait(
    make_nexus: MakeNexus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.patience.PAUSE_SECONDS", 0.01)
    away = make_nexus(Away)
    wait_long(away)
    away.away = 2

    with working_on(away):
        report = await sweep_stalled_tasks()

    assert report.logged == 1


async def test_a_database_that_stays_away_is_red(make_nexus: MakeNexus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.patience.PAUSE_SECONDS", 0.01)
    away = make_nexus(Away)
    away.away = 1000

    with working_on(away):
        state = await sweep_stalled_tasks(return_state=True)

    assert state.is_failed()
    assert "the server is restarting" in str(state.message)
