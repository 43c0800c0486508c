"""Many rows in one statement, and as few parameters as they allow.

What is the same in all rows is one parameter. What differs is one JSON list of the rows on SQLite, the text of one
array a column on PostgreSQL. Row by row, SQLAlchemy's own way took ten times as long on SQLite; on PostgreSQL the
driver read a thousand times the same text to find fifty thousand parameters in it.

A statement is made once for its columns and those of them that differ: SQLAlchemy keeps no INSERT with an ON CONFLICT,
and to compile one of forty columns anew took 8 ms, which is most of what it costs to add one task.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from itertools import repeat
from operator import is_
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from nexus.engine import Tx
from nexus.prepared import Prepared
from nexus.rows import Row
from nexus.sql import EPOCH, MICROSECOND, Moment, array_text
from nexus.values import fast_json

Fit = Callable[[Any], Any]

Finish = Callable[[Any], sa.Insert]


def insert(
    tx: Tx,
    table: sa.Table,
    rows: Sequence[Mapping[str, Any]],
    alike: Mapping[str, Any] | None = None,
    *,
    finish: Finish | None = None,
) -> Sequence[Row]:
    """INSERT these rows, which all have the same columns; the rows that it tells of, as the driver gives them.

    `alike`: what holds for all, as far as they do not say otherwise. `finish`: a function of a module, which adds
    the ON CONFLICT and the RETURNING to an INSERT of the dialect's.
    """
    is_sqlite = tx.connection.dialect.name == "sqlite"
    fits = _FITS_SQLITE if is_sqlite else _FITS_POSTGRESQL
    same: dict[str, Any] = {}
    lists: dict[str, list[Any]] = {}
    names = {**(alike or {}), **rows[0]}
    for name, first in names.items():
        fit = _fit(fits, table.c[name])
        values = [row[name] for row in rows] if name in rows[0] else []
        if all(map(is_, values, repeat(first))):
            same[f"all_{name}"] = fit(first)
            continue
        values = list(map(fit, values))
        # A 1 is no 1.0 here: JSON is text by now.
        if values.count(values[0]) == len(values):
            same[f"all_{name}"] = values[0]
        else:
            lists[name] = values
    if is_sqlite:
        listed = {"rows": fast_json([*zip(*lists.values(), strict=True)])} if lists else {}
    else:
        listed = {f"list_{name}": array_text(values) for name, values in lists.items()}
    return _statement(table, tuple(names), tuple(lists), finish, is_sqlite).rows(tx, same | listed)


@lru_cache(maxsize=256)
def _statement(
    table: sa.Table, names: Sequence[str], lists: Sequence[str], finish: Finish | None, is_sqlite: bool
) -> Prepared:
    each, columns = (_listed_sqlite if is_sqlite else _listed_postgresql)(table, lists)
    chosen = {name: columns[name] if name in columns else _bound(table.c[name], is_sqlite) for name in names}
    source = sa.select(*chosen.values())
    if lists:  # WHERE, or SQLite takes ON CONFLICT for a part of a join
        source = source.select_from(each).where(sa.true())
    build = sqlite.insert if is_sqlite else postgresql.insert
    statement = build(table).from_select(list(chosen), source)
    return Prepared(finish(statement) if finish else statement)


Given = tuple[sa.FromClause, Mapping[str, sa.ColumnElement[Any]]]
"""What differs from row to row: as a table, and its columns by name."""


def _listed_sqlite(table: sa.Table, lists: Sequence[str]) -> Given:
    each = sa.func.json_each(sa.bindparam("rows", type_=sa.Text())).table_valued("value", name="each")
    columns = {
        name: sa.type_coerce(each.c.value.op("->>")(sa.literal_column(str(place))), table.c[name].type)
        for place, name in enumerate(lists)
    }
    return each, columns


def _listed_postgresql(table: sa.Table, lists: Sequence[str]) -> Given:
    arrays = [sa.cast(sa.bindparam(f"list_{name}", type_=sa.Text()), sa.ARRAY(sa.Text)) for name in lists]
    each = sa.func.unnest(*arrays).table_valued(*lists, name="each").render_derived()
    return each, {name: sa.cast(each.c[name], table.c[name].type) for name in lists}


def _bound(column: sa.Column[Any], is_sqlite: bool) -> sa.ColumnElement[Any]:
    name = f"all_{column.name}"
    return sa.bindparam(name) if is_sqlite else sa.cast(sa.bindparam(name, type_=sa.Text()), column.type)


def _fit(fits: Mapping[type, Fit], column: sa.Column[Any]) -> Fit:
    """How a value of the column becomes a part of the parameters."""
    return next(fit for kind, fit in fits.items() if isinstance(column.type, kind))


def _or_none(fit: Fit) -> Fit:
    return lambda value: None if value is None else fit(value)


def _as_it_is(value: Any) -> Any:
    return value


def _micros(moment: datetime) -> int:
    return (moment - EPOCH) // MICROSECOND


_FITS_SQLITE: Mapping[type, Fit] = {
    sa.JSON: _or_none(fast_json),
    Moment: _or_none(_micros),
    sa.Boolean: _or_none(int),
    object: _as_it_is,
}
_FITS_POSTGRESQL: Mapping[type, Fit] = {
    sa.JSON: _or_none(fast_json),
    Moment: _or_none(datetime.isoformat),
    sa.Text: _as_it_is,
    object: _or_none(str),
}
