"""What is to go, as a decision: bounds, the grace, and what somebody asks for instead of the settings."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from nexus import NexusSettings, Retention
from nexus.errors import InvalidSettings
from nexus.retention import LAST, ORDER, Bounds, boundary, unneeded
from nexus.states import TaskStatus

NOON = datetime(2030, 6, 1, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)


class TestTheBoundary:
    def test_without_bounds_nothing_goes(self) -> None:
        assert boundary(NOON, Bounds(), 0, None) is None

    def test_what_is_old_enough_goes(self) -> None:
        assert boundary(NOON, Bounds(days=2), 3600, None) == (NOON - 2 * DAY, LAST)

    def test_what_is_too_many_goes_whatever_its_age(self) -> None:
        surplus = (NOON - DAY, 7)
        assert boundary(NOON, Bounds(keep=3), 3600, surplus) == surplus
        assert boundary(NOON, Bounds(days=2, keep=3), 3600, surplus) == surplus

    def test_what_is_old_goes_whatever_their_number(self) -> None:
        assert boundary(NOON, Bounds(days=2, keep=3), 3600, (NOON - 9 * DAY, 7)) == (NOON - 2 * DAY, LAST)

    def test_what_has_just_ended_stays(self) -> None:
        settled = (NOON - timedelta(hours=1), LAST)
        assert boundary(NOON, Bounds(days=0), 3600, None) == settled
        assert boundary(NOON, Bounds(keep=0), 3600, (NOON, 9)) == settled

    @given(
        days=st.none() | st.floats(0, 1000),
        grace=st.floats(0, 86_400),
        ago=st.none() | st.integers(0, 100_000),
    )
    def test_never_within_the_grace_and_never_less_than_a_bound_asks(
        self, days: float | None, grace: float, ago: int | None
    ) -> None:
        surplus = None if ago is None else (NOON - timedelta(seconds=ago), 5)
        mark = boundary(NOON, Bounds(days=days), grace, surplus)
        settled = (NOON - timedelta(seconds=grace), LAST)
        asked = [] if days is None else [(NOON - timedelta(days=days), LAST)]
        asked += [] if surplus is None else [surplus]
        assert (mark is None) == (not asked)
        assert mark is None or mark <= settled
        assert all(mark >= min(one, settled) for one in asked)


class TestWhatCanGoTogether:
    def test_nobody_needs_them(self) -> None:
        assert unneeded(["A", "B"], []) == {"A", "B"}

    def test_for_the_sake_of_one_that_stays(self) -> None:
        assert unneeded(["A", "B"], [("A", "Z")]) == {"B"}
        assert unneeded(["A", "B"], [("A", "Z")], {"Z"}) == {"A", "B"}

    def test_for_good(self) -> None:
        assert unneeded(["A", "B"], [("A", None)], {"A"}) == {"B"}

    def test_a_chain_goes_as_a_whole_or_stays_as_a_whole(self) -> None:
        chain = [("A", "B"), ("B", "C")]
        assert unneeded("ABC", chain) == {"A", "B", "C"}
        assert unneeded("ABC", [*chain, ("C", "Z")]) == set()
        assert unneeded("AC", chain) == {"C"}

    @given(
        st.sets(st.integers(0, 6).map(str)),
        st.lists(st.tuples(st.integers(0, 6).map(str), st.none() | st.integers(0, 9).map(str))),
    )
    def test_nothing_that_stays_misses_anything(self, ended: set[str], needs: list[tuple[str, str | None]]) -> None:
        free = unneeded(ended, needs)
        assert free <= ended
        assert not [(one, by) for one, by in needs if one in free and by not in free]
        assert all(any(one == task and by not in free for one, by in needs) for task in ended - free)


class TestSettings:
    def test_off_until_somebody_says_so(self) -> None:
        assert not Retention().is_set
        assert Retention(failed=Bounds(keep=5)).is_set
        assert Retention(record_days=5).is_set

    def test_from_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NEXUS_RETENTION__COMPLETED__DAYS", "30")
        monkeypatch.setenv("NEXUS_RETENTION__FAILED", '{"keep": 10}')
        retention = NexusSettings.load().retention
        assert (retention.completed, retention.failed) == (Bounds(days=30), Bounds(keep=10))
        monkeypatch.setenv("NEXUS_RETENTION__COMPLETED__DAYS", "-1")
        with pytest.raises(InvalidSettings, match=r"retention\.completed\.days"):
            NexusSettings.load()

    def test_every_final_status_has_bounds(self) -> None:
        assert [Retention().of(status) for status in ORDER] == [Bounds()] * 3

    def test_a_status_that_is_not_final_has_none(self) -> None:
        with pytest.raises(ValidationError):
            Retention.model_validate({"pending": {"days": 1}})


class TestAsked:
    SET = Retention(completed=Bounds(days=30), cancelled=Bounds(keep=1), record_days=9)

    def test_only_what_was_asked_for(self) -> None:
        asked = self.SET.asked([TaskStatus.FAILED], days=None, keep=2)
        assert (asked.completed, asked.failed, asked.cancelled) == (Bounds(), Bounds(keep=2), Bounds())
        assert asked.record_days is None

    def test_an_age_shorter_than_the_grace_is_meant(self) -> None:
        assert self.SET.asked([TaskStatus.FAILED], days=0, keep=None).grace_seconds == 0
        assert self.SET.asked([TaskStatus.FAILED], days=1, keep=None).grace_seconds == 3600
        assert self.SET.asked([TaskStatus.FAILED], days=None, keep=0).grace_seconds == 3600
