"""What a handler may say: when to try again, and how far it is."""

import pytest

from flows.handlers import Retry
from nexus.schemas import Failure


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        (None, None),
        (7.5, 7.5),
        (-1, 0),
        (float("nan"), 0),
        (float("inf"), 30 * 86_400),
        (10**12, 30 * 86_400),
    ],
)
def test_a_delay_that_cannot_be_still_leaves_a_failure_that_the_nexus_can_keep(asked, kept):
    failure = Failure.of(Retry("the index is being built", after_seconds=asked))

    assert failure.retryable
    assert failure.retry_after_seconds == kept
    assert failure.message == "the index is being built"


def test_the_heartbeat_takes_the_newest_note_once(context):
    attempt = context()
    assert attempt.take_note() is None

    attempt.note("1 of 3 chapters")
    attempt.note("2 of 3 chapters")

    assert attempt.take_note() == "2 of 3 chapters"
    assert attempt.take_note() is None


class Wordless:
    def __str__(self) -> str:
        raise RuntimeError("no words")

    def __repr__(self) -> str:
        return "Wordless()"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (50, "50"),
        (0.5, "0.5"),
        ({"page": 3}, "{'page': 3}"),
        (Wordless(), "Wordless()"),
        (10**5000, "an integer of over 300 digits"),
    ],
    ids=["an integer", "a part", "a dict", "what has no words", "an integer that Python does not write"],
)
def test_whatever_a_handler_says_about_its_progress_is_a_text(context, given, kept):
    attempt = context()

    attempt.note(given)

    assert attempt.take_note() == kept


def test_nothing_is_no_note(context):
    attempt = context()

    attempt.note(None)

    assert attempt.take_note() is None
