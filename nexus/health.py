"""What must hold whatever happens: each promise as a question to the database, which nothing should answer.

The CHECKs and unique indexes of the tables keep most of it from ever being written. This looks all the same, since
files are edited by hand, backups are put together again, and programs have faults. Every question reads one table
or two once, so the whole costs what reading the board costs; it locks nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from nexus import watch
from nexus.engine import Tx
from nexus.reports import Finding
from nexus.states import TRANSITIONS

EXAMPLES = 3
"""Ids that a finding names."""

CLOCK_TOLERANCE_SECONDS = 5.0
"""Host and database may differ by so much: nothing here depends on less."""


@dataclass(frozen=True, slots=True)
class Invariant:
    """One promise, and the query that finds the task ids (column `id`) by which it is broken."""

    code: str
    broken: str
    """In words, of those that break it."""
    query: str
    sqlite_only: bool = False


_OPEN = "status NOT IN ('completed', 'failed', 'cancelled')"
_HELD = "status IN ('claimed', 'in_progress')"
_NOT_HELD = "status NOT IN ('claimed', 'in_progress')"
_ATTEMPT = "SELECT 1 FROM nexus_attempts a WHERE a.task_id = t.task_id"
_TIMES = ("available_at", "created_at", "updated_at", "pending_since", "lease_expires_at", "deadline")
_LISTS = ("tags", "depends_on", "required_capabilities", "payload", "retry_policy", "extra")

INVARIANTS = (
    Invariant(
        "lease",
        "are held without a lease or a holder, or have a lease that nobody holds",
        f"SELECT task_id AS id FROM nexus_tasks WHERE ({_HELD}) <> (lease_expires_at IS NOT NULL) "
        f"OR ({_HELD} AND claimed_by IS NULL)",
    ),
    Invariant(
        "attempt",
        "are in progress, and their holders have no attempt of their own there",
        f"SELECT t.task_id AS id FROM nexus_tasks t WHERE t.status = 'in_progress' AND (t.started_at IS NULL "
        f"OR t.holder IS NULL OR t.holder <> t.claimed_by OR EXISTS ({_ATTEMPT} AND a.number >= t.attempt_count))",
    ),
    Invariant(
        "open_attempt",
        "have an open attempt among those that are over",
        "SELECT task_id AS id FROM nexus_attempts WHERE outcome = 'running' OR finished_at IS NULL",
    ),
    Invariant(
        "completed",
        "are completed without a completed attempt",
        f"SELECT t.task_id AS id FROM nexus_tasks t WHERE t.status = 'completed' "
        f"AND NOT EXISTS ({_ATTEMPT} AND a.outcome = 'completed') "
        "AND NOT EXISTS (SELECT 1 FROM nexus_history h WHERE h.task_id = t.task_id AND h.verb = 'import')",
    ),
    Invariant(
        "waiting",
        "are pending without saying since when, or the other way round",
        "SELECT task_id AS id FROM nexus_tasks WHERE (status = 'pending') <> (pending_since IS NOT NULL)",
    ),
    Invariant(
        "dependencies",
        "count other dependencies than they have",
        "SELECT t.task_id AS id FROM nexus_tasks t WHERE t.unmet_dependencies <> (SELECT COUNT(*) "
        "FROM nexus_dependencies d JOIN nexus_tasks o ON o.task_id = d.depends_on "
        "WHERE d.task_id = t.task_id AND o.status <> 'completed')",
    ),
    Invariant(
        "stall",
        "point at a stall that is closed, or is another task's",
        "SELECT t.task_id AS id FROM nexus_tasks t LEFT JOIN nexus_stalls s ON s.stall_id = t.stall_id "
        "WHERE t.stall_id IS NOT NULL AND (s.stall_id IS NULL OR s.closed_at IS NOT NULL OR s.task_id <> t.task_id)",
    ),
    Invariant(
        "stall_left_open",
        "have an open stall that they do not point at",
        "SELECT s.task_id AS id FROM nexus_stalls s LEFT JOIN nexus_tasks t ON t.task_id = s.task_id "
        "WHERE s.closed_at IS NULL AND s.kind = 'waiting' AND (t.stall_id IS NULL OR t.stall_id <> s.stall_id)",
    ),
    Invariant(
        "escalation",
        "ask about a stall that is closed, and nobody holds them",
        f"SELECT t.task_id AS id FROM nexus_tasks t JOIN nexus_stalls s ON s.stall_id = t.escalates "
        f"WHERE t.{_OPEN} AND t.{_NOT_HELD} AND s.closed_at IS NOT NULL",
    ),
    Invariant(
        "times",
        "have a time that is none",
        "SELECT task_id AS id FROM nexus_tasks WHERE "
        + " OR ".join(f"typeof({name}) NOT IN ('integer', 'null')" for name in _TIMES),
        sqlite_only=True,
    ),
    Invariant(
        "json",
        "have a field that is no JSON",
        "SELECT task_id AS id FROM nexus_tasks WHERE " + " OR ".join(f"NOT json_valid({name})" for name in _LISTS),
        sqlite_only=True,
    ),
)


def violations(tx: Tx) -> Iterator[Finding]:
    """The promises that are broken, each with how often and by whom."""
    sqlite = tx.connection.dialect.name == "sqlite"
    for invariant in INVARIANTS:
        if not invariant.sqlite_only or sqlite:
            yield from _broken(tx, invariant.code, invariant.broken, invariant.query)
    yield from _broken(tx, "history", "made a move that the table of legal moves does not know", _illegal_moves())


def _broken(tx: Tx, code: str, words: str, query: str) -> Iterator[Finding]:
    count = tx.plain(sa.text(f"SELECT COUNT(*) FROM ({query}) AS broken")).scalar_one()
    if count:
        rows = tx.plain(sa.text(f"SELECT id FROM ({query}) AS broken LIMIT {EXAMPLES}")).scalars().all()
        who = ", ".join(map(str, rows)) + (" …" if count > EXAMPLES else "")
        yield Finding(code=code, message=f"{count:,} of the tasks {words}: {who}", count=count)


def _illegal_moves() -> str:
    """Constants, from the table of legal moves."""
    legal = " OR ".join(
        f"(verb = '{verb}' AND from_status = '{source}' AND to_status = '{target}')"
        for verb, move in TRANSITIONS.items()
        for source in sorted(move.sources)
        for target in sorted(move.targets)
    )
    moves = ", ".join(f"'{verb}'" for verb in TRANSITIONS)
    return f"SELECT task_id AS id FROM nexus_history WHERE verb IN ({moves}) AND NOT ({legal})"


def late_sweep(tx: Tx, interval_seconds: float) -> Iterator[Finding]:
    """Nobody has swept for two intervals."""
    last = watch.last_sweep(tx)
    since = watch.last_seen_at_work(tx)
    if since is None:
        return  # an empty board, never swept
    late = (tx.present() - since).total_seconds()
    if late > 2 * interval_seconds:
        when = f"the last sweep was {late:,.0f} s ago" if last else "there was no sweep yet"
        message = f"{when}; the interval is {interval_seconds:g} s: is `nexus up` (or another scheduler) running?"
        yield Finding(code="sweep", message=message, count=1)
    if last is not None and last.skipped:
        message = f"the last sweep skipped {last.skipped} rows that it could not read; `nexus sweep` names them"
        yield Finding(code="skipped", message=message, count=last.skipped)


def clocks(tx: Tx, host: datetime) -> Iterator[Finding]:
    """Host and database do not agree on the time. Nothing is decided by the host's, but people read both."""
    apart = abs((tx.present() - host).total_seconds())
    if apart > CLOCK_TOLERANCE_SECONDS:
        message = f"the clocks of this host and of the database differ by {apart:.1f} s; set both by a time server"
        yield Finding(code="clock", message=message, count=1)


def late_leases(tx: Tx, interval_seconds: float) -> Iterator[Finding]:
    """Leases that nobody takes back."""
    count = watch.overdue_leases(tx, 2 * interval_seconds)
    if count:
        message = f"{count:,} leases ended more than two sweep intervals ago, and nobody took the tasks back"
        yield Finding(code="late_lease", message=message, count=count)
