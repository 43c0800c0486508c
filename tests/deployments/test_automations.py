"""`nexus automations` as a user has it, with a real Prefect server that really fires them."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import pytest

from deployments.ports import free_port
from deployments.prefect_server import OwnServer
from nexus import NewTask, NexusSettings, RetryPolicy, TaskNexus

from ..cli.conftest import Said
from .live import end_processes_of, wait_until, wait_until_async

T = TypeVar("T")
Done = Callable[..., Said]
Refused = Callable[..., str]

BLOCK = "custom-webhook/ops"
SHIP = "ship/prod"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, prefect_begun: Callable[[Path], None]) -> Iterator[OwnServer]:
    home = tmp_path_factory.mktemp("automations")
    prefect_begun(home)
    server = OwnServer(NexusSettings.load(home=home, service={"port": free_port("127.0.0.1")}))
    server.enter(lambda _: None, lambda: None)
    yield server
    server.leave()
    end_processes_of(home)


@pytest.fixture(autouse=True)
def speaks_to(server: OwnServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The board's own server runs, as `nexus up` has it; and what a test made there is gone at its end."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    monkeypatch.setenv("NEXUS_HOME", str(server.home))
    monkeypatch.setenv("HOME", str(server.home))
    with temporary_settings({PREFECT_API_URL: server.url}):
        yield
        asyncio.run(clean())


async def clean() -> None:
    from prefect import get_client

    async with get_client() as client:
        for one in await client.read_automations():
            await client.delete_automation(one.id)


def asked(work: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
    """What Prefect's client answers."""
    from prefect import get_client

    async def ask() -> T:
        async with get_client() as client:
            return await work(client)

    return asyncio.run(ask())


class Inbox(BaseHTTPRequestHandler):
    """Where a webhook ends."""

    got: list[Any]

    def do_POST(self) -> None:
        type(self).got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def inbox() -> Iterator[list[Any]]:
    """What people are told through the block."""
    from prefect.blocks.notifications import CustomWebhookNotificationBlock

    kind: Any = type("OneInbox", (Inbox,), {"got": []})
    web = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    block = CustomWebhookNotificationBlock(
        name="ops",
        url=f"http://127.0.0.1:{web.server_port}/",
        method="POST",
        json_data={"subject": "{{subject}}", "body": "{{body}}"},
    )
    asyncio.run(block.asave("ops", overwrite=True))
    yield kind.got
    web.shutdown()


@pytest.fixture
def ship() -> Any:
    """The id of a deployment that takes a text."""

    async def make(client: Any) -> Any:
        from prefect import flow

        async def ship(version: str = "latest", dry: bool = False) -> None: ...

        schema = {"type": "object", "properties": {"version": {"type": "string"}, "dry": {"type": "boolean"}}}
        number = await client.create_flow(flow(ship, name="ship"))
        return await client.create_deployment(
            number, "prod", parameter_openapi_schema=schema, enforce_parameter_schema=True
        )

    return asked(make)


@pytest.fixture
def nexus(tmp_path: Path) -> Iterator[TaskNexus]:
    settings = NexusSettings(database_url=f"sqlite:///{tmp_path / 'board.db'}", sqlite_synchronous="NORMAL")
    with TaskNexus(settings=settings) as board:
        yield board


async def tell_prefect(nexus: TaskNexus) -> None:
    """What moved, as whoever works here tells it."""
    from flows.relay import relaying

    async with relaying(nexus):
        pass


def ends(nexus: TaskNexus, task_id: str, *tags: str, error: str | None = None) -> None:
    """A task that is worked on at once, and Prefect hears of it."""
    nexus.add_task(NewTask(task_id=task_id, task_type="release", tags=tags, retry_policy=RetryPolicy(max_attempts=1)))
    claim = nexus.claim_task(task_id, "Ada")
    nexus.start(claim)
    if error is None:
        nexus.complete(claim)
    else:
        nexus.fail(claim, error)
    asyncio.run(tell_prefect(nexus))


def changes(said: Said) -> dict[str, str]:
    return {one["name"].removeprefix("nexus: "): one["change"] for one in said.data}


def shown(done: Done) -> dict[str, Any]:
    return {one["name"].removeprefix("nexus: "): one for one in done("automations", "list", "--json").data}


@pytest.mark.usefixtures("inbox", "ship")
def test_a_week_with_automations(done: Done) -> None:
    # Monday: they are made.
    options = ("--notify", BLOCK, "--on-completed", f"deploy={SHIP}")
    assert set(changes(done("automations", "apply", *options, "--json")).values()) == {"created"}
    first = shown(done)
    assert {name: one["listens_to"] for name, one in first.items()} == {
        "a task failed": "nexus.task.failed",
        "a task is stalled": "nexus.task.stalled",
        "the sweep is late": "no nexus.sweep.finished for 610 s",
        "deploy completed, run ship/prod": "nexus.task.completed, tag deploy",
    }
    assert first["a task failed"]["does"] == f"tells {BLOCK}"
    assert first["deploy completed, run ship/prod"]["does"] == f"runs {SHIP}"
    assert all(one["enabled"] and one["last_triggered"] is None for one in first.values())

    # Tuesday: a second time changes nothing, and says so.
    assert set(changes(done("automations", "apply", *options, "--json")).values()) == {"unchanged"}
    assert "unchanged" in done("automations", "apply", *options).out

    # Wednesday: the sweep is to come more often, the run is to know its task, and somebody has switched one off.
    [off] = [one["id"] for name, one in first.items() if name == "the sweep is late"]
    asked(lambda client: client.pause_automation(off))
    again = done(
        *("automations", "apply", *options, "--task-id-as", "version", "--json"),
        NEXUS_MONITORING__CHECK_INTERVAL_SECONDS="60",
    )
    assert changes(again) == {
        "a task is stalled": "unchanged",
        "a task failed": "unchanged",
        "the sweep is late": "updated",
        "deploy completed, run ship/prod": "updated",
    }
    then = shown(done)
    assert {name: one["id"] for name, one in then.items()} == {name: one["id"] for name, one in first.items()}
    assert then["the sweep is late"]["listens_to"] == "no nexus.sweep.finished for 130 s"
    assert not then["the sweep is late"]["enabled"], "what a person has switched off stays off"
    assert then["deploy completed, run ship/prod"]["does"] == f"runs {SHIP} with the task's id as version"

    # Thursday: one is not wanted any longer; with the prefix or without.
    assert changes(done("automations", "remove", "a task failed", "--json")) == {"a task failed": "removed"}
    assert changes(done("automations", "remove", "nexus: the sweep is late", "--json")) == {
        "the sweep is late": "removed"
    }
    assert shown(done).keys() == {"a task is stalled", "deploy completed, run ship/prod"}

    # Friday: the deployment is gone, and the list says what hangs in the air.
    [run] = [one["id"] for name, one in then.items() if name.startswith("deploy")]
    automation = asked(lambda client: client.read_automation(run))
    asked(lambda client: client.delete_deployment(automation.actions[0].deployment_id))
    assert "no longer there" in shown(done)["deploy completed, run ship/prod"]["does"]
    assert set(changes(done("automations", "remove", "--all", "--json")).values()) == {"removed"}
    assert "apply makes them" in done("automations", "list").err
    assert "Nothing to do" in done("automations", "remove", "--all").err


@pytest.mark.usefixtures("inbox")
def test_what_others_made_is_never_touched(done: Done, refused: Refused) -> None:
    from prefect.events.actions import DoNothing
    from prefect.events.schemas.automations import AutomationCore, EventTrigger

    async def make(client: Any) -> Any:
        trigger = EventTrigger(expect={"prefect.flow-run.Failed"}, posture="Reactive", threshold=1, within=0)
        named = {"theirs": ["nexus"], "nexus: a task failed": ["mine"]}
        for name, tags in named.items():
            await client.create_automation(
                AutomationCore(name=name, tags=tags, trigger=trigger, actions=[DoNothing(type="do-nothing")])
            )
        return {one.id: one for one in await client.read_automations()}

    foreign = asked(make)
    assert changes(done("automations", "apply", "--notify", BLOCK, "--json"))["a task failed"] == "created"
    assert "theirs" not in shown(done)
    assert "'theirs'" in refused("automations", "remove", "theirs")
    assert len(done("automations", "remove", "--all", "--json").data) == 3
    assert {one.id: one for one in asked(lambda client: client.read_automations())} == foreign


@pytest.mark.usefixtures("inbox")
def test_nobody_is_told_twice_of_a_stalled_task(done: Done) -> None:
    done("automations", "apply", "--notify", BLOCK)
    said = done("automations", "apply", "--json", NEXUS_MONITORING__NOTIFY_BLOCK=BLOCK)
    assert changes(said) == {
        "a task failed": "unchanged",
        "the sweep is late": "unchanged",
        "a task is stalled": "removed",
    }
    assert "the sweep itself tells custom-webhook/ops" in said.err


@pytest.mark.usefixtures("inbox", "ship")
def test_the_settings_may_say_it_and_the_options_win(done: Done, elsewhere: Path) -> None:
    (elsewhere / "nexus.toml").write_text(
        f'[automations]\nnotify_block = "{BLOCK}"\n'
        f'[[automations.on_completed]]\ntag = "deploy"\ndeployment = "{SHIP}"\ntask_id_as = "version"\n'
    )
    said = done("automations", "apply", "--on-completed", f"hotfix={SHIP}", "--json")
    assert "hotfix completed, run ship/prod" in changes(said)
    assert "deploy completed, run ship/prod" not in changes(said)
    assert changes(done("automations", "apply", "--json"))["deploy completed, run ship/prod"] == "created"


def test_without_a_block_nobody_is_told_and_the_command_says_what_to_do(
    done: Done, refused: Refused, ship: Any
) -> None:
    assert "name it with --notify" in refused("automations", "apply")
    said = done("automations", "apply", "--on-completed", f"deploy={SHIP}", "--json")
    assert "name it with --notify" in said.err
    assert changes(said) == {"deploy completed, run ship/prod": "created"}


@pytest.mark.usefixtures("inbox", "ship")
@pytest.mark.parametrize(
    ("code", "options", "why"),
    [
        (1, ("--notify", "custom-webhook/nobody"), "The notification block custom-webhook/nobody is not there"),
        (1, ("--notify", "no-such-kind/ops"), "The notification block no-such-kind/ops is not there"),
        (2, ("--notify", "ops"), "'ops' is no block"),
        (1, ("--notify", BLOCK, "--on-completed", "deploy=ship/staging"), "There is no deployment ship/staging"),
        (2, ("--on-completed", "deploy=ship"), "'deploy=ship' is not TAG=FLOW/DEPLOYMENT"),
        (2, ("--on-completed", "ship/prod"), "'ship/prod' is not TAG=FLOW/DEPLOYMENT"),
        (1, ("--on-completed", f"deploy={SHIP}", "--task-id-as", "task"), "no parameter task (it has: version, dry)"),
        (2, ("--on-completed", f"deploy={SHIP}", "--task-id-as", "{{x}}"), "cannot be a parameter's name"),
        (2, ("--task-id-as", "version"), "goes with --on-completed"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(
    refused: Refused,
    code: int,
    options: tuple[str, ...],
    why: str,
) -> None:
    assert why in refused("automations", "apply", *options, code=code, NEXUS_MONITORING__ESCALATION_STRATEGY="notify")
    assert asked(lambda client: client.read_automations()) == []


def test_a_block_that_cannot_notify(refused: Refused) -> None:
    from prefect.blocks.system import Secret

    asyncio.run(Secret(value="x").asave("quiet", overwrite=True))
    environment = {"NEXUS_MONITORING__ESCALATION_STRATEGY": "notify"}
    assert "cannot notify" in refused("automations", "apply", "--notify", "secret/quiet", **environment)


def test_removing_says_which(refused: Refused) -> None:
    for words in ((), ("--all", "a task failed")):
        assert "names, or --all" in refused("automations", "remove", *words, code=2)


def test_without_a_server(refused: Refused, tmp_path: Path) -> None:
    nowhere = {"NEXUS_HOME": str(tmp_path / "nowhere")}
    assert "start `nexus up`, or set PREFECT_API_URL" in refused("automations", "list", **nowhere)
    assert not (tmp_path / "nowhere").exists()


def test_a_server_that_is_configured_and_away(refused: Refused) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    away = "http://127.0.0.1:9/api"
    with temporary_settings({PREFECT_API_URL: away}):
        line = refused("automations", "list", PREFECT_API_URL=away)
    assert "does not answer" in line


def test_a_dead_letter_is_told(done: Done, nexus: TaskNexus, inbox: list[Any]) -> None:
    done("automations", "apply", "--notify", BLOCK)
    ends(nexus, "T-{{ 7 * 7 }}", error="the disk is full")
    wait_until(lambda: inbox)
    [told] = inbox
    assert told["subject"] == "Task T-{{ 7 * 7 }} failed"
    assert "(release) is a dead letter: fail by Ada, attempt 1" in told["body"]
    assert "Why: 1 of 1 attempts are spent: the disk is full" in told["body"]
    wait_until(lambda: shown(done)["a task failed"]["last_triggered"])


def test_a_deployment_runs_when_a_task_of_the_tag_completes(done: Done, nexus: TaskNexus, ship: Any) -> None:
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId

    done("automations", "apply", "--on-completed", f"release[1]={SHIP}", "--task-id-as", "version")
    ends(nexus, "T-other", "release1", "release")
    ends(nexus, "T-dead", "release[1]", error="no")
    ends(nexus, "T-{{ 7 * 7 }}", "nightly", "release[1]")

    def runs() -> Any:
        mine = DeploymentFilter(id=DeploymentFilterId(any_=[ship]))
        return asked(lambda client: client.read_flow_runs(deployment_filter=mine))

    wait_until(runs)
    [run] = runs()
    assert run.parameters == {"version": "T-{{ 7 * 7 }}"}


async def sweep_finished() -> None:
    from prefect.events import Event, Resource
    from prefect.events.clients import get_events_client

    from flows.sweep import FINISHED

    event = Event(
        event=FINISHED,
        resource=Resource({"prefect.resource.id": "nexus.sweep"}),
        payload={"summary": "nothing stuck"},
    )
    async with get_events_client() as client:
        await client.emit(event)
    # Two that come by different ways at the same moment may be taken in either order.
    await wait_until_async(lambda: is_known(event.id))


async def is_known(event_id: Any) -> bool:
    from prefect import get_client

    async with get_client() as client:
        return any(one.id == event_id for one in (await client.read_events(limit=50)).events)


async def watch_longer(seconds: float) -> None:
    """Somebody else's alarm, which goes off later than ours: then ours has had its time."""
    from prefect import get_client
    from prefect.events.schemas.automations import AutomationCore

    from deployments.automations import LATE
    from flows.sweep import FINISHED

    async with get_client() as client:
        [ours] = await client.read_automations_by_name(LATE)
        values = ours.model_dump(exclude={"id", "owner_resource"})
        values["trigger"] |= {"within": seconds, "expect": {FINISHED}}
        values["actions"][0]["subject"] = "theirs"
        await client.create_automation(AutomationCore.model_validate(values | {"name": "theirs"}))


def apply_with_short_intervals(done: Done) -> None:
    # Twice the interval and ten seconds more: Prefect waits for no less than ten.
    done("automations", "apply", "--notify", BLOCK, NEXUS_MONITORING__CHECK_INTERVAL_SECONDS="0.01")


def sweeps_finish_for_a_while() -> None:
    """Until the server looks at the new automations too: what came before that is not for them."""
    for _ in range(5):
        asyncio.run(sweep_finished())
        time.sleep(1)


def test_a_sweep_that_is_late_is_told_once(done: Done, inbox: list[Any]) -> None:
    apply_with_short_intervals(done)
    asyncio.run(watch_longer(30))
    sweeps_finish_for_a_while()
    wait_until(lambda: [one for one in inbox if one["subject"] == "theirs"])
    assert [one["subject"] for one in inbox] == ["The sweep is late", "theirs"]
    assert "For 10.02 s no sweep has finished; the last one did at 20" in inbox[0]["body"]
    assert "(nothing stuck)" in inbox[0]["body"]


def test_a_service_that_is_stopped_sounds_no_alarm(done: Done, inbox: list[Any]) -> None:
    from deployments.service import tell_resting

    apply_with_short_intervals(done)
    asyncio.run(watch_longer(20))
    sweeps_finish_for_a_while()
    asyncio.run(tell_resting())
    wait_until(lambda: inbox)
    assert [one["subject"] for one in inbox] == ["theirs"]
