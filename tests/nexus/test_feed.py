"""Who looks on sees each move of the board once, whoever made it."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import sqlalchemy as sa

from nexus import Claim, RetryPolicy, TaskNexus
from nexus.reports import Move
from nexus.retention import Bounds, Retention
from nexus.tables import attempts

from ..conftest import Clock


def said(moves: tuple[Move, ...]) -> list[str]:
    return [f"{move.task_id} {move.verb}" for move in moves]


def test_each_move_is_seen_once_in_the_order_in_which_it_was_made(nexus: TaskNexus, clock: Clock) -> None:
    watched = nexus.feed()
    nexus.add_task({"task_id": "T1", "task_type": "write", "tags": ["deploy"], "episode_id": "EP1"}, actor="Eve")
    clock.advance(1)
    claim = nexus.claim_task("T1", "Ada")
    clock.advance(1)
    assert said(watched.read().moves) == ["T1 add", "T1 claim"]
    nexus.start(claim, {"flow_run_id": "f"})
    clock.advance(1)
    nexus.complete(claim, "ok")
    start, complete = watched.read().moves
    assert (start.verb, start.run_ref, start.attempt) == ("start", {"flow_run_id": "f"}, 1)
    assert (complete.from_status, complete.to_status) == ("in_progress", "completed")
    assert (complete.agent_id, complete.task_type, complete.tags, complete.episode_id) == (
        "Ada", "write", ("deploy",), "EP1",
    )  # fmt: skip
    assert watched.read().moves == ()


def test_what_a_quick_task_did_between_two_looks_is_all_there(nexus: TaskNexus, clock: Clock) -> None:
    watched = nexus.feed()
    nexus.add_task({"task_id": "T1"})
    for _ in range(2):
        clock.advance(1)
        claim = nexus.claim_task("T1", "Ada")
        nexus.start(claim)
        clock.advance(1)
        nexus.fail(claim, "no luck") if claim.claim_no == 1 else nexus.complete(claim, None)
        clock.advance(60)
    moves = watched.read().moves
    assert said(moves) == [f"T1 {verb}" for verb in ["add", "claim", "start", "fail", "claim", "start", "complete"]]
    failed = moves[3]
    assert (failed.to_status, failed.reason, failed.attempt, failed.agent_id) == (
        "pending", "failure 1 of 3: no luck", 1, "Ada",
    )  # fmt: skip


def test_it_agrees_with_the_history_of_each_task(nexus: TaskNexus, clock: Clock, at_work: Callable[..., Claim]) -> None:
    watched = nexus.feed()
    nexus.add_tasks([{"task_id": f"T{n}", "retry_policy": RetryPolicy(max_attempts=1)} for n in range(6)])
    clock.advance(1)
    nexus.complete(at_work("T0"))
    nexus.fail(at_work("T1"), "broken")
    nexus.release(at_work("T2"), "no time")
    nexus.release(nexus.claim_task("T3", "Ada"), "not begun")
    nexus.cancel("T4", "not needed")
    nexus.start_many(nexus.claim("Bob", 10, lease_seconds=5))
    clock.advance(30)
    nexus.sweep()
    clock.advance(1)
    moves = watched.read().moves
    for task_id in (f"T{n}" for n in range(6)):
        history = [(one.verb, one.at, one.from_status, one.to_status, one.actor) for one in nexus.history(task_id)]
        seen = [
            (one.verb, one.at, one.from_status, one.to_status, one.actor) for one in moves if one.task_id == task_id
        ]
        assert sorted(seen, key=repr) == sorted(history, key=repr)


def test_a_feed_goes_on_where_an_earlier_one_stopped(nexus: TaskNexus, clock: Clock) -> None:
    first = nexus.feed()
    nexus.add_task({"task_id": "T1"})
    clock.advance(60)
    first.read()
    nexus.add_task({"task_id": "T2"})
    clock.advance(60)
    assert said(nexus.feed(first.place).read().moves) == ["T2 add"]
    assert said(nexus.feed(nexus.now() - timedelta(seconds=200)).read().moves) == ["T1 add", "T2 add"]


def test_a_transaction_that_becomes_known_late_is_seen(nexus: TaskNexus, clock: Clock) -> None:
    watched = nexus.feed()
    claimed_at = nexus.now()
    nexus.add_task({"task_id": "T1"})
    claim = nexus.claim_task("T1", "Ada")
    nexus.start(claim)
    clock.advance(5)
    watched.read()
    nexus.complete(claim)
    with nexus._database.engine.begin() as connection:  # as if it had been committed five seconds after its time
        connection.execute(sa.update(attempts).values(finished_at=claimed_at + timedelta(seconds=1)))
    assert said(watched.read().moves) == ["T1 complete"]


def test_a_crowd_is_counted_and_its_newest_are_told(nexus: TaskNexus, clock: Clock) -> None:
    watched = nexus.feed()
    clock.advance(1)
    nexus.add_tasks({"task_id": f"T{n}"} for n in range(20))
    clock.advance(1)
    news = watched.read(most=5)
    assert said(news.moves) == [f"T{n} add" for n in range(15, 20)]
    assert news.left_out == 15
    assert watched.read(most=5).moves == ()


def test_a_crowd_is_counted_once(nexus: TaskNexus, clock: Clock) -> None:
    watched = nexus.feed()
    counted = 0
    for _ in range(5):  # a look a second, each of which goes back a little
        clock.advance(1)
        nexus.add_tasks({} for _ in range(10))
        nexus.complete_many([(claim, 1) for claim in nexus.claim("Ada", 10, start=True)])
        news = watched.read(most=4)
        assert len(news.moves) == 4 + 3 * 4
        counted += news.left_out
    assert counted == 5 * (6 + 6), "of each look, six arrivals and six attempts"


def test_an_imported_board_arrives_now_whatever_its_tasks_have_behind_them(
    nexus: TaskNexus, clock: Clock, tmp_path: Path
) -> None:
    board = tmp_path / "board.json"
    board.write_text('[{"task_id": "old", "created_at": "2020-01-01T00:00:00Z", "status": "completed"}]')
    watched = nexus.feed()
    nexus.import_board(nexus.read_board(board), actor="Eve")
    assert [(move.verb, move.at, move.to_status) for move in watched.read().moves] == [
        ("import", nexus.now(), "completed")
    ]
    clock.advance(60)
    assert watched.read().moves == ()


def test_one_at_a_time_tells_what_moves_and_the_next_goes_on_from_there(nexus: TaskNexus, clock: Clock) -> None:
    taken, place = nexus.take_relay("ui", "first", 30)
    assert taken and place is None
    assert nexus.take_relay("ui", "second", 30) == (False, None)
    assert nexus.take_relay("other ui", "second", 30) == (True, None)
    there = nexus.feed().place
    assert nexus.keep_relay("ui", "first", 30, there)
    clock.advance(31)
    assert nexus.take_relay("ui", "second", 30) == (True, there)
    assert not nexus.keep_relay("ui", "first", 30, there)
    assert nexus.keep_relay("ui", "second", 0, there)
    assert nexus.take_relay("ui", "third", 30) == (True, there)


def test_what_happens_after_a_pruning_is_told_though_its_numbers_were_told_before(
    nexus: TaskNexus, clock: Clock
) -> None:
    nexus.add_tasks({"task_id": f"old-{number}"} for number in range(50))
    for number in range(50):
        nexus.cancel(f"old-{number}", "not wanted")
    place = nexus.feed().place
    clock.advance(31 * 86_400)
    assert nexus.prune(Retention(cancelled=Bounds(days=30))).cancelled == 50
    watched = nexus.feed(place)  # as whoever tells of it begins anew
    for number in range(3):
        nexus.add_task({"task_id": f"new-{number}", "retry_policy": {"max_attempts": 1}})
        claim = nexus.claim_task(f"new-{number}", "Ada")
        nexus.start(claim)
        nexus.fail(claim, "no")
        clock.advance(30)
        assert sorted(said(watched.read().moves)) == [
            f"new-{number} {verb}" for verb in ("add", "claim", "fail", "start")
        ]
