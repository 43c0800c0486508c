"""The statements that are asked all the time, and every INSERT: compiled once, then given to the driver as they are.

For a statement of forty columns that moves one task SQLAlchemy's looking it up, making a context and describing the
result takes longer than the database does. Here SQLAlchemy makes the text and the parameters, and the driver is
asked directly. Where somebody listens to the engine's statements (a tracer, a test) they go the usual way.
"""

from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.sql.compiler import SQLCompiler

from nexus.engine import Tx


@dataclass(frozen=True, slots=True)
class _Text:
    """A statement in one database's words."""

    sql: str
    constants: Mapping[str, Any]
    """Its parameters, with the values that they have of themselves."""
    processes: Sequence[tuple[str, Callable[[Any], Any]]]
    """How those are made fit that the driver does not take as they are."""
    order: Sequence[str] | None
    """The names of the parameters by place, where the driver wants them so."""
    row: Callable[[Any], Any] | None
    """None where it has no rows to tell of."""

    def values(self, given: Mapping[str, Any]) -> Mapping[str, Any] | Sequence[Any]:
        """What the driver gets; where it asks by name it minds no others."""
        found = {**self.constants, **given}
        for name, process in self.processes:
            found[name] = process(found[name])
        return found if self.order is None else [found[name] for name in self.order]


class Prepared:
    """A statement whose rows come as the driver gives them (`rows.as_kept`)."""

    def __init__(self, statement: sa.Select[Any] | sa.Update | sa.Insert) -> None:
        self._statement = statement
        self._texts: dict[tuple[str, bool], _Text] = {}

    def rows(self, tx: Tx, parameters: Mapping[str, Any]) -> Sequence[Any]:
        """Run it; its rows, if it has any, can be asked by place and by name."""
        connection = tx.connection
        if connection.engine.dispatch.before_cursor_execute:
            result = tx.run(self._statement, **parameters)
            return result.all() if result.returns_rows else ()
        text = self._text(connection.dialect, tx.now is None)
        driver: Any = connection.connection.dbapi_connection
        values = text.values({"now": tx.now, **parameters})
        try:
            cursor = driver.execute(text.sql, values)
            return list(map(text.row, cursor.fetchall())) if text.row else ()
        except connection.dialect.loaded_dbapi.Error as error:
            raise _wrapped(connection, text.sql, error) from error

    def _text(self, dialect: Dialect, by_its_clock: bool) -> _Text:
        key = dialect.name, by_its_clock
        if key not in self._texts:
            self._texts[key] = _compiled(self._statement, dialect, by_its_clock)
        return self._texts[key]


def _compiled(statement: sa.Select[Any] | sa.Update | sa.Insert, dialect: Dialect, by_its_clock: bool) -> _Text:
    compiled = statement.compile(dialect=dialect, compile_kwargs={"by_its_clock": by_its_clock})
    assert isinstance(compiled, SQLCompiler)
    assert not compiled.post_compile_params, "what is written into the text at each run cannot be prepared"
    assert all(bind.key == name for name, bind in compiled.binds.items() if bind.required)
    constants = {name: bind.effective_value for name, bind in compiled.binds.items()}
    processes = [
        (name, process)
        for name, bind in compiled.binds.items()
        if (process := bind.type.dialect_impl(dialect).bind_processor(dialect))
    ]
    names = [str(name) for name in statement.exported_columns.keys()]  # noqa: SIM118 - no dict
    row: Any = namedtuple("Row", names)  # type: ignore[misc]
    order = compiled.positiontup if compiled.positional else None
    return _Text(compiled.string, constants, processes, order, row._make if names else None)


def _wrapped(connection: Connection, sql: str, error: Exception) -> Exception:
    """The error as SQLAlchemy would raise it; a connection that it broke is not used again."""
    dialect = connection.dialect
    lost = dialect.is_disconnect(error, connection.connection.dbapi_connection, None)  # type: ignore[arg-type]
    wrapped = exc.DBAPIError.instance(
        sql, None, error, dialect.loaded_dbapi.Error, connection_invalidated=lost, dialect=dialect
    )
    if lost:
        connection.invalidate(error)
    return wrapped
