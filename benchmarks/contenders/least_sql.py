"""The least that a durable claim with its attempt row, and a completion, can cost: the driver, and two statements each.

The tables are those of `benchmarks.contenders.core`, so that the difference is what SQLAlchemy costs.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg

from benchmarks.contenders import Work, dsn, file_of

SERIAL = {"sqlite": "INTEGER PRIMARY KEY AUTOINCREMENT", "postgresql": "BIGSERIAL PRIMARY KEY"}
TASKS = """CREATE TABLE least_tasks (
    id {serial}, status TEXT NOT NULL, priority INTEGER NOT NULL, payload TEXT NOT NULL, claimed_by TEXT,
    claim_no INTEGER NOT NULL, lease_expires_at BIGINT, result TEXT)"""
INDEX = "CREATE INDEX least_claim ON least_tasks (priority, id) WHERE status = 'pending'"
ATTEMPTS = """CREATE TABLE least_attempts (
    task_id BIGINT NOT NULL, number INTEGER NOT NULL, agent_id TEXT NOT NULL, outcome TEXT NOT NULL,
    started_at BIGINT NOT NULL, finished_at BIGINT, PRIMARY KEY (task_id, number))"""
FILL = """INSERT INTO least_tasks (status, priority, payload, claim_no) VALUES ('pending', 20, '{"n":1}', 0)"""

# PostgreSQL plans a statement once whose limit and status are written out: that halves what a claim costs.
PG_CLAIM = """WITH claimed AS (
    UPDATE least_tasks SET status = 'claimed', claimed_by = %(agent)s, claim_no = claim_no + 1, lease_expires_at = 1
    WHERE id = ANY (ARRAY(
        SELECT id FROM least_tasks WHERE status = 'pending' ORDER BY priority, id LIMIT {batch} FOR UPDATE SKIP LOCKED))
    RETURNING id, claim_no, payload), opened AS (
    INSERT INTO least_attempts SELECT id, 1, %(agent)s, 'running', 1 FROM claimed)
SELECT id, claim_no, payload FROM claimed"""
PG_COMPLETE = """WITH completed AS (
    UPDATE least_tasks SET status = 'completed', lease_expires_at = NULL, result = 'null'
    WHERE id = ANY (%(ids)s) AND status = 'claimed')
UPDATE least_attempts SET outcome = 'completed', finished_at = 2 WHERE task_id = ANY (%(ids)s) AND number = 1"""

CLAIM = """UPDATE least_tasks
    SET status = 'claimed', claimed_by = :agent, claim_no = claim_no + 1, lease_expires_at = 1
    WHERE id IN (SELECT id FROM least_tasks WHERE status = 'pending' ORDER BY priority, id LIMIT :batch)
    RETURNING id, claim_no, payload"""
OPEN = """INSERT INTO least_attempts (task_id, number, agent_id, outcome, started_at)
    SELECT value, 1, :agent, 'running', 1 FROM json_each(:ids)"""
COMPLETE = """UPDATE least_tasks SET status = 'completed', lease_expires_at = NULL, result = 'null'
    WHERE id IN (SELECT value FROM json_each(:ids)) AND status = 'claimed'"""
CLOSE = """UPDATE least_attempts SET outcome = 'completed', finished_at = 2
    WHERE task_id IN (SELECT value FROM json_each(:ids)) AND number = 1"""


class LeastSql:
    """Claim and completion, each one transaction; on PostgreSQL each one statement."""

    def make(self, url: str) -> None:
        """Two tables and one index."""
        statements = (TASKS.format(serial=SERIAL[url.partition(":")[0].partition("+")[0]]), INDEX, ATTEMPTS)
        if url.startswith("sqlite"):
            with closing(_file(url)) as file:
                for statement in statements:
                    file.execute(statement)
            return
        with _server(url) as server:
            for statement in statements:
                server.execute(statement)

    def fill(self, url: str, number: int) -> None:
        """One transaction."""
        if url.startswith("sqlite"):
            with closing(_file(url)) as file:
                file.execute("BEGIN IMMEDIATE")
                file.executemany(FILL, [()] * number)
                file.execute("COMMIT")
            return
        with _server(url) as server, server.transaction(), server.cursor() as cursor:
            cursor.executemany(FILL, [()] * number)

    @contextmanager
    def open(self, url: str, agent_id: str, batch: int) -> Iterator[Work]:
        """One connection."""
        if url.startswith("sqlite"):
            with closing(_file(url)) as file:
                yield lambda: _all_of_file(file, agent_id, batch)
        else:
            with _server(url) as server:
                yield lambda: _all_of_server(server, agent_id, batch)


def _all_of_file(file: sqlite3.Connection, agent_id: str, batch: int) -> int:
    done = 0
    while True:
        file.execute("BEGIN IMMEDIATE")
        rows = file.execute(CLAIM, {"agent": agent_id, "batch": batch}).fetchall()
        ids = {"ids": json.dumps([row[0] for row in rows]), "agent": agent_id}
        file.execute(OPEN, ids)
        file.execute("COMMIT")
        if not rows:
            return done
        file.execute("BEGIN IMMEDIATE")
        file.execute(COMPLETE, ids)
        file.execute(CLOSE, ids)
        file.execute("COMMIT")
        done += len(rows)


def _all_of_server(server: psycopg.Connection[Any], agent_id: str, batch: int) -> int:
    done, claim = 0, PG_CLAIM.format(batch=batch)
    while rows := server.execute(claim, {"agent": agent_id}).fetchall():
        server.execute(PG_COMPLETE, {"ids": [row[0] for row in rows]})
        done += len(rows)
    return done


def _file(url: str) -> sqlite3.Connection:
    file = sqlite3.connect(file_of(url), isolation_level=None, timeout=30)
    file.execute("PRAGMA journal_mode = WAL")
    file.execute("PRAGMA synchronous = FULL")
    return file


def _server(url: str) -> psycopg.Connection[Any]:
    return psycopg.connect(dsn(url), autocommit=True)
