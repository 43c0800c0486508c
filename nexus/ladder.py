"""What is due on a stall, and who a stalled task goes to. Pure: it decides, the sweep applies.

A ladder is a policy's steps in order, each with its delay after the stall was opened. Which of them were done is
on record, so a pass that is repeated, comes late, or finds other settings does each step once at most.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime, timedelta

from nexus.monitoring import ACTIONS, Action, EscalationPolicy


@dataclass(frozen=True, slots=True)
class Due:
    """What to do about one stall."""

    now: tuple[Action, ...]
    """Steps to take, mildest first."""
    next_at: datetime | None
    """When the next one is due; None where nothing is left."""


def due(policy: EscalationPolicy, opened_at: datetime, taken: Set[str], present: datetime) -> Due:
    """The steps of `policy` that are due at `present` on a stall opened at `opened_at`, without those `taken`.

    What was marked as stalled is off the offer: only `fail` can follow, whatever the settings have become since.
    """
    least = ACTIONS.index("mark_stalled") if "mark_stalled" in taken else 0
    steps: list[Action] = []
    for step in policy.steps:
        if step.action in taken or ACTIONS.index(step.action) < least:
            continue
        at = opened_at + timedelta(seconds=step.after_seconds)
        if at > present:
            return Due(tuple(steps), at)
        steps.append(step.action)
    return Due(tuple(steps), None)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An agent that is at work, as far as the choice needs to know it."""

    agent_id: str
    capabilities: frozenset[str]
    task_types: frozenset[str] | None
    max_concurrency: int | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a task asks of an agent."""

    task_type: str
    capabilities: frozenset[str]
    not_by: frozenset[str]
    """Who just let it stall, or lost it."""


def choose(task: Wanted, candidates: Iterable[Candidate], load: Mapping[str, int]) -> str | None:
    """The agent with the least to do that could do `task`; None where there is nobody.

    `load` counts what each agent holds, and what waits for it. One that is full takes work later than one that is
    not, but it takes it.
    """
    suited = [
        one
        for one in candidates
        if one.agent_id not in task.not_by
        and task.capabilities <= one.capabilities
        and (one.task_types is None or task.task_type in one.task_types)
    ]

    def burden(one: Candidate) -> tuple[bool, int, str]:
        held = load.get(one.agent_id, 0)
        return one.max_concurrency is not None and held >= one.max_concurrency, held, one.agent_id

    return min(suited, key=burden).agent_id if suited else None


def spread(
    wanted: Sequence[tuple[str, Wanted]], candidates: Sequence[Candidate], load: Mapping[str, int]
) -> dict[str, str | None]:
    """An agent for each of many tasks (by id), each choice adding to the load that the next one sees."""
    burden = dict(load)
    chosen: dict[str, str | None] = {}
    for task_id, task in wanted:
        agent_id = choose(task, candidates, burden)
        chosen[task_id] = agent_id
        if agent_id is not None:
            burden[agent_id] = burden.get(agent_id, 0) + 1
    return chosen
