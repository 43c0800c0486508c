"""Large boards, made inside the database: what is measured is the nexus at work on them, not their making.

A task is brought through the public verbs to where it is to stand, and its rows are copied there.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from nexus import TaskNexus
from nexus.tables import attempts, dependencies, tasks

HOUR = timedelta(hours=1)


def pending(nexus: TaskNexus, number: int, prefix: str, waits_since: datetime) -> None:
    """A pending task `number` times, of the type `prefix`, claimable since `waits_since`."""
    template = nexus.add_task({"task_type": prefix, "description": "one of many", "payload": {"n": 1}}).task_id
    moments = dict.fromkeys(("available_at", "pending_since", "created_at", "updated_at"), waits_since)
    copies(nexus, template, number, prefix, moments)
    with nexus._database.engine.begin() as connection:
        connection.execute(sa.delete(tasks).where(tasks.c.task_id == template))


def finished(nexus: TaskNexus, number: int, prefix: str) -> None:
    """A completed task `number` times, each with its attempt."""
    template = nexus.add_task({"task_type": prefix, "description": "one of many", "payload": {"n": 1}}).task_id
    claim = nexus.claim_task(template, "Agent-0")
    nexus.start(claim)
    nexus.complete(claim, {"n": 1})
    copies(nexus, template, number, prefix)


def blocked(nexus: TaskNexus, number: int, prefix: str) -> None:
    """A task `number` times that waits for one that an operator has blocked."""
    target = nexus.add_task({"task_type": prefix, "description": "what all wait for"}).task_id
    nexus.block(target, "nobody is to work on it")
    template = nexus.add_task({"task_type": prefix, "description": "one of many", "depends_on": [target]}).task_id
    copies(nexus, template, number, prefix)


def in_backoff(nexus: TaskNexus, number: int, prefix: str, until: datetime, priority: str) -> None:
    """A task `number` times that is offered again later."""
    asked = {"task_type": prefix, "description": "one of many", "available_at": until, "priority": priority}
    copies(nexus, nexus.add_task(asked).task_id, number, prefix)


def copies(
    nexus: TaskNexus, template: str, number: int, prefix: str, changed: Mapping[str, datetime] | None = None
) -> None:
    """The rows of a task, of its attempts and of what it depends on, `number` times; `changed` stands in the tasks."""
    series = _numbers(nexus._database.is_sqlite, number)
    with nexus._database.engine.begin() as connection:
        for table in (tasks, attempts, dependencies):
            values: dict[str, sa.ColumnElement[Any]] = {
                column.name: column for column in table.c if column.name != "seq"
            }
            values["task_id"] = sa.literal(f"{prefix}-") + sa.cast(series.c.n, sa.Text)
            if table is tasks and changed:
                values |= {name: sa.literal(moment, table.c[name].type) for name, moment in changed.items()}
            source = table.join(series, sa.true())
            rows = sa.select(*values.values()).select_from(source).where(table.c.task_id == template)
            connection.execute(sa.insert(table).from_select(list(values), rows))


def _numbers(sqlite: bool, number: int) -> sa.FromClause:
    if not sqlite:
        return sa.func.generate_series(1, number).table_valued("n", name="numbers").render_derived()
    start = sa.select(sa.literal(1).label("n")).cte("numbers", recursive=True)
    return start.union_all(sa.select(start.c.n + 1).where(start.c.n < number))


def analysed(nexus: TaskNexus) -> None:
    """Let the planner know what is there, as autovacuum would after a while."""
    with nexus._database.engine.begin() as connection:
        connection.exec_driver_sql("ANALYZE")
