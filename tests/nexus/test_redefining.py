"""A second import of a changed record: the task is asked for anew, so it waits anew; whoever works on it is let be."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from nexus import Claim, TaskMonitoringConfig, TaskNexus
from nexus.boards import write_board

from .conftest import Load

HOUR = 3600.0
ESCALATE = TaskMonitoringConfig(escalation_strategy="escalate")
MARK = TaskMonitoringConfig(escalation_strategy="mark_stalled")


def questions(nexus: TaskNexus, task_id: str) -> list[str]:
    """Where the escalations that ask about a task stand, first to last."""
    asked = nexus.get_all_tasks(tag="escalation")
    return [str(task.status) for task in asked if task.related_task_id == task_id]


def sound(nexus: TaskNexus) -> bool:
    """The doctor finds nothing, but that nobody sweeps here regularly."""
    return [one for one in nexus.doctor() if one.code != "sweep"] == []


class TestWhoeverWorksOnIt:
    """The board is compared and written in one transaction; on PostgreSQL others go on meanwhile."""

    @pytest.fixture
    def nexus(self, open_board: Callable[..., TaskNexus], postgres_url: str) -> TaskNexus:
        return open_board(postgres_url)

    @pytest.fixture
    def other(self, open_board: Callable[..., TaskNexus], postgres_url: str) -> TaskNexus:
        """Another process on the same board."""
        return open_board(postgres_url)

    @staticmethod
    def while_comparing(work: Callable[[], Any]) -> Callable[..., None]:
        """A progress callback that does `work` once, after the records were compared and before any is written."""
        left = [work]

        def progress(what: str, *_: Any) -> None:
            if what == "comparing" and left:
                left.pop()()

        return progress

    def test_keeps_the_task_that_they_took_while_the_board_was_compared(
        self, nexus: TaskNexus, other: TaskNexus, load: Load
    ) -> None:
        load([{"task_id": "X"}, {"task_id": "T", "payload": {"v": 1}}, {"task_id": "U"}])
        claims: list[Claim] = []
        report = load(
            [
                {"task_id": "X"},
                {"task_id": "T", "payload": {"v": 2}, "depends_on": ["X"], "assigned_to": "Eve"},
                {"task_id": "U", "description": "new"},
            ],
            progress=self.while_comparing(lambda: claims.append(other.claim_task("T", "Ada"))),
        )
        assert (report.updated, report.rejected) == (1, 1)
        [reject] = report.rejects
        assert reject.task_id == "T"
        assert "its task is claimed here and stays as it is" in reject.reason
        task = nexus.get_task_by_id("T")
        assert task is not None
        assert (task.claimed_by, task.assigned_to, task.payload, task.depends_on) == ("Ada", None, {"v": 1}, ())
        other.release(claims[0])
        assert nexus.explain("T") == []
        assert sound(nexus)

    def test_keeps_the_result_of_what_they_did_meanwhile(self, nexus: TaskNexus, other: TaskNexus, load: Load) -> None:
        load([{"task_id": "T", "payload": {"v": 1}}])

        def work() -> None:
            [claim] = other.claim("Ada", start=True)
            other.complete(claim, "made of v1")

        report = load([{"task_id": "T", "payload": {"v": 2}}], progress=self.while_comparing(work))
        assert "its task is completed here" in report.rejects[0].reason
        task = nexus.get_task_by_id("T")
        assert task is not None
        assert (task.payload, task.result) == ({"v": 1}, "made of v1")

    def test_a_cycle_with_what_stays_as_it_is_is_refused(self, other: TaskNexus, load: Load) -> None:
        load([{"task_id": "T", "depends_on": ["X"]}, {"task_id": "X"}])
        report = load(
            [{"task_id": "T"}, {"task_id": "X", "depends_on": ["T"]}],
            progress=self.while_comparing(lambda: other.cancel("T")),
        )
        assert [reject.task_id for reject in report.rejects] == ["T", "X"]
        assert "cycle" in report.rejects[1].reason.lower()


class TestItWaitsAnew:
    def test_from_when_it_became_claimable_by_losing_a_dependency(
        self, nexus: TaskNexus, load: Load, clock: Any, statuses: Callable[..., Sequence[str]]
    ) -> None:
        load([{"task_id": "X"}, {"task_id": "T", "depends_on": ["X"]}])
        nexus.claim_task("X", "Ada", lease_seconds=9 * 86_400)
        clock.advance(2 * 86_400)
        load([{"task_id": "X"}, {"task_id": "T"}])
        clock.advance(1)
        assert nexus.sweep(MARK).items == ()
        clock.advance(HOUR)
        [item] = nexus.sweep(MARK).items
        assert (item.task_id, item.waiting_seconds, statuses("T")) == ("T", HOUR + 1, ["stalled"])

    def test_so_somebody_is_asked_again_where_it_still_waits_too_long(
        self, nexus: TaskNexus, load: Load, clock: Any
    ) -> None:
        load([{"task_id": "T", "description": "one"}])
        clock.advance(2 * HOUR)
        nexus.sweep(ESCALATE)
        load([{"task_id": "T", "description": "two"}])
        assert questions(nexus, "T") == ["cancelled"]
        clock.advance(2 * HOUR)
        nexus.sweep(ESCALATE)
        assert questions(nexus, "T") == ["cancelled", "pending"]
        assert len(nexus.stalls("T")) == 2
        assert sound(nexus)

    def test_but_not_earlier_than_its_backoff_says(
        self, nexus: TaskNexus, load: Load, at_work: Callable[..., Claim]
    ) -> None:
        load([{"task_id": "T", "description": "one"}])
        again = nexus.fail(at_work("T"), "no luck").available_at
        load([{"task_id": "T", "description": "two"}])
        task = nexus.get_task_by_id("T")
        assert task is not None
        assert (task.description, task.available_at) == ("two", again)

    def test_and_an_operator_is_still_asked_about_what_stays_stalled(
        self, nexus: TaskNexus, load: Load, clock: Any, statuses: Callable[..., Sequence[str]]
    ) -> None:
        load([{"task_id": "T", "description": "one"}])
        clock.advance(2 * HOUR)
        nexus.sweep(ESCALATE)
        nexus.sweep(MARK)
        assert statuses("T") == ["stalled"]
        load([{"task_id": "T", "description": "two"}])
        assert (statuses("T"), questions(nexus, "T")) == (["stalled"], ["pending"])
        nexus.retry("T")
        assert questions(nexus, "T") == ["cancelled"]
        assert sound(nexus)

    def test_and_the_old_deadline_is_nobodys_business_any_more(self, nexus: TaskNexus, load: Load, clock: Any) -> None:
        def due(hours: float) -> str:
            return (clock() + timedelta(hours=hours)).isoformat()

        load([{"task_id": "A"}, {"task_id": "T", "deadline": due(0.5)}])
        clock.advance(HOUR)
        nexus.sweep(ESCALATE)
        assert {stall.kind for stall in nexus.stalls("T", open_only=True)} == {"waiting", "deadline"}
        load([{"task_id": "A"}, {"task_id": "T", "deadline": due(9), "depends_on": ["A"]}])
        assert nexus.stalls("T", open_only=True) == []
        assert {stall.closed_by for stall in nexus.stalls("T")} == {"import"}
        assert questions(nexus, "T") == ["cancelled", "cancelled"]
        fail = TaskMonitoringConfig(escalation_strategy="fail")
        assert "T" not in {item.task_id for item in nexus.sweep(fail).items}
        assert sound(nexus)
        clock.advance(9 * HOUR)
        assert "overdue" in {item.action for item in nexus.sweep().items if item.task_id == "T"}


class TestAnOperatorsRetryOfWhatDependsOnAFailureStands:
    @pytest.fixture
    def board(self, nexus: TaskNexus, load: Load) -> list[dict[str, Any]]:
        """The board on which A was cancelled, so that T was, which an operator has retried."""
        board = [
            {"task_id": "A"},
            {"task_id": "B"},
            {"task_id": "T", "depends_on": ["A"], "on_dependency_failure": "cancel"},
            {"task_id": "U", "depends_on": ["A"], "on_dependency_failure": "run"},
        ]
        load(board)
        nexus.cancel("A")
        nexus.cancel("B")
        nexus.retry("T")
        return board

    def test_when_other_words_say_the_same(
        self, nexus: TaskNexus, load: Load, board: list[dict[str, Any]], statuses: Callable[..., Sequence[str]]
    ) -> None:
        *_, t, u = board
        assert load([{**t, "description": "new"}, {**u, "description": "new"}]).updated == 2
        assert statuses("T", "U") == ["pending", "pending"]
        assert nexus.explain("U") == []

    @pytest.mark.parametrize("more", [{"depends_on": ["A", "B"]}, {"depends_on": ["B"]}])
    def test_but_not_when_it_comes_to_depend_on_another(
        self, load: Load, board: list[dict[str, Any]], statuses: Callable[..., Sequence[str]], more: dict[str, Any]
    ) -> None:
        load([{**board[2], **more}])
        assert statuses("T") == ["cancelled"]

    def test_where_its_export_is_imported(
        self, nexus: TaskNexus, board: list[dict[str, Any]], open_board: Callable[..., TaskNexus], tmp_path: Path
    ) -> None:
        exported = nexus.get_all_tasks()
        write_board(tmp_path / "export.json", exported, {})
        other = open_board(f"sqlite:///{tmp_path / 'other.db'}")
        other.import_board(other.read_board(tmp_path / "export.json"))
        assert [task.status for task in other.get_all_tasks()] == [task.status for task in exported]
        assert other.explain("U") == []
