"""Large boards, made inside the database: what is measured is the nexus at work on them, not their making."""

from datetime import datetime, timedelta

import sqlalchemy as sa

from nexus import TaskNexus
from nexus.tables import tasks

HOUR = timedelta(hours=1)


def pending(nexus: TaskNexus, number: int, prefix: str, waits_since: datetime) -> None:
    """A pending task `number` times, of the type `prefix`, claimable since `waits_since`."""
    template = nexus.add_task({"task_type": prefix, "description": "one of many", "payload": {"n": 1}}).task_id
    moments = {"available_at", "pending_since", "created_at", "updated_at"}
    copied = [column for column in tasks.c if column.name not in {"seq", "task_id", *moments}]
    since = sa.literal(waits_since, tasks.c.available_at.type)
    sqlite = nexus._database.is_sqlite
    series = _numbers(sqlite, number)
    values = [sa.literal(f"{prefix}-") + sa.cast(series.c.n, sa.Text), *(since for _ in moments), *copied]
    names = ["task_id", *sorted(moments), *(column.name for column in copied)]
    rows = sa.select(*values).select_from(tasks.join(series, sa.true())).where(tasks.c.task_id == template)
    with nexus._database.engine.begin() as connection:
        connection.execute(sa.insert(tasks).from_select(names, rows))
        connection.execute(sa.delete(tasks).where(tasks.c.task_id == template))


def _numbers(sqlite: bool, number: int) -> sa.FromClause:
    if not sqlite:
        return sa.func.generate_series(1, number).table_valued("n", name="numbers").render_derived()
    start = sa.select(sa.literal(1).label("n")).cte("numbers", recursive=True)
    return start.union_all(sa.select(start.c.n + 1).where(start.c.n < number))


def analysed(nexus: TaskNexus) -> None:
    """Let the planner know what is there, as autovacuum would after a while."""
    with nexus._database.engine.connect() as connection:
        connection = connection.execution_options(isolation_level="AUTOCOMMIT", nexus_begin=None)
        connection.exec_driver_sql("ANALYZE")
