"""Lengths of time, as people say them."""

import pytest

from nexus.spans import span


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (59.6, "1 min"), (61, "1 min 1 s"), (3600, "1 h"), (90_000, "1 d 1 h"), (-5, "0 s")],
)
def test_lengths_of_time(seconds: float, said: str) -> None:
    assert span(seconds) == said
