"""What the record says of waiting: how long tasks used to wait until somebody claimed them."""

import sqlalchemy as sa

from nexus.engine import Tx
from nexus.monitoring import TaskMonitoringConfig
from nexus.sql import later, now
from nexus.states import Verb
from nexus.tables import history, tasks


def p95_waits(tx: Tx, window_seconds: float, min_samples: int) -> dict[str, float]:
    """The 95th percentile (nearest rank) of the waits that ended in a claim, in seconds, by task type.

    Of the last `window_seconds`; types with fewer than `min_samples` are left out. The database ranks: what comes
    back is a row a type.
    """
    waits = (
        sa.select(
            tasks.c.task_type,
            history.c.waited_seconds,
            sa.func.row_number().over(partition_by=tasks.c.task_type, order_by=history.c.waited_seconds).label("rank"),
            sa.func.count().over(partition_by=tasks.c.task_type).label("samples"),
        )
        .join(tasks, tasks.c.task_id == history.c.task_id)
        .where(
            history.c.verb == Verb.CLAIM.value,
            history.c.waited_seconds.is_not(None),
            history.c.at >= later(now(), sa.literal(-window_seconds, sa.Double())),
        )
        .subquery()
    )
    statement = (
        sa.select(waits.c.task_type, sa.func.min(waits.c.waited_seconds))
        .where(waits.c.rank * 100 >= waits.c.samples * 95, waits.c.samples >= min_samples)
        .group_by(waits.c.task_type)
    )
    return {row[0]: row[1] for row in tx.run(statement)}


def adaptive_thresholds(tx: Tx, config: TaskMonitoringConfig) -> dict[str, float]:
    """The threshold of each task type with enough waits on record: max(floor, factor x p95), in seconds."""
    rule = config.adaptive
    waits = p95_waits(tx, rule.window_seconds, rule.min_samples)
    return {task_type: max(rule.floor_seconds, rule.factor * p95) for task_type, p95 in waits.items()}
