"""Statements that are given to the driver as they are answer, and fail, as SQLAlchemy's own would."""

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.sql.compiler import SQLCompiler

from nexus import TaskNexus, servers
from nexus.errors import DatabaseUnavailable
from nexus.prepared import Prepared
from nexus.tables import tasks

BY_ID = sa.select(tasks.c.seq, tasks.c.task_id).where(tasks.c.task_id == sa.bindparam("p_id"))


def test_rows_answer_by_place_and_by_name(nexus: TaskNexus) -> None:
    nexus.add_task({"task_id": "T1"})
    [row] = nexus._database.read(lambda tx: Prepared(BY_ID).rows(tx, {"p_id": "T1"}))
    assert (row[1], row.task_id) == ("T1", "T1")


def test_who_listens_hears_it_and_gets_the_same(nexus: TaskNexus) -> None:
    nexus.add_task({"task_id": "T1"})
    statement = Prepared(BY_ID)
    alone = nexus._database.read(lambda tx: statement.rows(tx, {"p_id": "T1"}))
    heard: list[str] = []
    engine = nexus._database.engine
    listener = lambda _c, _u, text, *_: heard.append(text)  # noqa: E731
    sa.event.listen(engine, "before_cursor_execute", listener)
    with_others = nexus._database.read(lambda tx: statement.rows(tx, {"p_id": "T1"}))
    sa.event.remove(engine, "before_cursor_execute", listener)
    assert [tuple(row) for row in with_others] == [tuple(row) for row in alone]
    assert any("nexus_tasks" in text for text in heard)


def test_a_row_that_the_database_refuses(nexus: TaskNexus) -> None:
    nexus.add_task({"task_id": "T1"})
    spoil = Prepared(sa.update(tasks).values(status="dreaming").returning(tasks.c.seq))
    with pytest.raises(exc.IntegrityError) as refused:
        nexus._database.write(lambda tx: spoil.rows(tx, {}))
    assert "UPDATE nexus_tasks" in str(refused.value)
    assert nexus.get_task_by_id("T1").status == "pending"


def test_a_session_that_is_ended_is_waited_for_and_not_used_again(postgres_url: str, open_board: Any) -> None:
    nexus, other = open_board(postgres_url, clock=None), open_board(postgres_url)
    nexus.add_tasks({} for _ in range(3))
    nexus.complete(nexus.claim("Ada", start=True)[0])
    with other._database.engine.begin() as connection:
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )
    claims = nexus.claim("Ada", 2, start=True)
    assert [claim.task.attempt_count for claim in claims] == [1, 1]


def test_a_database_that_is_gone_is_said_in_words(tmp_path: Any, open_board: Any) -> None:
    nexus = open_board(f"sqlite:///{tmp_path}/board.db")
    nexus.add_task({})
    nexus.claim("Ada")
    nexus._database.engine.dispose()
    for file in tmp_path.iterdir():
        file.unlink()
    (tmp_path / "board.db").mkdir()
    with pytest.raises(DatabaseUnavailable, match="unable to open"):
        nexus.claim("Ada")


def test_a_plan_for_an_empty_board_is_forgotten(
    postgres_url: str, open_board: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent that was there before the work must not go on reading the whole board for each task."""
    nexus, other = open_board(postgres_url, clock=None), open_board(postgres_url, clock=None)
    for _ in range(12):  # from the eleventh time on PostgreSQL keeps the plan
        other.add_task({"task_type": "few"})
        nexus.complete_many([(claim, None) for claim in nexus.claim("Ada", start=True)])
    other.add_tasks({"task_type": "many"} for _ in range(20_000))

    def touched() -> int:
        with other._database.engine.connect() as connection:
            return int(
                connection.exec_driver_sql(
                    "SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'nexus_tasks'"
                ).scalar_one()
            )

    def work() -> None:
        for _ in range(20):
            nexus.complete_many([(claim, None) for claim in nexus.claim("Ada", start=True)])
        with nexus._database.engine.connect() as connection:
            connection.exec_driver_sql("SELECT pg_stat_force_next_flush()")
            connection.commit()

    monkeypatch.setattr(servers, "PLANS_SECONDS", 0.0)  # they are old at once
    before = touched()
    work()
    assert touched() - before < 20_000


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements that SQLAlchemy compiles."""
    heard: list[str] = []
    compile_it = SQLCompiler.__init__

    def noted(self: SQLCompiler, *args: Any, **named: Any) -> None:
        compile_it(self, *args, **named)
        heard.append(str(self))

    monkeypatch.setattr(SQLCompiler, "__init__", noted)
    return heard


@pytest.mark.parametrize("verb", ["add", "add after", "cancel"])
def test_what_was_said_once_is_not_compiled_again(nexus: TaskNexus, verb: str, compiled: list[str]) -> None:
    """SQLAlchemy keeps no INSERT with an ON CONFLICT; to compile one took most of what an added task cost."""
    nexus.add_task({"task_id": "first"})
    say: Callable[[], Any] = {
        "add": lambda: nexus.add_task({"task_type": "review", "priority": 3}),
        "add after": lambda: nexus.add_task({"depends_on": ["first"]}),
        "cancel": lambda: nexus.cancel(nexus.add_task({}).task_id),
    }[verb]
    for _ in range(2):
        say()
    compiled.clear()
    say()
    assert compiled == []


def test_a_claim_on_sqlite_is_compiled_once_for_all_numbers(
    tmp_path: Any, open_board: Any, compiled: list[str]
) -> None:
    """To compile one takes as long as to take a hundred tasks, and who works asks for another number each time."""
    nexus = open_board(f"sqlite:///{tmp_path}/board.db")
    nexus.add_tasks({} for _ in range(60))
    for _ in range(2):
        nexus.claim("Ada", 1)
    compiled.clear()
    assert [len(nexus.claim("Ada", limit)) for limit in (2, 30, 7)] == [2, 30, 7]
    assert compiled == []
    assert len(nexus.claim("Ada", 1_001)) == 19
