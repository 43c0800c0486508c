"""Many processes that do anything to the same tasks, for `test_every_verb.py`.

    python crowd.py URL PROCESSES SECONDS

Prints one JSON document: what was acknowledged (verb, task, how often), the refusals by type, and every error that is
none. The processes are forks of one, so that they begin at once. Not a test itself.
"""

import json
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from multiprocessing import get_context
from typing import Any

from nexus import Claim, NexusSettings, TaskMonitoringConfig, TaskNexus
from nexus.errors import ClaimLost, IllegalTransition, NotClaimable
from nexus.schemas import Failure
from nexus.states import TRANSITIONS, Verb

REFUSALS = (ClaimLost, IllegalTransition, NotClaimable)
"""What may happen to somebody who comes second."""

STRATEGIES = ("reassign", "escalate", "mark_stalled", "fail", "fail", "fail")


class Somebody:
    """Does one thing after the other, whatever is possible or not."""

    def __init__(self, nexus: TaskNexus, number: int) -> None:
        self.nexus = nexus
        self.name = f"Agent-{number}"
        self.nexus.register_agent(self.name)
        self.chance = random.Random(number)
        self.tasks = [f"T{number}" for number in range(50)]
        self.claims: dict[str, Claim] = {}
        self.done: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.errors: list[str] = []

    def live(self, seconds: float) -> None:
        """Do so for some time."""
        until = time.monotonic() + seconds
        verbs: list[Callable[[], None]] = [
            *(self.claim, self.claim, self.claim_any, self.start, self.start, self.start, self.heartbeat),
            *(self.complete, self.complete, self.fail, self.release, self.cancel, self.retry, self.retry),
            *(self.complete, self.block, self.unblock, self.approve, self.reject, self.sweep, self.stop_and_go),
        ]
        while time.monotonic() < until:
            try:
                self.chance.choice(verbs)()
            except REFUSALS as refusal:
                self.refused[type(refusal).__name__] += 1
            except Exception:
                self.errors.append(traceback.format_exc())
        self.nexus.close()

    def some(self, verb: str = "") -> str:
        """A task; mostly one to which `verb` could be done, as far as one can tell beforehand."""
        if verb and self.chance.random() < 0.7:
            there = self.nexus.get_all_tasks(sorted(TRANSITIONS[Verb(verb)].sources), limit=20)
            if fitting := [task.task_id for task in there if task.task_id in self.tasks]:
                return self.chance.choice(fitting)
        return self.chance.choice(self.tasks)

    def held(self, verb: str = "") -> Claim:
        """A claim of our own, live or lost; or the live one of whoever has it: two processes may speak for an agent."""
        task_id = self.some(verb)
        if task_id in self.claims and self.chance.random() < 0.7:
            return self.claims[task_id]
        return self.nexus.current_claim(task_id)

    def acknowledged(self, verb: str, what: str | Claim) -> None:
        """The board said that it was done: to a task, or under a claim."""
        self.done[f"{verb} {what.task_id} {what.claim_no}" if isinstance(what, Claim) else f"{verb} {what} -"] += 1

    def claim(self) -> None:
        claim = self.nexus.claim_task(self.some(), self.name, lease_seconds=self.chance.choice([0.02, 60]))
        self.claims[claim.task_id] = claim
        self.acknowledged("claim", claim)

    def claim_any(self) -> None:
        for claim in self.nexus.claim(self.name, 3, lease_seconds=self.chance.choice([0.02, 60])):
            self.claims[claim.task_id] = claim
            self.acknowledged("claim", claim)

    def start(self) -> None:
        claim = self.held("start")
        self.nexus.start(claim)
        self.acknowledged("start", claim)

    def heartbeat(self) -> None:
        self.nexus.heartbeat(self.held(), "still here")

    def complete(self) -> None:
        claim = self.held("complete")
        # No result twice: the same one under the same claim would be answered as the first time, and not be a deed.
        self.nexus.complete(claim, [self.name, claim.claim_no, self.chance.random()])
        self.acknowledged("complete", claim)

    def fail(self) -> None:
        claim = self.held("fail")
        self.nexus.fail(claim, Failure(message="no", error_type="", retryable=self.chance.random() < 0.5))
        self.acknowledged("fail", claim)

    def release(self) -> None:
        claim = self.held("release")
        self.nexus.release(claim, "lunch")
        self.acknowledged("release", claim)

    def cancel(self) -> None:
        self._decide("cancel", "no use")

    def retry(self) -> None:
        self._decide("retry")

    def block(self) -> None:
        self._decide("block", "wait")

    def unblock(self) -> None:
        self._decide("unblock")

    def approve(self) -> None:
        self._decide("approve", self.name)

    def reject(self) -> None:
        self._decide("reject", self.name, "once more")

    def _decide(self, verb: str, *words: Any) -> None:
        task_id = self.some(verb)
        getattr(self.nexus, verb)(task_id, *words)
        self.acknowledged(verb, task_id)

    def sweep(self) -> None:
        if self.chance.random() < 0.6:
            return
        strategy = self.chance.choice(STRATEGIES)
        config = TaskMonitoringConfig(
            escalation_strategy=strategy, pending_timeout_seconds=0.01, max_per_sweep=self.chance.choice([5, 50])
        )
        for item in self.nexus.sweep(config).items:
            self.acknowledged(f"sweep:{item.action}", item.task_id)

    def stop_and_go(self) -> None:
        if self.chance.random() < 0.1:
            self.nexus.pause("task")
            self.nexus.resume("task")


def run(nexus: TaskNexus, number: int, seconds: float, ready: Any, answers: Any) -> None:
    """One process of the crowd."""
    somebody = Somebody(nexus, number)
    ready.wait(60)
    somebody.live(seconds)
    answers.put((somebody.done, somebody.refused, somebody.errors))


def main() -> None:
    """All of them."""
    url, processes, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    nexus = TaskNexus(url, settings=NexusSettings(sqlite_synchronous="NORMAL"))
    # One goes ahead, so that not each of them has to put the statements together first.
    pioneer = Somebody(nexus, 0)
    pioneer.live(1.0)
    done, refused, errors = pioneer.done, pioneer.refused, pioneer.errors
    fork = get_context("fork")
    ready, answers = fork.Barrier(processes), fork.Queue()
    crowd = [
        fork.Process(target=run, args=(nexus, number, seconds, ready, answers)) for number in range(1, processes + 1)
    ]
    for one in crowd:
        one.start()
    for _ in crowd:
        its_done, its_refused, its_errors = answers.get(timeout=120)
        done += its_done
        refused += its_refused
        errors += its_errors
    for one in crowd:
        one.join()
    json.dump({"done": done, "refused": refused, "errors": errors}, sys.stdout)


if __name__ == "__main__":
    main()
