"""`prune_finished_tasks`: what is forgotten on a schedule, and what a person sees of it."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from flows import prune_finished_tasks
from flows.board import working_on
from nexus import NewTask, PruneReport, Retention, TaskNexus
from nexus.errors import DatabaseUnavailable

from .conftest import MakeNexus, artifact_of, flow_run_of

pytestmark = pytest.mark.usefixtures("prefect_api")

LONG_AGO = datetime.now(UTC) - timedelta(days=40)
A_MONTH = Retention.model_validate({"completed": {"days": 30}, "cancelled": {"days": 30, "keep": 1000}})


@pytest.fixture(autouse=True)
def at_work(nexus: TaskNexus) -> Iterator[None]:
    with working_on(nexus):
        yield


@pytest.fixture
def ended(nexus: TaskNexus) -> list[str]:
    """Three tasks that were cancelled forty days ago; one of them something waits for."""
    with TaskNexus(settings=nexus.settings, clock=lambda: LONG_AGO) as then:
        names = then.add_tasks([NewTask(task_id=f"T-{number}") for number in range(3)])
        for name in names:
            then.cancel(name)
        then.add_task(NewTask(task_id="waits", depends_on=["T-0"]))
    return names


async def test_what_is_old_goes(nexus: TaskNexus, ended: list[str]) -> None:
    state = await prune_finished_tasks(A_MONTH, return_state=True)

    report = await state.aresult()
    assert isinstance(report, PruneReport)
    assert (report.cancelled, report.kept) == (2, 1)
    assert {task.task_id for task in nexus.get_all_tasks()} == {"T-0", "waits"}
    run = await flow_run_of(state)
    assert (run.name, run.state.message) == ("prune", "2 cancelled, 1 kept because something needs them")
    assert "nexus" in run.tags
    page = (await artifact_of(state, "nexus-prune")).data
    assert "| cancelled | 2 | 30 days, the newest 1,000 |" in page
    assert "| failed | 0 | for ever |" in page
    assert "| rows of history | 2 | |" in page
    assert "1 more stay" in page


async def test_a_dry_run(nexus: TaskNexus, ended: list[str]) -> None:
    state = await prune_finished_tasks(A_MONTH, dry_run=True, return_state=True)

    assert state.message.endswith("(dry run: nothing was deleted)")
    assert nexus.stats().total() == 4


async def test_as_a_form_sends_it(nexus: TaskNexus, ended: list[str]) -> None:
    report = await prune_finished_tasks({"cancelled": {"days": 30}, "max_per_run": 1})  # type: ignore[arg-type]

    assert (report.cancelled, report.more) == (1, True)


async def test_without_a_parameter_the_settings_decide(make_nexus: MakeNexus, ended: list[str]) -> None:
    with working_on(make_nexus(retention=A_MONTH)):
        assert (await prune_finished_tasks()).cancelled == 2


async def test_without_settings_everything_is_kept(nexus: TaskNexus, ended: list[str]) -> None:
    state = await prune_finished_tasks(return_state=True)

    assert state.message == "no retention is set: everything is kept"
    assert nexus.stats().total() == 4


async def test_nothing_to_forget(nexus: TaskNexus) -> None:
    state = await prune_finished_tasks(A_MONTH, return_state=True)

    assert state.message == "nothing to forget"


class Away(TaskNexus):
    """A database that is away for some tries."""

    away = 1

    def prune(self, *given: Any, **named: Any) -> PruneReport:
        if self.away:
            self.away -= 1
            raise DatabaseUnavailable("the server is restarting.")
        return super().prune(*given, **named)


async def test_a_database_that_is_away_for_a_moment_costs_only_the_wait(
    make_nexus: MakeNexus, ended: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.patience.PAUSE_SECONDS", 0.01)

    with working_on(make_nexus(Away)):
        report = await prune_finished_tasks(A_MONTH)

    assert report.cancelled == 2
