"""The other half of the outbox: what the sweep puts down is delivered, once, by whoever can, however late."""

import asyncio
import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from prefect import get_client
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.events.filters import EventFilter, EventNameFilter, EventOccurredFilter

from flows import sweep_stalled_tasks
from flows.board import working_on
from flows.notify import STALLED, deliver
from nexus import NewTask, TaskMonitoringConfig, TaskNexus

from .conftest import MakeNexus, until

pytestmark = pytest.mark.usefixtures("prefect_api")


@pytest.fixture
def nexus(make_nexus: MakeNexus) -> Iterator[TaskNexus]:
    nexus = make_nexus(monitoring=TaskMonitoringConfig(escalation_strategy="notify", pending_timeout_seconds=0.01))
    with working_on(nexus):
        yield nexus


class Inbox(BaseHTTPRequestHandler):
    """Where a webhook ends."""

    got: list[Any]
    answer = 200

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        type(self).got.append(json.loads(body))
        self.send_response(self.answer)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def inbox() -> Iterator[type[Inbox]]:
    """A web server that keeps what it is sent; `url` is its address."""
    kind: Any = type("OneInbox", (Inbox,), {"got": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    kind.url = f"http://127.0.0.1:{server.server_port}/secret-token"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield kind
    server.shutdown()


async def webhook(name: str, url: str) -> str:
    """A block as somebody makes it in the UI."""
    block = CustomWebhookNotificationBlock(
        name=name, url=url, method="POST", json_data={"subject": "{{subject}}", "body": "{{body}}"}
    )
    await block.save(name, overwrite=True)
    return f"custom-webhook/{name}"


async def events(nexus: TaskNexus, task_id: str, seconds: float = 20) -> list[Any]:
    """The events about a task, waited for."""
    wanted = EventFilter(
        event=EventNameFilter(name=[STALLED]), occurred=EventOccurredFilter(since=nexus.now() - timedelta(minutes=5))
    )
    deadline = asyncio.get_running_loop().time() + seconds
    async with get_client() as client:
        while asyncio.get_running_loop().time() < deadline:
            found = await client._client.post("/events/filter", json={"filter": wanted.model_dump(mode="json")})
            mine = [one for one in found.json()["events"] if one["resource"]["prefect.resource.id"].endswith(task_id)]
            if mine:
                return mine
            await asyncio.sleep(0.3)
    return []


async def test_a_notice_is_an_event_that_automations_can_listen_to(nexus: TaskNexus) -> None:
    nexus.add_task(NewTask(task_id="T-notice", task_type="summarise", required_capabilities=["gpu"], episode_id="E1"))
    await asyncio.sleep(0.05)

    report = await sweep_stalled_tasks()

    assert report.notified == 1
    assert nexus.undelivered() == []
    [stall] = nexus.stalls("T-notice")
    assert stall.steps[0].told_at is not None
    [event] = await events(nexus, "T-notice")
    assert event["resource"]["prefect.resource.id"] == "nexus.task.T-notice"
    assert event["payload"]["why"].startswith("no agent with the capability gpu")
    assert {one["prefect.resource.id"] for one in event["related"]} >= {"nexus.task-type.summarise", "nexus.episode.E1"}


async def test_a_block_gets_it_once(make_nexus: MakeNexus, inbox: Any) -> None:
    name = await webhook("nexus-test", inbox.url)
    monitoring = TaskMonitoringConfig(escalation_strategy="notify", pending_timeout_seconds=0.01, notify_block=name)
    nexus = make_nexus(monitoring=monitoring)
    nexus.add_task(NewTask(task_id="T-1", task_type="summarise"))
    await asyncio.sleep(0.05)

    with working_on(nexus):
        await sweep_stalled_tasks()
        await sweep_stalled_tasks()

    [message] = inbox.got
    assert message["subject"] == "Task T-1 is stalled"
    assert "`nexus explain T-1` says more" in message["body"]


async def test_an_automation_as_the_readme_makes_it_tells_people(nexus: TaskNexus, inbox: Any) -> None:
    from prefect.automations import Automation
    from prefect.events.actions import SendNotification
    from prefect.events.schemas.automations import EventTrigger

    block = await CustomWebhookNotificationBlock.aload((await webhook("nexus-people", inbox.url)).partition("/")[2])
    automation = await Automation(
        name="a task is stalled",
        trigger=EventTrigger(expect={"nexus.task.stalled"}, posture="Reactive", threshold=1, within=0),
        actions=[
            SendNotification(
                block_document_id=block._block_document_id, subject="Stalled", body="{{ event.payload.why }}"
            )
        ],
    ).acreate()
    try:
        nexus.add_task(NewTask(task_id="T-1", required_capabilities=["gpu"]))
        await asyncio.sleep(0.05)
        await sweep_stalled_tasks()
        await until(lambda: inbox.got)
    finally:
        await automation.adelete()
    assert "no agent with the capability gpu" in inbox.got[0]["body"]


async def test_what_cannot_be_delivered_waits_for_the_next_pass(
    nexus: TaskNexus, inbox: Any, caplog: pytest.LogCaptureFixture
) -> None:
    nexus.add_tasks([NewTask(task_id="T-1"), NewTask(task_id="T-2")])
    await asyncio.sleep(0.05)
    nexus.sweep()

    assert await deliver(nexus, "custom-webhook/nobody-made-this") == 0
    name = await webhook("nexus-closed", "http://127.0.0.1:9/secret-token")
    assert await deliver(nexus, name) == 0
    assert len(nexus.undelivered()) == 2
    assert "secret-token" not in caplog.text

    assert await deliver(nexus, await webhook("nexus-open", inbox.url)) == 2
    assert sorted(message["subject"] for message in inbox.got) == ["Task T-1 is stalled", "Task T-2 is stalled"]
    assert nexus.undelivered() == []


async def test_prefect_being_away_delays_it(nexus: TaskNexus) -> None:
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    nexus.add_task(NewTask(task_id="T-1"))
    await asyncio.sleep(0.05)
    nexus.sweep()
    with temporary_settings(updates={PREFECT_API_URL: "http://127.0.0.1:9/api", PREFECT_CLIENT_MAX_RETRIES: 0}):
        assert await deliver(nexus, None) == 0
    assert len(nexus.undelivered()) == 1
    assert await deliver(nexus, None) == 1


async def test_a_task_that_has_moved_on_meanwhile_is_told_as_such(nexus: TaskNexus) -> None:
    nexus.add_task(NewTask(task_id="T-1"))
    await asyncio.sleep(0.05)
    nexus.sweep()
    nexus.claim("Agent-1")
    [notice] = nexus.undelivered()
    assert notice.closed_by == "claim"
    from flows.notify import body

    assert "It has moved on meanwhile (claim)." in body(notice)
