"""Lanes: all tasks that ask the same of whoever claims them, so that one of them answers for all.

A lane is a text that an index holds: whose its tasks are, which capabilities they need, of which type they are. Lanes
are in the order of assignees, of whom nobody is the first, then of the lists of capabilities.
"""

from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from nexus.values import dump_json

MANY_SKILLS: Final = 100
"""An agent with more of them looks into all lanes: to look for each by itself would take longer."""


def assignee(source: sa.FromClause) -> sa.ColumnElement[str]:
    """Whose a task is; nothing where it is anybody's."""
    return sa.func.coalesce(source.c.assigned_to, sa.literal_column("''", sa.Text()))


def lane(source: sa.FromClause) -> sa.ColumnElement[str]:
    """Equal for tasks that ask the same of whoever claims them: who, with which capabilities, for which type.

    In the order of assignees, of whom nobody is the first. No name holds a tab. (Two long lists of capabilities that
    PostgreSQL took for one would keep a task from being found, never give it to the wrong agent.)
    """
    return _Tabbed(assignee(source), _Short(source.c.required_capabilities), source.c.task_type)


def lanes_of(agent_id: str, capabilities: Sequence[str]) -> list[tuple[str, str]]:
    """Where the lanes lie in which there may be something for an agent, as ranges in the order of `lane`.

    What has to be done by it or by anybody; and of that, what begins its list with one of its capabilities, or is
    written otherwise: lists that are empty, or PostgreSQL's numbers for long ones, or spoilt.
    """
    every = [("\t", "\n")]
    if len(capabilities) <= MANY_SKILLS:
        begins = sorted(f"\t[{dump_json(name)}" for name in capabilities)
        every = [("\t", '\t["'), *((begin, f"{begin}~") for begin in begins), ("\t[#", "\n")]
    return [(whose + low, whose + high) for whose in ("", agent_id) for low, high in every]


class _Ranges(FunctionElement[Any]):
    inherit_cache = True
    name = "ranges"


def ranges(parameter: str) -> sa.FromClause:
    """The pairs of texts in the JSON list that is bound to `parameter`, as a table: from `low` until before `high`."""
    columns = sa.Column("low", sa.Text), sa.Column("high", sa.Text)
    return _Ranges(sa.bindparam(parameter, type_=sa.Text())).table_valued(*columns, name="ranges")


@compiles(_Ranges, "sqlite")
def _ranges_sqlite(element: _Ranges, compiler: SQLCompiler, **kw: Any) -> str:
    listed = f"json_each({compiler.process(element.clauses, **kw)}) AS each"
    return f"(SELECT each.value ->> 0 AS low, each.value ->> 1 AS high FROM {listed})"


@compiles(_Ranges, "postgresql")
def _ranges_postgresql(element: _Ranges, compiler: SQLCompiler, **kw: Any) -> str:
    listed = f"jsonb_array_elements(CAST({compiler.process(element.clauses, **kw)} AS jsonb)) AS each"
    return f"(SELECT each.value ->> 0 AS low, each.value ->> 1 AS high FROM {listed})"


class _Tabbed(FunctionElement[str]):
    """Texts with a tab between them, in the order of their code points."""

    type = sa.Text()
    inherit_cache = True


@compiles(_Tabbed, "sqlite")
def _tabbed_sqlite(element: _Tabbed, compiler: SQLCompiler, **kw: Any) -> str:
    return "(" + " || char(9) || ".join(compiler.process(clause, **kw) for clause in element.clauses) + ")"


@compiles(_Tabbed, "postgresql")
def _tabbed_postgresql(element: _Tabbed, compiler: SQLCompiler, **kw: Any) -> str:
    joined = " || chr(9) || ".join(compiler.process(clause, **kw) for clause in element.clauses)
    return f'(({joined}) COLLATE "C")'


class _Short(FunctionElement[str]):
    """A JSON list as a text that fits into an index: PostgreSQL, where an entry has an end, takes a number for it."""

    type = sa.Text()
    inherit_cache = True


@compiles(_Short, "sqlite")
def _short_sqlite(element: _Short, compiler: SQLCompiler, **kw: Any) -> str:
    return compiler.process(element.clauses, **kw)


@compiles(_Short, "postgresql")
def _short_postgresql(element: _Short, compiler: SQLCompiler, **kw: Any) -> str:
    text = f"CAST({compiler.process(element.clauses, **kw)} AS text)"
    return f"(CASE WHEN octet_length({text}) < 1000 THEN {text} ELSE CAST(hashtextextended({text}, 0) AS text) END)"
