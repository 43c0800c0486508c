"""Writes a board that was read (`nexus.boards`) into the nexus: one transaction, and an account of every record.

The nexus is the truth: a record that is known already, word for word, changes nothing, whatever became of its
task (but that it waits for what came since); a record that changed redefines a task that nobody works on, and never
says where the task stands.
"""

import json
from collections.abc import Iterator, Sequence, Set
from typing import Any

from nexus import intake, queries, records, restoring, transitions, waiting
from nexus.boards.records import Board, BoardTask, ImportReport, Reject
from nexus.boards.times import one_line
from nexus.engine import Again, Tx
from nexus.errors import DependencyCycle, InvalidTask
from nexus.progress import Progress, unheard
from nexus.rows import Row
from nexus.settings import NexusSettings
from nexus.states import TaskStatus

_MAY_CHANGE = frozenset({TaskStatus.PENDING, TaskStatus.BLOCKED, TaskStatus.STALLED})


class RolledBack(Exception):
    """Leaves the transaction with its account and without its writes: a dry run, or a strict one with rejects."""

    def __init__(self, report: ImportReport) -> None:
        self.report = report
        super().__init__("nothing was written")


def known_ids(tx: Tx, wanted: set[str]) -> set[str]:
    """Which of these ids are tasks already."""
    return set(queries.statuses_of(tx, sorted(wanted)))


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
    work.hold()
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
        self.before: dict[str, Row] = {}
        """The changed ones as they stand, held still."""
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
                restoring.check_sizes(task, self.settings.max_payload_bytes)
                if owner != task.task_id:
                    raise InvalidTask(f"its idempotency_key is that of task {owner}")
                if row is None:
                    restoring.check_attempts(task)
                    self.fresh[task.task_id] = task
                elif self._is_known(task, row):
                    self._keep(task, row)
                elif row.status not in _MAY_CHANGE:
                    raise InvalidTask(_at_work(row.status))
                else:
                    self.changed[task.task_id] = task
                    self._compare_states(task, row)
            except InvalidTask as error:
                self.reject(task, str(error))

    def _is_known(self, task: BoardTask, row: Row) -> bool:
        """Its record says nothing new. A target that came since does, as long as its task may still wait for it."""
        if row.import_digest != task.digest:
            return restoring.is_same(task, row, self.settings)
        return row.status not in _MAY_CHANGE or not restoring.found_since(task, row)

    def _keep(self, task: BoardTask, row: Row) -> None:
        if task.new.episode_id not in (None, row.episode_id):
            self.rehomed[task.task_id] = str(task.new.episode_id)
        else:
            self.unchanged += 1
        self._compare_states(task, row)

    def _compare_states(self, task: BoardTask, row: Row) -> None:
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

    def hold(self) -> None:
        """From here on nobody moves the changed tasks (PostgreSQL); what was moved since it was compared stays.

        What they wait for is locked first, as whoever completes that does it: else two would wait for each other.
        """
        if not self.changed:
            return
        targets = {target for task in self.changed.values() for target in task.new.depends_on}
        queries.hold_still(self.tx, sorted(targets))
        status_of = queries.hold_still(self.tx, list(self.changed))
        if len(status_of) < len(self.changed):
            raise Again  # one of them was pruned since we looked
        for task_id, status in status_of.items():
            if status not in _MAY_CHANGE:
                self._drop(task_id, _at_work(status))
        self.before = queries.task_rows(self.tx, list(self.changed))

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
        self._refuse_orphans(known=set(queries.statuses_of(self.tx, outside)))

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
        if targets - dict(written).keys() - queries.hold_still(self.tx, sorted(targets)).keys():
            raise Again  # one of them was pruned since we looked
        self._add(progress)
        self._redefine()
        for task_id, episode_id in self.rehomed.items():
            records.redefine_task(self.tx, task_id, {"episode_id": episode_id})
        for batch in _batches([task for _, task in written]):
            edges = ((task.task_id, target) for task in batch for target in task.new.depends_on)
            records.add_dependencies(self.tx, edges)
        for batch in _batches([task for _, task in written]):
            records.count_dependencies(self.tx, [task.task_id for task in batch])
        status_of = queries.statuses_of(self.tx, sorted(targets))
        gone = {name for name, status in status_of.items() if status in (TaskStatus.FAILED, TaskStatus.CANCELLED)}
        only = [task_id for task_id, task in written if self._comes_to_depend_on(task, gone)]
        transitions.settle_dependants(self.tx, gone, only=only)

    def _comes_to_depend_on(self, task: BoardTask, gone: Set[str]) -> bool:
        """It does only now: what did before went its way, and stands elsewhere where an operator retried it."""
        settled: Set[str] = set()
        if task.new.on_dependency_failure == "cancel":
            before = self.before.get(task.task_id)
            if before is not None and before.on_dependency_failure == "cancel":
                settled = set(before.depends_on)
            elif before is None and task.exact:
                settled = self.fresh.keys()
        return not gone.isdisjoint(set(task.new.depends_on) - settled)

    def _add(self, progress: Progress) -> None:
        for batch in _batches(list(self.fresh.values()), "writing", progress):
            rows = [restoring.row_of(task, self.settings, self.present) for task in batch]
            added = records.add_tasks(self.tx, rows)
            if len(added) != len(rows):
                raise InvalidTask("another process added some of these tasks just now; import once more")
            records.write_events(self.tx, [self._arrival(row, task) for row, task in zip(rows, batch, strict=True)])
            records.add_attempts(self.tx, [one for task in batch for one in restoring.attempts_of(task)])

    def _redefine(self) -> None:
        """What is asked for anew waits anew, and what was asked about the old is asked no longer.

        What is stalled stays so: whoever was asked to look at it still is.
        """
        if not self.changed:
            return
        over = waiting.ask_anew(self.tx, list(self.changed))
        for task_id, task in self.changed.items():
            values = restoring.redefinition(task, self.before[task_id], self.settings)
            late, deadline = self.before[task_id].overdue_id, self.before[task_id].deadline
            if late is not None and deadline != values.get("deadline", deadline):
                values["overdue_id"] = None
                waiting.close_stalls(self.tx, [late], "import")
                over.append(late)
            records.redefine_task(self.tx, task_id, values)
            records.replace_dependencies(self.tx, task_id, ())
        gone = transitions.withdraw(self.tx, over, self.actor, "was redefined") if over else []
        transitions.settle_dependants(self.tx, gone)

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


def _at_work(status: str) -> str:
    return f"the record changed, but its task is {status} here and stays as it is"


def _batches(tasks: Sequence[BoardTask], what: str = "", progress: Progress = unheard) -> Iterator[Sequence[BoardTask]]:
    for first in range(0, len(tasks), intake.BATCH):
        yield tasks[first : first + intake.BATCH]
        progress(what, min(first + intake.BATCH, len(tasks)), len(tasks))
