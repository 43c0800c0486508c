"""A second import of a changed record: the task is asked for anew, so it waits anew; whoever works on it is let be."""

from collections.abc import Callable
from typing import Any

import pytest

from nexus import Claim, TaskNexus

from .conftest import Load


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
