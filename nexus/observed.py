"""What the record says of waiting: how long tasks used to wait until somebody claimed them."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from nexus import moves
from nexus.engine import Tx
from nexus.monitoring import TaskMonitoringConfig
from nexus.predicates import is_due, is_offered, is_waiting, threshold_seconds
from nexus.reports import Waits, WhatIf
from nexus.rows import Row
from nexus.sql import later, now, seconds_between
from nexus.states import Verb
from nexus.tables import tasks


def p95_waits(tx: Tx, window_seconds: float, min_samples: int) -> dict[str, float]:
    """The 95th percentile (nearest rank) of the waits that ended in a claim, in seconds, by task type.

    Of the last `window_seconds`; types with fewer than `min_samples` are left out. The database ranks: what comes
    back is a row a type.
    """
    recorded = moves.waits().subquery()
    waits = (
        sa.select(
            tasks.c.task_type,
            recorded.c.waited_seconds,
            sa.func.row_number().over(partition_by=tasks.c.task_type, order_by=recorded.c.waited_seconds).label("rank"),
            sa.func.count().over(partition_by=tasks.c.task_type).label("samples"),
        )
        .join(tasks, tasks.c.task_id == recorded.c.task_id)
        .where(
            recorded.c.verb == Verb.CLAIM.value,
            recorded.c.at >= later(now(), sa.literal(-window_seconds, sa.Double())),
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


def what_if(tx: Tx, config: TaskMonitoringConfig, learnt: Mapping[str, float], since: datetime | None) -> WhatIf:
    """What the thresholds of `config` would have meant for every waiting period on record, and for those of now.

    Two statements that read the record once each; they return a row a task type, and one for all.
    """
    by_type = tx.run(_summed(_ranked(config, learnt, since, by_type=True), by_type=True))
    total = tx.run(_summed(_ranked(config, learnt, since, by_type=False), by_type=False)).one()
    return WhatIf(total=_waits(total), by_type={row.task_type: _waits(row) for row in by_type}, since=since)


_CLAIMED, _ENDED, _WAITING = (sa.literal(word) for word in ("claimed", "ended", "waiting"))


def _ranked(
    config: TaskMonitoringConfig, learnt: Mapping[str, float], since: datetime | None, *, by_type: bool
) -> sa.Subquery:
    """Every period: its type, how it ended, by how much it was too long, and its rank among those ended alike."""
    threshold = threshold_seconds(config, learnt)
    waits = moves.waits().subquery()
    ended = sa.case((waits.c.verb == Verb.CLAIM.value, _CLAIMED), else_=_ENDED).label("how")
    recorded = sa.select(tasks.c.task_type, ended, (waits.c.waited_seconds - threshold).label("beyond")).join(
        tasks, tasks.c.task_id == waits.c.task_id
    )
    if since is not None:
        recorded = recorded.where(waits.c.at >= since)
    goes_on = seconds_between(tasks.c.available_at, now()) - threshold
    present = sa.select(tasks.c.task_type, _WAITING.label("how"), goes_on.label("beyond")).where(
        is_waiting(), is_due(), is_offered()
    )
    periods = recorded.union_all(present).subquery()
    alike = [periods.c.how, periods.c.beyond > 0] + ([periods.c.task_type] if by_type else [])
    return sa.select(
        periods,
        sa.func.row_number().over(partition_by=alike, order_by=periods.c.beyond).label("rank"),
        sa.func.count().over(partition_by=alike).label("alike"),
    ).subquery()


def _summed(periods: sa.Subquery, *, by_type: bool) -> sa.Select[Any]:
    flagged = periods.c.beyond > 0

    def number(*clauses: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
        return sa.func.coalesce(sa.func.sum(sa.case((sa.and_(*clauses), 1), else_=0)), 0)

    def of_the_claimed(percent: int) -> sa.ColumnElement[float]:
        reached = periods.c.rank * 100 >= periods.c.alike * percent
        return sa.func.min(sa.case((sa.and_(flagged, periods.c.how == _CLAIMED, reached), periods.c.beyond)))

    columns: list[sa.ColumnElement[Any]] = [
        sa.func.count().label("periods"),
        number(flagged).label("flagged"),
        number(flagged, periods.c.how == _CLAIMED).label("recovered"),
        of_the_claimed(50).label("recovered_after_p50"),
        of_the_claimed(95).label("recovered_after_p95"),
        of_the_claimed(100).label("recovered_after_max"),
        number(flagged, periods.c.how == _ENDED).label("ended_otherwise"),
        number(flagged, periods.c.how == _WAITING).label("still_waiting"),
    ]
    if not by_type:
        return sa.select(*columns).select_from(periods)
    return sa.select(periods.c.task_type, *columns).group_by(periods.c.task_type).order_by(periods.c.task_type)


def _waits(row: Row) -> Waits:
    return Waits.model_validate({name: row._mapping[name] for name in Waits.model_fields})
