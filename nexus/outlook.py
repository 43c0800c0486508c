"""Whether what is still open can move at all, with the agents that are at work. Pure, over rows that were read.

A run of a board has to end by itself: it waits as long as anything can still move, and says of the rest why
it cannot.
"""

from collections.abc import Iterable, Mapping, Sequence
from graphlib import TopologicalSorter

from nexus.predicates import EVERY_TYPE
from nexus.rows import Row
from nexus.schemas import Agent
from nexus.states import HELD, TaskStatus

_NEEDS_A_PERSON = {
    TaskStatus.BLOCKED: "it is blocked",
    TaskStatus.IN_REVIEW: "it waits for a review",
    TaskStatus.STALLED: "it was marked as stalled",
}


_SWITCHES = {"command": "NEXUS_COMMAND__ALLOWED_PROGRAMS", "http": "NEXUS_HTTP__ALLOWED_HOSTS"}
"""Task types that are done nowhere until a setting allows something."""


def no_handler(task_type: str) -> str:
    """Why nobody here does tasks of a type."""
    if task_type in _SWITCHES:
        return f"no agent here may do {task_type!r} tasks; {_SWITCHES[task_type]} says what they may use"
    return f"no agent here has a handler for {task_type!r}; it stays for agents that work outside (`nexus claim`)"


def stuck(
    open_tasks: Sequence[Row],
    status_of: Mapping[str, str],
    workers: Sequence[Agent],
    task_types: Iterable[str],
    paused: Iterable[str] = (),
) -> dict[str, str]:
    """The open tasks that none of `workers` can bring to an end, and why.

    Args:
        open_tasks: rows that are not terminal.
        status_of: the status of each task that they depend on.
        workers: the agents at work.
        task_types: what they have handlers for.
        paused: the task types of which nothing is offered.
    """
    rows = {row.task_id: row for row in open_tasks}
    handled, pauses = set(task_types), set(paused)
    reasons: dict[str, str] = {}
    order = TopologicalSorter(
        {task_id: [one for one in row.depends_on if one in rows] for task_id, row in rows.items()}
    )
    for task_id in order.static_order():
        why = _why(rows[task_id], rows, status_of, reasons, workers, handled)
        if (
            why is None
            and rows[task_id].status == TaskStatus.PENDING
            and pauses & {EVERY_TYPE, rows[task_id].task_type}
        ):
            why = f"{rows[task_id].task_type!r} tasks are paused"
        if why is not None:
            reasons[task_id] = why
    return reasons


def _why(
    row: Row,
    rows: Mapping[str, Row],
    status_of: Mapping[str, str],
    reasons: Mapping[str, str],
    workers: Sequence[Agent],
    handled: set[str],
) -> str | None:
    status = TaskStatus(row.status)
    if status in HELD:
        return None
    if status != TaskStatus.PENDING:
        return _NEEDS_A_PERSON[status] + (f": {row.reason}" if row.reason else "")
    for target in row.depends_on:
        if row.on_dependency_failure == "run" and status_of.get(target) in (TaskStatus.FAILED, TaskStatus.CANCELLED):
            continue  # it runs anyway
        if status_of.get(target) != TaskStatus.COMPLETED and (target not in rows or target in reasons):
            return f"it waits for {target}, which is {status_of.get(target)}"
    if row.task_type not in handled:
        return no_handler(row.task_type)
    suited = [agent for agent in workers if row.assigned_to in (None, agent.agent_id)]
    if not suited:
        return f"it is assigned to {row.assigned_to}, which is not at work here"
    needed = set(row.required_capabilities)
    if not any(needed <= set(agent.capabilities) for agent in suited):
        return f"no agent at work here has {', '.join(sorted(needed))}"
    return None
