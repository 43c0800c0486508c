"""Who is measured, behind one interface: each makes its own tables, is filled, and works until nothing is left."""

from typing import Protocol


class Contender(Protocol):
    """One way to keep a queue of tasks in a database."""

    name: str
    databases: tuple[str, ...]
    history: bool
    """Whether it writes an attempt row that stays."""

    def fill(self, url: str, number: int) -> None:
        """Make the tables, and `number` tasks that do nothing."""

    def work(self, url: str, agent_id: str, batch: int) -> int:
        """Claim and complete, `batch` tasks a transaction, until nothing is left; how many."""
