"""A board of sixty tasks that was really worked: by the service's shifts, an agent that was killed, and a single run.

For whoever wants to look at it, as the browser test does, which also makes the README's pictures.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from nexus import NewTask, RetryPolicy, TaskNexus

from ..deployments.live import ask
from .conftest import Place, wait_until

EPISODE: Final = "EP07"

LOST, RETRIED, DEAD, FOR_A_PERSON, ALONE = (f"EP07-T{number}" for number in (56, 57, 58, 59, 60))
"""What went otherwise than the fifty-five others: its agent was killed; it failed twice and then worked; it never will;
only the editor may do it, and nobody has seen him; it was executed by itself, with a retry."""

ONE, OTHER = AGENTS = ("Agent-1", "Agent-2")
"""They share the rest; as either may be the faster by far, each also has a task that is for it alone."""

SETTINGS: Final = {
    "NEXUS_COMMAND__ALLOWED_PROGRAMS": '["sh"]',
    "NEXUS_MONITORING__CHECK_INTERVAL_SECONDS": "15",
    "NEXUS_MONITORING__POLICIES": '[{"name": "editorial", "tags": ["editorial"], "pending_timeout_seconds": 1, '
    '"steps": ["notify", "escalate"]}]',
    "NEXUS_BOARD__INTERVAL_SECONDS": "86400",  # it is shown when all is done
}

SHIFT: Final = "from flows import process_agent_tasks as f; import asyncio; asyncio.run(f('Agent-3', lease_seconds=2))"
"""An agent outside of the service, so that it can be killed with all that belongs to it."""


def sh(number: int, script: str, what: str, **more: Any) -> NewTask:
    """A task that runs a line of shell."""
    return task(number, what, task_type="command", payload={"argv": ["sh", "-c", script]}, **more)


def task(number: int, what: str, **more: Any) -> NewTask:
    fields = {"task_id": f"EP07-T{number:02}", "task_type": "echo", "description": what, "payload": {"page": number}}
    soon = RetryPolicy(backoff_seconds=0.2, jitter=0)
    return NewTask(**{"episode_id": EPISODE, "retry_policy": soon, "tags": ["script"], **fields, **more})


def on_attempt(number: int, otherwise: str) -> str:
    """A script that works at this attempt, and says what is wrong before."""
    return f'[ "$NEXUS_ATTEMPT" -ge {number} ] && exit; {otherwise}'


def failing(said: str) -> str:
    return f'echo "{said}" >&2; exit 1'


THE_LOST: Final = sh(56, on_attempt(2, "exec sleep 600"), "Render the opening titles")
THE_OTHERS: Final = [
    *(task(number, f"Check the cues of page {number}") for number in range(1, 56)),
    sh(57, on_attempt(3, failing("the sound file is locked by the mixer")), "Mix scene 4", assigned_to=ONE),
    sh(58, failing("scene 9 was cut: there is nothing to draw"), "Draw the storyboard of scene 9", assigned_to=OTHER),
    task(59, "Approve the final cut", assigned_to="Editor", tags=["editorial"], priority="high"),
    sh(60, on_attempt(2, failing("the printer is out of paper")), "Print the script", assigned_to="Agent-4"),
]


class WorkedBoard(Place):
    """The service, its Prefect server, and what was worked."""

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    @property
    def ui(self) -> str:
        return f"http://127.0.0.1:{self.port}/v2"

    def work(self) -> None:
        """All of it, to its end."""
        self.env |= {"NEXUS_SERVICE__PORT": str(self.port), **SETTINGS}
        service = self.start("up")
        wait_until(lambda: "sweeping every" in service.err or service.process.poll() is not None, lambda: service.err)
        with self.nexus() as nexus:
            self._lose_an_attempt(nexus)
            nexus.add_tasks(THE_OTHERS)
            # A shift that has seen its episode to the end, or to where only others can go on.
            shared = {"episode_id": EPISODE, "mode": "wait", "beside": [*AGENTS]}
            shifts = [self.run_of("process-agent-tasks", agent_id=agent, **shared) for agent in AGENTS]
            alone = self.run_of("execute-task", task_id=ALONE, agent_id="Agent-4")
            refused = self.run_of("execute-task", task_id=FOR_A_PERSON, agent_id="Agent-5")
            for run in (*shifts, alone, refused):
                self.ended(run)
            wait_until(lambda: nexus.overview().open_stalls, lambda: str(nexus.stats()))
            self.ended(self.run_of("show-board"))

    def _lose_an_attempt(self, nexus: TaskNexus) -> None:
        """An agent dies in the middle of its work; the service's sweep notices and tells Prefect."""
        nexus.add_task(THE_LOST)
        env = {**self.env, "PREFECT_API_URL": self.api, "NEXUS_HOME": str(self.home)}
        agent = subprocess.Popen([sys.executable, "-c", SHIFT], env=env, cwd=self.directory, start_new_session=True)
        try:
            # Prefect hears of an attempt a moment after it began; of one that nobody told it of it has nothing to show.
            wait_until(lambda: self.attempts(LOST), lambda: f"{nexus.stats()}, {agent.poll()}")
        finally:
            os.killpg(agent.pid, signal.SIGKILL)
            agent.wait()
        wait_until(lambda: "CRASHED" in self.states("Agent-3 · shift"), lambda: str(self.states("Agent-3 · shift")))

    def run_of(self, flow: str, **parameters: Any) -> str:
        """Starts a deployment as the UI's form does; the id of the run."""
        deployment = ask(self.api, f"/deployments/name/{flow}/nexus")["id"]
        return str(ask(self.api, f"/deployments/{deployment}/create_flow_run", {"parameters": parameters})["id"])

    def ended(self, run: str) -> None:
        """Waits for it."""
        final = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
        wait_until(lambda: self.flow_run(run)["state_type"] in final, lambda: str(self.flow_run(run)["state"]))

    def flow_run(self, run: str) -> Any:
        return ask(self.api, f"/flow_runs/{run}")

    def artifact(self, key: str) -> str:
        """The path of an artifact's page."""
        [found] = ask(self.api, "/artifacts/latest/filter", {"artifacts": {"key": {"any_": [key]}}})
        return f"/artifacts/artifact/{found['latest_id']}"

    def attempts(self, task_id: str) -> dict[str, Any]:
        """The task runs of a task, by name."""
        found = ask(self.api, "/task_runs/filter", {"task_runs": {"name": {"like_": task_id}}})
        return {run["name"]: run for run in found}

    def states(self, name: str) -> list[str]:
        """Of the flow runs of this name."""
        return [run["state_type"] for run in self.named(name)]

    def named(self, name: str) -> list[Any]:
        """The flow runs of this name."""
        found: list[Any] = ask(self.api, "/flow_runs/filter", {"flow_runs": {"name": {"any_": [name]}}})
        return found


@contextmanager
def worked_board(directory: Path) -> Iterator[WorkedBoard]:
    """A board that was worked in this directory; its server runs for the time of the block."""
    place = WorkedBoard(directory)
    try:
        place.work()
        yield place
    finally:
        place.close()
