"""The few places where SQLite and PostgreSQL differ: times, and questions about JSON lists.

Each is one construct with a rendering per database, so that every statement above is written once.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


class Moment(TypeDecorator[datetime]):
    """An aware UTC time: `timestamptz` on PostgreSQL, microseconds since 1970 as an integer on SQLite.

    Integers sort, compare and add exactly there; to read one in a shell:
    `datetime(available_at / 1000000, 'unixepoch')`.
    """

    impl = sa.BigInteger
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(postgresql.TIMESTAMP(timezone=True))
        return dialect.type_descriptor(sa.BigInteger())

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"naive datetime {value!r}: every time in the nexus has a zone")
        return value if dialect.name == "postgresql" else (value - EPOCH) // MICROSECOND

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if dialect.name == "postgresql":
            return value.astimezone(UTC)  # type: ignore[no-any-return]
        return EPOCH + timedelta(microseconds=value)


class now(FunctionElement[datetime]):  # noqa: N801 - it reads as a function of SQL
    """The present: the bound parameter `now`, or the database's own clock where that is NULL (PostgreSQL)."""

    type = Moment()
    inherit_cache = True

    def __init__(self) -> None:
        super().__init__(sa.bindparam("now", type_=Moment()))


@compiles(now, "sqlite")
def _now_sqlite(element: now, compiler: SQLCompiler, **kw: Any) -> str:
    return compiler.process(element.clauses, **kw)


@compiles(now, "postgresql")
def _now_postgresql(element: now, compiler: SQLCompiler, **kw: Any) -> str:
    # Of a moment that is bound the planner of a prepared statement knows nothing, and plans anew each time.
    if kw.get("by_its_clock"):
        return "statement_timestamp()"
    return f"COALESCE(CAST({compiler.process(element.clauses, **kw)} AS timestamptz), statement_timestamp())"


class later(FunctionElement[datetime]):  # noqa: N801
    """`later(moment, seconds)`: a moment moved by a number of seconds, which may be negative."""

    type = Moment()
    inherit_cache = True


@compiles(later, "sqlite")
def _later_sqlite(element: later, compiler: SQLCompiler, **kw: Any) -> str:
    moment, seconds = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"({moment} + CAST(({seconds}) * 1000000 AS INTEGER))"


@compiles(later, "postgresql")
def _later_postgresql(element: later, compiler: SQLCompiler, **kw: Any) -> str:
    moment, seconds = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"({moment} + CAST({seconds} AS double precision) * INTERVAL '1 second')"


class seconds_between(FunctionElement[float]):  # noqa: N801
    """`seconds_between(earlier, later)`: what lies between two moments."""

    type = sa.Double()
    inherit_cache = True


@compiles(seconds_between, "sqlite")
def _seconds_between_sqlite(element: seconds_between, compiler: SQLCompiler, **kw: Any) -> str:
    earlier, moment = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"(({moment} - {earlier}) / 1000000.0)"


@compiles(seconds_between, "postgresql")
def _seconds_between_postgresql(element: seconds_between, compiler: SQLCompiler, **kw: Any) -> str:
    earlier, moment = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"CAST(EXTRACT(EPOCH FROM ({moment} - {earlier})) AS double precision)"


class Question(FunctionElement[bool]):
    """A yes or no that each database answers as it stands.

    SQLAlchemy would write `= 1` behind it for SQLite, which has no booleans of its own, and so hide from its
    planner that `x IN (...)` can use an index.
    """

    type = sa.Boolean()
    inherit_cache = True

    def self_group(self, against: Any = None) -> Any:  # noqa: ARG002 - the signature is SQLAlchemy's
        return self


class one_of(Question):  # noqa: N801
    """`one_of(column, a, b, …)`: the column is one of these, asked of rows that were found otherwise.

    PostgreSQL takes `status = 'in_progress'` as an offer to begin with the index of all that is held, and does so
    when it believes those to be few; this form it can only check.
    """

    inherit_cache = True


@compiles(one_of, "sqlite")
def _one_of_sqlite(element: one_of, compiler: SQLCompiler, **kw: Any) -> str:
    column, *values = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"{column} IN ({', '.join(values)})"


@compiles(one_of, "postgresql")
def _one_of_postgresql(element: one_of, compiler: SQLCompiler, **kw: Any) -> str:
    column, *values = (compiler.process(clause, **kw) for clause in element.clauses)
    return "(" + " OR ".join(f"{column} IS NOT DISTINCT FROM {value}" for value in values) + ")"


class covers(Question):  # noqa: N801
    """`covers(given, wanted)`: the JSON list `given` holds every member of the JSON list `wanted`."""

    inherit_cache = True


@compiles(covers, "sqlite")
def _covers_sqlite(element: covers, compiler: SQLCompiler, **kw: Any) -> str:
    given, wanted = (compiler.process(clause, **kw) for clause in element.clauses)
    # The row that somebody spoilt by hand suits nobody; unchecked it would fail the statement for all others.
    return (
        f"CASE WHEN {wanted} = '[]' THEN 1 WHEN NOT json_valid({wanted}) THEN 0 ELSE "
        f"NOT EXISTS (SELECT 1 FROM json_each({wanted}) AS wanted "
        f"WHERE wanted.value NOT IN (SELECT given.value FROM json_each({given}) AS given)) END"
    )


@compiles(covers, "postgresql")
def _covers_postgresql(element: covers, compiler: SQLCompiler, **kw: Any) -> str:
    given, wanted = (compiler.process(clause, **kw) for clause in element.clauses)
    # What is bound is selected, so that it is read once and not for each row: of a thousand capabilities that matters.
    read = f"CAST({given} AS jsonb)"
    once = f"(SELECT {read})" if isinstance(element.clauses.clauses[0], sa.BindParameter) else read
    # The first half is a matter of statistics. Of the second nobody knows how often it holds, and plans might change.
    return f"({wanted} = '[]' OR {wanted} <@ {once})"


class seldom(Question):  # noqa: N801
    """`seldom(clause)`: what SQLite takes to hold for one row in a million, where it would believe in too many rows."""

    inherit_cache = True


@compiles(seldom, "sqlite")
def _seldom_sqlite(element: seldom, compiler: SQLCompiler, **kw: Any) -> str:
    return f"likelihood({compiler.process(element.clauses, **kw)}, 0.000001)"


@compiles(seldom, "postgresql")
def _seldom_postgresql(element: seldom, compiler: SQLCompiler, **kw: Any) -> str:
    return f"({compiler.process(element.clauses, **kw)})"


class overlaps(Question):  # noqa: N801
    """`overlaps(some, others)`: the two JSON lists of texts share a member."""

    inherit_cache = True


@compiles(overlaps, "sqlite")
def _overlaps_sqlite(element: overlaps, compiler: SQLCompiler, **kw: Any) -> str:
    some, others = (compiler.process(clause, **kw) for clause in element.clauses)
    shared = f"EXISTS (SELECT 1 FROM json_each({some}) AS s JOIN json_each({others}) AS o ON s.value = o.value)"
    return f"CASE WHEN json_valid({some}) THEN {shared} ELSE 0 END"


@compiles(overlaps, "postgresql")
def _overlaps_postgresql(element: overlaps, compiler: SQLCompiler, **kw: Any) -> str:
    some, others = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"jsonb_exists_any({some}, ARRAY(SELECT jsonb_array_elements_text(CAST({others} AS jsonb))))"


def among(column: sa.ColumnElement[Any], listed: str | sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
    """`column` is one of the texts in a JSON list: a column's, or the one that is bound to the parameter so named.

    One parameter for a batch of any length keeps one statement text, and so one plan.
    """
    return _Among(column, sa.bindparam(listed, type_=sa.Text()) if isinstance(listed, str) else listed)


def among_numbers(column: sa.ColumnElement[Any], parameter: str) -> sa.ColumnElement[bool]:
    """`column` is one of the integers in the JSON list that is bound to `parameter`."""
    return _AmongNumbers(column, sa.bindparam(parameter, type_=sa.Text()))


class _Chosen(Question):
    inherit_cache = True


def chosen(column: sa.ColumnElement[Any], rows: sa.Select[Any]) -> sa.ColumnElement[bool]:
    """`column` is one of what `rows` selects, which is asked first and once.

    As an array PostgreSQL can keep one plan; with IN it may join, and plan anew.
    """
    return _Chosen(column, rows.scalar_subquery())


@compiles(_Chosen, "sqlite")
def _chosen_sqlite(element: _Chosen, compiler: SQLCompiler, **kw: Any) -> str:
    column, rows = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"{column} IN {rows}"


@compiles(_Chosen, "postgresql")
def _chosen_postgresql(element: _Chosen, compiler: SQLCompiler, **kw: Any) -> str:
    column, rows = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"{column} = ANY(ARRAY{rows})"


class _Among(Question):
    inherit_cache = True


@compiles(_Among, "sqlite")
def _among_sqlite(element: _Among, compiler: SQLCompiler, **kw: Any) -> str:
    column, batch = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"{column} IN (SELECT value FROM json_each({batch}))"


@compiles(_Among, "postgresql")
def _among_postgresql(element: _Among, compiler: SQLCompiler, **kw: Any) -> str:
    column, batch = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"{column} = ANY(ARRAY(SELECT jsonb_array_elements_text(CAST({batch} AS jsonb))))"


class _AmongNumbers(Question):
    inherit_cache = True


@compiles(_AmongNumbers, "sqlite")
def _among_numbers_sqlite(element: _AmongNumbers, compiler: SQLCompiler, **kw: Any) -> str:
    column, batch = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"{column} IN (SELECT value FROM json_each({batch}))"


@compiles(_AmongNumbers, "postgresql")
def _among_numbers_postgresql(element: _AmongNumbers, compiler: SQLCompiler, **kw: Any) -> str:
    column, batch = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"{column} = ANY(ARRAY(SELECT CAST(jsonb_array_elements_text(CAST({batch} AS jsonb)) AS bigint)))"


JsonText = sa.JSON(none_as_null=True)
"""A JSON value kept as it was written: the order of keys, 1.0 as 1.0."""

JsonList = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
"""A JSON list that is searched."""

Serial = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
"""A growing number; on SQLite only INTEGER PRIMARY KEY is one."""


def array_text(members: Iterable[str | None]) -> str:
    """An array of PostgreSQL's as it reads one."""
    return "{" + ",".join("NULL" if member is None else f'"{_escaped(member)}"' for member in members) + "}"


def _escaped(member: str) -> str:
    return member.replace("\\", r"\\").replace('"', r"\"")
