"""The verbs that only look."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from nexus import explaining, outlook, queries, survey, watch
from nexus.arguments import a_count, a_window, statuses
from nexus.engine import Tx
from nexus.facade.base import OpenBoard
from nexus.overview import Overview
from nexus.rows import to_task
from nexus.schemas import Attempt, HistoryEvent, Reason, Task
from nexus.states import TaskStatus


class Looking(OpenBoard):
    """What stands on the board."""

    def get_task_by_id(self, task_id: str) -> Task | None:
        """The task as it stands, or None."""
        row = self._database.read(lambda tx: queries.task_row(tx, task_id))
        return None if row is None else to_task(row)

    def get_all_tasks(
        self,
        status: TaskStatus | str | Sequence[TaskStatus | str] | None = None,
        *,
        task_type: str | None = None,
        tag: str | None = None,
        agent_id: str | None = None,
        episode_id: str | None = None,
        after: str | None = None,
        limit: int | None = None,
    ) -> list[Task]:
        """Tasks in order of arrival, filtered; `after` is the task id at which the page before ended.

        `agent_id` means held or assigned. Raises `InvalidTask` for a status that does not exist, `TaskNotFound`
        for an `after` that does not: an empty page would say that the listing is over.
        """
        wanted = statuses(status)
        a_count(limit, "limit", least=0)

        def work(tx: Tx) -> list[Task]:
            if after is not None:
                self._task(tx, after)
            return queries.list_tasks(
                tx,
                statuses=wanted,
                task_type=task_type,
                tag=tag,
                agent_id=agent_id,
                episode_id=episode_id,
                after=after,
                limit=limit,
            )

        return self._database.read(work)

    def get_pending_tasks(self, limit: int | None = None) -> list[Task]:
        """What could be claimed now, in the order of claims; assignment and capabilities are not looked at."""
        a_count(limit, "limit", least=0)
        return self._database.read(lambda tx: queries.list_tasks(tx, claimable=True, limit=limit))

    def get_tasks_by_agent(self, agent_id: str) -> list[Task]:
        """What the agent holds, held when it ended, or is assigned."""
        return self.get_all_tasks(agent_id=agent_id)

    def stats(self, episode_id: str | None = None) -> Counter[str]:
        """How many tasks there are in each status (absent: none)."""
        return self._database.read(lambda tx: queries.counts(tx, episode_id))

    def overview(self, window_seconds: float = 3600) -> Overview:
        """The board at a glance: what waits, who works, what is stuck, and what came of the last `window_seconds`.

        Costs what waits, what is held and what ended in the window; of the finished tasks only the counts are read.
        Raises `InvalidTask` for a window that is none (0, or more than a year).
        """
        window = a_window(window_seconds)
        return self._database.read(lambda tx: survey.overview(tx, window))

    def attempts(self, task_id: str) -> list[Attempt]:
        """Every attempt at a task, first to last. Raises `TaskNotFound`."""
        return self._of_task(task_id, queries.attempts_of)

    def attempts_by_task(self, task_ids: Iterable[str]) -> dict[str, list[Attempt]]:
        """The attempts at many tasks in one query; tasks without any are absent."""
        wanted = list(task_ids)
        return self._database.read(lambda tx: queries.attempts_by_task(tx, wanted))

    def history(self, task_id: str) -> list[HistoryEvent]:
        """Every move of a task, first to last: what, who, when and why. Raises `TaskNotFound`."""
        return self._of_task(task_id, queries.history_of)

    def results(self, task_ids: Iterable[str]) -> dict[str, Any]:
        """The results of these tasks, by id."""
        wanted = list(task_ids)
        return self._database.read(lambda tx: queries.results_of(tx, wanted))

    def explain(self, task_id: str, agent_id: str | None = None) -> list[Reason]:
        """Why it is not running: each clause that keeps it from being claimed, by anybody or by one agent.

        An empty list means that it can be claimed now. Raises `TaskNotFound`.
        """
        return self._database.read(lambda tx: explaining.explain(tx, task_id, self._terms(), agent_id=agent_id))

    def stuck(
        self, agents: Iterable[str], task_types: Iterable[str], *, episode_id: str | None = None
    ) -> tuple[int, dict[str, str]]:
        """How many tasks are open, and which of them none of these `agents` can bring to an end, with why.

        `task_types` is what the agents have handlers for.
        """
        at_work, handled = set(agents), list(task_types)

        def work(tx: Tx) -> tuple[int, dict[str, str]]:
            rows = queries.open_work(tx, episode_id)
            targets = {target for row in rows for target in row.depends_on}
            status_of = queries.statuses_of(tx, sorted(targets))
            paused = [pause.task_type for pause in watch.list_pauses(tx)]
            workers = [agent for agent in queries.list_agents(tx) if agent.agent_id in at_work]
            return len(rows), outlook.stuck(rows, status_of, workers, handled, paused)

        return self._database.read(work)
