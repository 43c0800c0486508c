"""A span around each attempt: what it tells, who is below it, what it keeps to itself."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode, Tracer

from flows import process_agent_tasks
from flows.board import working_on
from flows.handlers import GiveUp, TaskContext
from flows.runner import run_attempt
from nexus import Task, TaskNexus
from nexus.errors import ClaimLost

from .conftest import ONCE, Handles, claimed

Spans = Callable[[], dict[str, ReadableSpan]]


@pytest.fixture
def tracer(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Tracer, InMemorySpanExporter]]:
    """A tracer of the SDK, which ours is for the time of the test, and where its spans end."""
    provider, kept = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    tracer = provider.get_tracer("a handler's own")
    monkeypatch.setattr("flows.tracing._tracer", provider.get_tracer("nexus"))
    yield tracer, kept
    provider.shutdown()


@pytest.fixture
def spans(tracer: tuple[Tracer, InMemorySpanExporter]) -> Spans:
    """The spans that ended, by name."""
    return lambda: {span.name: span for span in tracer[1].get_finished_spans()}


async def test_what_is_told_of_an_attempt(nexus: TaskNexus, handles: Handles, spans: Spans) -> None:
    handles("summarise", lambda task, context: "done")
    claim = claimed(nexus, episode_id="EP07")

    await run_attempt(nexus, claim, run_ref={"flow_run_id": "f-1", "task_run_id": "t-1", "run_count": 2})

    [(name, span)] = spans().items()
    assert name == "attempt summarise", "of few names, whatever the tasks are called"
    assert span.attributes == {
        "nexus.task_id": "EP07-T3",
        "nexus.task_type": "summarise",
        "nexus.agent_id": "Agent-1",
        "nexus.claim_no": claim.claim_no,
        "nexus.episode_id": "EP07",
        "nexus.attempt": 1,
        "nexus.outcome": "completed",
        "nexus.status": "completed",
        "prefect.flow_run.id": "f-1",
        "prefect.task_run.id": "t-1",
        "prefect.task_run.run_count": 2,
    }
    assert span.status.status_code == StatusCode.UNSET
    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.name == "nexus"


@pytest.mark.parametrize("in_thread", [False, True])
async def test_a_handlers_own_spans_are_its_children(
    nexus: TaskNexus, handles: Handles, spans: Spans, tracer: tuple[Tracer, InMemorySpanExporter], in_thread: bool
) -> None:
    def read(task: Task, context: TaskContext) -> None:
        with tracer[0].start_as_current_span("read"), tracer[0].start_as_current_span("parse"):
            pass

    async def read_here(task: Task, context: TaskContext) -> None:
        await asyncio.sleep(0)
        read(task, context)

    handles("summarise", read if in_thread else read_here)
    await run_attempt(nexus, claimed(nexus))

    found = spans()
    attempt, outer, inner = found["attempt summarise"], found["read"], found["parse"]
    assert attempt.parent is None
    assert outer.parent is not None
    assert outer.parent.span_id == attempt.context.span_id
    assert inner.parent is not None
    assert inner.parent.span_id == outer.context.span_id
    assert not trace.get_current_span().get_span_context().is_valid, "it ended with the attempt"


async def test_it_is_a_child_of_what_goes_on_around_it(
    nexus: TaskNexus, handles: Handles, spans: Spans, tracer: tuple[Tracer, InMemorySpanExporter]
) -> None:
    handles("summarise", lambda task, context: None)
    with tracer[0].start_as_current_span("a task run of Prefect's"):
        await run_attempt(nexus, claimed(nexus))
    parent = spans()["attempt summarise"].parent
    assert parent is not None
    assert parent.span_id == spans()["a task run of Prefect's"].context.span_id


async def test_an_attempt_that_fails_says_why_and_keeps_the_secrets(
    nexus: TaskNexus, handles: Handles, spans: Spans
) -> None:
    secret = "swordfish-1234567"

    def fetch(task: Task, context: TaskContext) -> None:
        raise GiveUp(f"401 for https://example.org/?api_key={secret}")

    handles("summarise", fetch)
    await run_attempt(nexus, claimed(nexus, payload={"api_key": secret}, retry_policy=ONCE))

    span = spans()["attempt summarise"]
    assert span.status.status_code == StatusCode.ERROR
    assert span.status.description == "401 for https://example.org/?api_key=***"
    assert span.attributes is not None
    assert (span.attributes["nexus.outcome"], span.attributes["nexus.status"]) == ("failed", "failed")
    assert span.attributes["error.type"] == "GiveUp"
    assert secret not in span.to_json()


async def test_a_timeout_is_an_error_and_a_stop_is_none(nexus: TaskNexus, handles: Handles, spans: Spans) -> None:
    begun = asyncio.Event()

    async def dawdle(task: Task, context: TaskContext) -> None:
        begun.set()
        await asyncio.sleep(60)

    handles("summarise", dawdle)
    await run_attempt(nexus, claimed(nexus, timeout_seconds=0.05))
    timed_out = spans()["attempt summarise"]
    assert timed_out.status.status_code == StatusCode.ERROR
    assert timed_out.attributes is not None
    assert timed_out.attributes["nexus.outcome"] == "timed_out"

    begun.clear()
    stopped = asyncio.create_task(run_attempt(nexus, claimed(nexus, task_id="other")))
    await begun.wait()
    stopped.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopped
    [span] = [one for one in spans().values() if one.attributes and one.attributes["nexus.task_id"] == "other"]
    assert span.status.status_code == StatusCode.UNSET
    assert span.attributes is not None
    assert span.attributes["error.type"] == "CancelledError"


async def test_an_attempt_that_cannot_begin(nexus: TaskNexus, handles: Handles, spans: Spans) -> None:
    handles("summarise", lambda task, context: None)
    claim = claimed(nexus)
    nexus.cancel(claim.task_id)
    with pytest.raises(ClaimLost):
        await run_attempt(nexus, claim)
    span = spans()["attempt summarise"]
    assert span.status.status_code == StatusCode.ERROR
    assert span.attributes is not None
    assert span.attributes["error.type"] == "ClaimLost"
    assert "nexus.outcome" not in span.attributes


async def test_without_an_sdk_there_are_no_spans(nexus: TaskNexus, handles: Handles) -> None:
    seen: list[Any] = []
    handles("summarise", lambda task, context: seen.append(trace.get_current_span()))
    await run_attempt(nexus, claimed(nexus))
    assert seen == [trace.INVALID_SPAN]


@pytest.mark.usefixtures("prefect_api")
@pytest.mark.parametrize("observe", ["task", "shift"])
async def test_a_shift_has_one_for_each_attempt(
    nexus: TaskNexus, handles: Handles, tracer: tuple[Tracer, InMemorySpanExporter], observe: Any
) -> None:
    handles("summarise", lambda task, context: None)
    nexus.add_tasks([{"task_type": "summarise"} for _ in range(5)])
    with working_on(nexus):
        await process_agent_tasks("Agent-2", observe=observe)
    found = [dict(span.attributes or {}) for span in tracer[1].get_finished_spans()]
    assert sorted(one["nexus.task_id"] for one in found) == sorted(task.task_id for task in nexus.get_all_tasks())
    assert all(one["prefect.flow_run.id"] for one in found)
    assert all(("prefect.task_run.id" in one) == (observe == "task") for one in found)
