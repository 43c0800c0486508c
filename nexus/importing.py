"""Writes a board that was read (`nexus.boards`) into the nexus: one transaction, and an account of every record.

The nexus is the truth: a record that is known already, word for word, changes nothing, whatever became of its
task; a record that changed redefines a task that nobody works on, and never says where the task stands.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any

from nexus import intake, queries, records, transitions
from nexus.boards.records import Board, BoardTask, ImportReport, Reject
from nexus.boards.times import one_line
from nexus.engine import Again, Tx
from nexus.errors import DependencyCycle, InvalidTask
from nexus.progress import Progress, unheard
from nexus.rows import Row
from nexus.schemas import Attempt
from nexus.settings import NexusSettings
from nexus.states import HELD, AttemptOutcome, TaskStatus

_DEFINITION = (
    "task_type", "description", "payload", "priority", "tags", "depends_on", "required_capabilities", "assigned_to",
    "on_dependency_failure",
    "retry_policy", "timeout_seconds", "requires_review", "deadline", "related_task_id", "idempotency_key", "extra",
)  # fmt: skip
"""What a record says a task is, as opposed to where it stands."""

_MAY_CHANGE = frozenset({TaskStatus.PENDING, TaskStatus.BLOCKED, TaskStatus.STALLED})


class RolledBack(Exception):
    """Leaves the transaction with its account and without its writes: a dry run, or a strict one with rejects."""

    def __init__(self, report: ImportReport) -> None:
        self.report = report
        super().__init__("nothing was written")


def known_ids(tx: Tx, wanted: set[str]) -> set[str]:
    """Which of these ids are tasks already."""
    return set(queries.task_rows(tx, sorted(wanted)))


def import_board(
    tx: Tx,
    board: Board,
    settings: NexusSettings,
    *,
    dry_run: bool,
    strict: bool,
    actor: str | None,
    progress: Progress = unheard,
) -> ImportReport:
    """Apply `board`. Raises `RolledBack` where nothing is to stay."""
    work = _Import(tx, settings, actor)
    for batch in _batches(board.tasks, "comparing", progress):
        work.sort(batch)
    work.refuse_cycles()
    if not (strict and (work.rejects or board.rejects)):
        work.write(progress)
    report = ImportReport(
        accepted=len(work.fresh),
        updated=len(work.changed) + len(work.rehomed),
        unchanged=work.unchanged + board.duplicates,
        rejected=len(work.rejects) + len(board.rejects),
        rejects=(*board.rejects, *work.rejects),
        warnings=(*board.warnings, *work.warnings),
        dry_run=dry_run,
        files=board.files,
    )
    if strict and report.rejected:
        raise RolledBack(report.model_copy(update={"accepted": 0, "updated": 0}))
    if dry_run:
        raise RolledBack(report)
    return report


class _Import:
    def __init__(self, tx: Tx, settings: NexusSettings, actor: str | None) -> None:
        self.tx, self.settings, self.actor = tx, settings, actor
        self.present = tx.present()
        self.fresh: dict[str, BoardTask] = {}
        self.changed: dict[str, BoardTask] = {}
        self.rehomed: dict[str, str] = {}
        self.unchanged = 0
        self.rejects: list[Reject] = []
        self.warnings: list[str] = []

    def sort(self, batch: Sequence[BoardTask]) -> None:
        """Each task of the batch is new, changed, unchanged or rejected."""
        rows = queries.task_rows(self.tx, [task.task_id for task in batch])
        keys = [task.new.idempotency_key for task in batch if task.new.idempotency_key]
        owners = queries.ids_of_keys(self.tx, keys) if keys else {}
        for task in batch:
            self.warnings += [f"{task.source} ({task.task_id}): {warning}" for warning in task.warnings]
            key = task.new.idempotency_key or ""
            owner = owners.setdefault(key, task.task_id) if key else task.task_id
            row = rows.get(task.task_id)
            try:
                _check_sizes(task, self.settings.max_payload_bytes)
                if owner != task.task_id:
                    raise InvalidTask(f"its idempotency_key is that of task {owner}")
                if row is None:
                    _check_attempts(task)
                    self.fresh[task.task_id] = task
                elif row.import_digest == task.digest or _same_definition(task, row, self.settings):
                    self._keep(task, row)
                elif row.status not in _MAY_CHANGE:
                    raise InvalidTask(f"the record changed, but its task is {row.status} here and stays as it is")
                else:
                    self.changed[task.task_id] = task
            except InvalidTask as error:
                self.reject(task, str(error))

    def _keep(self, task: BoardTask, row: Row) -> None:
        if task.new.episode_id not in (None, row.episode_id):
            self.rehomed[task.task_id] = str(task.new.episode_id)
        else:
            self.unchanged += 1
        if row.import_digest != task.digest and task.status != row.status:
            self.warnings.append(
                f"{task.source} ({task.task_id}): the board says {task.status}, here it is {row.status} and stays so"
            )

    def reject(self, task: BoardTask, reason: str) -> None:
        """Leave the task out, and say why."""
        source = task.source
        record = json.dumps(task.new.model_dump(mode="json", exclude_defaults=True))[:200]
        found = Reject(
            file=source.file,
            location=source.location,
            task_id=one_line(task.task_id),
            reason=one_line(reason, 500),
            record=record,
        )
        self.rejects.append(found)

    def refuse_cycles(self) -> None:
        """Tasks that would wait for one another for ever are rejected, and what waits for those."""
        written = self.fresh | self.changed
        edges = {task_id: set(task.new.depends_on) for task_id, task in written.items() if task.new.depends_on}
        outside = sorted({target for targets in edges.values() for target in targets} - written.keys())
        for source, target in queries.edges_from(self.tx, outside) if outside and self.changed else []:
            if source not in written:
                edges.setdefault(source, set()).add(target)
        while True:
            try:
                intake.check_cycle(edges)
            except DependencyCycle as error:
                for task_id in set(error.cycle) & written.keys():
                    self._drop(task_id, str(error))
                    edges.pop(task_id, None)
                if not set(error.cycle) & written.keys():
                    raise  # the nexus itself holds a cycle, which it never lets in
            else:
                break
        self._refuse_orphans(known=set(queries.task_rows(self.tx, outside)))

    def _refuse_orphans(self, known: set[str]) -> None:
        while True:
            here = self.fresh.keys() | self.changed.keys() | known
            lost = {
                task_id: [target for target in task.new.depends_on if target not in here]
                for task_id, task in (self.fresh | self.changed).items()
            }
            gone = {task_id: targets for task_id, targets in lost.items() if targets}
            if not gone:
                return
            for task_id, targets in gone.items():
                self._drop(task_id, f"it depends on {targets[0]}, which was rejected")

    def _drop(self, task_id: str, reason: str) -> None:
        task = self.fresh.pop(task_id, None) or self.changed.pop(task_id, None)
        if task is not None:
            self.reject(task, reason)

    def write(self, progress: Progress) -> None:
        """Insert the new tasks, redefine the changed ones, then count what each waits for."""
        written = list((self.fresh | self.changed).items())
        targets = {target for _, task in written for target in task.new.depends_on}
        if targets - dict(written).keys() - queries.lock_targets(self.tx, sorted(targets)).keys():
            raise Again  # one of them was pruned since we looked
        fresh = list(self.fresh.values())
        for batch in _batches(fresh, "writing", progress):
            rows = [self._row(task) for task in batch]
            added = records.add_tasks(self.tx, rows)
            if len(added) != len(rows):
                raise InvalidTask("another process added some of these tasks just now; import once more")
            records.write_events(self.tx, [self._arrival(row, task) for row, task in zip(rows, batch, strict=True)])
            records.add_attempts(self.tx, [one for task in batch for one in self._attempts(task)])
        self._end_stalls()
        for task_id, task in self.changed.items():
            episode = {"episode_id": task.new.episode_id} if task.new.episode_id else {}
            records.redefine_task(self.tx, task_id, self._definition(task) | episode | {"import_digest": task.digest})
            records.replace_dependencies(self.tx, task_id, ())
        for task_id, episode_id in self.rehomed.items():
            records.redefine_task(self.tx, task_id, {"episode_id": episode_id})
        for batch in _batches([task for _, task in written]):
            edges = ((task.task_id, target) for task in batch for target in task.new.depends_on)
            records.add_dependencies(self.tx, edges)
        for batch in _batches([task for _, task in written]):
            records.count_dependencies(self.tx, [task.task_id for task in batch])
        rows_there = queries.task_rows(self.tx, sorted(targets))
        ended = (TaskStatus.FAILED, TaskStatus.CANCELLED)
        transitions.settle_dependants(self.tx, [name for name, row in rows_there.items() if row.status in ended])

    def _end_stalls(self) -> None:
        """What is asked for anew waits anew, and what was asked about the old is asked no longer."""
        over: list[int] = []
        for row in queries.task_rows(self.tx, list(self.changed)).values():
            later = self.changed[row.task_id].new.deadline != row.deadline
            ends = {"stall_id": row.stall_id} | ({"overdue_id": row.overdue_id} if later else {})
            over += [stall_id for stall_id in ends.values() if stall_id is not None]
            records.redefine_task(self.tx, row.task_id, dict.fromkeys(ends))
        if over:
            records.close_stalls(self.tx, over, "import")
            transitions.settle_dependants(self.tx, transitions.withdraw(self.tx, over, self.actor, "was redefined"))

    def _definition(self, task: BoardTask) -> dict[str, Any]:
        row = intake.draft(task.new, self.settings.retry)
        return {name: _listed(row[name]) for name in _DEFINITION}

    def _row(self, task: BoardTask) -> dict[str, Any]:
        """The row of a task with a past. What the table's CHECKs ask for is seen to here, whatever the board says."""
        state, status = task.state, task.status
        row = intake.row_of(intake.draft(task.new, self.settings.retry), task.task_id, self.present)
        pending_since = state.pending_since if task.exact and state.pending_since else self.present
        held = status in HELD
        lease = state.lease_expires_at if task.exact else None
        open_one = next((one for one in state.attempts if one.outcome == AttemptOutcome.RUNNING), None)
        row |= {
            "status": status.value,
            "claimed_by": None if status == TaskStatus.PENDING else state.claimed_by,
            "claim_no": max(state.claim_no, 1 if held else 0),
            "lease_expires_at": (lease or self.present + timedelta(seconds=self.settings.lease_seconds))
            if held
            else None,
            "lease_seconds": self.settings.lease_seconds if held else None,
            "attempt_count": max(
                state.attempt_count,
                len(state.attempts),
                1 if status == TaskStatus.IN_PROGRESS else 0,
                *(one.number for one in state.attempts),
            ),
            "failure_count": state.failure_count,
            "loss_count": state.loss_count,
            "created_at": state.created_at or self.present,
            "updated_at": state.updated_at or self.present,
            "pending_since": pending_since if status == TaskStatus.PENDING else None,
            "available_at": max(task.new.available_at or self.present, pending_since)
            if not task.exact
            else task.new.available_at or self.present,
            "result": state.result,
            "error": state.error,
            "reason": state.reason,
            "import_digest": task.digest,
        }
        return row | (self._going_on(task, open_one) if status == TaskStatus.IN_PROGRESS else {})

    def _going_on(self, task: BoardTask, attempt: Attempt | None) -> dict[str, Any]:
        """The attempt that goes on; a board that says only that one does gets one of which nothing else is known."""
        said = {"holder": task.state.claimed_by}
        if attempt is None:
            return said | {"started_at": task.state.updated_at or self.present, "note": "imported as in progress"}
        kept = {name: getattr(attempt, name) for name in ("started_at", "heartbeat_at", "note", "run_ref")}
        return said | kept

    def _arrival(self, row: dict[str, Any], task: BoardTask) -> dict[str, Any]:
        return {
            "task_id": row["task_id"],
            "at": self.present,
            "verb": "import",
            "from_status": None,
            "to_status": row["status"],
            "actor": self.actor,
            "claim_no": row["claim_no"],
            "reason": str(task.source),
        }

    def _attempts(self, task: BoardTask) -> Iterable[dict[str, Any]]:
        """Those that are over."""
        for attempt in task.state.attempts:
            if attempt.outcome != AttemptOutcome.RUNNING:
                yield attempt.model_dump() | {"outcome": attempt.outcome.value, "task_id": task.task_id}


def _batches(tasks: Sequence[BoardTask], what: str = "", progress: Progress = unheard) -> Iterator[Sequence[BoardTask]]:
    for first in range(0, len(tasks), intake.BATCH):
        yield tasks[first : first + intake.BATCH]
        progress(what, min(first + intake.BATCH, len(tasks)), len(tasks))


def _check_sizes(task: BoardTask, max_bytes: int) -> None:
    for name, value in (("payload", task.new.payload), ("extra", task.new.extra), ("result", task.state.result)):
        intake.check_size(name, value, max_bytes)


def _check_attempts(task: BoardTask) -> None:
    attempts = task.state.attempts
    if len({attempt.number for attempt in attempts}) != len(attempts):
        raise InvalidTask("two of its attempts have the same number")
    running = sum(attempt.outcome == AttemptOutcome.RUNNING for attempt in attempts)
    if running != (task.status == TaskStatus.IN_PROGRESS) and (running or task.exact):
        raise InvalidTask(f"it has {running} open attempts and is {task.status}; one is open exactly while in progress")
    last = max((attempt.number for attempt in attempts), default=0)
    if any(attempt.outcome == AttemptOutcome.RUNNING and attempt.number < last for attempt in attempts):
        raise InvalidTask("its open attempt is not its last one")
    if any((attempt.outcome == AttemptOutcome.RUNNING) != (attempt.finished_at is None) for attempt in attempts):
        raise InvalidTask("an attempt is running and finished at once, or neither")


def _same_definition(task: BoardTask, row: Row, settings: NexusSettings) -> bool:
    wanted = intake.draft(task.new, settings.retry)
    return all(_listed(wanted[name]) == getattr(row, name) for name in _DEFINITION)


def _listed(value: Any) -> Any:
    """As it comes back: JSON knows no tuples."""
    return list(value) if isinstance(value, tuple) else value
