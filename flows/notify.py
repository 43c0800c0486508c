"""Delivers what the sweep has put down for people: as Prefect events, and through a Prefect notification block.

The sweep only writes a row; this is the other half of an outbox. What cannot be delivered now is delivered by the
next pass. Automations listen to the event `nexus.task.stalled` (Slack, e-mail, webhooks, a deployment to be run);
`monitoring.notify_block` names a block that is called directly, for those who want no automation.
"""

import asyncio
import os
from typing import Any

from prefect import get_client
from prefect.blocks.core import Block
from prefect.events import emit_event

from flows.events import TASK, concerned, resource
from flows.observe import run_log
from nexus import TaskNexus
from nexus.masking import mask_of
from nexus.reports import Notice

STALLED = f"{TASK}.stalled"
"""The event that automations listen to."""


async def deliver(nexus: TaskNexus, block_name: str | None) -> int:
    """Deliver what waits; how many notices were. One that fails is logged, and tried again by the next pass."""
    notices = await asyncio.to_thread(nexus.undelivered)
    if not notices:
        return 0
    try:
        async with get_client() as client:
            if away := await client.api_healthcheck():
                raise away
        block = await Block.aload(block_name) if block_name else None
    except Exception as error:
        # Of a block, only the name: its address is a secret.
        run_log().warning("%d notices wait for the next sweep: %s", len(notices), type(error).__name__)
        return 0
    sent = []
    mask = mask_of(nexus.settings, os.environ)
    for notice in notices:
        try:
            words = {"why": mask.text(notice.why), "detail": mask.text(notice.detail)}
            await _send(notice.model_copy(update=words), block)
        except Exception as error:
            run_log().warning("the notice about %s waits for the next sweep: %s", notice.task_id, type(error).__name__)
        else:
            sent.append(notice)
    await asyncio.to_thread(nexus.delivered, sent)
    return len(sent)


async def _send(notice: Notice, block: Any) -> None:
    if block is not None:
        sending = block.notify(body=body(notice), subject=f"Task {notice.task_id} is stalled")
        if asyncio.iscoroutine(sending):
            await sending
    emit_event(
        event=STALLED,
        resource=resource(TASK, notice.task_id).root,
        related=[*concerned(notice.task_type, notice.assigned_to, notice.episode_id, notice.tags)],
        payload=notice.model_dump(mode="json"),
    )


def body(notice: Notice) -> str:
    """What people read."""
    lines = [f"Task {notice.task_id} ({notice.task_type}) waits since {notice.since:%Y-%m-%d %H:%M:%S} UTC."]
    lines.append(f"Why: {notice.why}")
    lines.append(f"Policy: {notice.policy}. `nexus explain {notice.task_id}` says more.")
    if notice.closed_by:
        lines.append(f"It has moved on meanwhile ({notice.closed_by}).")
    return "\n".join(lines)
