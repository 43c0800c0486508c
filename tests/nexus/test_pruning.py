"""What is finished is forgotten in time: all of it that nothing needs, and nothing else."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from nexus import Claim, NexusSettings, PruneReport, Retention, TaskMonitoringConfig, TaskNexus, TaskStatus, pruning
from nexus.errors import InvalidTask, TaskNotFound
from nexus.retention import LAST
from nexus.tables import Base, attempts, dependencies, history, stall_steps, stalls, tasks

HOUR, DAY = 3600.0, 86_400.0


class FinalError(Exception):
    """A failure that no further attempt will mend."""

    retryable = False


Bring = Callable[[str, TaskStatus], Claim | None]
ENDS = (TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED)


def after(days: float | None = None, keep: int | None = None, **settings: Any) -> Retention:
    """The same bounds for whatever has ended."""
    return Retention.model_validate({status: {"days": days, "keep": keep} for status in ENDS} | settings)


def ids(nexus: TaskNexus) -> set[str]:
    """Who is on the board."""
    return {task.task_id for task in nexus.get_all_tasks()}


def orphans(nexus: TaskNexus) -> dict[str, int]:
    """Rows that belong to a task that is not there."""
    there = sa.select(tasks.c.task_id)
    gone = {table.name: table.c.task_id.not_in(there) for table in (attempts, history, stalls, dependencies)}
    gone["nexus_dependencies"] |= dependencies.c.depends_on.not_in(there)
    gone["nexus_stall_steps"] = stall_steps.c.stall_id.not_in(sa.select(stalls.c.stall_id))
    with nexus._database.engine.connect() as connection:
        counts = {
            name: connection.execute(
                sa.select(sa.func.count()).select_from(Base.metadata.tables[name]).where(clause)
            ).scalar_one()
            for name, clause in gone.items()
        }
    return {name: count for name, count in counts.items() if count}


class TestByAge:
    def test_a_month_after_its_end(self, nexus: TaskNexus, bring_to: Bring, clock: Any) -> None:
        for status in ENDS:
            bring_to(str(status), status)
        clock.advance(30 * DAY - 1)
        assert nexus.prune(after(30)).tasks == 0
        clock.advance(1)
        report = nexus.prune(after(30))
        assert (report.completed, report.failed, report.cancelled, report.kept) == (1, 1, 1, 0)
        assert ids(nexus) == set()
        with pytest.raises(TaskNotFound):
            nexus.history("completed")

    def test_each_status_has_bounds_of_its_own(self, nexus: TaskNexus, bring_to: Bring, clock: Any) -> None:
        for status in ENDS:
            bring_to(str(status), status)
        clock.advance(10 * DAY)
        report = nexus.prune(Retention.model_validate({"completed": {"days": 7}, "cancelled": {"days": 14}}))
        assert (report.completed, report.failed, report.cancelled) == (1, 0, 0)
        assert ids(nexus) == {"failed", "cancelled"}

    def test_what_goes_on_stays_however_old(self, nexus: TaskNexus, bring_to: Bring, clock: Any) -> None:
        unfinished = sorted(set(TaskStatus) - set(ENDS))
        for status in unfinished:
            bring_to(str(status), status)
        clock.advance(1000 * DAY)
        assert nexus.prune(after(0)).tasks == 0
        assert ids(nexus) == {str(status) for status in unfinished}

    def test_its_age_is_that_of_its_end(self, nexus: TaskNexus, done: Any, clock: Any) -> None:
        nexus.add_tasks([{"task_id": "early"}, {"task_id": "late"}])
        done("early")
        clock.advance(10 * DAY)
        done("late")
        clock.advance(DAY)
        nexus.prune(after(5))
        assert ids(nexus) == {"late"}

    def test_what_has_just_ended_stays(self, nexus: TaskNexus, bring_to: Bring, clock: Any) -> None:
        bring_to("T1", TaskStatus.COMPLETED)
        clock.advance(HOUR - 1)
        assert nexus.prune(after(0, keep=0)).tasks == 0
        clock.advance(1)
        assert nexus.prune(after(0, keep=0)).tasks == 1

    def test_nothing_goes_by_default(self, nexus: TaskNexus, bring_to: Bring, clock: Any, everything: Any) -> None:
        bring_to("T1", TaskStatus.COMPLETED)
        clock.advance(5000 * DAY)
        before = everything()
        assert nexus.prune() == PruneReport(started_at=clock(), finished_at=clock())
        assert everything() == before

    def test_the_settings_decide_where_the_caller_does_not(self, make_nexus: Any, clock: Any) -> None:
        nexus = make_nexus(retention=after(1))
        nexus.cancel(nexus.add_task({}).task_id)
        assert nexus.prune(now=clock() + timedelta(days=2)).cancelled == 1

    def test_a_time_without_a_zone_is_refused(self, nexus: TaskNexus, clock: Any) -> None:
        with pytest.raises(InvalidTask, match="now has no time zone"):
            nexus.prune(now=clock().replace(tzinfo=None))


class TestByNumber:
    def test_the_newest_stay(self, nexus: TaskNexus, done: Any, clock: Any) -> None:
        for number in range(6):
            nexus.add_task({"task_id": f"T{number}"})
            done(f"T{number}")
            clock.advance(1)
        clock.advance(DAY)
        assert nexus.prune(after(keep=2)).completed == 4
        assert ids(nexus) == {"T4", "T5"}
        assert nexus.prune(after(keep=2)).tasks == 0

    def test_of_those_that_ended_at_once_the_last_to_come_stay(self, nexus: TaskNexus, clock: Any) -> None:
        nexus.add_tasks({"task_id": f"T{number}"} for number in range(6))
        for number in range(6):
            nexus.cancel(f"T{number}")
        clock.advance(DAY)
        assert nexus.prune(after(keep=2)).cancelled == 4
        assert ids(nexus) == {"T4", "T5"}

    def test_none_at_all(self, nexus: TaskNexus, bring_to: Bring, clock: Any) -> None:
        bring_to("T1", TaskStatus.FAILED)
        clock.advance(DAY)
        assert nexus.prune(after(keep=0)).failed == 1


class TestWhatIsNeededStays:
    @pytest.mark.parametrize("status", [status for status in TaskStatus if status != TaskStatus.COMPLETED])
    def test_what_a_task_depends_on_that_may_still_run(
        self, nexus: TaskNexus, bring_to: Bring, done: Any, clock: Any, status: TaskStatus
    ) -> None:
        nexus.add_task({"task_id": "first"})
        done("first", {"pages": 12})
        bring_to("then", status)
        with nexus._database.engine.begin() as connection:
            connection.execute(sa.insert(dependencies).values(task_id="then", depends_on="first"))
        report = nexus.prune(Retention.model_validate({"completed": {"days": 0}}), now=clock() + timedelta(days=9))
        assert (report.completed, report.kept) == (0, 1)
        assert ids(nexus) == {"first", "then"}

    def test_what_completed_tasks_depended_on_goes(self, nexus: TaskNexus, done: Any, clock: Any) -> None:
        nexus.add_tasks([{"task_id": "first"}, {"task_id": "then", "depends_on": ["first"]}])
        done("first")
        clock.advance(10 * DAY)
        done("then")
        clock.advance(2 * HOUR)
        assert nexus.prune(after(5)).completed == 1
        assert ids(nexus) == {"then"}
        assert orphans(nexus) == {}
        assert nexus.doctor() == [one for one in nexus.doctor() if one.code == "sweep"]

    def test_a_chain_that_was_cancelled_goes_at_once(self, nexus: TaskNexus, at_work: Any, clock: Any) -> None:
        chain = [{"task_id": "T0"}]
        chain += [
            {"task_id": f"T{n}", "depends_on": [f"T{n - 1}"], "on_dependency_failure": "cancel"} for n in range(1, 9)
        ]
        nexus.add_tasks(chain)
        nexus.fail(at_work("T0"), FinalError("no"))
        assert nexus.stats() == {"failed": 1, "cancelled": 8}
        clock.advance(9 * DAY)
        foreseen = nexus.prune(after(7, batch_size=2), dry_run=True)
        report = nexus.prune(after(7, batch_size=2))
        assert (report.failed, report.cancelled, report.kept) == (1, 8, 0)
        assert foreseen.model_copy(update={"dry_run": False}) == report
        assert ids(nexus) == set()

    def test_a_dead_letter_that_is_kept_keeps_what_it_read(
        self, nexus: TaskNexus, done: Any, at_work: Any, clock: Any
    ) -> None:
        nexus.add_tasks([{"task_id": "first"}, {"task_id": "then", "depends_on": ["first"]}])
        done("first", {"pages": 12})
        nexus.fail(at_work("then"), FinalError("no"))
        clock.advance(90 * DAY)
        assert nexus.prune(Retention.model_validate({"completed": {"days": 7}})).kept == 1
        nexus.retry("then")
        assert nexus.results(["first"]) == {"first": {"pages": 12}}
        assert nexus.claim_task("then", "Ada")

    def test_what_an_open_task_is_about(self, nexus: TaskNexus, bring_to: Bring, clock: Any) -> None:
        bring_to("T1", TaskStatus.COMPLETED)
        nexus.add_task({"task_id": "look", "related_task_id": "T1"})
        clock.advance(9 * DAY)
        assert nexus.prune(after(7)).kept == 1
        nexus.cancel("look")
        assert nexus.prune(after(7)).completed == 1
        assert ids(nexus) == {"look"}

    def escalated(self, nexus: TaskNexus, clock: Any) -> str:
        """T1 has waited too long; the id of the task that asks somebody to look."""
        nexus.add_task({"task_id": "T1"})
        clock.advance(2 * HOUR)
        nexus.sweep(TaskMonitoringConfig(escalation_strategy="escalate"))
        [escalation] = nexus.get_all_tasks(tag="escalation")
        return escalation.task_id

    def test_who_was_asked_as_long_as_the_stall_is_open(self, nexus: TaskNexus, done: Any, clock: Any) -> None:
        asked = self.escalated(nexus, clock)
        done(asked)
        clock.advance(9 * DAY)
        assert nexus.prune(after(7)).kept == 1
        done("T1")
        assert nexus.prune(after(7)).completed == 1
        assert ids(nexus) == {"T1"}

    def test_what_somebody_is_asked_about(self, nexus: TaskNexus, at_work: Any, clock: Any) -> None:
        asked = self.escalated(nexus, clock)
        claim = at_work(asked, lease_seconds=30 * DAY)
        nexus.cancel("T1", actor="Ada")  # whoever moves it while holding the question gets to finish that
        clock.advance(9 * DAY)
        assert nexus.prune(after(7)).kept == 1
        nexus.complete(claim, "cancelled it")
        assert nexus.prune(after(7)).cancelled == 1
        assert ids(nexus) == {asked}

    def test_a_new_stall_with_the_number_of_an_old_one_is_asked_about(
        self, nexus: TaskNexus, done: Any, clock: Any
    ) -> None:
        nexus.add_task({"task_id": "T1"})
        clock.advance(2 * HOUR)
        nexus.sweep(TaskMonitoringConfig(escalation_strategy="escalate"))
        [asked] = nexus.get_all_tasks(tag="escalation")
        done("T1")
        nexus.retry(asked.task_id)
        clock.advance(9 * DAY)
        done(asked.task_id)
        clock.advance(2 * HOUR)
        assert nexus.prune(after(7)).stalls == 1
        assert ids(nexus) == {asked.task_id}
        nexus.add_task({"task_id": "T2"})
        clock.advance(2 * HOUR)
        assert nexus.sweep(TaskMonitoringConfig(escalation_strategy="escalate")).escalated == 1


class TestAllThatBelongsToIt:
    def test_goes_with_it(self, nexus: TaskNexus, at_work: Any, done: Any, clock: Any) -> None:
        nexus.add_tasks([{"task_id": "T1"}, {"task_id": "T2", "depends_on": ["T1"]}, {"task_id": "stays"}])
        clock.advance(2 * HOUR)
        nexus.sweep(TaskMonitoringConfig(escalation_strategy="notify"))
        at_work("T1")
        clock.advance(100)
        nexus.sweep()
        done("T1")
        done("T2")
        clock.advance(9 * DAY)
        foreseen = nexus.prune(after(7), dry_run=True)
        tried = len(nexus.attempts("T1")) + len(nexus.attempts("T2"))
        moved = 1  # that its lease ended; all else is read from the tasks and their attempts
        report = nexus.prune(after(7))
        assert (report.completed, report.attempts, report.history, report.stalls) == (2, tried, moved, 1)
        assert foreseen.model_copy(update={"dry_run": False}) == report
        assert orphans(nexus) == {}
        assert [stall.task_id for stall in nexus.stalls()] == ["stays"]
        assert len(nexus.history("stays")) == 1
        assert PruneReport.model_validate_json(report.model_dump_json()) == report

    def test_an_id_that_comes_back_begins_anew(self, nexus: TaskNexus, done: Any, clock: Any) -> None:
        nexus.add_task({"task_id": "T1", "idempotency_key": "once"})
        done("T1")
        clock.advance(9 * DAY)
        nexus.prune(after(7))
        assert nexus.add_task({"task_id": "T1", "idempotency_key": "once"}).status == "pending"
        assert [event.verb for event in nexus.history("T1")] == ["add"]
        assert nexus.attempts("T1") == []

    def test_a_board_without_what_is_gone_can_be_imported_again(
        self, nexus: TaskNexus, done: Any, clock: Any, tmp_path: Any, open_board: Any
    ) -> None:
        from nexus.boards import write_board

        nexus.add_tasks([{"task_id": "first"}, {"task_id": "then", "depends_on": ["first"]}])
        done("first")
        clock.advance(10 * DAY)
        done("then")
        nexus.prune(after(5))
        left = nexus.get_all_tasks()
        write_board(tmp_path / "left.json", left, nexus.attempts_by_task(task.task_id for task in left))
        other = open_board(f"sqlite:///{tmp_path / 'other.db'}")
        report = other.import_board(other.read_board(tmp_path / "left.json"))
        assert (report.accepted, report.rejected) == (1, 0)
        assert other.get_task_by_id("then").status == "completed"


class TestOldRecords:
    def test_passes_of_the_sweep_but_never_the_last(self, nexus: TaskNexus, clock: Any) -> None:
        for _ in range(5):
            nexus.sweep()
            clock.advance(DAY)
        nexus.add_task({})
        assert nexus.prune(Retention(record_days=3), dry_run=True).sweeps == 3
        assert nexus.prune(Retention(record_days=3, batch_size=1)).sweeps == 3
        clock.advance(90 * DAY)
        assert nexus.prune(Retention(record_days=3)).sweeps == 1
        assert len(nexus.sweeps()) == 1

    def test_what_agents_confirmed(self, nexus: TaskNexus, clock: Any) -> None:
        nexus.add_task({"task_id": "T1"})
        nexus.confirm_agent("Ada")
        with nexus._database.engine.connect() as connection:
            said = connection.execute(sa.select(history).where(history.c.task_id.is_(None))).all()
        clock.advance(9 * DAY)
        assert nexus.prune(Retention(record_days=7), dry_run=True).history == len(said) > 0
        assert nexus.prune(Retention(record_days=7)).history == len(said)
        assert len(nexus.history("T1")) == 1
        assert [agent.agent_id for agent in nexus.agents()] == ["Ada"]


class TestBatches:
    def ended(self, nexus: TaskNexus, clock: Any, count: int) -> None:
        names = nexus.add_tasks({} for _ in range(count))
        for name in names:
            nexus.cancel(name)
        clock.advance(9 * DAY)

    @pytest.mark.parametrize("size", [1, 3, 7, 10, 500])
    def test_of_any_size_come_to_the_same(self, nexus: TaskNexus, clock: Any, size: int) -> None:
        self.ended(nexus, clock, 10)
        told: list[tuple[str, int, int | None]] = []
        report = nexus.prune(after(7, batch_size=size), progress=lambda *how_far: told.append(how_far))
        assert (report.cancelled, report.more) == (10, False)
        assert told[-1] == ("pruning", 10, 10)
        assert [looked for _, looked, _ in told[: 10 // size]] == list(range(size, 11, size))
        assert ids(nexus) == set()

    def test_each_is_a_transaction_of_its_own(
        self, nexus: TaskNexus, clock: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.ended(nexus, clock, 10)
        bites = 0

        def third_fails(*given: Any) -> Any:
            nonlocal bites
            bites += 1
            if bites == 3:
                raise RuntimeError("the light went out")
            return bite(*given)

        bite = pruning.bite
        monkeypatch.setattr(pruning, "bite", third_fails)
        with pytest.raises(RuntimeError, match="the light went out"):
            nexus.prune(after(7, batch_size=3))
        assert len(ids(nexus)) == 4, "two batches are gone, and stay so"
        assert orphans(nexus) == {}
        assert nexus.prune(after(7)).cancelled == 4

    def test_a_full_run_says_so(self, nexus: TaskNexus, clock: Any) -> None:
        self.ended(nexus, clock, 10)
        bounds = after(7, batch_size=3, max_per_run=7)
        report = nexus.prune(bounds)
        assert (report.cancelled, report.more) == (7, True)
        report = nexus.prune(bounds)
        assert (report.cancelled, report.more) == (3, False)

    def test_a_dry_run_changes_nothing(self, nexus: TaskNexus, clock: Any, everything: Any) -> None:
        self.ended(nexus, clock, 10)
        before = everything()
        report = nexus.prune(after(7, batch_size=3, max_per_run=8), dry_run=True)
        assert (report.dry_run, report.cancelled, report.history, report.more) == (True, 8, 8, True)
        assert everything() == before


class TestMeanwhile:
    def test_claims_do_not_wait_for_it(self, nexus: TaskNexus, make_nexus: Any, clock: Any) -> None:
        """Between any two batches another process claims, works and completes."""
        for name in nexus.add_tasks({} for _ in range(40)):
            nexus.cancel(name)
        nexus.add_tasks({"task_id": f"W{number}"} for number in range(4))
        clock.advance(9 * DAY)
        other = make_nexus()

        def work(*_: Any) -> None:
            for claim in other.claim("Ada"):
                other.start(claim)
                other.complete(claim)

        assert nexus.prune(after(7, batch_size=10), progress=work).cancelled == 40
        assert nexus.stats() == {"completed": 4}

    def test_not_even_while_a_batch_is_at_it(self, make_nexus: Any, postgres_url: str, open_board: Any) -> None:
        """On PostgreSQL, in the middle of its transaction."""
        nexus, other = open_board(postgres_url, clock=None), open_board(postgres_url, clock=None)
        nexus.cancel(nexus.add_task({}).task_id)
        other.add_task({"task_id": "T1"})
        pruned, claimed = threading.Event(), threading.Event()

        def slowly(tx: Any) -> int:
            taken = pruning.bite(tx, TaskStatus.CANCELLED, (nexus.now() + timedelta(days=1), LAST), 10)
            pruned.set()
            assert claimed.wait(10)
            return len(taken.gone)

        found: list[int] = []
        thread = threading.Thread(target=lambda: found.append(nexus._database.write(slowly)))
        thread.start()
        assert pruned.wait(10)
        claim = other.claim_task("T1", "Ada")
        other.start(claim)
        other.complete(claim)
        claimed.set()
        thread.join()
        assert found == [1]

    def test_it_leaves_alone_what_somebody_is_about_to_depend_on(self, postgres_url: str, open_board: Any) -> None:
        from nexus import queries

        nexus, other = open_board(postgres_url), open_board(postgres_url)
        nexus.add_task({"task_id": "T1"})
        nexus.cancel("T1")

        def while_it_is_locked(tx: Any) -> int:
            queries.hold_still(tx, ["T1"])
            return other.prune(after(0, grace_seconds=0)).tasks

        assert nexus._database.write(while_it_is_locked) == 0
        assert other.prune(after(0, grace_seconds=0)).tasks == 1

    def test_a_board_that_was_read_before_its_target_went(
        self, nexus: TaskNexus, clock: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The import looks again, and keeps the edge as one to nobody."""
        nexus.add_task({"task_id": "gone"})
        nexus.cancel("gone")
        (tmp_path / "board.json").write_text('{"tasks": [{"task_id": "T1", "depends_on": ["gone"]}]}')
        board = nexus.read_board(tmp_path / "board.json")
        clock.advance(9 * DAY)
        nexus.prune(after(7))
        report = nexus.import_board(board)
        assert [reject.task_id for reject in report.rejects] == ["T1"]


@contextmanager
def spied(nexus: TaskNexus) -> Iterator[list[tuple[str, Any]]]:
    """Every statement that reaches the database, with its parameters."""
    heard: list[tuple[str, Any]] = []

    def hear(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        heard.append((statement, parameters))

    sa.event.listen(nexus._database.engine, "before_cursor_execute", hear)
    try:
        yield heard
    finally:
        sa.event.remove(nexus._database.engine, "before_cursor_execute", hear)


class TestIndexes:
    def test_every_statement_uses_one(self, nexus: TaskNexus, clock: Any) -> None:
        names = nexus.add_tasks({} for _ in range(30))
        for name in names[:20]:
            nexus.cancel(name)
        clock.advance(9 * DAY)
        with spied(nexus) as heard:
            nexus.prune(after(7, keep=5, batch_size=5), progress=lambda *_: None)
            nexus.prune(after(7), dry_run=True)
        plans = {statement: self.plan(nexus, statement, given) for statement, given in heard if " nexus_" in statement}
        assert len(plans) > 10
        for statement, plan in plans.items():
            about = f"{statement}\n{plan}"
            assert "Seq Scan" not in plan, about
            # In the order of an index, up to a limit.
            assert not any("SCAN nexus_" in line and " USING " not in line for line in plan.splitlines()), about
        looks = [plan for statement, plan in plans.items() if statement.startswith("SELECT nexus_tasks.seq")]
        assert looks
        assert all("ix_nexus_tasks_completed" in plan or "ix_nexus_tasks_given_up" in plan for plan in looks)
        assert not any("TEMP B-TREE" in plan or "Sort" in plan for plan in looks), looks

    @staticmethod
    def plan(nexus: TaskNexus, statement: str, given: Any) -> str:
        with nexus._database.engine.connect() as connection:
            if nexus._database.is_sqlite:
                rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", given)
                return "\n".join(str(row[-1]) for row in rows)
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")  # the board is small
            connection.exec_driver_sql("SET LOCAL enable_bitmapscan = off")
            return "\n".join(str(row[0]) for row in connection.exec_driver_sql(f"EXPLAIN {statement}", given))

    def test_the_present_of_the_board_is_not_in_it(self, nexus: TaskNexus) -> None:
        """What is claimed, started, put back, costs that index nothing: it holds what is over."""
        dialect = "sqlite" if nexus._database.is_sqlite else "postgresql"
        over = {
            index.name: str(index.dialect_options[dialect]["where"])
            for index in tasks.indexes
            if index.name in ("ix_nexus_tasks_completed", "ix_nexus_tasks_given_up")
        }
        assert over == {
            "ix_nexus_tasks_completed": "status = 'completed'",
            "ix_nexus_tasks_given_up": "status IN ('cancelled', 'failed')",
        }


class TestTheFile:
    def big(self, url: str, open_board: Any, clock: Any) -> TaskNexus:
        """A board of 300 finished tasks of 16 kB each, on a file or a server."""
        nexus: TaskNexus = open_board(url)
        for name in nexus.add_tasks({"payload": {"text": "x" * 16_000}} for _ in range(300)):
            nexus.cancel(name)
        clock.advance(9 * DAY)
        return nexus

    def pages(self, nexus: TaskNexus) -> tuple[int, int]:
        with nexus._database.engine.connect() as connection:
            pages, free = (
                connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in ("page_count", "freelist_count")
            )
        return pages, free

    def test_a_new_file_becomes_smaller(self, tmp_path: Any, open_board: Any, clock: Any) -> None:
        nexus = self.big(f"sqlite:///{tmp_path / 'big.db'}", open_board, clock)
        before, _ = self.pages(nexus)
        nexus.prune(after(7))
        pages, free = self.pages(nexus)
        assert before > 1200
        assert pages < before / 5
        assert free <= pages // 10

    def test_what_is_soon_used_again_stays(self, tmp_path: Any, open_board: Any, clock: Any) -> None:
        nexus = self.big(f"sqlite:///{tmp_path / 'big.db'}", open_board, clock)
        before, _ = self.pages(nexus)
        nexus.prune(after(keep=285))
        pages, free = self.pages(nexus)
        assert pages == before
        assert free > 0

    def test_an_old_file_after_it_was_compacted(self, tmp_path: Any, open_board: Any, clock: Any) -> None:
        path = tmp_path / "old.db"
        with sa.create_engine(f"sqlite:///{path}").begin() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")  # as the first release made it
        nexus = self.big(f"sqlite:///{path}", open_board, clock)
        before, _ = self.pages(nexus)
        nexus.prune(after(keep=150))
        assert self.pages(nexus)[0] == before, "its pages are free, and it uses them, but it stays as large"
        nexus._database.compact()
        between, free = self.pages(nexus)
        assert (free, between < before * 0.7) == (0, True)
        nexus.prune(after(7))
        assert self.pages(nexus)[0] < between / 5, "from then on it becomes smaller by itself"
        assert nexus.doctor() == []


def test_autovacuum_keeps_up_with_what_moves(postgres_url: str, open_board: Any) -> None:
    nexus = open_board(postgres_url)
    with nexus._database.engine.connect() as connection:
        said = dict(
            connection.exec_driver_sql(
                "SELECT relname, array_to_string(reloptions, ' ') FROM pg_class WHERE reloptions IS NOT NULL "
                "AND relname IN ('nexus_tasks', 'nexus_attempts', 'nexus_history')"
            ).all()
        )
    assert {name: "autovacuum_vacuum_scale_factor" in options for name, options in said.items()} == dict.fromkeys(
        ("nexus_tasks", "nexus_attempts", "nexus_history"), True
    )
    assert "fillfactor" not in said["nexus_attempts"], "what is written once needs no room to grow"


@hypothesis_settings(max_examples=40)
@given(data=st.data())
def test_any_board_stays_whole(data: st.DataObject) -> None:
    """Tasks that depend on one another and end in every way: what goes is past its bounds, and nothing misses it."""
    from datetime import UTC, datetime

    present = datetime(2030, 6, 1, tzinfo=UTC)
    with TaskNexus("sqlite://", settings=NexusSettings(database_url="sqlite://"), clock=lambda: present) as nexus:
        count = data.draw(st.integers(1, 8), label="tasks")
        for number in range(count):
            earlier = st.lists(st.sampled_from([f"T{n}" for n in range(number)]), max_size=3) if number else st.just([])
            nexus.add_task(
                {
                    "task_id": f"T{number}",
                    "depends_on": sorted(set(data.draw(earlier, label=f"T{number} depends on"))),
                    "related_task_id": data.draw(st.none() | st.sampled_from([f"T{n}" for n in range(count)])),
                    "on_dependency_failure": data.draw(st.sampled_from(["wait", "cancel", "run"])),
                }
            )
        for step in range(data.draw(st.integers(0, 12), label="moves")):
            present += timedelta(days=1)
            open_ones = [task.task_id for task in nexus.get_pending_tasks()]
            others = [task.task_id for task in nexus.get_all_tasks("pending")]
            if not others:
                break
            how = data.draw(st.sampled_from(["complete", "fail", "cancel"]), label=f"move {step}")
            if how == "cancel" or not open_ones:
                nexus.cancel(data.draw(st.sampled_from(others)))
                continue
            claim = nexus.claim_task(data.draw(st.sampled_from(open_ones)), "Ada")
            nexus.start(claim)
            nexus.complete(claim) if how == "complete" else nexus.fail(claim, FinalError("no"))
        present += timedelta(hours=2)
        bounds = after(
            data.draw(st.none() | st.integers(0, 10), label="days"),
            data.draw(st.none() | st.integers(0, 4), label="keep"),
            batch_size=data.draw(st.sampled_from([1, 2, 500]), label="batch"),
        )
        before = {task.task_id: task for task in nexus.get_all_tasks()}
        foreseen = nexus.prune(bounds, dry_run=True)
        report = nexus.prune(bounds)
        assert foreseen.model_copy(update={"dry_run": False}) == report
        left = {task.task_id: task for task in nexus.get_all_tasks()}
        gone = before.keys() - left.keys()
        assert len(gone) == report.tasks
        assert all(before[task_id].status in ENDS for task_id in gone)
        assert orphans(nexus) == {}
        assert {one.code for one in nexus.doctor()} <= {"sweep"}
        for task in left.values():
            if task.status != TaskStatus.COMPLETED and task.status in ENDS:
                continue
            if task.status not in ENDS:
                # Who runs anyway waits no longer for what ended without success.
                runs = task.on_dependency_failure == "run"
                ended = {name for name in task.depends_on if runs and before[name].status in ("failed", "cancelled")}
                assert not gone & ({*task.depends_on, task.related_task_id} - ended), "what is not done misses nothing"
