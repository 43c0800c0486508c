"""`nexus automations`: puts the automations of `deployments.automations` into Prefect, shows them, takes them away.

Ours are updated in place, where they differ: made anew they would forget what they have counted. Others are never
touched. Imports Prefect, so the API's address must be known by now.
"""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

import httpx
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.events.actions import RunDeployment, SendNotification
from prefect.events.filters import (
    AutomationFilter,
    AutomationFilterTags,
    EventFilter,
    EventNameFilter,
    EventResourceFilter,
)
from prefect.events.schemas.automations import Automation, AutomationCore
from prefect.exceptions import ObjectNotFound
from pydantic import BaseModel, ConfigDict

from deployments import automations as make
from deployments.errors import ApiRefused, UnknownAutomation, UnknownBlock, UnknownDeployment, WrongParameter
from deployments.reap import TAG
from nexus.settings import NexusSettings, OnCompleted

PAGE: Final = 100
"""Automations that are asked for at once."""


Done = Literal["created", "updated", "unchanged", "removed"]


class Change(BaseModel):
    """What became of an automation."""

    model_config = ConfigDict(frozen=True)

    name: str
    change: Done


class Shown(BaseModel):
    """An automation of ours, for people."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    name: str
    listens_to: str
    does: str
    enabled: bool
    last_triggered: datetime | None
    """As far back as Prefect keeps events."""


async def apply(settings: NexusSettings, block: str | None, on_completed: Sequence[OnCompleted]) -> list[Change]:
    """Make it so, in place; what is as it should be is left alone. Nothing is changed where anything is unknown.

    Without a `block` nobody is told anything. Of stalled tasks the sweep itself tells `monitoring.notify_block`: an
    automation that would tell the same block again is not made, and taken away.

    Raises `UnknownBlock`, `UnknownDeployment`, `WrongParameter`, `ApiRefused`.
    """
    async with _client() as client:
        twice = block is not None and block == settings.monitoring.notify_block
        wanted = await _wanted(client, settings, block, on_completed, stalls=not twice)
        there = {one.name: one for one in await _ours(client)}
        changes = [Change(name=one.name, change=await _put(client, there.get(one.name), one)) for one in wanted]
        if twice and make.STALLED in there:
            changes += await _removed(client, [there[make.STALLED]])
        return changes


async def show() -> list[Shown]:
    """All of ours, by name. Raises `ApiRefused`."""
    async with _client() as client:
        return [
            Shown(
                id=one.id,
                name=one.name,
                listens_to=make.listens_to(one),
                does="; ".join([await _does(client, action) for action in one.actions]),
                enabled=one.enabled,
                last_triggered=await _last_triggered(client, one),
            )
            for one in await _ours(client)
        ]


async def remove(names: Iterable[str] | None) -> list[Change]:
    """Take these of ours away (None: all), named with or without the prefix.

    Raises `UnknownAutomation`, with nothing taken away, and `ApiRefused`.
    """
    async with _client() as client:
        ours = await _ours(client)
        if names is None:
            return await _removed(client, ours)
        full = {f"{make.PREFIX}{name.removeprefix(make.PREFIX)}": name for name in names}
        if unknown := full.keys() - {one.name for one in ours}:
            raise UnknownAutomation(full[min(unknown)])
        return await _removed(client, [one for one in ours if one.name in full])


async def _put(client: PrefectClient, known: Automation | None, wanted: AutomationCore) -> Done:
    if known is None:
        await client.create_automation(wanted)
        return "created"
    if not make.differs(known, wanted):
        return "unchanged"
    await client.update_automation(known.id, make.updated(known, wanted))
    return "updated"


async def _removed(client: PrefectClient, automations: Iterable[Automation]) -> list[Change]:
    changes = []
    for one in automations:
        await client.delete_automation(one.id)
        changes.append(Change(name=one.name, change="removed"))
    return changes


async def _wanted(
    client: PrefectClient,
    settings: NexusSettings,
    block: str | None,
    on_completed: Sequence[OnCompleted],
    *,
    stalls: bool,
) -> list[AutomationCore]:
    wanted = []
    if block is not None:
        number = await _block(client, block)
        wanted += [make.stalled(number)] if stalls else []
        wanted += [make.failed(number), make.late(number, make.late_seconds(settings.monitoring))]
    runs = {make.completed_name(order): order for order in on_completed}
    return wanted + [make.completed(order, await _deployment(client, order)) for order in runs.values()]


async def _block(client: PrefectClient, name: str) -> UUID:
    kind, _, own = name.partition("/")
    try:
        block = await client.read_block_document_by_name(own, kind, include_secrets=False)
    except ObjectNotFound:
        raise UnknownBlock(name) from None
    if block.block_schema is None or "notify" not in block.block_schema.capabilities:
        raise UnknownBlock(name, "is there, and cannot notify")
    return block.id


async def _deployment(client: PrefectClient, order: OnCompleted) -> UUID:
    try:
        found = await client.read_deployment_by_name(order.deployment)
    except ObjectNotFound:
        raise UnknownDeployment(order.deployment) from None
    schema: dict[str, Any] = found.parameter_openapi_schema or {}
    known = schema.get("properties", {})
    if order.task_id_as and order.task_id_as not in known:
        names = ", ".join(known) or "none"
        raise WrongParameter(order.deployment, f"it has no parameter {order.task_id_as} (it has: {names})")
    missing = set(schema.get("required", ())) - (found.parameters or {}).keys() - {order.task_id_as}
    if missing and found.enforce_parameter_schema:
        raise WrongParameter(order.deployment, f"nobody gives it {', '.join(sorted(missing))}")
    return found.id


async def _ours(client: PrefectClient) -> list[Automation]:
    tagged = AutomationFilter(tags=AutomationFilterTags(all_=[TAG]))
    found: list[Automation] = []
    while page := await client.read_automations(automations=tagged, limit=PAGE, offset=len(found)):
        found += page
    return sorted((one for one in found if make.is_ours(one)), key=lambda one: one.name)


async def _does(client: PrefectClient, action: Any) -> str:
    try:
        if isinstance(action, SendNotification):
            block = await client.read_block_document(action.block_document_id, include_secrets=False)
            return f"tells {block.block_type.slug if block.block_type else ''}/{block.name}"
        if isinstance(action, RunDeployment) and action.deployment_id:
            deployment = await client.read_deployment(action.deployment_id)
            flow = await client.read_flow(deployment.flow_id)
            given = "".join(f" with the task's id as {name}" for name in action.parameters or ())
            return f"runs {flow.name}/{deployment.name}{given}"
    except ObjectNotFound:
        return f"{action.type}, of what is no longer there: apply it again, or remove it"
    return str(action.type)


async def _last_triggered(client: PrefectClient, automation: Automation) -> datetime | None:
    fired = EventFilter(
        event=EventNameFilter(name=["prefect.automation.triggered"]),
        resource=EventResourceFilter(id=[f"prefect.automation.{automation.id}"]),
    )
    page = await client.read_events(fired, limit=1)
    return page.events[0].occurred if page.events else None


@asynccontextmanager
async def _client() -> AsyncIterator[PrefectClient]:
    """Prefect's client; what it meets is an `ApiRefused`."""
    async with get_client() as client:
        try:
            yield client
        except httpx.HTTPStatusError as error:
            why = f"HTTP {error.response.status_code} {error.response.text}"
            raise ApiRefused(str(client.api_url), why) from None
        except httpx.HTTPError as error:
            raise ApiRefused(str(client.api_url), f"{type(error).__name__} {error}") from None
