"""The values that cross the nexus's border: frozen Pydantic models; times aware UTC, durations in seconds."""

from contextlib import suppress
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from nexus.errors import short
from nexus.states import AttemptOutcome, TaskStatus
from nexus.values import Id, Ids, Instant, Json, JsonObject, Name, Names, Priority, Seconds, Text

MAX_DELAY_SECONDS: Final = 30 * 86_400.0
"""No failure asks for a longer wait."""


DependencyFailure = Literal["wait", "cancel", "run"]
"""What becomes of a task when something that it depends on ends failed or cancelled."""


class Value(BaseModel):
    """Frozen: what was read does not change."""

    model_config = ConfigDict(frozen=True)


class RetryPolicy(Value):
    """When a failed attempt is tried again. `nexus.retry.decide` reads it; the task row keeps a copy.

    The delay before attempt n+1 is `backoff_seconds * multiplier ** (n - 1)`, at most
    `max_backoff_seconds`, spread by up to `jitter` of itself in either direction.
    """

    # A misspelt key would silently mean the default.
    model_config = ConfigDict(frozen=True, extra="forbid")

    max_attempts: int = Field(3, ge=1, le=1000, description="Failures after which the task is a dead letter")
    backoff_seconds: float = Field(
        10, ge=0, le=30 * 86_400, allow_inf_nan=False, description="Delay after the first failure"
    )
    multiplier: float = Field(2, ge=1, le=100, allow_inf_nan=False, description="Growth of the delay per failure")
    max_backoff_seconds: float = Field(3600, ge=0, le=30 * 86_400, allow_inf_nan=False, description="Cap of the delay")
    jitter: float = Field(0.2, ge=0, le=1, allow_inf_nan=False, description="Share of the delay that is left to chance")
    max_losses: int = Field(3, ge=1, le=1000, description="Lost attempts after which the task is a dead letter")
    non_retryable: Names = Field((), description="Error type names, such as ValueError, that are never tried again")


class NewTask(Value):
    """A task to be added. Fields that the model does not know are kept in `extra`."""

    task_id: Id | None = Field(None, description="Made by the nexus when absent")
    task_type: Name = Field("task", description="Names the handler that does it")
    description: Text = ""
    payload: JsonObject = Field(default_factory=dict, description="What the handler works on")
    priority: Priority = Field(20, description="Smaller is first; critical 0, high 10, medium 20, low 30")
    tags: Names = ()
    depends_on: Ids = Field((), description="Ids of tasks that must be completed before this one is offered")
    on_dependency_failure: DependencyFailure = Field(
        "wait", description="When one of them ends failed or cancelled: wait until it is retried, cancel, or run anyway"
    )
    required_capabilities: Names = Field((), description="Only an agent that has all of them may claim it")
    assigned_to: Id | None = Field(None, description="Only this agent may claim it")
    retry_policy: RetryPolicy | None = Field(None, description="The settings' policy when absent")
    timeout_seconds: Seconds | None = Field(None, description="An attempt that takes longer has failed")
    requires_review: bool = Field(False, description="Completed only when somebody else approves")
    available_at: Instant | None = Field(None, description="Not offered before")
    deadline: Instant | None = None
    related_task_id: Id | None = None
    episode_id: Id | None = Field(None, description="The named batch that it belongs to")
    idempotency_key: Id | None = Field(None, description="Adding twice with the same key adds once")
    extra: JsonObject = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _keep_unknown_fields(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.keys() <= _FIELDS_OF_A_NEW_TASK:
            return data
        known = {key: value for key, value in data.items() if key in _FIELDS_OF_A_NEW_TASK}
        unknown = {key: value for key, value in data.items() if key not in _FIELDS_OF_A_NEW_TASK}
        status = unknown.pop("status", TaskStatus.PENDING)
        if not (isinstance(status, str) and status == TaskStatus.PENDING):
            raise ValueError(
                f"status: a new task is pending, not {short(status)}; leave status out, "
                "or use `nexus import` for a board whose tasks have a history"
            )
        extra = known.get("extra")
        if unknown and (extra is None or isinstance(extra, dict)):
            for key in unknown.keys() & (extra or {}).keys():
                if unknown[key] != (extra or {})[key]:
                    raise ValueError(f"extra: {short(key)} is given twice, with different values; leave one out")
            known["extra"] = {**unknown, **(extra or {})}
        return known


_FIELDS_OF_A_NEW_TASK: Final = NewTask.model_fields.keys()


class Task(Value):
    """A task as the nexus knows it, at the moment it was read."""

    task_id: str
    task_type: str
    description: str
    payload: dict[str, Any]
    status: TaskStatus
    priority: int
    tags: tuple[str, ...]
    depends_on: tuple[str, ...]
    on_dependency_failure: DependencyFailure = "wait"
    required_capabilities: tuple[str, ...]
    assigned_to: str | None
    claimed_by: str | None
    """Who holds it, or held it when it ended; None while it waits."""
    claim_no: int
    """Grows with every claim and never shrinks: the fencing token."""
    lease_expires_at: Instant | None
    attempt_count: int
    """Attempts ever made; the retry budget counts failures since the last `retry` instead."""
    failure_count: int
    """Failed attempts since the budget was last renewed."""
    loss_count: int
    """Lost attempts since the budget was last renewed."""
    retry_policy: RetryPolicy
    timeout_seconds: float | None
    requires_review: bool
    available_at: Instant
    """When it became, or becomes, claimable as far as time decides: waiting is counted from here."""
    deadline: Instant | None
    created_at: Instant
    updated_at: Instant
    pending_since: Instant | None
    """Since when it is pending; None in any other state."""
    result: Json
    error: str | None
    """The last failure, `Type: message`."""
    reason: str | None
    """Why it was blocked, cancelled, stalled, rejected, released; cleared when completed, unblocked, retried."""
    related_task_id: str | None
    episode_id: str | None
    idempotency_key: str | None
    extra: dict[str, Any]

    @property
    def work_key(self) -> str:
        """What a handler gives to services that ignore repeats: the same for every attempt at this task."""
        return self.idempotency_key or self.task_id


class Attempt(Value):
    """One numbered try at a task; kept for ever, until pruned."""

    task_id: str
    number: int
    claim_no: int
    agent_id: str
    outcome: AttemptOutcome
    started_at: Instant
    heartbeat_at: Instant | None
    finished_at: Instant | None
    error: str | None
    result: Json
    late_result: Json
    """A result that came after the claim was lost: kept, because it cost somebody money."""
    note: str | None
    run_ref: Json
    """The Prefect run that made it: flow_run_id, task_run_id, run_count; or whatever an outside agent gave."""


class Claim(Value):
    """A task taken by an agent. Every later write shows its `claim_no`; an old one gets `ClaimLost`."""

    task: Task
    task_id: str
    agent_id: str
    claim_no: int
    lease_expires_at: Instant


class Heartbeat(Value):
    """What a holder learns when it renews its lease."""

    task_id: str
    cancel_requested: bool
    lease_expires_at: Instant


def clean(text: str, limit: int = 10_000) -> str:
    """Foreign text made fit to keep: no NUL, no lone surrogates, at most `limit` characters, the ends kept."""
    text = text.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()
    if len(text) > limit:
        half = limit // 2
        return f"{text[:half]}\n… {len(text) - 2 * half:,} characters left out …\n{text[-half:]}"
    return text


def _fit(limit: int) -> BeforeValidator:
    """Foreign text is made fit to keep, not refused: it tells of a failure, which must be told."""
    return BeforeValidator(lambda text: clean(text, limit) if isinstance(text, str) else text)


def _words(error: BaseException) -> str:
    """What an exception says; some fail at that as well."""
    for say in (str, repr):
        with suppress(Exception):
            if words := say(error):
                return words
    return "it cannot say what it is"


class Failure(Value):
    """Why an attempt failed, as far as the retry policy needs to know."""

    message: Annotated[str, _fit(10_000)]
    error_type: Annotated[str, _fit(200)] = "Error"
    retryable: bool = True
    retry_after_seconds: Annotated[float, Field(ge=0, le=MAX_DELAY_SECONDS)] | None = None
    timed_out: bool = False

    @classmethod
    def of(cls, error: "str | BaseException | Failure") -> Self:
        """From an exception (its own wishes in `retryable`, `retry_after_seconds` are heard) or from words."""
        if isinstance(error, cls):
            return error
        if isinstance(error, BaseException):
            after = getattr(error, "retry_after_seconds", None)
            # Foreign exceptions may carry anything under that name.
            sane = isinstance(after, int | float) and 0 <= after <= MAX_DELAY_SECONDS
            return cls(
                message=_words(error),
                error_type=type(error).__name__,
                retryable=bool(getattr(error, "retryable", True)),
                retry_after_seconds=after if sane else None,
                timed_out=isinstance(error, TimeoutError),
            )
        return cls(message=error if isinstance(error, str) else short(error), error_type="")

    def __str__(self) -> str:
        return f"{self.error_type}: {self.message}" if self.error_type else self.message


class Agent(Value):
    """Somebody who works: a program, a language model, a person."""

    agent_id: str
    capabilities: tuple[str, ...]
    max_concurrency: int | None
    """How many claims it may hold at once; None is no limit."""
    task_types: tuple[str, ...] | None
    """The task types that it said it has handlers for; None where it did not say."""
    registered_at: Instant
    last_seen_at: Instant | None
    live_claims: int


class HistoryEvent(Value):
    """One move of a task: what, who, when and why."""

    task_id: str | None
    at: Instant
    verb: str
    from_status: TaskStatus | None
    to_status: TaskStatus | None
    actor: str | None
    claim_no: int | None
    reason: str | None
    waited_seconds: float | None = None
    """Of a move that ended a waiting period: how long the task had been claimable."""


class Reason(Value):
    """One clause that keeps a task from running now."""

    code: str
    """Machine-readable: `dependency`, `not_before`, `backoff`, `paused`, `assigned`, `not_confirmed`, `capability`,
    `no_handler`, `agent_limit`, `no_live_agent`, `held`, `in_review`, `blocked`, `stalled`, `ended`; and, never
    alone, `sweep`: what the last one found."""
    message: str
    details: dict[str, Any] = Field(default_factory=dict)
