"""`TaskNexus`, the facade: one public verb is one transaction."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Self, TypeVar

from nexus import explaining, importing, intake, outlook, queries, records, registration, schema, sweeping, transitions
from nexus.boards import Board, ImportReport, read_board
from nexus.clock import Clock
from nexus.engine import Database, Tx
from nexus.errors import AgentNotFound, ClaimLost, IllegalTransition, InvalidTask, NotClaimable, TaskNotFound
from nexus.retry import decide
from nexus.schemas import (
    Agent,
    Attempt,
    Claim,
    Failure,
    Heartbeat,
    HistoryEvent,
    NewTask,
    Reason,
    SweepReport,
    Task,
    clean,
)
from nexus.settings import NexusSettings, TaskMonitoringConfig
from nexus.states import HELD, TaskStatus, Verb, verbs_from
from nexus.values import check_id, check_json, dump_json

T = TypeVar("T")


class TaskNexus:
    """The board: the one true state of every task, and of every attempt at it.

    Safe to share among threads; any number of processes and machines may open the same database. Times that
    it takes and gives are aware (UTC); durations are seconds. Every verb is one transaction: all of it
    happened, or an error says why nothing did.

    Args:
        url: `sqlite:///board.db`, `postgresql+psycopg://user@host/database`, or None for the settings' own.
        settings: None reads the environment and `nexus.toml`.
        clock: returns the present; None means the database's clock on PostgreSQL, the host's on SQLite.

    Raises `DatabaseUnavailable`, `NotANexusDatabase`, `SchemaTooNew`, `SchemaOutdated`, `InvalidSettings`.
    """

    def __init__(
        self, url: str | None = None, *, settings: NexusSettings | None = None, clock: Clock | None = None
    ) -> None:
        self.settings = settings or NexusSettings.load()
        self._database = Database(
            self.settings.location(url), clock=clock, synchronous=self.settings.sqlite_synchronous
        )
        schema.ensure(self._database, may_upgrade=self._database.is_sqlite or self.settings.auto_upgrade)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the object may be used again and opens new ones."""
        self._database.close()

    @property
    def url(self) -> str:
        """The database, without a password."""
        return self._database.name

    def now(self) -> datetime:
        """The present, as this nexus sees it."""
        return self._database.read(Tx.present)

    # -- adding ---------------------------------------------------------------------------------------------

    def add_task(self, task: NewTask | Mapping[str, Any], *, actor: str | None = None) -> Task:
        """Add one task; with an `idempotency_key` that is known already, return the first.

        Raises `InvalidTask` (nothing is written), `TaskExists`.
        """
        new = intake.parse(task, self.settings.max_payload_bytes)

        def work(tx: Tx) -> Task:
            [task_id] = intake.add(tx, [new], self.settings.retry, actor)
            return self._task(tx, task_id)

        return self._database.write(work)

    def add_tasks(self, tasks: Iterable[NewTask | Mapping[str, Any]], *, actor: str | None = None) -> list[str]:
        """Add all of them in one transaction, or none; their ids in order. They may depend on one another.

        Raises `InvalidTask`, `DependencyCycle`, `TaskExists`.
        """
        new = [intake.parse(task, self.settings.max_payload_bytes) for task in tasks]
        return self._database.write(lambda tx: intake.add(tx, new, self.settings.retry, actor))

    def import_board(
        self, board: Board, *, dry_run: bool = False, strict: bool = False, actor: str | None = None
    ) -> ImportReport:
        """Write a board that was read; the account says what became of each record.

        The same record again changes nothing, whatever became of its task; a changed one redefines a task that
        nobody works on. With `strict`, one reject and nothing is written; with `dry_run` nothing ever is.
        """
        try:
            return self._database.write(
                lambda tx: importing.import_board(tx, board, self.settings, dry_run=dry_run, strict=strict, actor=actor)
            )
        except importing.RolledBack as rolled_back:
            return rolled_back.report

    def read_board(self, paths: Path | str | Iterable[Path | str]) -> Board:
        """Read board files against this nexus: a dependency may name a task that is here already.

        Raises `BoardUnreadable`.
        """
        return read_board(
            paths,
            max_payload_bytes=self.settings.max_payload_bytes,
            known_ids=lambda wanted: self._database.read(lambda tx: importing.known_ids(tx, wanted)),
        )

    # -- looking --------------------------------------------------------------------------------------------

    def get_task_by_id(self, task_id: str) -> Task | None:
        """The task as it stands, or None."""
        row = self._database.read(lambda tx: queries.task_row(tx, task_id))
        return None if row is None else queries.to_task(row)

    def get_all_tasks(
        self,
        status: TaskStatus | str | Sequence[TaskStatus | str] | None = None,
        *,
        task_type: str | None = None,
        tag: str | None = None,
        agent_id: str | None = None,
        episode_id: str | None = None,
        after: str | None = None,
        limit: int | None = None,
    ) -> list[Task]:
        """Tasks in order of arrival, filtered; `after` is the task id at which the page before ended.

        `agent_id` means held or assigned. Raises `InvalidTask` for a status that does not exist.
        """
        statuses = _statuses(status)
        return self._database.read(
            lambda tx: queries.list_tasks(
                tx,
                statuses=statuses,
                task_type=task_type,
                tag=tag,
                agent_id=agent_id,
                episode_id=episode_id,
                after=after,
                limit=limit,
            )
        )

    def get_pending_tasks(self, limit: int | None = None) -> list[Task]:
        """What could be claimed now, in the order of claims; assignment and capabilities are not looked at."""
        return self._database.read(lambda tx: queries.list_tasks(tx, claimable=True, limit=limit))

    def get_tasks_by_agent(self, agent_id: str) -> list[Task]:
        """What the agent holds, held when it ended, or is assigned."""
        return self.get_all_tasks(agent_id=agent_id)

    def stats(self, episode_id: str | None = None) -> Counter[str]:
        """How many tasks there are in each status (absent: none)."""
        return self._database.read(lambda tx: queries.counts(tx, episode_id))

    def attempts(self, task_id: str) -> list[Attempt]:
        """Every attempt at a task, first to last. Raises `TaskNotFound`."""
        return self._of_task(task_id, queries.attempts_of)

    def attempts_by_task(self, task_ids: Iterable[str]) -> dict[str, list[Attempt]]:
        """The attempts at many tasks in one query; tasks without any are absent."""
        wanted = list(task_ids)
        return self._database.read(lambda tx: queries.attempts_by_task(tx, wanted))

    def history(self, task_id: str) -> list[HistoryEvent]:
        """Every move of a task, first to last: what, who, when and why. Raises `TaskNotFound`."""
        return self._of_task(task_id, queries.history_of)

    def results(self, task_ids: Iterable[str]) -> dict[str, Any]:
        """The results of these tasks, by id."""
        wanted = list(task_ids)
        return self._database.read(lambda tx: queries.results_of(tx, wanted))

    def explain(self, task_id: str, agent_id: str | None = None) -> list[Reason]:
        """Why it is not running: each clause that keeps it from being claimed, by anybody or by one agent.

        An empty list means that it can be claimed now. Raises `TaskNotFound`.
        """
        return self._database.read(lambda tx: explaining.explain(tx, task_id, agent_id=agent_id))

    def stuck(
        self, agents: Iterable[str], task_types: Iterable[str], *, episode_id: str | None = None
    ) -> tuple[int, dict[str, str]]:
        """How many tasks are open, and which of them none of these `agents` can bring to an end, with why.

        `task_types` is what the agents have handlers for.
        """
        at_work, handled = set(agents), list(task_types)

        def work(tx: Tx) -> tuple[int, dict[str, str]]:
            rows = queries.open_work(tx, episode_id)
            targets = {target for row in rows for target in row.depends_on}
            status_of = {task_id: row.status for task_id, row in queries.task_rows(tx, sorted(targets)).items()}
            workers = [agent for agent in queries.list_agents(tx) if agent.agent_id in at_work]
            return len(rows), outlook.stuck(rows, status_of, workers, handled)

        return self._database.read(work)

    # -- the life of a claim --------------------------------------------------------------------------------

    def claim(
        self,
        agent_id: str,
        limit: int = 1,
        *,
        task_types: Iterable[str] | None = None,
        tags: Iterable[str] | None = None,
        episode_id: str | None = None,
        lease_seconds: float | None = None,
    ) -> list[Claim]:
        """Take up to `limit` tasks, the most urgent first, then those that wait longest.

        The claims hold for `lease_seconds` (default: the setting) and are renewed by `heartbeat`; then the
        sweep gives the tasks to others. Filters: any of `task_types`, any of `tags`, one episode.

        Raises `AgentNotConfirmed` (registration is closed and the agent is not registered; nothing changes).
        """
        wishes = {
            "task_types": None if task_types is None else _json_list(task_types),
            "tags": None if tags is None else _json_list(tags),
            "type_or_tag": None,
            "episode_id": episode_id,
            "task_id": None,
        }
        return self._claim(agent_id, limit, lease_seconds, wishes)

    def get_next_task(self, agent_id: str, type_filter: str | None = None) -> Claim | None:
        """Claim the next task, of a task type or with a tag named `type_filter`; None where there is nothing."""
        wishes = dict.fromkeys(("task_types", "tags", "type_or_tag", "episode_id", "task_id"))
        if type_filter is not None:
            wishes["type_or_tag"] = _json_list([type_filter])
        return next(iter(self._claim(agent_id, 1, None, wishes)), None)

    def claim_task(self, task_id: str, agent_id: str, *, lease_seconds: float | None = None) -> Claim:
        """Claim this one task. Raises `TaskNotFound`, `IllegalTransition` (not pending, says who has it),
        `NotClaimable` (pending, but not for this agent or not now; carries the reasons)."""
        wishes: dict[str, Any] = dict.fromkeys(("task_types", "tags", "type_or_tag", "episode_id"))
        claims = self._claim(agent_id, 1, lease_seconds, wishes | {"task_id": task_id})
        if claims:
            return claims[0]

        def why(tx: Tx) -> Exception:
            row = queries.task_row(tx, task_id)
            if row is None:
                return TaskNotFound(task_id)
            reasons = [reason.message for reason in explaining.explain(tx, task_id, agent_id=agent_id)]
            if row.status != TaskStatus.PENDING:
                return IllegalTransition(task_id, Verb.CLAIM, row.status, why="; ".join(reasons))
            return NotClaimable(task_id, agent_id, reasons, row.available_at)

        raise self._database.read(why)

    def start(self, claim: Claim, run_ref: Any = None) -> Attempt:
        """Begin to work: opens attempt n+1 and renews the lease. `run_ref` (JSON) says which run it is.

        Raises `ClaimLost`, `IllegalTransition`.
        """
        check_json(run_ref)
        _, attempt = self._database.write(lambda tx: transitions.start(tx, claim, run_ref))
        return queries.to_attempt(attempt)

    def heartbeat(self, claim: Claim, note: str | None = None, *, lease_seconds: float | None = None) -> Heartbeat:
        """Renew the lease, and say how far the work is. `cancel_requested`: stop, the task was cancelled.

        Raises `ClaimLost`.
        """
        _positive(lease_seconds)
        kept = None if note is None else clean(note)

        def work(tx: Tx) -> Heartbeat:
            row = transitions.heartbeat(tx, claim, kept, lease_seconds)
            if row is not None:
                return Heartbeat(task_id=claim.task_id, cancel_requested=False, lease_expires_at=row.lease_expires_at)
            task = queries.task_row(tx, claim.task_id)
            if task is not None and task.status == TaskStatus.CANCELLED and task.claim_no == claim.claim_no:
                return Heartbeat(task_id=claim.task_id, cancel_requested=True, lease_expires_at=claim.lease_expires_at)
            error = transitions.refusal(tx, Verb.RELEASE, claim)
            if isinstance(error, IllegalTransition):
                raise ClaimLost(claim.task_id, claim.claim_no, now_held=f"the task is {error.status}")
            raise error

        return self._database.write(work)

    def complete(self, claim: Claim, result: Any = None) -> Task:
        """Done: closes the attempt with its result (JSON), frees dependants; `in_review` where asked for.

        Raises `ClaimLost` (the result is kept on the attempt as `late_result`), `IllegalTransition`,
        `InvalidTask` (the result is no JSON, or too large; the claim holds on).
        """
        try:
            check_json(result)
        except ValueError as error:
            raise InvalidTask(f"the result of task {claim.task_id!r} {error}") from None
        intake.check_size(f"the result of task {claim.task_id!r}", result, self.settings.max_payload_bytes)
        try:
            return self._database.write(lambda tx: queries.to_task(transitions.complete(tx, claim, result)))
        except ClaimLost:
            self._database.write(lambda tx: records.keep_late_result(tx, claim.task_id, claim.claim_no, result))
            raise

    def fail(self, claim: Claim, error: str | BaseException | Failure) -> Task:
        """The attempt failed: the retry policy offers the task again later, or makes it a dead letter.

        Raises `ClaimLost`, `IllegalTransition`.
        """
        failure = Failure.of(error)

        def work(tx: Tx) -> Task:
            row = queries.task_row(tx, claim.task_id)
            if row is None:
                raise TaskNotFound(claim.task_id)
            policy = queries.to_task(row).retry_policy
            decision = decide(policy, row.failure_count + 1, failure, claim.task_id)
            return queries.to_task(transitions.fail(tx, claim, decision, str(failure), timed_out=failure.timed_out))

        return self._database.write(work)

    def release(self, claim: Claim, reason: str | None = None) -> Task:
        """Hand it back: offered again at once, no failure counted. Raises `ClaimLost`, `IllegalTransition`."""
        return self._database.write(lambda tx: queries.to_task(transitions.release(tx, claim, _text(reason))))

    def current_claim(self, task_id: str, agent_id: str | None = None) -> Claim:
        """The live claim on a task, for whoever kept only its id; of `agent_id` where given.

        Raises `TaskNotFound`, `IllegalTransition` (nobody holds it), `ClaimLost` (another agent holds it).
        """
        return self._database.read(lambda tx: self._held(tx, task_id, Verb.RELEASE, agent_id))

    def claim_numbered(self, task_id: str, claim_no: int, agent_id: str | None = None) -> Claim:
        """The claim that an agent outside says it has. Nothing is checked here: each verb that it shows it to does.

        Raises `TaskNotFound`.
        """
        task = self._of_task(task_id, self._task)
        return Claim(
            task=task,
            task_id=task_id,
            agent_id=agent_id or task.claimed_by or "outside",
            claim_no=claim_no,
            lease_expires_at=task.lease_expires_at or task.updated_at,
        )

    # -- by id, as the origin had them ----------------------------------------------------------------------

    def mark_task_in_progress(self, task_id: str, agent_id: str) -> Task:
        """Claim (unless the agent holds it already) and start, by id. Raises as `claim_task` and `start`."""
        task = self.get_task_by_id(task_id)
        mine = task is not None and task.status == TaskStatus.CLAIMED and task.claimed_by == agent_id
        claim = self.current_claim(task_id, agent_id) if mine else self.claim_task(task_id, agent_id)
        self.start(claim)
        return self._of_task(task_id, self._task)

    def mark_task_completed(self, task_id: str, result: Any = None) -> Task:
        """Complete the attempt that is in progress. Raises `TaskNotFound`, `IllegalTransition`, `InvalidTask`."""
        return self.complete(self._database.read(lambda tx: self._held(tx, task_id, Verb.COMPLETE)), result)

    def mark_task_failed(self, task_id: str, error: str | BaseException | None = None) -> Task:
        """Fail the attempt that is in progress. Raises `TaskNotFound`, `IllegalTransition`."""
        claim = self._database.read(lambda tx: self._held(tx, task_id, Verb.FAIL))
        return self.fail(claim, "no reason given" if error is None else error)

    # -- operators and reviewers ----------------------------------------------------------------------------

    def cancel(self, task_id: str, reason: str | None = None, *, actor: str | None = None) -> Task:
        """End it; a running attempt learns it at its next heartbeat. Raises `TaskNotFound`, `IllegalTransition`."""
        return self._decide(lambda tx: transitions.cancel(tx, task_id, _text(reason), actor))

    def retry(self, task_id: str, *, actor: str | None = None) -> Task:
        """Offer a failed, stalled or cancelled task again, its budget renewed, its history kept."""
        return self._decide(lambda tx: transitions.retry(tx, task_id, actor))

    def block(self, task_id: str, reason: str, *, actor: str | None = None) -> Task:
        """Keep it from being worked on; a live claim is taken back. Raises `TaskNotFound`, `IllegalTransition`."""
        return self._decide(lambda tx: transitions.block(tx, task_id, _text(reason) or "", actor))

    def unblock(self, task_id: str, *, actor: str | None = None) -> Task:
        """Offer a blocked task again."""
        return self._decide(lambda tx: transitions.unblock(tx, task_id, actor))

    def approve(self, task_id: str, reviewer: str, note: str | None = None) -> Task:
        """The reviewer agrees: completed. Raises `IllegalTransition` also for the agent who did it."""
        name = _id(reviewer, "reviewer")
        return self._decide(lambda tx: transitions.approve(tx, task_id, name, _text(note)))

    def reject(self, task_id: str, reviewer: str, note: str) -> Task:
        """The reviewer does not agree: pending again, the note goes to the next attempt. As `approve`."""
        name = _id(reviewer, "reviewer")
        return self._decide(lambda tx: transitions.reject(tx, task_id, name, _text(note) or ""))

    # -- agents ---------------------------------------------------------------------------------------------

    def register_agent(
        self,
        agent_id: str,
        capabilities: Iterable[str] | None = None,
        max_concurrency: int | None = None,
        *,
        task_types: Iterable[str] | None = None,
    ) -> Agent:
        """Register an agent, or change what is given here of one that is registered (None leaves it).

        Args:
            capabilities: what it can do; a task that requires more is not offered to it.
            max_concurrency: how many claims it may hold at once.
            task_types: the types that it has handlers for, for `explain`.
        """
        name = _id(agent_id, "agent_id")
        if max_concurrency is not None and max_concurrency < 1:
            raise InvalidTask(f"agent {name}: max_concurrency is {max_concurrency}; it must be 1 or more, or absent")

        def work(tx: Tx) -> Agent:
            registration.register(
                tx, name, capabilities=capabilities, max_concurrency=max_concurrency, task_types=task_types
            )
            return self._agent(tx, name)

        return self._database.write(work)

    def confirm_agent(self, agent_id: str, *, task_types: Iterable[str] | None = None) -> Agent:
        """Confirm an agent who begins a shift; kept in the history and logged. Raises `AgentNotConfirmed`."""
        name = _id(agent_id, "agent_id")

        def work(tx: Tx) -> Agent:
            registration.confirm(tx, name, self.settings.registration, task_types)
            return self._agent(tx, name)

        return self._database.write(work)

    def agents(self) -> list[Agent]:
        """Every agent, with the number of claims that it holds now."""
        return self._database.read(queries.list_agents)

    # -- the sweep ------------------------------------------------------------------------------------------

    def sweep(self, config: TaskMonitoringConfig | None = None, *, now: datetime | None = None) -> SweepReport:
        """One pass: take back what is held under a lease that is over, act on what waits too long.

        Idempotent, and safe to run twice at once; at most `config.max_per_sweep` of each kind per pass
        (`more` says whether the next pass has work left).

        Args:
            config: what to do about waiting tasks; None is the settings' own.
            now: the present to sweep at, for replays and tests.
        """
        config = config or self.settings.monitoring
        started_at = self._database.read(Tx.present, now=now)
        leases = self._database.write(lambda tx: sweeping.expire(tx, config), now=now)
        waits = self._database.write(lambda tx: sweeping.stalls(tx, config, self.settings.retry), now=now)
        return SweepReport(
            started_at=started_at,
            finished_at=self._database.read(Tx.present, now=now),
            scanned=leases.scanned + waits.scanned,
            logged=waits.count("log_only"),
            stalled=waits.count("mark_stalled"),
            reassigned=waits.count("reassign"),
            escalated=waits.count("escalate"),
            expired=leases.count("expire"),
            failed=leases.failed,
            conflicts=waits.conflicts,
            more=leases.full or waits.full,
            items=(*leases.items, *waits.items),
        )

    # -- inside ---------------------------------------------------------------------------------------------

    def _claim(self, agent_id: str, limit: int, lease_seconds: float | None, wishes: dict[str, Any]) -> list[Claim]:
        name = _id(agent_id, "agent_id")
        if limit < 1:
            raise InvalidTask(f"limit is {limit}; a claim takes 1 task or more")
        _positive(lease_seconds)

        def work(tx: Tx) -> list[Claim]:
            agent = registration.confirmed(tx, name, self.settings.registration)
            slots = registration.free_slots(tx, agent, limit)
            records.seen(tx, name)
            lease = lease_seconds or self.settings.lease_seconds
            rows = transitions.claim(tx, name, agent.capabilities, slots, lease, wishes) if slots else []
            return [queries.to_claim(row) for row in rows]

        return self._database.write(work)

    def _held(self, tx: Tx, task_id: str, verb: Verb, agent_id: str | None = None) -> Claim:
        row = queries.task_row(tx, task_id)
        if row is None:
            raise TaskNotFound(task_id)
        if row.status not in HELD:
            raise IllegalTransition(task_id, verb, row.status, allowed=verbs_from(TaskStatus(row.status)))
        if agent_id not in (None, row.claimed_by):
            raise ClaimLost(task_id, row.claim_no, now_held=f"{row.claimed_by} holds it, not {agent_id}")
        return queries.to_claim(row)

    def _decide(self, move: Callable[[Tx], records.Row]) -> Task:
        return self._database.write(lambda tx: queries.to_task(move(tx)))

    def _of_task(self, task_id: str, look: Callable[[Tx, str], T]) -> T:
        def work(tx: Tx) -> T:
            self._task(tx, task_id)
            return look(tx, task_id)

        return self._database.read(work)

    def _task(self, tx: Tx, task_id: str) -> Task:
        row = queries.task_row(tx, task_id)
        if row is None:
            raise TaskNotFound(task_id)
        return queries.to_task(row)

    def _agent(self, tx: Tx, agent_id: str) -> Agent:
        for agent in queries.list_agents(tx):
            if agent.agent_id == agent_id:
                return agent
        raise AgentNotFound(agent_id)


def _statuses(status: TaskStatus | str | Sequence[TaskStatus | str] | None) -> list[TaskStatus]:
    given = [] if status is None else [status] if isinstance(status, str) else list(status)
    try:
        return [TaskStatus(str(one).lower()) for one in given]
    except ValueError as error:
        raise InvalidTask(f"{error}; the states are {', '.join(TaskStatus)}") from None


def _json_list(values: Iterable[str]) -> str:
    return dump_json(sorted({values} if isinstance(values, str) else set(values)))


def _id(text: str, what: str) -> str:
    try:
        return check_id(text)
    except ValueError as error:
        raise InvalidTask(f"{what} {error}") from None


def _text(text: str | None) -> str | None:
    return None if text is None else clean(text)


def _positive(seconds: float | None) -> None:
    if seconds is not None and not 0 < seconds <= 366 * 86_400:
        raise InvalidTask(f"lease_seconds is {seconds}; it must be more than 0 and at most a year")
