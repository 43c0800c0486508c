"""The state machine's model notices what is broken on purpose: the proof that it proves something."""

import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from nexus import TaskNexus, predicates, records, registration, transitions, waiting
from nexus.predicates import is_held
from nexus.tables import tasks
from nexus.transitions import by_time, core, deciding, holding, taking

from .test_state_machine import SWEPT, play

Patch = pytest.MonkeyPatch


@pytest.fixture(autouse=True)
def statements_built_anew() -> Any:
    """Statements are built once; what is broken, or whole again, is to be seen in them."""

    def forget() -> None:
        for cached in (taking._claim, taking._start, holding._complete, by_time._expire, by_time._lose):
            cached.cache_clear()
        records._tried.cache_clear(), records._history.cache_clear()

    forget()
    yield
    forget()


def anybody_may_write(patch: Patch) -> None:
    always = sa.bindparam("p_claim_no", type_=sa.Integer()) >= 0
    patch.setattr(holding, "fenced", lambda verb: core.one(verb).where(always))
    for module in (taking, holding):
        patch.setattr(
            module, "fenced_many", lambda verb, shown: core.guarded(verb).where(tasks.c.task_id == shown.c.task_id)
        )


def a_lease_never_ends(patch: Patch) -> None:
    patch.setattr(by_time, "expire", lambda *_: ())
    patch.setattr(transitions, "expire", lambda *_: ())


def a_lease_ends_early(patch: Patch) -> None:
    patch.setattr(by_time, "is_expired", is_held)
    patch.setattr("nexus.watch.is_expired", is_held)


def losses_have_no_cap(patch: Patch) -> None:
    whole = by_time._taken_back

    def for_ever(whose: Any, error: Any) -> sa.Update:
        return whole(whose, error).values(status="pending", pending_since=sa.text("available_at"), claimed_by=None)

    patch.setattr(by_time, "_taken_back", for_ever)


def nobody_waits(patch: Patch) -> None:
    whole = predicates.of_the_task
    patch.setattr(predicates, "of_the_task", lambda *of: {k: v for k, v in whole(*of).items() if k != "dependency"})


def who_waited_is_forgotten(patch: Patch) -> None:
    for module in (holding, deciding):
        patch.setattr(module, "free_dependants", lambda *_: None)


def skills_are_not_asked_for(patch: Patch) -> None:
    whole = predicates.of_the_agent
    patch.setattr(predicates, "of_the_agent", lambda *of: {k: v for k, v in whole(*of).items() if k != "capability"})


def limits_are_not_counted(patch: Patch) -> None:
    patch.setattr(registration, "free_slots", lambda _tx, _agent, wanted: wanted)


def the_order_is_any(patch: Patch) -> None:
    whole = taking._in_turn
    patch.setattr(taking, "_in_turn", lambda rows: list(reversed(whole(rows))))


def a_backoff_is_none(patch: Patch) -> None:
    patch.setattr(holding, "later", lambda moment, _seconds: moment)


def failures_are_not_counted(patch: Patch) -> None:
    whole = holding.fenced
    patch.setattr(holding, "fenced", lambda verb: _uncounted(whole(verb)))


def _uncounted(move: Any) -> Any:
    class Uncounted:
        def values(self, *given: Any, **named: Any) -> Any:
            named.pop("failure_count", None)
            return move.values(*given, **named)

    return Uncounted()


def a_retry_renews_nothing(patch: Patch) -> None:
    def retry(tx: Any, task_id: str, actor: str | None) -> Any:
        return deciding._decided(tx, deciding.Verb.RETRY, task_id, dict(core.WAITING), actor, None, None)

    patch.setattr(transitions, "retry", retry)


def attempts_are_not_written(patch: Patch) -> None:
    patch.setattr(records, "close_attempts", lambda *_, **__: None)


def stalls_are_not_closed(patch: Patch) -> None:
    patch.setattr(waiting, "close_stalls", lambda *_: None)


def who_did_it_may_approve(patch: Patch) -> None:
    whole = deciding._reviewed
    patch.setattr(deciding, "_reviewed", lambda tx, verb, task_id, _who, *rest: whole(tx, verb, task_id, "?", *rest))


BROKEN: dict[Callable[[Patch], None], int] = {
    anybody_may_write: 3,
    a_lease_never_ends: 3,
    a_lease_ends_early: 7,
    losses_have_no_cap: 9,
    nobody_waits: 6,
    who_waited_is_forgotten: 4,
    skills_are_not_asked_for: 0,
    limits_are_not_counted: 7,
    the_order_is_any: 1,
    a_backoff_is_none: 2,
    failures_are_not_counted: 2,
    a_retry_renews_nothing: 1,
    attempts_are_not_written: 10,
    stalls_are_not_closed: 3,
    who_did_it_may_approve: 6,
}
"""Each with a start from which Hypothesis soon comes upon it, found by trying a dozen: from others it takes minutes.

Where the machine or Hypothesis changes, a start may mean something else; then look for new ones.
"""


@pytest.mark.parametrize(("break_it", "start"), BROKEN.items(), ids=[one.__name__.replace("_", " ") for one in BROKEN])
def test_the_machine_notices(
    break_it: Callable[[Patch], None],
    start: int,
    monkeypatch: Patch,
    sqlite_template: Path,
    tmp_path: Path,
    open_board: Any,
    clock: Any,
) -> None:
    copies = count()

    def fresh() -> TaskNexus:
        path = shutil.copy(sqlite_template, tmp_path / f"board{next(copies)}.db")
        return open_board(f"sqlite:///{path}", monitoring=SWEPT)

    break_it(monkeypatch)
    # KeyError: what is broken may stumble over its own writes before the model looks at them.
    with pytest.raises((AssertionError, KeyError, ExceptionGroup, pytest.fail.Exception)):
        play(fresh, clock, examples=600, steps=40, start=start)
