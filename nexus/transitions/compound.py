"""A move and what it writes beside it, in as few statements as the database takes.

PostgreSQL takes all of it as one statement, so one round trip and, where nothing else follows, one transaction of
its own; SQLite, which is in the same process, one after the other. Both are built from the same parts.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

from nexus.engine import Tx
from nexus.predicates import status_in
from nexus.prepared import Prepared
from nexus.records import leaves
from nexus.rows import Row
from nexus.schemas import Claim
from nexus.sql import among_numbers, array_text
from nexus.states import AttemptOutcome, TaskStatus, Verb
from nexus.tables import attempts, tasks
from nexus.values import fast_json

Beside = Callable[[sa.FromClause], Sequence[sa.Insert]]
"""From the moved tasks, as they stand after the move, to what is written beside it."""

READ_BESIDE: Final = (
    "seq", "task_id", "status", "previous_status", "holder", "claim_no", "claimed_at", "waited_seconds",
    "attempt_count", "started_at", "heartbeat_at", "note", "run_ref", "unmet_dependencies", "available_at",
    "updated_at", "result",
)  # fmt: skip
"""What `Beside` may read of the moved tasks."""


class Compound:
    """One verb on any number of tasks."""

    def __init__(
        self,
        verb: Verb,
        move: sa.Update,
        beside: Beside | None,
        tells: Callable[[sa.FromClause], Sequence[sa.ColumnElement[Any]]],
    ) -> None:
        """`tells`: from the moved tasks to the columns that the caller wants of each; `seq` is put before them.

        `task_id`, `claim_no` and `updated_at` are among them. They come as the driver gives them.
        """
        self._verb = verb
        self._first = Prepared(move.returning(tasks.c.seq, *tells(tasks)))
        if beside is None:
            self._then: Sequence[Prepared] = ()
            self._at_once = self._first
            return
        told = _by_name(tells(tasks))
        plain = [tasks.c[name] for name in READ_BESIDE if name not in told]
        moved = move.returning(*plain, *(tasks.c[name] for name in told)).cte("moved")
        at_once = sa.select(moved.c.seq, *tells(moved)).add_cte(*(one.cte() for one in beside(moved)))
        self._at_once = Prepared(at_once)
        read = sa.select(*(tasks.c[name] for name in READ_BESIDE)).where(among_numbers(tasks.c.seq, "moved"))
        self._then = [Prepared(one) for one in beside(read.subquery("moved_tasks"))]

    def run(self, tx: Tx, parameters: dict[str, Any]) -> Sequence[Row]:
        """Make the move; a row of each task that moved."""
        if tx.connection.dialect.name == "postgresql":
            told = self._at_once.rows(tx, parameters)
            if told:
                leaves(tx, self._verb, told[0])
            return told
        rows = self._first.rows(tx, parameters)
        if rows and self._then:
            moved = fast_json([row[0] for row in rows])
            for statement in self._then:
                statement.rows(tx, {"moved": moved, **parameters})
        return rows


def _by_name(columns: Sequence[sa.ColumnElement[Any]]) -> set[str]:
    return {str(getattr(column, "name", "")) for column in columns}


class Shown(sa.sql.functions.FunctionElement[Any]):
    """The claims that are shown to a verb, as a table: `task_id`, `claim_no`, `value` (JSON).

    However many there are, it is the same text. On SQLite one parameter holds all; on PostgreSQL three arrays do: of
    JSON its planner believes that there is so much of it that the whole table had better be read. They are sent as
    text (`array_text`): the driver, which looks at each member by itself, would take a fifth of a batch's time.
    """

    inherit_cache = True
    name = "shown"


def shown() -> sa.FromClause:
    """`Shown` as a table."""
    columns = (
        sa.Column("task_id", sa.Text),
        sa.Column("claim_no", sa.Integer),
        sa.Column("value", tasks.c.result.type),
    )
    binds: Any = (sa.bindparam(f"p_{name}", type_=sa.Text()) for name in ("shown", "ids", "numbers", "values"))
    return Shown(*binds).table_valued(*columns, name="shown")


def showing(tx: Tx, claims: Sequence[tuple[Claim, Any]]) -> dict[str, Any]:
    """The parameters of `Shown`: these claims, each with a value."""
    if tx.connection.dialect.name == "sqlite":
        return {"p_shown": fast_json([(claim.task_id, claim.claim_no, value) for claim, value in claims])}
    return {
        "p_ids": array_text(claim.task_id for claim, _ in claims),
        "p_numbers": array_text(str(claim.claim_no) for claim, _ in claims),
        "p_values": array_text(None if value is None else fast_json(value) for _, value in claims),
    }


def done_by(verb: Verb, *columns: sa.ColumnElement[Any]) -> sa.Select[Any]:
    """Of the tasks whose current claims are `shown`, those to which `verb` (start, complete) was done under these.

    A holder's verbs happen once a claim: where it was done, it is what the holder itself did.
    """
    claims = shown()
    its_own = sa.exists().where(attempts.c.task_id == tasks.c.task_id, attempts.c.claim_no == tasks.c.claim_no)
    if verb is Verb.START:
        done: sa.ColumnElement[bool] = sa.or_(status_in({TaskStatus.IN_PROGRESS}), its_own)
    else:
        done = its_own.where(attempts.c.outcome == sa.literal_column(f"'{AttemptOutcome.COMPLETED}'"))
    current = tasks.c.task_id == claims.c.task_id, tasks.c.claim_no == claims.c.claim_no
    return sa.select(*columns).where(*current, done)


@compiles(Shown, "sqlite")
def _shown_sqlite(element: Shown, compiler: SQLCompiler, **kw: Any) -> str:
    batch = compiler.process(element.clauses.clauses[0], **kw)
    columns = "each.value ->> 0 AS task_id, each.value ->> 1 AS claim_no, nullif(each.value -> 2, 'null') AS value"
    return f"(SELECT {columns} FROM json_each({batch}) AS each)"  # noqa: S608 - the compiler's own text


@compiles(Shown, "postgresql")
def _shown_postgresql(element: Shown, compiler: SQLCompiler, **kw: Any) -> str:
    ids, numbers, values = (compiler.process(clause, **kw) for clause in element.clauses.clauses[1:])
    # Selected, so that nobody knows how long they are: else it plans anew each time, for just so many.
    kinds = ((ids, "text"), (numbers, "integer"), (values, "text"))
    arrays = f"unnest({', '.join(f'(SELECT CAST({array} AS {kind}[]))' for array, kind in kinds)})"
    listed = f"{arrays} AS listed(task_id, claim_no, value)"
    return f"(SELECT task_id, claim_no, CAST(value AS json) AS value FROM {listed})"  # noqa: S608 - as above
