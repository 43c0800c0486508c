"""What must hold in every world: read from the tables, from the verbs, and from what the world was told."""

from collections.abc import Iterator
from itertools import pairwise

import sqlalchemy as sa

from nexus import TaskNexus
from nexus.errors import NexusError
from nexus.monitoring import ACTIONS
from nexus.reports import Stall
from nexus.states import TERMINAL
from nexus.tables import stall_steps, tasks

from .world import MONITORING, SKILLS, World


class Violation(AssertionError):
    """A promise is broken."""


def check(world: World) -> None:
    """Everything that must hold at any time."""
    wrongs = [*world.ledger.wrongs, *of_the_tables(world.boards[0])]
    if wrongs:
        raise Violation("\n".join(wrongs[:10]))


def of_the_tables(nexus: TaskNexus) -> Iterator[str]:
    """What the doctor would say, and what it does not look for."""
    for finding in nexus.doctor():
        if finding.code not in ("sweep", "late_lease", "escalation"):
            yield f"doctor: {finding.code}: {finding.message}"
    with nexus._database.engine.connect() as connection:
        twice = sa.select(stall_steps.c.stall_id, stall_steps.c.step).group_by(
            stall_steps.c.stall_id, stall_steps.c.step
        )
        for row in connection.execute(twice.having(sa.func.count() > 1)):
            yield f"stall {row.stall_id}: step {row.step} was taken twice"
        asked = sa.select(tasks.c.escalates).where(tasks.c.escalates.is_not(None)).group_by(tasks.c.escalates)
        for row in connection.execute(asked.having(sa.func.count() > 1)):
            yield f"stall {row.escalates} was escalated twice"


def check_after_a_sweep(world: World) -> None:
    """What holds once a pass that was not full is over."""
    nexus = world.boards[0]
    while nexus.sweep().more:
        pass
    for finding in nexus.doctor():
        if finding.code == "escalation":
            raise Violation(f"an escalation without a live source: {finding.message}")
    check(world)


def check_stalls(world: World) -> None:
    """Each ladder was climbed in its order, no step before its time, and escalations never escalate."""
    nexus = world.boards[0]
    ladders = {policy.name: policy for policy in MONITORING.ladders}
    everything = {task.task_id: task for task in nexus.get_all_tasks()}
    for stall in nexus.stalls():
        task = everything[stall.task_id]
        if task.tags == ("escalation", "stalled_task") and any(step.step == "escalate" for step in stall.steps):
            details = [step.detail for step in stall.steps if step.step == "escalate"]
            if details != ["is an escalation itself: not escalated again"]:
                raise Violation(f"{stall.task_id} is an escalation, and was escalated: {details}")
        if stall.kind == "waiting":
            _check_ladder(stall, {step.action: step.after_seconds for step in ladders[stall.policy].steps})


def _check_ladder(stall: Stall, delays: dict[str, float]) -> None:
    order = [ACTIONS.index(step.step) for step in stall.steps]
    if order != sorted(order) or any(after.at < before.at for before, after in pairwise(stall.steps)):
        raise Violation(f"stall {stall.stall_id}: steps out of order: {[step.step for step in stall.steps]}")
    for step in stall.steps:
        if (step.at - stall.opened_at).total_seconds() < delays[step.step] - 1e-3:
            raise Violation(f"stall {stall.stall_id}: {step.step} came before its time")


def check_budgets(world: World) -> None:
    """Losses and failures are counted apart, and neither beyond its cap."""
    for task in world.boards[0].get_all_tasks():
        if task.failure_count > task.retry_policy.max_attempts or task.loss_count > task.retry_policy.max_losses:
            raise Violation(f"{task.task_id}: {task.failure_count} failures, {task.loss_count} losses")


def check_late_results(world: World) -> None:
    """What came late is kept, and is never a task's result."""
    nexus = world.boards[0]
    for task_id, claim_no, result in world.ledger.late:
        [attempt] = [one for one in nexus.attempts(task_id) if one.claim_no == claim_no]
        if attempt.outcome not in ("completed", "failed") and attempt.late_result != result:
            raise Violation(f"{task_id}: the late result of claim {claim_no} is gone ({attempt})")
    for task in nexus.get_all_tasks("completed"):
        winners = [one for one in nexus.attempts(task.task_id) if one.outcome == "completed"]
        if task.result != winners[-1].result:
            raise Violation(f"{task.task_id}: its result is not the winner's")


def check_the_end(world: World) -> None:
    """Everything has ended, or says why it has not, or can be had by whoever can do it."""
    nexus = world.boards[0]
    nexus.register_agent("Fresh", SKILLS)
    for task in nexus.get_all_tasks():
        if task.status in TERMINAL:
            continue
        mine, anybody = nexus.explain(task.task_id, "Fresh"), nexus.explain(task.task_id)
        try:
            claim = nexus.claim_task(task.task_id, "Fresh")
        except NexusError as refused:
            if not mine:
                raise Violation(f"{task.task_id} is {task.status}, says nothing, and is refused: {refused}") from None
            continue
        if mine:
            raise Violation(f"{task.task_id} could be claimed in spite of {mine}")
        if anybody:
            raise Violation(f"{task.task_id}: Fresh is there and could have it, but {anybody}")
        nexus.release(claim)
