"""Agents that work outside, by hand: claim, start, heartbeat, complete, fail, release, with the claim's number."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from nexus import Attempt, Claim, Heartbeat, Task, TaskNexus, TaskStatus

from .conftest import Said

STOP = 4
"""The exit code that says: stop working on it."""

CLAIMS = TypeAdapter(list[Claim])


@pytest.fixture
def task(board: TaskNexus) -> str:
    """A pending task; its id."""
    board.add_task({"task_id": "T1", "description": "paint it", "task_type": "paint"})
    return "T1"


def test_the_whole_protocol(done: Callable[..., Said], board: TaskNexus, task: str) -> None:
    [claim] = CLAIMS.validate_python(done("claim", "--agent", "Ada", "--json").data)
    assert (claim.task_id, claim.agent_id, claim.claim_no, claim.task.status) == (task, "Ada", 1, "claimed")
    number = ("--claim-no", str(claim.claim_no))
    attempt = Attempt.model_validate(done("start", task, *number, "--run-ref", '{"pid": 7}', "--json").data)
    assert (attempt.number, attempt.agent_id, attempt.outcome, attempt.run_ref) == (1, "Ada", "running", {"pid": 7})
    beat = Heartbeat.model_validate(done("heartbeat", task, *number, "--note", "half", "--lease", "900", "--json").data)
    assert beat.lease_expires_at > claim.lease_expires_at
    assert not beat.cancel_requested
    assert board.attempts(task)[0].note == "half"
    ended = Task.model_validate(done("complete", task, *number, "--result", '{"colour": "red"}', "--json").data)
    assert (ended.status, ended.result, ended.claimed_by) == ("completed", {"colour": "red"}, "Ada")
    assert ended == board.get_task_by_id(task)


def test_the_whole_protocol_for_people(done: Callable[..., Said], board: TaskNexus, task: str) -> None:
    said = done("claim", "--agent", "Ada")
    assert said.out.startswith("T1  claim 1, held until 20")
    assert said.out.endswith(" UTC\n  paint: paint it\n")
    assert done("start", task, "--agent", "Ada").line == "T1: attempt 1 has begun."
    assert done("heartbeat", task, "--agent", "Ada").line.startswith("T1: held until ")
    assert done("complete", task, "--agent", "Ada").line == "T1: completed."
    assert board.get_task_by_id(task).result is None


def test_the_agent_can_come_from_the_environment(done: Callable[..., Said], board: TaskNexus, task: str) -> None:
    for words in (["claim"], ["start", task], ["heartbeat", task], ["complete", task, "-r", "1"]):
        done(*words, NEXUS_AGENT="Ada")
    assert board.get_task_by_id(task).claimed_by == "Ada"


@pytest.mark.parametrize("given", ["-", "@result.json", '"done"'])
def test_a_result_from_elsewhere(done: Callable[..., Said], board: TaskNexus, task: str, given: str) -> None:
    Path("result.json").write_text('"done"')
    done("claim", task, "-a", "Ada")
    done("start", task, "-a", "Ada")
    done("complete", task, "-a", "Ada", "-r", given, stdin='"done"')
    assert board.get_task_by_id(task).result == "done"


@pytest.mark.parametrize("result", ["done", "{bad", "", "@missing", "@."])
def test_a_result_that_is_no_json_leaves_the_claim_as_it_is(
    refused: Callable[..., str], done: Callable[..., Said], board: TaskNexus, task: str, result: str
) -> None:
    done("claim", "-a", "Ada")
    done("start", task, "-a", "Ada")
    assert "--result" in refused("complete", task, "-a", "Ada", "-r", result, code=2)
    assert "holds nan" in refused("complete", task, "-a", "Ada", "-r", "NaN")
    assert board.get_task_by_id(task).status == TaskStatus.IN_PROGRESS
    assert "run_ref holds nan" in refused("start", task, "-a", "Ada", "--run-ref", "NaN")


def test_nothing_to_claim_is_exit_code_3(command: Callable[..., Said], board: TaskNexus, task: str) -> None:
    for words in (["--type", "sing"], ["--tag", "x"], ["--episode", "E"]):
        said = command("claim", "--agent", "Ada", *words)
        assert (said.code, said.out, said.line) == (3, "", "Nothing to claim now.")
    board.cancel(task)
    said = command("claim", "--agent", "Ada", "--json")
    assert (said.code, said.data, said.line) == (3, [], "Nothing to claim now.")


def test_claims_are_filtered_and_many(done: Callable[..., Said], board: TaskNexus) -> None:
    board.add_tasks(
        [
            {"task_id": "A", "task_type": "x", "priority": "low", "episode_id": "E"},
            {"task_id": "B", "task_type": "x", "priority": "high", "episode_id": "E"},
            {"task_id": "C", "task_type": "y", "tags": ["t"]},
        ]
    )

    def ids(*words: str) -> list[str]:
        return [one.task_id for one in CLAIMS.validate_python(done("claim", "-a", "Ada", *words, "--json").data)]

    assert ids("--tag", "t") == ["C"]
    assert ids("--type", "x", "--episode", "E", "--limit", "5") == ["B", "A"]


def test_what_somebody_else_holds_is_refused(
    refused: Callable[..., str], done: Callable[..., Said], board: TaskNexus, task: str
) -> None:
    done("claim", task, "--agent", "Ada")
    assert "Ada holds it" in refused("claim", task, "--agent", "Bo")
    for words in (["start"], ["heartbeat"], ["complete"], ["fail", "--error", "x"], ["release"]):
        assert refused(*words, task, "--agent", "Bo", code=STOP) == (
            "The claim on task 'T1' is lost: Ada holds it, and Bo has no claim. Stop working on it."
        )
    assert [event.verb for event in board.history(task)] == ["add", "claim"]


def test_a_late_worker_is_refused_and_its_result_kept(
    refused: Callable[..., str], done: Callable[..., Said], board: TaskNexus, task: str
) -> None:
    done("claim", "--agent", "Ada", "--lease", "0.001")
    done("start", task, "--claim-no", "1")
    assert "offered again" in done("sweep").out
    done("claim", "--agent", "Bo")
    done("start", task, "--claim-no", "2")
    says = "Claim 1 on task 'T1' is lost: Bo holds claim 2. Stop working on it."
    assert refused("heartbeat", task, "--claim-no", "1", code=STOP) == says
    assert refused("complete", task, "--claim-no", "1", "--result", '{"late": true}', code=STOP) == says
    assert refused("fail", task, "--claim-no", "1", "--error", "x", code=STOP) == says
    assert refused("release", task, "--claim-no", "1", code=STOP) == says
    done("complete", task, "--claim-no", "2", "--result", '{"late": false}')
    attempts = done("show", task, "--json").data["attempts"]
    assert [(one["outcome"], one["result"], one["late_result"]) for one in attempts] == [
        ("lost", None, {"late": True}),
        ("completed", {"late": False}, None),
    ]
    assert "a result came too late and is kept" in done("show", task).out, "a person sees that there is one"


def test_moves_that_the_table_does_not_allow(
    refused: Callable[..., str], done: Callable[..., Said], board: TaskNexus, task: str
) -> None:
    done("claim", task, "-a", "Ada")
    for verb in (["complete"], ["fail", "-e", "x"]):
        assert "it is claimed. From claimed it can: start" in refused(*verb, task, "-c", "1")
    done("start", task, "-c", "1")
    assert "it is in_progress" in refused("start", task, "-c", "1")
    done("complete", task, "-c", "1")
    for verb in (["start"], ["complete", "-r", "1"], ["fail", "-e", "x"], ["release"]):
        for whose in (["-c", "1"], ["-a", "Ada"]):
            assert "it is completed. completed is final." in refused(*verb, task, *whose)
    assert "the task is completed" in refused("heartbeat", task, "-c", "1", code=STOP)


@pytest.mark.parametrize("whose", [["-c", "1"], ["-a", "Ada"]])
def test_an_agent_that_lost_the_answer_completes_again(done: Callable[..., Said], task: str, whose: list[str]) -> None:
    done("claim", task, "-a", "Ada")
    done("start", task, *whose)
    first = done("complete", task, *whose, "-r", '{"pages": 12}', "--json")
    assert done("complete", task, *whose, "-r", '{"pages": 12}', "--json") == first


def test_by_name_too_an_agent_hears_that_it_is_to_stop(
    command: Callable[..., Said], refused: Callable[..., str], done: Callable[..., Said], board: TaskNexus, task: str
) -> None:
    done("claim", task, "-a", "Ada", "--lease", "0.001")
    done("sweep")
    assert "nobody holds it, the task is pending" in refused("heartbeat", task, "-a", "Ada", code=STOP)
    done("claim", task, "-a", "Ada")
    board.cancel(task)
    assert command("heartbeat", task, "-a", "Ada").code == STOP


def test_fail_says_what_becomes_of_it(done: Callable[..., Said], board: TaskNexus, task: str) -> None:
    def begin() -> tuple[str, str]:
        number = str(board.claim_task(task, "Ada").claim_no)
        done("start", task, "-c", number)
        return "-c", number

    assert done("fail", task, *begin(), "--error", "no paint", "--retry-after", "0").line.startswith(
        "T1: pending, again from 20"
    )
    assert done("fail", task, *begin(), "--error", "no paint", "--give-up").line == "T1: failed, a dead letter."
    assert [one.error for one in board.attempts(task)] == ["no paint", "no paint"]


@pytest.mark.parametrize("seconds", ["-1", "nan", "inf", "1e300", "2592001"])
def test_a_delay_beyond_reason(
    refused: Callable[..., str], done: Callable[..., Said], board: TaskNexus, task: str, seconds: str
) -> None:
    done("claim", "-a", "Ada")
    done("start", task, "-a", "Ada")
    assert "--retry-after" in refused("fail", task, "-a", "Ada", "-e", "x", "--retry-after", seconds, code=2)
    assert board.get_task_by_id(task).status == TaskStatus.IN_PROGRESS
    done("fail", task, "-a", "Ada", "-e", "x", "--retry-after", "2592000")


def test_release_hands_back(done: Callable[..., Said], board: TaskNexus, task: str) -> None:
    done("claim", "-a", "Ada")
    assert done("release", task, "-a", "Ada", "--reason", "lunch").line == "T1: handed back."
    assert board.attempts(task) == []
    assert board.history(task)[-1].reason == "lunch"


def test_a_cancelled_task_is_learnt_of_at_the_heartbeat(
    command: Callable[..., Said], done: Callable[..., Said], task: str
) -> None:
    done("claim", "-a", "Ada")
    done("start", task, "-a", "Ada")
    done("cancel", task, "--reason", "not wanted", "--by", "Eve")
    said = command("heartbeat", task, "--claim-no", "1")
    assert (said.code, said.line) == (STOP, "T1 was cancelled: stop working on it.")
    said = command("heartbeat", task, "--claim-no", "1", "--json")
    assert (said.code, said.data["cancel_requested"]) == (STOP, True)
    assert json.loads(said.line)["error"]["code"] == "Cancelled"


def test_closed_registration(
    refused: Callable[..., str], done: Callable[..., Said], board: TaskNexus, task: str
) -> None:
    closed = {"NEXUS_REGISTRATION": "closed"}
    says = "Agent 'Zoe' is not confirmed and registration is closed; an operator can run `nexus agents register Zoe`."
    assert refused("claim", "--agent", "Zoe", **closed) == says
    assert refused("claim", task, "--agent", "Zoe", **closed) == says
    assert board.agents() == []
    assert board.get_task_by_id(task).claim_no == 0
    done("agents", "register", "Zoe", **closed)
    done("claim", "--agent", "Zoe", **closed)


def test_an_agent_takes_no_more_than_it_may(
    command: Callable[..., Said], done: Callable[..., Said], board: TaskNexus
) -> None:
    board.add_tasks([{"task_id": "A"}, {"task_id": "B"}])
    done("agents", "register", "Ada", "--max-concurrency", "1")
    assert len(done("claim", "-a", "Ada", "-n", "5", "--json").data) == 1
    assert command("claim", "-a", "Ada").code == 3


def test_what_is_secret_in_the_payload_is_masked_in_what_the_agent_says(
    done: Callable[..., Said], board: TaskNexus
) -> None:
    board.add_task({"task_id": "T1", "payload": {"api_key": "hunter2hunter2"}})
    done("claim", "T1", "-a", "Ada")
    done("release", "T1", "-a", "Ada", "--reason", "hunter2hunter2 is refused")
    done("claim", "T1", "-a", "Ada")
    done("start", "T1", "-a", "Ada")
    done("heartbeat", "T1", "-a", "Ada", "--note", "trying hunter2hunter2")
    assert board.attempts("T1")[0].note == "trying ***"
    done("fail", "T1", "-a", "Ada", "--error", "no luck with hunter2hunter2", "--retry-after", "0")
    done("claim", "T1", "-a", "Ada")
    done("start", "T1", "-a", "Ada")
    done("complete", "T1", "-a", "Ada", "--result", '{"said": "it took hunter2hunter2"}')
    assert board.get_task_by_id("T1").result == {"said": "it took ***"}
    told = str([one.model_dump() for one in (*board.attempts("T1"), *board.history("T1"))])
    assert "hunter2" not in told
    assert told.count("***") >= 4


def test_by_name_a_late_result_is_kept_too_and_nobody_is_told_somebody_elses_number(
    command: Callable[..., Said], done: Callable[..., Said], board: TaskNexus, task: str
) -> None:
    done("claim", task, "-a", "Ada")
    done("start", task, "-a", "Ada")
    board.lose(board.current_claim(task), "its machine is gone")
    done("claim", task, "-a", "Bo")
    done("start", task, "-a", "Bo")

    said = command("complete", task, "-a", "Ada", "--result", "1", "--json")
    assert said.code == STOP
    assert json.loads(said.line)["error"]["claim_no"] == 1, "its own, not Bo's"
    assert board.attempts(task)[0].late_result == 1

    done("complete", task, "-a", "Bo")
    for verb in ("heartbeat", "complete"):
        said = command(verb, task, "-a", "Ada", "--json")
        assert (said.code, json.loads(said.line)["error"]["code"]) == (STOP, "ClaimLost")
    said = command("heartbeat", task, "-a", "Zoe", "--json")
    assert (said.code, json.loads(said.line)["error"]["claim_no"]) == (STOP, None)
