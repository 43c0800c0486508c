"""What the sweep does about tasks that wait too long, as settings: thresholds, and ladders of steps."""

import hashlib
from itertools import pairwise
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from nexus.values import Id, Name, Names, Priority, Seconds, canonical_json

DEFAULT_POLICY: Final = "default"
"""The name of the ladder that `escalation_strategy` is."""

Action = Literal["log_only", "notify", "reassign", "escalate", "mark_stalled", "fail"]
"""What can be done about a task that waits too long, from the mildest to the hardest."""

ACTIONS: Final[tuple[Action, ...]] = get_args(Action)


BLOCK: Final = r"^[a-z0-9-]+/[a-z0-9-]+$"
"""What a Prefect block is called: its kind and its name."""


def _in_order(schema: dict[str, Any]) -> None:
    """Number what stands in it, for forms: a JSON column of PostgreSQL keeps no order."""
    for position, one in enumerate(schema.get("properties", {}).values()):
        one["position"] = position


class Section(BaseModel):
    """A table of `nexus.toml`: a key that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=_in_order)


class EscalationStep(Section):
    """One rung of a ladder. A bare name is a step without a delay."""

    action: Action = Field(description="What is done")
    after_seconds: float = Field(
        0, ge=0, le=366 * 86_400, allow_inf_nan=False, description="How long after the stall was opened"
    )

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, given: Any) -> Any:
        return {"action": given} if isinstance(given, str) else given


def _ordered(steps: tuple[EscalationStep, ...]) -> tuple[EscalationStep, ...]:
    for earlier, later in pairwise(steps):
        if ACTIONS.index(earlier.action) >= ACTIONS.index(later.action):
            raise ValueError(f"{later.action} stands after {earlier.action}; the order is {' -> '.join(ACTIONS)}")
        if earlier.after_seconds > later.after_seconds:
            raise ValueError(
                f"{later.action} comes after {later.after_seconds:g} s, before {earlier.action} "
                f"({earlier.after_seconds:g} s); give it the same delay or a longer one"
            )
    return steps


Steps = Annotated[tuple[EscalationStep, ...], Field(min_length=1), AfterValidator(_ordered)]


class EscalationPolicy(Section):
    """A ladder of steps, and for which tasks: all selectors that are given must fit."""

    name: Name = Field(description="Kept with each stall")
    task_types: Names = Field((), description="Any of these; empty: every type")
    tags: Names = Field((), description="Any of these; empty: with any tags or none")
    priority: Priority | None = Field(None, description="This urgent or more (critical 0, high 10, …); absent: any")
    pending_timeout_seconds: Seconds | None = Field(None, description="Its own threshold; absent: the general one")
    steps: Steps = Field(description="What is done, in this order, each step once per stall")


class AdaptiveThresholds(Section):
    """A threshold per task type, learnt from how long its tasks used to wait: max(floor, factor x p95)."""

    enabled: bool = Field(False, description="Where on, it takes the place of the fixed threshold")
    factor: float = Field(3, gt=0, le=1000, allow_inf_nan=False, description="Times the observed p95 wait")
    floor_seconds: Seconds = Field(60, description="No threshold is shorter")
    min_samples: int = Field(50, ge=1, le=1_000_000, description="With fewer waits on record the fixed one holds")
    window_seconds: Seconds = Field(7 * 86_400, description="How far back waits are looked at")


class TaskMonitoringConfig(Section, title="Monitoring"):
    """What the sweep does about tasks that wait too long."""

    check_interval_seconds: Seconds = Field(300, description="Time between two sweeps of the deployment")
    pending_timeout_seconds: Seconds = Field(3600, description="A claimable task that waits longer is stalled")
    escalation_strategy: Action = Field("log_only", description="What is done about a stalled task, at once")
    policies: tuple[EscalationPolicy, ...] = Field(
        (), max_length=100, description="Ladders; the first that fits a task is its own, the strategy is for the rest"
    )
    adaptive: AdaptiveThresholds = Field(
        default_factory=lambda: AdaptiveThresholds(),
        title="Adaptive thresholds",
        description="A threshold per task type, learnt from the waits on record, in place of the fixed one",
    )
    escalate_to: Id | None = Field(None, description="Who gets the tasks that `escalate` makes; nobody: anyone")
    notify_block: str | None = Field(
        None,
        pattern=BLOCK,
        description="A Prefect notification block, such as slack-webhook/ops; absent: the event alone",
    )
    agent_timeout_seconds: Seconds = Field(
        3600, description="An agent that was not seen for so long, and holds nothing, is not counted on"
    )
    max_per_sweep: int = Field(1000, ge=1, le=100_000, description="Tasks that one pass acts on; the next continues")

    @field_validator("policies")
    @classmethod
    def _named_apart(cls, policies: tuple[EscalationPolicy, ...]) -> tuple[EscalationPolicy, ...]:
        names = [policy.name for policy in policies]
        for name in names:
            if names.count(name) > 1 or name == DEFAULT_POLICY:
                raise ValueError(f"two policies are called {name!r}; each needs a name of its own")
        for earlier, later in pairwise(policies):
            if not (earlier.task_types or earlier.tags or earlier.priority is not None):
                raise ValueError(f"{later.name!r} is never reached: {earlier.name!r} before it fits every task")
        return policies

    @property
    def ladders(self) -> tuple[EscalationPolicy, ...]:
        """The policies in the order in which they are tried; the last one fits everything."""
        rest = EscalationPolicy(name=DEFAULT_POLICY, steps=(EscalationStep(action=self.escalation_strategy),))
        return (*self.policies, rest)

    @property
    def settings_hash(self) -> str:
        """A short hash of all of it, for the record of a pass."""
        return _hash(self.model_dump(mode="json"))

    @property
    def ladders_hash(self) -> str:
        """A short hash of what decides about the next step of a stall."""
        return _hash(self.model_dump(mode="json", include={"policies", "escalation_strategy"}))


def _hash(value: Any) -> str:
    return hashlib.blake2b(canonical_json(value).encode(), digest_size=8).hexdigest()
