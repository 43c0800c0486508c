"""The nexus itself, through its public verbs, with its default settings."""

from nexus import NexusSettings, TaskNexus


class Nexus:
    """Claim and completion, each one transaction; the claim begins the attempts as well."""

    name = "Nexus Flows"
    databases: tuple[str, ...] = ("sqlite", "postgresql")
    history = True

    def fill(self, url: str, number: int) -> None:
        with self._open(url) as nexus:
            nexus.add_tasks([{"task_type": "noop", "payload": {"n": 1}} for _ in range(number)])

    def work(self, url: str, agent_id: str, batch: int) -> int:
        done = 0
        with self._open(url) as nexus:
            while claims := nexus.claim(agent_id, batch, start=True):
                nexus.complete_many([(claim, None) for claim in claims])
                done += len(claims)
        return done

    @staticmethod
    def _open(url: str) -> TaskNexus:
        return TaskNexus(url, settings=NexusSettings(database_url=url))


class NexusInThree(Nexus):
    """The same in three transactions: claim, then start, then complete."""

    name = "Nexus Flows, start apart"

    def work(self, url: str, agent_id: str, batch: int) -> int:
        done = 0
        with self._open(url) as nexus:
            while claims := nexus.claim(agent_id, batch):
                nexus.start_many(claims)
                nexus.complete_many([(claim, None) for claim in claims])
                done += len(claims)
        return done
