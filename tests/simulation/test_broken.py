"""What is broken on purpose, to see that the judges would notice: the proof that the simulation proves something."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa

from nexus import sweeping, transitions, waiting, watch
from nexus.predicates import is_held
from nexus.rows import ClaimKey
from nexus.tables import tasks
from nexus.transitions import by_time, core, holding, taking

from . import judges
from .conftest import judged
from .judges import Violation
from .world import World


def forget_statements() -> None:
    """Statements are built once; what was broken, or is whole again, is to be seen in them."""
    for cached in (taking._claim, taking._start, holding._complete, by_time._expire, by_time._lose):
        cached.cache_clear()


def stale_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweep acts on what it saw a while ago, as one does that was held up between the look and the deed."""
    look, seen = watch.expired, []

    def late(tx: Any, limit: int) -> list[int]:
        seen.append(look(tx, limit))
        held = tx.plain(sa.text("SELECT seq FROM nexus_tasks WHERE status IN ('claimed', 'in_progress')")).scalars()
        return sorted({*seen[-1], *held})  # whatever is held now may have been over then

    monkeypatch.setattr(watch, "expired", late)


def no_lease_in_the_update(monkeypatch: pytest.MonkeyPatch, _world: World) -> None:
    stale_look(monkeypatch)
    monkeypatch.setattr(by_time, "is_expired", is_held)


def no_claim_number(monkeypatch: pytest.MonkeyPatch, _world: World) -> None:
    always = sa.bindparam("p_claim_no", type_=sa.Integer()) >= 0
    monkeypatch.setattr(holding, "fenced", lambda verb: core.one(verb).where(always))
    for module in (taking, holding):
        monkeypatch.setattr(
            module, "fenced_many", lambda verb, shown: core.guarded(verb).where(tasks.c.task_id == shown.c.task_id)
        )
    for name in ("start", "complete"):
        monkeypatch.setattr(transitions, name, told_by_task(getattr(transitions, name)))


def told_by_task(verb: Callable[..., dict[ClaimKey, Any]]) -> Callable[..., dict[ClaimKey, Any]]:
    """What was done to a task is told to whoever asked for it, under whatever claim."""

    def do(tx: Any, claims: Any, **how: Any) -> dict[ClaimKey, Any]:
        rows = {task_id: row for (task_id, _), row in verb(tx, claims, **how).items()}
        return {(one.task_id, one.claim_no): rows[one.task_id] for one, _ in claims if one.task_id in rows}

    return do


def without_keys(world: World) -> None:
    """What the database itself would refuse, it takes now."""
    engine = world.boards[0]._database.engine
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP INDEX ix_nexus_tasks_escalates")
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("ALTER TABLE nexus_stall_steps DROP CONSTRAINT nexus_stall_steps_pkey")
        else:
            connection.exec_driver_sql("ALTER TABLE nexus_stall_steps RENAME TO with_key")
            connection.exec_driver_sql("CREATE TABLE nexus_stall_steps AS SELECT * FROM with_key")
            connection.exec_driver_sql("DROP TABLE with_key")


def forgetful(monkeypatch: pytest.MonkeyPatch, _world: World) -> None:
    """It does not look which steps were taken; the keys are all that is left."""
    monkeypatch.setattr(watch, "steps_taken", lambda _tx, stall_ids: {stall_id: set() for stall_id in stall_ids})


def no_keys(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    forgetful(monkeypatch, world)
    without_keys(world)


def stalls_stay_open(monkeypatch: pytest.MonkeyPatch, _world: World) -> None:
    monkeypatch.setattr(waiting, "close_stalls", lambda *_: None)


def escalations_stay_open(monkeypatch: pytest.MonkeyPatch, _world: World) -> None:
    monkeypatch.setattr(core, "withdraw", lambda *_: [])
    monkeypatch.setattr(sweeping, "PARTS", sweeping.PARTS[:-1])


def losses_without_a_cap(monkeypatch: pytest.MonkeyPatch, _world: World) -> None:
    taken_back = by_time._taken_back

    def for_ever(whose: Any, error: Any) -> sa.Update:
        return taken_back(whose, error).values(status="pending", pending_since=sa.text("available_at"), claimed_by=None)

    monkeypatch.setattr(by_time, "_taken_back", for_ever)


BROKEN: dict[str, tuple[Callable[[pytest.MonkeyPatch, World], None], str]] = {
    "the lease is not looked at in the UPDATE": (no_lease_in_the_update, "two live claims"),
    "the claim number is not compared": (no_claim_number, "by old claim"),
    "no unique keys": (no_keys, "was taken twice|was escalated twice"),
    "stalls are not closed": (stalls_stay_open, "stall_left_open|stall"),
    "escalations are not withdrawn": (escalations_stay_open, "an escalation without a live source"),
    "losses have no cap": (losses_without_a_cap, "losses"),
}


@pytest.fixture
def restored(request: pytest.FixtureRequest, database_url: str) -> Any:
    """The tests' PostgreSQL is shared: what was dropped comes back."""
    yield
    forget_statements()
    if not database_url.startswith("postgresql"):
        return
    engine = sa.create_engine(database_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("TRUNCATE nexus_tasks, nexus_stalls, nexus_stall_steps CASCADE")
        connection.exec_driver_sql(
            "CREATE UNIQUE INDEX IF NOT EXISTS ix_nexus_tasks_escalates ON nexus_tasks (escalates) "
            "WHERE escalates IS NOT NULL"
        )
        keys = sa.inspect(connection).get_pk_constraint("nexus_stall_steps")["constrained_columns"]
        if not keys:
            connection.exec_driver_sql("ALTER TABLE nexus_stall_steps ADD PRIMARY KEY (stall_id, step)")
    engine.dispose()


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_on_purpose_is_noticed(
    begin: Callable[..., World], restored: None, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    break_it, says = BROKEN[name]
    world = begin(7, 80)
    break_it(monkeypatch, world)
    forget_statements()
    with pytest.raises(Violation, match=says):
        judged(world, 40)


@pytest.mark.parametrize("held_up", [partial(stale_look), forgetful], ids=["a late look", "a forgetful sweep"])
def test_what_the_database_itself_catches_hurts_nobody(
    begin: Callable[..., World], restored: None, monkeypatch: pytest.MonkeyPatch, held_up: Any
) -> None:
    """The same mistakes with the guards in place: the UPDATE looks once more, the keys are unique."""
    world = begin(7, 80)
    forget_statements()
    held_up(monkeypatch) if isinstance(held_up, partial) else held_up(monkeypatch, world)
    world.live(8, lambda: judges.check(world) if world.ledger.wrongs else None)
    judges.check(world)
    judges.check_budgets(world)
