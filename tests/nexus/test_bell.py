"""Whoever waits for work is woken when there may be some."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from nexus import TaskNexus
from nexus.bell import Bell


@pytest.fixture
def waiting(nexus: TaskNexus) -> Iterator[Bell]:
    """A bell that somebody waits at already."""
    bell = nexus.bell()
    assert bell.wait(5), "who comes new looks first"
    while bell.wait(0.2):
        pass
    yield bell
    bell.close()
    bell.wait(0)


def rings(bell: Bell, deed: Callable[[], object]) -> bool:
    heard: list[bool] = []
    listening = threading.Thread(target=lambda: heard.append(bell.wait(5)))
    listening.start()
    time.sleep(0.05)
    began = time.monotonic()
    deed()
    listening.join(10)
    assert time.monotonic() - began < 5
    return heard == [True]


def test_work_of_every_kind_rings(make_nexus: Callable[..., TaskNexus], nexus: TaskNexus, waiting: Bell) -> None:
    other = make_nexus()
    assert rings(waiting, lambda: other.add_task({"task_id": "T1"}))
    claim = other.claim_task("T1", "Ada")
    while waiting.wait(0.2):
        pass
    assert rings(waiting, lambda: other.release(claim))
    other.add_task({"task_id": "after", "depends_on": ["T1"]})
    claim = other.claim_task("T1", "Ada")
    other.start(claim)
    while waiting.wait(0.2):
        pass
    assert rings(waiting, lambda: other.complete(claim))


def test_silence_is_silence(waiting: Bell) -> None:
    began = time.monotonic()
    assert not waiting.wait(0.3)
    assert 0.25 < time.monotonic() - began < 3


def test_a_wait_is_ended_by_closing(waiting: Bell) -> None:
    waits = threading.Thread(target=lambda: waiting.wait(60))
    waits.start()
    waiting.close()
    waits.join(5)
    assert not waits.is_alive()
    assert not waiting.wait(60), "it stays silent"


def test_a_database_that_is_away_does_not_ring(nexus: TaskNexus, waiting: Bell) -> None:
    waiting._driver.close()
    assert not waiting.wait(0.1)
    assert waiting.wait(5), "it listens again, and whoever missed something looks"
