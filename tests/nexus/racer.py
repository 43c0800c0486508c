"""One agent in a process of its own, for `test_races.py`: opens the board, says so, waits for the start, races.

    python racer.py ROLE URL NAME [ARGUMENT ...]

It prints `ready`, waits for a line on stdin, does what its role says, and prints what came of it as JSON.
Not a test itself.
"""

import json
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from nexus import NexusSettings, Retention, TaskMonitoringConfig, TaskNexus
from nexus.errors import InvalidTask, NexusError


def say(line: str) -> None:
    """A line for whoever started us."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def work_off(nexus: TaskNexus, name: str, batch: str) -> list[str]:
    """Claim, start and complete until nothing is left."""
    done = []
    while claims := nexus.claim(name, int(batch)):
        for claim in claims:
            nexus.start(claim)
            nexus.complete(claim, name)
            done.append(claim.task_id)
    return done


def sweep(nexus: TaskNexus, name: str, strategy: str) -> list[str]:
    """Sweep a dozen times, a little each time."""
    found: list[str] = []
    config = TaskMonitoringConfig(escalation_strategy=strategy, pending_timeout_seconds=0.000_001, max_per_sweep=10)
    for _ in range(12):
        found += [item.task_id for item in nexus.sweep(config).items]
    return found


def add(nexus: TaskNexus, name: str, keys: str) -> list[str]:
    """Add a task for each key; the ids that came back."""
    return [nexus.add_task({"idempotency_key": f"key-{number}"}).task_id for number in range(int(keys))]


def claim_much(nexus: TaskNexus, name: str, wanted: str) -> list[str]:
    """Claim in the name of one agent that other processes use too; never give back."""
    return [claim.task_id for _ in range(5) for claim in nexus.claim("shared", int(wanted))]


def complete_targets(nexus: TaskNexus, name: str, count: str) -> list[str]:
    """Complete the targets, one after the other."""
    for number in range(int(count)):
        nexus.mark_task_in_progress(f"target-{number}", name)
        nexus.mark_task_completed(f"target-{number}")
    return []


def depend_on_targets(nexus: TaskNexus, name: str, count: str) -> list[str]:
    """Add tasks that depend on targets which somebody completes meanwhile."""
    return [nexus.add_task({"depends_on": [f"target-{number}"]}).task_id for number in range(int(count))]


def prune(nexus: TaskNexus, name: str, count: str) -> list[str]:
    """Forget whatever has ended, a little at a time, until so many tasks are gone on this side or nothing ends."""
    everything = {"days": 0}
    bounds = Retention.model_validate(
        {"completed": everything, "failed": everything, "cancelled": everything, "grace_seconds": 0, "batch_size": 20}
    )
    gone = idle = 0
    while gone < int(count) and idle < 40:
        report = nexus.prune(bounds)
        gone += report.tasks
        idle = 0 if report.tasks else idle + 1
        time.sleep(0.05)
    return [str(gone)]


def depend_on_what_goes(nexus: TaskNexus, name: str, count: str) -> list[str]:
    """Add tasks that depend on cancelled targets which somebody prunes meanwhile; the ids of those that were there."""
    added = []
    for number in reversed(range(int(count))):
        try:
            added.append(nexus.add_task({"depends_on": [f"target-{number}"]}).task_id)
        except InvalidTask as error:
            assert "does not exist" in str(error), error
    return added


def open_only(nexus: TaskNexus, name: str) -> list[str]:
    """Opening was the race."""
    return [nexus.add_task({}).task_id]


ROLES: dict[str, Callable[..., list[str]]] = {
    role.__name__: role
    for role in (
        *(work_off, sweep, add, claim_much, complete_targets, depend_on_targets),
        *(prune, depend_on_what_goes, open_only),
    )
}


def main() -> None:
    """Run one role."""
    role, url, name, *arguments = sys.argv[1:]
    settings = NexusSettings(sqlite_synchronous="NORMAL")
    early = None if role == "open_only" else TaskNexus(url, settings=settings)
    say("ready")
    sys.stdin.readline()
    answer: dict[str, Any] = {"name": name, "error": None, "ids": []}
    try:
        nexus = early or TaskNexus(url, settings=settings)
        answer["ids"] = ROLES[role](nexus, name, *arguments)
        nexus.close()
    except NexusError as error:
        answer["error"] = f"{type(error).__name__}: {error}"
    except Exception:
        answer["error"] = traceback.format_exc()
    say(json.dumps(answer))


if __name__ == "__main__":
    main()
