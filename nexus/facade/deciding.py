"""The verbs of operators and reviewers, and the agents."""

from collections.abc import Iterable

from nexus import queries, registration, transitions
from nexus.arguments import a_count, a_name, a_text
from nexus.engine import Tx
from nexus.errors import AgentNotFound
from nexus.facade.base import OpenBoard
from nexus.schemas import Agent, Task


class Deciding(OpenBoard):
    """The verbs of those who do not work on a task, but decide about it."""

    def cancel(self, task_id: str, reason: str | None = None, *, actor: str | None = None) -> Task:
        """End it; a running attempt learns it at its next heartbeat. Raises `TaskNotFound`, `IllegalTransition`."""
        return self._decide(lambda tx: transitions.cancel(tx, task_id, a_text(reason), actor))

    def retry(self, task_id: str, *, actor: str | None = None) -> Task:
        """Offer a failed, stalled or cancelled task again, its budget renewed, its history kept."""
        return self._decide(lambda tx: transitions.retry(tx, task_id, actor))

    def block(self, task_id: str, reason: str, *, actor: str | None = None) -> Task:
        """Keep it from being worked on; a live claim is taken back. Raises `TaskNotFound`, `IllegalTransition`."""
        return self._decide(lambda tx: transitions.block(tx, task_id, a_text(reason) or "", actor))

    def unblock(self, task_id: str, *, actor: str | None = None) -> Task:
        """Offer a blocked task again."""
        return self._decide(lambda tx: transitions.unblock(tx, task_id, actor))

    def approve(self, task_id: str, reviewer: str, note: str | None = None) -> Task:
        """The reviewer agrees: completed. Raises `IllegalTransition` also for the agent who did it."""
        name = a_name(reviewer, "reviewer")
        return self._decide(lambda tx: transitions.approve(tx, task_id, name, a_text(note)))

    def reject(self, task_id: str, reviewer: str, note: str) -> Task:
        """The reviewer does not agree: pending again, the note goes to the next attempt. As `approve`."""
        name = a_name(reviewer, "reviewer")
        return self._decide(lambda tx: transitions.reject(tx, task_id, name, a_text(note) or ""))

    # -- agents -----------------------------------------------------------------------------------------------

    def register_agent(
        self,
        agent_id: str,
        capabilities: Iterable[str] | None = None,
        max_concurrency: int | None = None,
        *,
        task_types: Iterable[str] | None = None,
    ) -> Agent:
        """Register an agent, or change what is given here of one that is registered (None leaves it).

        Args:
            capabilities: what it can do; a task that requires more is not offered to it.
            max_concurrency: how many claims it may hold at once.
            task_types: the types that it has handlers for, for `explain`.
        """
        name = a_name(agent_id, "agent_id")
        a_count(max_concurrency, f"agent {name}: max_concurrency")

        def work(tx: Tx) -> Agent:
            registration.register(
                tx, name, capabilities=capabilities, max_concurrency=max_concurrency, task_types=task_types
            )
            return self._agent(tx, name)

        return self._database.write(work)

    def confirm_agent(self, agent_id: str, *, task_types: Iterable[str] | None = None) -> Agent:
        """Confirm an agent who begins a shift; kept in the history and logged. Raises `AgentNotConfirmed`."""
        name = a_name(agent_id, "agent_id")

        def work(tx: Tx) -> Agent:
            registration.confirm(tx, name, self.settings.registration, task_types)
            return self._agent(tx, name)

        return self._database.write(work)

    def agents(self) -> list[Agent]:
        """Every agent, with the number of claims that it holds now."""
        return self._database.read(queries.list_agents)

    def _agent(self, tx: Tx, agent_id: str) -> Agent:
        for agent in queries.list_agents(tx, agent_id):
            return agent
        raise AgentNotFound(agent_id)
