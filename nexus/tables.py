"""The tables. Their CHECKs repeat the invariants; their indexes are the ones that the hot statements read.

Names begin with `nexus_`, so that the nexus can share a PostgreSQL database with its users' own tables.
`nexus_tasks` holds the present: the claim and the attempt that go on stand on their task. `nexus_attempts` holds every
try that is over, `nexus_history` every move that cannot be read from those two (`nexus.moves` reads all three): so a
claim is one UPDATE, a completion one UPDATE and one INSERT. Attempts and history have no foreign keys: only
`nexus.transitions` writes them, tasks are deleted only together with them (`nexus.pruning`), and the check would cost
every completion.
"""

from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy import CheckConstraint, Index, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from nexus.lanes import lane
from nexus.sql import JsonList, JsonText, Moment, Serial
from nexus.states import HELD, AttemptOutcome, TaskStatus

SCHEMA_VERSION_TABLE = "nexus_schema_version"


class Base(DeclarativeBase):
    """Holds the metadata; rows are written with Core statements, never through a unit of work."""

    metadata = sa.MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
        }
    )


def _well_formed() -> str:
    """What each status asks of a task; short, and the most frequent first, because it is asked with every move.

    A live claim has a holder and a lease, and only a live claim has a lease. Only what is pending says since when, and
    it never became claimable before that: waiting is counted from `available_at`.
    """
    waits = "pending_since IS NOT NULL AND available_at >= pending_since AND lease_expires_at IS NULL"
    held = "pending_since IS NULL AND lease_expires_at IS NOT NULL AND claimed_by IS NOT NULL"
    rest = _listed(status for status in TaskStatus if status not in HELD | {TaskStatus.PENDING, TaskStatus.COMPLETED})
    return (
        f"CASE WHEN status = 'pending' THEN {waits} WHEN status IN ({_listed(sorted(HELD))}) THEN {held} "
        f"ELSE (status = 'completed' OR status IN ({rest})) AND pending_since IS NULL AND lease_expires_at IS NULL END"
    )


def _listed(words: Iterable[str]) -> str:
    return ", ".join(f"'{word}'" for word in words)


def _is_over() -> str:
    """How an attempt can have ended, the most frequent first."""
    frequent, *seldom = (outcome for outcome in AttemptOutcome if outcome != AttemptOutcome.RUNNING)
    return f"outcome = '{frequent}' OR outcome IN ({_listed(seldom)})"


IS_CLAIMABLE = text("status = 'pending' AND unmet_dependencies = 0")
IS_CLAIMABLE_IN_EPISODE = text("status = 'pending' AND unmet_dependencies = 0 AND episode_id IS NOT NULL")
IS_UNWATCHED = text("status = 'pending' AND unmet_dependencies = 0 AND stall_id IS NULL")
IS_DEADLINE_AHEAD = text(
    "deadline IS NOT NULL AND overdue_id IS NULL AND status NOT IN ('completed', 'failed', 'cancelled')"
)
IS_COMPLETED = text("status = 'completed'")
IS_GIVEN_UP = text("status IN ('cancelled', 'failed')")
IS_RELATED = text("related_task_id IS NOT NULL AND status NOT IN ('completed', 'failed', 'cancelled')")
IS_ASKING = text("escalates IS NOT NULL AND status NOT IN ('completed', 'failed', 'cancelled')")
IS_KEYED = text("idempotency_key IS NOT NULL")
IS_UNDELIVERED = text("step = 'notify' AND told_at IS NULL")
IS_STEP_AHEAD = text("closed_at IS NULL AND next_step_at IS NOT NULL")
IS_HELD = text("status IN ('claimed', 'in_progress')")
IS_UNTOLD = text("outcome IN ('lost', 'released', 'cancelled') AND run_ref IS NOT NULL AND run_closed_at IS NULL")


class TaskRow(Base):
    """One task: what it asks for, and where it stands."""

    __tablename__ = "nexus_tasks"

    seq: Mapped[int] = mapped_column(Serial, primary_key=True, autoincrement=True)
    """The order of arrival: the last tie-break of a claim, and the cursor of listings."""
    task_id: Mapped[str] = mapped_column(sa.Text, unique=True)
    task_type: Mapped[str] = mapped_column(sa.Text)
    description: Mapped[str] = mapped_column(sa.Text)
    payload = mapped_column(JsonText, nullable=False)
    status: Mapped[str] = mapped_column(sa.Text)
    previous_status: Mapped[str | None] = mapped_column(sa.Text)
    """Set by every move from the status that it found: RETURNING then tells the history where a move began."""
    priority: Mapped[int] = mapped_column(sa.Integer)
    tags = mapped_column(JsonList, nullable=False)
    depends_on = mapped_column(JsonList, nullable=False)
    unmet_dependencies: Mapped[int] = mapped_column(sa.Integer)
    """How many of `depends_on` are not completed; counted down when one is, so that a claim need not look."""
    required_capabilities = mapped_column(JsonList, nullable=False)
    assigned_to: Mapped[str | None] = mapped_column(sa.Text)
    claimed_by: Mapped[str | None] = mapped_column(sa.Text)
    claim_no: Mapped[int] = mapped_column(sa.Integer)
    lease_expires_at = mapped_column(Moment, nullable=True)
    lease_seconds: Mapped[float | None] = mapped_column(sa.Double)
    """How far the claim's heartbeat moves `lease_expires_at`."""
    holder: Mapped[str | None] = mapped_column(sa.Text)
    """Whose the latest claim is. It and the next six stay when the claim ends, for what is written of it then; where
    the task is not held they mean nothing."""
    claim_key: Mapped[int | None] = mapped_column(sa.BigInteger)
    """Drawn by whoever claims: by it a claim is found whose answer was lost."""
    claimed_at = mapped_column(Moment, nullable=True)
    """None for what was imported as held already."""
    waited_seconds: Mapped[float | None] = mapped_column(sa.Double)
    """How long it had been claimable then."""
    started_at = mapped_column(Moment, nullable=True)
    """Of the attempt whose number is `attempt_count`."""
    heartbeat_at = mapped_column(Moment, nullable=True)
    note: Mapped[str | None] = mapped_column(sa.Text)
    run_ref = mapped_column(JsonText, nullable=True)
    attempt_count: Mapped[int] = mapped_column(sa.Integer)
    failure_count: Mapped[int] = mapped_column(sa.Integer)
    loss_count: Mapped[int] = mapped_column(sa.Integer)
    retry_policy = mapped_column(JsonText, nullable=False)
    timeout_seconds: Mapped[float | None] = mapped_column(sa.Double)
    requires_review: Mapped[bool] = mapped_column(sa.Boolean)
    available_at = mapped_column(Moment, nullable=False)
    deadline = mapped_column(Moment, nullable=True)
    created_at = mapped_column(Moment, nullable=False)
    added_by: Mapped[str | None] = mapped_column(sa.Text)
    updated_at = mapped_column(Moment, nullable=False)
    pending_since = mapped_column(Moment, nullable=True)
    result = mapped_column(JsonText, nullable=True)
    error: Mapped[str | None] = mapped_column(sa.Text)
    reason: Mapped[str | None] = mapped_column(sa.Text)
    related_task_id: Mapped[str | None] = mapped_column(sa.Text)
    episode_id: Mapped[str | None] = mapped_column(sa.Text)
    idempotency_key: Mapped[str | None] = mapped_column(sa.Text)
    extra = mapped_column(JsonText, nullable=False)
    import_digest: Mapped[str | None] = mapped_column(sa.Text)
    """Of the board record that it came from: the same record again changes nothing."""
    on_dependency_failure: Mapped[str] = mapped_column(sa.Text, server_default="wait")
    """What becomes of it when something in `depends_on` ends failed or cancelled: wait, cancel, run."""
    awaited: Mapped[bool] = mapped_column(sa.Boolean, server_default=sa.false())
    """Some task waits for it, or did: whoever completes another need not look."""
    stall_id: Mapped[int | None] = mapped_column(sa.BigInteger)
    """The open stall of its present waiting period. Every move but the sweep's own `stall` clears it."""
    previous_stall_id: Mapped[int | None] = mapped_column(sa.BigInteger)
    """As `previous_status`: RETURNING then tells which stall a move has to close."""
    overdue_id: Mapped[int | None] = mapped_column(sa.BigInteger)
    """The stall of its deadline, once that has passed."""
    escalates: Mapped[int | None] = mapped_column(sa.BigInteger)
    """The stall that it asks somebody to look at; unique, so that a stall is escalated once."""

    __table_args__ = (
        CheckConstraint(_well_formed(), name="status"),
        CheckConstraint("claim_no >= 0 AND attempt_count >= 0 AND unmet_dependencies >= 0", name="counts"),
        # The order of a claim; it holds only what can be claimed as far as dependencies decide.
        Index(None, "priority", "available_at", "seq", postgresql_where=IS_CLAIMABLE, sqlite_where=IS_CLAIMABLE),
        CheckConstraint("on_dependency_failure IN ('wait', 'cancel', 'run')", name="on_dependency_failure"),
        # The sweep: who waits longest and is not watched yet, whose lease is over, whose deadline comes next.
        Index(None, "available_at", postgresql_where=IS_UNWATCHED, sqlite_where=IS_UNWATCHED),
        Index(None, "deadline", postgresql_where=IS_DEADLINE_AHEAD, sqlite_where=IS_DEADLINE_AHEAD),
        Index(
            None,
            "escalates",
            unique=True,
            postgresql_where=text("escalates IS NOT NULL"),
            sqlite_where=text("escalates IS NOT NULL"),
        ),
        Index("ix_nexus_tasks_asking", "escalates", postgresql_where=IS_ASKING, sqlite_where=IS_ASKING),
        # Pruning: what ended so, newest last; and whom the tasks that are not done yet are about. What is completed has
        # an index of its own, to whose end each completion only adds.
        Index(
            "ix_nexus_tasks_completed", "updated_at", "seq", postgresql_where=IS_COMPLETED, sqlite_where=IS_COMPLETED
        ),
        Index(
            "ix_nexus_tasks_given_up",
            "status",
            "updated_at",
            "seq",
            postgresql_where=IS_GIVEN_UP,
            sqlite_where=IS_GIVEN_UP,
        ),
        Index("ix_nexus_tasks_related", "related_task_id", postgresql_where=IS_RELATED, sqlite_where=IS_RELATED),
        # What is held: an agent's limit, and, all of it read, the leases that are over. Two indexes would cost each
        # claim more than the sweep saves.
        Index("ix_nexus_tasks_held", "claimed_by", "lease_expires_at", postgresql_where=IS_HELD, sqlite_where=IS_HELD),
        # Of tasks that have none PostgreSQL would write an entry with each move.
        Index(None, "idempotency_key", unique=True, postgresql_where=IS_KEYED, sqlite_where=IS_KEYED),
        Index(
            None,
            "episode_id",
            "seq",
            postgresql_where=text("episode_id IS NOT NULL"),
            sqlite_where=text("episode_id IS NOT NULL"),
        ),
    )


class DependencyRow(Base):
    """`task_id` waits for `depends_on`."""

    __tablename__ = "nexus_dependencies"

    task_id: Mapped[str] = mapped_column(sa.ForeignKey("nexus_tasks.task_id", ondelete="CASCADE"), primary_key=True)
    depends_on: Mapped[str] = mapped_column(
        sa.ForeignKey("nexus_tasks.task_id", ondelete="CASCADE"), primary_key=True, index=True
    )


class AttemptRow(Base):
    """One try that is over. (That which goes on stands on its task.)"""

    __tablename__ = "nexus_attempts"

    task_id: Mapped[str] = mapped_column(sa.Text, primary_key=True)
    number: Mapped[int] = mapped_column(sa.Integer, primary_key=True)
    claim_no: Mapped[int] = mapped_column(sa.Integer)
    agent_id: Mapped[str] = mapped_column(sa.Text)
    outcome: Mapped[str] = mapped_column(sa.Text)
    started_at = mapped_column(Moment, nullable=False)
    heartbeat_at = mapped_column(Moment, nullable=True)
    finished_at = mapped_column(Moment, nullable=False)
    error: Mapped[str | None] = mapped_column(sa.Text)
    result = mapped_column(JsonText, nullable=True)
    late_result = mapped_column(JsonText, nullable=True)
    note: Mapped[str | None] = mapped_column(sa.Text)
    run_ref = mapped_column(JsonText, nullable=True)
    run_closed_at = mapped_column(Moment, nullable=True)
    """When Prefect was told how an attempt ended whose process could not tell it."""
    claimed_at = mapped_column(Moment, nullable=True)
    """When the claim was made under which it was; None where the history says it (before schema 0005, and imports)."""
    waited_seconds: Mapped[float | None] = mapped_column(sa.Double)
    """How long the task had been claimable then."""
    led_to: Mapped[str | None] = mapped_column(sa.Text)
    """The status in which its end left the task; None before schema 0005, and of imports."""

    __table_args__ = (
        CheckConstraint(_is_over(), name="outcome"),
        # What ended lately. Each attempt only adds to its end.
        Index(None, "finished_at"),
        # Runs that Prefect may still believe to go on, though the nexus knows better.
        Index(
            "ix_nexus_attempts_untold",
            "finished_at",
            postgresql_where=IS_UNTOLD,
            sqlite_where=IS_UNTOLD,
        ),
    )


class HistoryRow(Base):
    """One move of a task that nothing else tells of, or one confirmation of an agent (then without a task).

    `nexus.moves` reads the others from where they stand anyway: that a task was added, and of each claim under which
    it was worked on the claim, the start and the completion.
    """

    __tablename__ = "nexus_history"

    seq: Mapped[int] = mapped_column(Serial, primary_key=True, autoincrement=True)
    task_id: Mapped[str | None] = mapped_column(sa.Text, index=True)
    at = mapped_column(Moment, nullable=False)
    verb: Mapped[str] = mapped_column(sa.Text)
    from_status: Mapped[str | None] = mapped_column(sa.Text)
    to_status: Mapped[str | None] = mapped_column(sa.Text)
    actor: Mapped[str | None] = mapped_column(sa.Text)
    claim_no: Mapped[int | None] = mapped_column(sa.Integer)
    reason: Mapped[str | None] = mapped_column(sa.Text)
    waited_seconds: Mapped[float | None] = mapped_column(sa.Double)
    """Of a move that ended a waiting period: how long it had been claimable."""


class AgentRow(Base):
    """Somebody who works."""

    __tablename__ = "nexus_agents"

    agent_id: Mapped[str] = mapped_column(sa.Text, primary_key=True)
    capabilities = mapped_column(JsonList, nullable=False)
    max_concurrency: Mapped[int | None] = mapped_column(sa.Integer)
    revision: Mapped[int] = mapped_column(sa.Integer, server_default="0")
    """Grows with every change of what it can do: a claim in its name names the one that it knows."""
    task_types = mapped_column(JsonList, nullable=True)
    registered_at = mapped_column(Moment, nullable=False)
    last_seen_at = mapped_column(Moment, nullable=True)

    __table_args__ = (CheckConstraint("max_concurrency IS NULL OR max_concurrency > 0", name="max_concurrency"),)


class StallRow(Base):
    """One waiting period that passed its threshold, or one deadline that passed.

    The unique triple keeps two sweeps from finding it twice. It is closed when its task moves (a deadline's when
    its task ends).
    """

    __tablename__ = "nexus_stalls"

    stall_id: Mapped[int] = mapped_column(Serial, primary_key=True, autoincrement=True)
    task_id: Mapped[str] = mapped_column(sa.Text)
    kind: Mapped[str] = mapped_column(sa.Text)
    """`waiting` or `deadline`."""
    since = mapped_column(Moment, nullable=False)
    """Since when it waits, or the deadline."""
    why: Mapped[str] = mapped_column(sa.Text)
    """What kept the task from being claimed when the stall was opened."""
    opened_at = mapped_column(Moment, nullable=False)
    closed_at = mapped_column(Moment, nullable=True)
    closed_by: Mapped[str | None] = mapped_column(sa.Text)
    """The verb that moved the task on."""
    policy: Mapped[str] = mapped_column(sa.Text)
    """The name of the policy whose ladder it climbs."""
    next_step_at = mapped_column(Moment, nullable=True)
    """When the ladder's next step is due; None where nothing is left to do."""
    settings_hash: Mapped[str] = mapped_column(sa.Text)
    """Of the policies that `next_step_at` was reckoned with: others reckon it again."""

    __table_args__ = (
        CheckConstraint("kind IN ('waiting', 'deadline')", name="kind"),
        CheckConstraint("closed_at IS NULL OR closed_at >= opened_at", name="closed_at"),
        Index(None, "task_id", "kind", "since", unique=True),
        Index(None, "next_step_at", postgresql_where=IS_STEP_AHEAD, sqlite_where=IS_STEP_AHEAD),
        Index(
            "ix_nexus_stalls_open",
            "settings_hash",
            postgresql_where=text("closed_at IS NULL"),
            sqlite_where=text("closed_at IS NULL"),
        ),
    )


class StallStepRow(Base):
    """One thing done about a stall, once."""

    __tablename__ = "nexus_stall_steps"

    stall_id: Mapped[int] = mapped_column(
        sa.ForeignKey("nexus_stalls.stall_id", ondelete="CASCADE"), primary_key=True, type_=Serial
    )
    step: Mapped[str] = mapped_column(sa.Text, primary_key=True)
    at = mapped_column(Moment, nullable=False)
    detail: Mapped[str] = mapped_column(sa.Text)
    told_at = mapped_column(Moment, nullable=True)
    """Of a `notify`: when it was delivered. The sweep only puts it down; what delivers may be away for a while."""

    __table_args__ = (
        Index("ix_nexus_stall_steps_untold", "at", postgresql_where=IS_UNDELIVERED, sqlite_where=IS_UNDELIVERED),
    )


class SweepRow(Base):
    """One pass of the sweep, so that its own lateness shows."""

    __tablename__ = "nexus_sweeps"

    sweep_id: Mapped[int] = mapped_column(Serial, primary_key=True, autoincrement=True)
    source: Mapped[str] = mapped_column(sa.Text)
    """Who swept: `deployment`, `episode`, `claim`, `command`, `call`."""
    started_at = mapped_column(Moment, nullable=False)
    finished_at = mapped_column(Moment, nullable=False)
    scanned: Mapped[int] = mapped_column(sa.Integer)
    acted: Mapped[int] = mapped_column(sa.Integer)
    conflicts: Mapped[int] = mapped_column(sa.Integer)
    skipped: Mapped[int] = mapped_column(sa.Integer)
    more: Mapped[bool] = mapped_column(sa.Boolean)
    settings_hash: Mapped[str] = mapped_column(sa.Text)


class RelayRow(Base):
    """How far the board's moves were told to somebody else, and who tells them now: one, under a lease."""

    __tablename__ = "nexus_relays"

    target: Mapped[str] = mapped_column(sa.Text, primary_key=True)
    """Who is told, such as the address of a Prefect API."""
    holder: Mapped[str] = mapped_column(sa.Text)
    lease_expires_at = mapped_column(Moment, nullable=False)
    place = mapped_column(JsonText, nullable=True)


class PauseRow(Base):
    """A task type of which nothing is offered; `*` is every type."""

    __tablename__ = "nexus_pauses"

    task_type: Mapped[str] = mapped_column(sa.Text, primary_key=True)
    at = mapped_column(Moment, nullable=False)
    actor: Mapped[str | None] = mapped_column(sa.Text)
    reason: Mapped[str | None] = mapped_column(sa.Text)


def _table(row: type[Base]) -> sa.Table:
    table = row.__table__
    assert isinstance(table, sa.Table)
    return table


tasks = _table(TaskRow)
_IN_TURN = (lane(tasks), tasks.c.priority, tasks.c.available_at, tasks.c.seq)
Index("ix_nexus_tasks_lane", *_IN_TURN, postgresql_where=IS_CLAIMABLE, sqlite_where=IS_CLAIMABLE)
Index(
    "ix_nexus_tasks_episode_lane",
    tasks.c.episode_id,
    *_IN_TURN,
    postgresql_where=IS_CLAIMABLE_IN_EPISODE,
    sqlite_where=IS_CLAIMABLE_IN_EPISODE,
)
dependencies = _table(DependencyRow)
attempts = _table(AttemptRow)
history = _table(HistoryRow)
agents = _table(AgentRow)
stalls = _table(StallRow)
stall_steps = _table(StallStepRow)
sweeps = _table(SweepRow)
relays = _table(RelayRow)
pauses = _table(PauseRow)
