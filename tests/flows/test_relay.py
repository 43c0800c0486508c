"""Prefect hears of every move on the board, whoever made it, and nobody waits for that."""

import asyncio
import logging
import threading
from datetime import timedelta
from typing import Any

import pytest
from prefect import get_client
from prefect.events import Event
from prefect.events.filters import EventFilter, EventNameFilter, EventOccurredFilter, EventResourceFilter
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import execute_task, process_agent_tasks
from flows.board import working_on
from flows.events import NAMES, chosen, event_name, event_of, left_out
from flows.relay import THREAD, Relay, relaying
from nexus import NewTask, NexusSettings, TaskNexus
from nexus.masking import mask_of
from nexus.reports import Move
from nexus.settings import EventsSettings
from nexus.states import TRANSITIONS

from ..conftest import Clock
from .conftest import ONCE, Handles, MakeNexus

AT = Clock().present


def moved(verb: str, to: str | None = "pending", **values: Any) -> Move:
    told = {"task_id": "T1", "at": AT, "verb": verb, "to_status": to, "actor": "Ada", "claim_no": 1, "task_type": "x"}
    return Move.model_validate(told | values)


async def told(task_id: str) -> list[str]:
    """What Prefect knows of a task, in the order in which it happened."""
    return [one.event.removeprefix("nexus.task.") for one in await events_of(task_id)]


async def events_of(task_id: str) -> list[Any]:
    wanted = EventFilter(
        occurred=EventOccurredFilter(since=AT.__class__.now(AT.tzinfo) - timedelta(hours=1)),
        event=EventNameFilter(prefix=["nexus.task."]),
        resource=EventResourceFilter(id=[f"nexus.task.{task_id}"]),
    )
    async with get_client() as client:
        answer = await client._client.post(
            "/events/filter", json={"filter": wanted.model_dump(mode="json"), "limit": 50}
        )
    found = answer.raise_for_status().json()["events"]

    return sorted((Event.model_validate(one) for one in found), key=lambda one: one.occurred)


async def until_told(task_id: str, *names: str) -> None:
    for _ in range(150):
        if await told(task_id) == list(names):
            return
        await asyncio.sleep(0.2)
    raise AssertionError(f"{task_id}: {await told(task_id)}, and not {names}")


class TestWhatIsTold:
    def test_an_event_is_named_after_an_end_or_after_what_was_done(self) -> None:
        assert event_name(moved("complete", "completed")) == "nexus.task.completed"
        assert event_name(moved("complete", "in_review")) == "nexus.task.in_review"
        assert event_name(moved("approve", "completed")) == "nexus.task.completed"
        assert event_name(moved("fail", "pending")) == "nexus.task.retrying"
        assert event_name(moved("expire", "pending")) == "nexus.task.lost"
        assert {event_name(moved(verb, "failed")) for verb in ("fail", "expire", "abandon")} == {"nexus.task.failed"}

    def test_every_legal_move_has_a_name_that_is_known(self) -> None:
        every = [moved(verb, target) for verb, move in TRANSITIONS.items() for target in move.targets]
        assert {event_name(move) for move in every} | {event_name(moved("add")), "nexus.task.reassigned"} == set(NAMES)

    def test_what_ended_elsewhere_was_only_added_here(self) -> None:
        assert event_name(moved("import", "completed")) == "nexus.task.added"

    def test_it_says_whom_it_concerns(self) -> None:
        run = "01990000-0000-7000-8000-000000000001"
        move = moved(
            "start", "in_progress", agent_id="Ada", episode_id="EP1", tags=("a", "b"), run_ref={"flow_run_id": run}
        )
        event = event_of(move, mask_of(NexusSettings(), {}))
        assert event.resource.id == "nexus.task.T1"
        assert [(one.role, one.id) for one in event.related] == [
            ("task-type", "nexus.task-type.x"),
            ("agent", "nexus.agent.Ada"),
            ("episode", "nexus.episode.EP1"),
            ("tag", "nexus.tag.a"),
            ("tag", "nexus.tag.b"),
            ("flow-run", f"prefect.flow-run.{run}"),
        ]

    def test_a_run_of_somebody_elses_is_left_out(self) -> None:
        event = event_of(moved("start", run_ref={"flow_run_id": "my laptop"}), mask_of(NexusSettings(), {}))
        assert [one.role for one in event.related] == ["task-type"]

    def test_the_same_move_is_the_same_event(self) -> None:
        mask = mask_of(NexusSettings(), {})
        assert event_of(moved("start"), mask).id == event_of(moved("start"), mask).id
        assert event_of(moved("start"), mask).id != event_of(moved("start", claim_no=2), mask).id

    def test_a_secret_stays_one(self) -> None:
        event = event_of(
            moved("fail", reason="login with hunter2-hunter2"),
            mask_of(NexusSettings(), {"PASSWORD": "hunter2-hunter2"}),
        )
        assert "hunter2" not in event.model_dump_json()

    def test_where_there_is_little_room_the_unusual_is_told(self) -> None:
        moves = [
            moved("claim", "claimed"),
            moved("fail", "failed"),
            moved("complete", "completed"),
            moved("start", "in_progress"),
        ]
        tagged = moved("complete", "completed", tags=("deploy",))
        assert chosen([tagged, *moves, moved("complete", "completed")], 2)[0] == [tagged, moves[1]]
        assert [event_name(move) for move in chosen(moves, 2)[0]] == ["nexus.task.failed", "nexus.task.completed"]
        assert chosen(moves, 2)[1] == 2
        assert chosen(moves, 4) == (moves, 0)
        assert left_out(2, moves[1]).payload == {"moves": 2, "until": AT.isoformat()}


@pytest.mark.usefixtures("prefect_api")
class TestWithPrefect:
    async def test_a_task_that_is_retried_is_told_from_beginning_to_end(
        self, nexus: TaskNexus, handles: Handles
    ) -> None:
        async def flaky(_task: Any, context: Any) -> int:
            if context.attempt_number == 1:
                raise RuntimeError("not yet")
            return 1

        handles("flaky", flaky)
        nexus.add_task(NewTask(task_id="relay-1", task_type="flaky", tags=("nightly",)))
        with working_on(nexus):
            assert await execute_task("relay-1", "Agent-1")
        await until_told("relay-1", "added", "claimed", "started", "retrying", "claimed", "started", "completed")
        events = await events_of("relay-1")
        assert "not yet" in events[3].payload["reason"]
        assert {one.role for one in events[-1].related} == {"task-type", "agent", "tag", "flow-run", "task-run"}

    async def test_a_shift_and_whoever_works_beside_it(self, nexus: TaskNexus, handles: Handles) -> None:
        def fails(*_: Any) -> None:
            nexus.cancel("relay-3", "by hand, while the shift goes on")
            raise RuntimeError("broken")

        handles("fails", fails)
        nexus.add_task(NewTask(task_id="relay-2", task_type="fails", retry_policy=ONCE))
        nexus.add_task(NewTask(task_id="relay-3", task_type="for a person"))
        with working_on(nexus):
            await process_agent_tasks("Agent-1", observe="shift")
        await until_told("relay-2", "added", "claimed", "started", "failed")
        await until_told("relay-3", "added", "cancelled")

    async def test_one_tells_at_a_time_and_the_service_comes_first(self, nexus: TaskNexus) -> None:
        first, second, service = Relay(nexus), Relay(nexus), Relay(nexus, insists=True)
        assert first._take() is not None
        assert second._take() is None
        assert service._take() is not None
        assert first._take() is None
        assert service._take() is not None

    async def test_what_moved_while_prefect_was_away_is_told_when_it_is_back(
        self, nexus: TaskNexus, caplog: pytest.LogCaptureFixture
    ) -> None:
        away = {PREFECT_API_URL: "http://127.0.0.1:9/api"}
        with temporary_settings(updates=away):
            async with relaying(nexus):
                nexus.add_task({"task_id": "relay-4"})
        assert await told("relay-4") == []
        assert [one.message for one in caplog.records if one.levelno > logging.INFO] == []
        async with relaying(nexus):
            pass
        await until_told("relay-4", "added")

    async def test_it_never_sends_more_than_it_is_told_to(self, make_nexus: MakeNexus) -> None:
        nexus = make_nexus(events=EventsSettings(per_second=1))
        relay = Relay(nexus)
        nexus.add_tasks({"task_id": f"relay-5-{n}"} for n in range(30))
        feed = nexus.feed(nexus.now() - timedelta(hours=1))
        events = relay._events(feed.read())
        assert [one.event for one in events] == ["nexus.task.added"] * 10 + ["nexus.board.moves-left-out"]
        assert events[-1].payload["moves"] == 20

    async def test_a_move_that_cannot_be_told_keeps_no_other_from_being_told(
        self, nexus: TaskNexus, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def event_of_most(move: Move, mask: Any) -> Event:
            if move.task_id == "relay-6":
                raise ValueError("not as Prefect wants it")
            return event_of(move, mask)

        monkeypatch.setattr("flows.relay.event_of", event_of_most)
        nexus.add_tasks({"task_id": f"relay-{n}"} for n in (6, 7))
        async with relaying(nexus):
            pass
        await until_told("relay-7", "added")
        events = Relay(nexus)._events(nexus.feed(nexus.now() - timedelta(hours=1)).read())
        assert [one.event for one in events] == ["nexus.task.added", "nexus.board.moves-left-out"]
        assert events[-1].payload["moves"] == 1

    async def test_where_nothing_moves_it_seldom_writes(
        self, nexus: TaskNexus, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        relay = Relay(nexus)
        feed = relay._take()
        assert feed is not None
        kept: list[Any] = []
        monkeypatch.setattr(nexus, "keep_relay", lambda *given: kept.append(given) or True)
        for told in (True, False, False, True, False):
            assert relay._keep(feed.place, told, ending=False)
        assert len(kept) == 2
        relay._keep(feed.place, told=False, ending=True)
        assert kept[-1][2] == 0, "given up at the end"

    async def test_where_events_are_off_nothing_is_sent(self, make_nexus: MakeNexus) -> None:
        nexus = make_nexus(events=EventsSettings(enabled=False))
        async with relaying(nexus):
            assert [one.name for one in threading.enumerate() if one.name == THREAD] == []
