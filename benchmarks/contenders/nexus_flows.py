"""The nexus itself, through its public verbs, with its default settings."""

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.contenders import Work
from nexus import NexusSettings, TaskNexus


class Nexus:
    """Claim and completion, each one transaction; the claim begins the attempts as well."""

    def make(self, url: str) -> None:
        """A board is made by opening it."""
        _board(url).close()

    def fill(self, url: str, number: int) -> None:
        """All of them in one call."""
        with _board(url) as nexus:
            nexus.add_tasks([{"task_type": "noop", "payload": {"n": 1}} for _ in range(number)])

    @contextmanager
    def open(self, url: str, agent_id: str, batch: int) -> Iterator[Work]:
        """Two verbs."""
        with _board(url) as nexus:

            def work() -> int:
                done = 0
                while claims := nexus.claim(agent_id, batch, start=True):
                    nexus.complete_many([(claim, None) for claim in claims])
                    done += len(claims)
                return done

            yield work


class NexusInThree(Nexus):
    """The same in three transactions: claim, then start, then complete."""

    @contextmanager
    def open(self, url: str, agent_id: str, batch: int) -> Iterator[Work]:
        """Three verbs."""
        with _board(url) as nexus:

            def work() -> int:
                done = 0
                while claims := nexus.claim(agent_id, batch):
                    nexus.start_many(claims)
                    nexus.complete_many([(claim, None) for claim in claims])
                    done += len(claims)
                return done

            yield work


def _board(url: str) -> TaskNexus:
    return TaskNexus(url, settings=NexusSettings(database_url=url))
