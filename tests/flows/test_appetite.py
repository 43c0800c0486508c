"""How many claims a shift asks for."""

from hypothesis import given
from hypothesis import strategies as st

from flows.appetite import Appetite, round_number


@given(st.integers(0, 100_000))
def test_a_number_is_rounded_down_by_less_than_a_third(number: int) -> None:
    assert number * 2 / 3 < round_number(number) <= number or number == 0 == round_number(number)


def test_round_numbers_are_few() -> None:
    """PostgreSQL plans a claim for each, and one more takes as long as to claim a hundred tasks."""
    assert len({round_number(number) for number in range(301)}) == 17


@given(st.integers(1, 100), st.integers(0, 200), st.integers(0, 400))
def test_no_hand_stays_free_for_the_sake_of_a_round_number(free: int, ahead: int, goal: int) -> None:
    wanted = Appetite(goal=goal).wanted(free, ahead)
    assert wanted + ahead >= free or 2 * ahead > goal
