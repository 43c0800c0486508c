"""The automations that a board likes to have in Prefect, as values. What is done with them: `deployments.automating`.

Imports Prefect, so the API's address must be known by now.
"""

import glob
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from prefect.events.actions import RunDeployment, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

from deployments.reap import TAG
from flows.events import TASK
from flows.notify import STALLED as STALLED_EVENT
from flows.sweep import FINISHED, RESTING
from nexus.monitoring import TaskMonitoringConfig
from nexus.settings import OnCompleted

PREFIX: Final = "nexus: "
"""Ours have it in front of their names, and `TAG` on them; all others are somebody else's."""

STALLED: Final = f"{PREFIX}a task is stalled"
FAILED: Final = f"{PREFIX}a task failed"
LATE: Final = f"{PREFIX}the sweep is late"

SLACK_SECONDS: Final = 10
"""What a sweep may take beyond two intervals: it has to be started, and to do its work."""

_STALLED_BODY: Final = """\
Task {{ event.payload.task_id }} ({{ event.payload.task_type }}) waits since {{ event.payload.since }}.
Why: {{ event.payload.why }}
Policy: {{ event.payload.policy }}. `nexus explain {{ event.payload.task_id }}` says more.\
{% if event.payload.closed_by %}
It has moved on meanwhile ({{ event.payload.closed_by }}).{% endif %}"""

_FAILED_BODY: Final = """\
Task {{ event.payload.task_id }} ({{ event.payload.task_type }}) is a dead letter: \
{{ event.payload.verb }} by {{ event.payload.actor }}{% if event.payload.attempt %}, \
attempt {{ event.payload.attempt }}{% endif %}.
{% if event.payload.reason %}Why: {{ event.payload.reason }}
{% endif %}`nexus history {{ event.payload.task_id }}` says more."""

_LATE_BODY: Final = """\
For {seconds:g} s no sweep has finished{{% if event %}}; the last one did at {{{{ event.occurred }}}} \
({{{{ event.payload.summary }}}}){{% endif %}}. `nexus doctor` says more."""


def completed_name(order: OnCompleted) -> str:
    """What the automation is called that runs a deployment when a task completes."""
    return f"{PREFIX}{order.tag} completed, run {order.deployment}"


def late_seconds(monitoring: TaskMonitoringConfig) -> float:
    """How long after a sweep the next one is late; Prefect takes no less than ten seconds."""
    return 2 * monitoring.check_interval_seconds + SLACK_SECONDS


def stalled(block: UUID) -> AutomationCore:
    """Tell people of a task that waits too long, where its ladder says `notify`."""
    return _told(STALLED, _on(STALLED_EVENT), block, "Task {{ event.payload.task_id }} is stalled", _STALLED_BODY)


def failed(block: UUID) -> AutomationCore:
    """Tell people of a dead letter, whatever made it one."""
    return _told(FAILED, _on(f"{TASK}.failed"), block, "Task {{ event.payload.task_id }} failed", _FAILED_BODY)


def late(block: UUID, seconds: float) -> AutomationCore:
    """Tell people, once, that no sweep has finished for so long, though nobody has stopped the service."""
    trigger = EventTrigger(
        after={FINISHED},
        expect={FINISHED, RESTING},
        # Without it Prefect (3.8) counts from when the automation was made, whatever it is to come after, and tells
        # again and again.
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=timedelta(seconds=seconds),
    )
    return _told(LATE, trigger, block, "The sweep is late", _LATE_BODY.format(seconds=seconds))


def completed(order: OnCompleted, deployment: UUID) -> AutomationCore:
    """Run a deployment when a task of the tag completes."""
    parameters: dict[str, Any] | None = None
    if order.task_id_as:
        # The id is put in as a text, once: whatever stands in it is not read as a template again.
        parameters = {order.task_id_as: {"__prefect_kind": "jinja", "template": "{{ event.payload.task_id }}"}}
    return _ours(
        completed_name(order),
        # Prefect matches by pattern; a tag is meant as it is written.
        _on(f"{TASK}.completed", {"prefect.resource.id": glob.escape(f"nexus.tag.{order.tag}")}),
        RunDeployment(deployment_id=deployment, parameters=parameters),
    )


def _on(event: str, related: dict[str, str] | None = None) -> EventTrigger:
    return EventTrigger(
        expect={event},
        match={"prefect.resource.id": f"{TASK}.*"},
        match_related=related or {},
        posture=Posture.Reactive,
        threshold=1,
        within=timedelta(0),
    )


def _told(name: str, trigger: EventTrigger, block: UUID, subject: str, body: str) -> AutomationCore:
    return _ours(name, trigger, SendNotification(block_document_id=block, subject=subject, body=body))


def _ours(name: str, trigger: EventTrigger, action: Any) -> AutomationCore:
    return AutomationCore(
        name=name,
        description="Made by `nexus automations apply`, which puts changes back.",
        tags=[TAG],
        trigger=trigger,
        actions=[action],
    )


def is_ours(automation: AutomationCore) -> bool:
    """Whether we made it."""
    return automation.name.startswith(PREFIX) and TAG in automation.tags


def differs(there: AutomationCore, wanted: AutomationCore) -> bool:
    """Whether it is not as we made it. That somebody has switched it off is their decision, and so are more tags."""
    same = {"description", "trigger", "actions", "actions_on_trigger", "actions_on_resolve"}
    return there.model_dump(include=same) != wanted.model_dump(include=same)


def updated(there: AutomationCore, wanted: AutomationCore) -> AutomationCore:
    """As wanted, with what is not ours to decide as it is there."""
    values = {**wanted.model_dump(exclude={"owner_resource"}), "enabled": there.enabled, "tags": there.tags}
    # Read anew: the client sends what was set, and inside of trigger and actions that has to be everything.
    return AutomationCore.model_validate(values)


def listens_to(automation: AutomationCore) -> str:
    """What sets it off, in words."""
    trigger = automation.trigger
    if not isinstance(trigger, EventTrigger):
        return trigger.type
    events = ", ".join(sorted(trigger.expect)) or "any event"
    if trigger.posture == Posture.Proactive:
        events = ", ".join(sorted(trigger.expect & trigger.after)) or events
        return f"no {events} for {trigger.within.total_seconds():g} s"
    related: Any = trigger.match_related
    tags = [_tag(value) for spec in (related if isinstance(related, list) else [related]) for value in _ids(spec)]
    return ", ".join([events, *(f"tag {tag}" for tag in tags)])


def _ids(specification: Any) -> Sequence[str]:
    return specification.get("prefect.resource.id", []) or []


def _tag(pattern: str) -> str:
    plain = pattern.removeprefix("nexus.tag.")
    for character in "*?[":
        plain = plain.replace(f"[{character}]", character)
    return plain
