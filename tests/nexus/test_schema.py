"""Opening a database: ours, an older one, a newer one, somebody else's, or none."""

import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from nexus import NexusSettings, TaskNexus, schema
from nexus.engine import Database
from nexus.errors import (
    DatabaseUnavailable,
    NexusError,
    NotANexusDatabase,
    SchemaOutdated,
    SchemaTooNew,
    UnusableDatabase,
)
from nexus.tables import SCHEMA_VERSION_TABLE, Base
from nexus.urls import parse_url

SETTINGS = NexusSettings(database_retry_seconds=0)


def checks(connection: sa.Connection) -> dict[tuple[str, str], str]:
    """The CHECK constraints that the database has, by table and name, spelt its own way."""
    inspector = sa.inspect(connection)
    return {
        (table, check["name"]): re.sub(r"\s+", " ", check["sqltext"])
        for table in Base.metadata.tables
        for check in inspector.get_check_constraints(table)
    }


def indexes(connection: sa.Connection) -> dict[str, str]:
    """The indexes that the database has: name to how it would be made, spelt the database's own way."""
    sqlite = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
    postgres = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'"
    rows = connection.exec_driver_sql(sqlite if connection.dialect.name == "sqlite" else postgres)
    return {name: re.sub(r"\s+", " ", text) for name, text in rows if name.startswith("ix_nexus")}


def is_compared(_object: object, name: str | None, kind: str, *_: object) -> bool:
    """Indexes are compared by what the database says of them: of expressions Alembic does not know what is the same."""
    return kind != "index"


def set_version(url: str, version: str) -> None:
    """Say that a release of this version migrated the database last."""
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE {SCHEMA_VERSION_TABLE} SET version_num = '{version}'")
    engine.dispose()


@pytest.fixture
def restored_version(database_url: str) -> Any:
    """The database's version is what it was, after the test (PostgreSQL's is shared)."""
    yield
    set_version(database_url, schema.versions()[-1])


class TestTheSumOfTheMigrations:
    @pytest.mark.filterwarnings("ignore:.*expression-based index")
    def test_it_is_the_tables(self, nexus: TaskNexus) -> None:
        with nexus._database.engine.connect() as connection:
            context = MigrationContext.configure(
                connection,
                opts={"compare_type": True, "version_table": SCHEMA_VERSION_TABLE, "include_object": is_compared},
            )
            assert compare_metadata(context, Base.metadata) == []

    def test_checks_and_conditions_of_indexes_too(
        self, nexus: TaskNexus, tmp_path: Path, make_postgres: Callable[[str], str]
    ) -> None:
        """What Alembic does not compare: the texts, as the database itself writes them down."""
        database = nexus._database
        fresh = f"sqlite:///{tmp_path / 'fresh.db'}" if database.is_sqlite else make_postgres("metadata")
        engine = sa.create_engine(fresh)
        Base.metadata.create_all(engine)
        with engine.connect() as wanted, database.engine.connect() as migrated:
            assert checks(migrated) == checks(wanted)
            assert indexes(migrated) == indexes(wanted)
            assert len(checks(wanted)) == 7, "the database says what its checks are"
            assert sum(" WHERE " in text for text in indexes(wanted).values()) == 17
        engine.dispose()

    def test_versions_follow_one_another(self) -> None:
        assert schema.versions()[0] == "0001"
        assert list(schema.versions()) == sorted(set(schema.versions()))

    def test_the_database_repeats_the_invariants(self, nexus: TaskNexus) -> None:
        nexus.add_task({"task_id": "T1"})
        wrong = [
            "UPDATE nexus_tasks SET status = 'dreaming'",
            "UPDATE nexus_tasks SET status = 'claimed'",
            "UPDATE nexus_tasks SET status = 'completed'",
            "UPDATE nexus_tasks SET claim_no = -1",
            "UPDATE nexus_tasks SET unmet_dependencies = -1",
            "INSERT INTO nexus_dependencies (task_id, depends_on) VALUES ('T1', 'nobody')",
            (
                "INSERT INTO nexus_attempts (task_id, number, claim_no, agent_id, outcome, started_at, finished_at) "
                "SELECT task_id, 1, 1, 'Ada', 'running', created_at, created_at FROM nexus_tasks"
            ),
        ]
        for statement in wrong:
            with pytest.raises(sa.exc.IntegrityError), nexus._database.engine.begin() as connection:
                connection.exec_driver_sql(statement)


class TestOpening:
    def test_a_current_database_is_not_touched(self, nexus: TaskNexus, make_nexus: Any, everything: Any) -> None:
        nexus.add_task({"task_id": "T1"})
        before = everything()
        assert make_nexus().get_task_by_id("T1") is not None
        assert everything() == before

    def test_a_newer_database_is_refused(self, database_url: str, make_nexus: Any, restored_version: None) -> None:
        set_version(database_url, "9999")
        with pytest.raises(SchemaTooNew, match=r"schema version 9999.*Upgrade nexus-flows"):
            make_nexus()

    def test_an_older_database_is_refused_where_another_role_migrates(
        self, postgres_url: str, open_board: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        known = (*schema.versions(), "9999")
        monkeypatch.setattr(schema, "versions", lambda: known)
        with pytest.raises(
            SchemaOutdated, match=f"has schema version {known[-2]}, this program needs schema version 9999"
        ):
            open_board(postgres_url, auto_upgrade=False)

    def test_a_current_database_opens_where_another_role_migrates(self, postgres_url: str, open_board: Any) -> None:
        assert open_board(postgres_url, auto_upgrade=False).stats() == {}

    def test_an_empty_database_is_refused_where_another_role_migrates(
        self, make_postgres: Any, open_board: Any
    ) -> None:
        url = make_postgres("empty")
        with pytest.raises(SchemaOutdated, match=r"has no tables of the nexus yet.*nexus db upgrade"):
            open_board(url, auto_upgrade=False)
        assert schema.current(Database(url)) is None

    def test_a_fresh_postgresql_is_migrated(self, make_postgres: Any, open_board: Any) -> None:
        url = make_postgres("fresh")
        assert open_board(url).stats() == {}
        assert schema.current(Database(url)) == schema.versions()[-1]

    def test_the_users_own_tables_may_share_a_postgresql(self, make_postgres: Any, open_board: Any) -> None:
        url = make_postgres("shared")
        engine = sa.create_engine(url)
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE customers (name text)")
        engine.dispose()
        assert open_board(url).add_task({"task_id": "T1"}).task_id == "T1"

    def test_half_of_our_tables_are_no_board(self, make_postgres: Any, open_board: Any) -> None:
        url = make_postgres("half")
        engine = sa.create_engine(url)
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE nexus_tasks (name text)")
        with pytest.raises(NotANexusDatabase, match="holds nexus_tasks but no nexus_schema_version"):
            open_board(url)
        assert sa.inspect(engine).get_table_names() == ["nexus_tasks"]
        engine.dispose()

    def test_a_board_in_memory(self) -> None:
        with TaskNexus("sqlite://", settings=SETTINGS) as nexus:
            nexus.add_task({"task_id": "T1"})
            nexus.mark_task_in_progress("T1", "Ada")
            assert nexus.get_task_by_id("T1").status == "in_progress"

    def test_sqlite_is_set_up_to_last(self, tmp_path: Path) -> None:
        nexus = TaskNexus(f"sqlite:///{tmp_path / 'new.db'}", settings=SETTINGS)
        with nexus._database.engine.connect() as connection:
            pragma = {
                name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            }
        nexus.close()
        assert pragma == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30_000}


class TestForeignFiles:
    def test_another_programs_sqlite_file_is_refused_and_untouched(self, tmp_path: Path) -> None:
        path = tmp_path / "theirs.db"
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE customers (name text)")
        connection.commit()
        connection.close()
        before = path.read_bytes()
        with pytest.raises(NotANexusDatabase, match="customers"):
            TaskNexus(f"sqlite:///{path}", settings=SETTINGS)
        assert path.read_bytes() == before
        assert [one.name for one in tmp_path.iterdir()] == ["theirs.db"]

    def test_a_newer_file_is_untouched(self, sqlite_url: str, tmp_path: Path) -> None:
        path = Path(sqlite_url.removeprefix("sqlite:///"))
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE nexus_schema_version SET version_num = '9999'")
            connection.commit()
            connection.execute("PRAGMA journal_mode = DELETE")
        connection.close()
        before = path.read_bytes()
        with pytest.raises(SchemaTooNew):
            TaskNexus(sqlite_url, settings=SETTINGS)
        assert path.read_bytes() == before

    def test_a_file_that_is_no_database_is_refused_and_untouched(self, tmp_path: Path) -> None:
        path = tmp_path / "letter.txt"
        path.write_text("Dear nexus,\n" * 500, encoding="utf-8")
        before = path.read_bytes()
        with pytest.raises(NotANexusDatabase, match="is not an SQLite database; nothing was written"):
            TaskNexus(f"sqlite:///{path}", settings=SETTINGS)
        assert path.read_bytes() == before
        assert [one.name for one in tmp_path.iterdir()] == ["letter.txt"]

    def test_an_empty_file_is_a_fresh_database(self, tmp_path: Path) -> None:
        (tmp_path / "new.db").touch()
        with TaskNexus(f"sqlite:///{tmp_path / 'new.db'}", settings=SETTINGS) as nexus:
            assert nexus.stats() == {}


class TestWhatCannotBeOpened:
    """A typed error of one line that says which and why, and never the password."""

    def refused(self, url: str, error: type[NexusError] = DatabaseUnavailable) -> str:
        with pytest.raises(error) as refusal:
            TaskNexus(url, settings=SETTINGS)
        message = str(refusal.value)
        assert "\n" not in message
        assert "hunter2" not in message
        return message

    def test_a_folder(self, tmp_path: Path) -> None:
        assert "Does its folder exist" in self.refused(f"sqlite:///{tmp_path}")

    def test_a_file_in_a_folder_that_does_not_exist(self, tmp_path: Path) -> None:
        assert str(tmp_path / "no") in self.refused(f"sqlite:///{tmp_path}/no/board.db")

    def test_a_board_that_may_only_be_read(self, sqlite_url: str) -> None:
        """Root may write whatever the permissions say, so SQLite itself is told to read only."""
        path = sqlite_url.removeprefix("sqlite:///")
        nexus = TaskNexus(f"sqlite:///file:{path}?mode=ro&uri=true", settings=SETTINGS)
        assert nexus.get_all_tasks() == []
        with pytest.raises(DatabaseUnavailable, match="is read-only: give write permission"):
            nexus.add_task({})
        nexus.close()

    def test_an_empty_file_that_may_only_be_read(self, tmp_path: Path) -> None:
        (tmp_path / "new.db").touch()
        assert "readonly" in self.refused(f"sqlite:///file:{tmp_path / 'new.db'}?mode=ro&uri=true")

    @pytest.mark.parametrize(
        "url",
        [
            "postgresql://Ada:hunter2@127.0.0.1:1/board",
            "postgres://Ada:hunter2@127.0.0.1:1/board",
            "postgresql+psycopg://Ada:hunter2@127.0.0.1:1/board",
            "postgresql://Ada@127.0.0.1:1/board?password=hunter2",
            "postgresql://Ada@127.0.0.1:1/board?sslpassword=hunter2&password=hunter2",
        ],
    )
    def test_a_server_that_does_not_answer(self, url: str) -> None:
        message = self.refused(url)
        assert "127.0.0.1:1/board" in message
        assert "Is the server running" in message

    def test_a_server_that_does_not_exist(self) -> None:
        assert "nowhere.invalid" in self.refused("postgresql://Ada:hunter2@nowhere.invalid/board")

    def test_an_option_that_the_driver_does_not_know(self) -> None:
        assert 'invalid connection option "colour"' in self.refused(
            "postgresql://Ada:hunter2@127.0.0.1:1/board?colour=blue", UnusableDatabase
        )

    def test_a_home_that_cannot_be_made(self) -> None:
        Path("taken").write_text("not a folder", encoding="utf-8")
        for home in ("taken", "taken/deeper"):
            with pytest.raises(DatabaseUnavailable, match=f"{home}.*NEXUS_HOME"):
                TaskNexus(settings=NexusSettings(home=home))

    def test_a_database_that_does_not_exist(self, postgres_server: str) -> None:
        url = sa.make_url(postgres_server).set(database="no_such_board")
        assert "does not exist" in self.refused(url.render_as_string(hide_password=False), UnusableDatabase)

    @pytest.mark.parametrize(
        "url",
        [
            "board.db",
            "://",
            "sqlite:///a\x00b.db",
            "postgresql://Ada:hunter2@localhost:port/board",
            "mysql://Ada:hunter2@localhost/board",
            "postgresql+psycopg2://Ada:hunter2@localhost/board",
            "postgresql+asyncpg://Ada:hunter2@localhost/board",
            "sqlite+aiosqlite:///board.db",
            "https://Ada:hunter2@example.org",
        ],
    )
    def test_what_is_no_url_of_ours(self, url: str) -> None:
        assert "sqlite:///" in self.refused(url)
        assert not Path("board.db").exists()

    def test_the_driver_is_chosen_here(self) -> None:
        for scheme in ("postgresql", "postgres", "postgresql+psycopg"):
            assert parse_url(f"{scheme}://Ada@localhost/board").drivername == "postgresql+psycopg"

    def test_the_url_of_a_nexus_hides_the_password(self) -> None:
        database = Database("postgresql://Ada:hunter2@localhost/board")
        assert database.name == "postgresql+psycopg://Ada:***@localhost/board"
        database = Database("postgresql://Ada@localhost/board?password=hunter2&sslmode=require")
        assert database.name == "postgresql+psycopg://Ada@localhost/board?password=hidden&sslmode=require"


class TestFaults:
    def test_a_server_that_dropped_the_connections_is_not_noticed(self, postgres_url: str, open_board: Any) -> None:
        nexus, other = open_board(postgres_url), open_board(postgres_url)
        nexus.add_task({"task_id": "T1"})
        with other._database.engine.begin() as connection:
            dropped = connection.exec_driver_sql(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            ).scalar()
        assert dropped >= 1
        assert nexus.add_task({"task_id": "T2"}).task_id == "T2"
        assert nexus.stats() == {"pending": 2}

    def test_half_a_verb_is_nothing(self, nexus: TaskNexus, everything: Any) -> None:
        before = everything()

        def fails_late(tx: Any) -> None:
            from nexus import intake
            from nexus.schemas import NewTask

            intake.add(tx, [intake.draft(NewTask(task_id="T1"), SETTINGS.retry)])
            raise RuntimeError("the light went out")

        with pytest.raises(RuntimeError, match="the light went out"):
            nexus._database.write(fails_late)
        assert everything() == before
