"""A secret that a handler lets slip does not get into the nexus, the log, or the error that Prefect shows."""

import logging
from typing import Any

import pytest

from flows.finished import Finished
from flows.handlers import TaskContext
from flows.runner import run_attempt
from nexus import Task, TaskNexus
from nexus.masking import MASK

from .conftest import Handles, claimed

SECRET = "tr0ub4dor-and-3"


async def worked(nexus: TaskNexus, handles: Handles, handler: Any, **fields: Any) -> Finished:
    """One attempt at a task whose payload has a secret."""
    handles("summarise", handler)
    return await run_attempt(nexus, claimed(nexus, payload={"headers": {"Authorization": SECRET}}, **fields))


def everything(nexus: TaskNexus) -> str:
    """All that the nexus keeps of the task, but for its payload."""
    task = nexus.get_task_by_id("EP07-T3")
    assert task is not None
    known = [task.model_copy(update={"payload": {}}), *nexus.attempts(task.task_id), *nexus.history(task.task_id)]
    return "\n".join(one.model_dump_json() for one in known)


async def test_a_result_is_kept_without_it(nexus: TaskNexus, handles: Handles) -> None:
    def echo(task: Task, context: TaskContext) -> dict[str, Any]:
        assert task.payload["headers"]["Authorization"] == SECRET, "the handler itself sees it"
        return {"said": f"I sent {SECRET}", "api_key": "k", "tokens": 12}

    await worked(nexus, handles, echo)
    [kept] = nexus.get_all_tasks()
    assert kept.result == {"said": f"I sent {MASK}", "api_key": MASK, "tokens": 12}
    assert SECRET not in everything(nexus)


async def test_an_error_its_causes_and_its_note_are_told_without_it(nexus: TaskNexus, handles: Handles) -> None:
    def fail(task: Task, context: TaskContext) -> None:
        context.note(f"trying {SECRET}")
        try:
            raise OSError(f"refused {SECRET}")
        except OSError as error:
            raise ValueError(f"cannot log in with password={SECRET}") from error

    done = await worked(nexus, handles, fail)
    [kept] = nexus.get_all_tasks()
    assert kept.error == f"ValueError: cannot log in with password={MASK}"
    assert str(done.error) == kept.error
    assert done.error is not None
    assert done.error.__cause__ is done.error.__context__ is None
    assert f"trying {MASK}" in everything(nexus)
    assert SECRET not in everything(nexus)


async def test_a_secret_in_a_cause_alone_is_not_shown_either(nexus: TaskNexus, handles: Handles) -> None:
    def fail(task: Task, context: TaskContext) -> None:
        try:
            raise OSError(SECRET)
        except OSError as error:
            raise ValueError("cannot log in") from error

    done = await worked(nexus, handles, fail)
    assert str(done.error) == "ValueError: cannot log in"
    assert done.error is not None
    assert done.error.__cause__ is None


async def test_an_error_without_a_secret_stays_the_very_same(nexus: TaskNexus, handles: Handles) -> None:
    error = KeyError("chapter")

    def fail(task: Task, context: TaskContext) -> None:
        raise error

    assert (await worked(nexus, handles, fail)).error is error


async def test_a_late_result_is_kept_without_it(nexus: TaskNexus, handles: Handles) -> None:
    async def slow(task: Task, context: TaskContext) -> str:
        nexus.sweep()
        nexus.block(task.task_id, "stop")
        return f"half of it, with {SECRET}"

    await worked(nexus, handles, slow)
    assert SECRET not in everything(nexus)


async def test_the_log_is_written_without_it(
    nexus: TaskNexus, handles: Handles, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    def talk(task: Task, context: TaskContext) -> None:
        log = context.logger
        log.info("sending %s", task.payload["headers"]["Authorization"])
        log.info("sending %(what)s", {"what": SECRET})
        log.info(f"{SECRET} 100%")
        log.info("wrong %d", SECRET)
        log.debug("token: abcdefgh")
        try:
            raise OSError(SECRET)
        except OSError:
            log.exception("it failed")

    await worked(nexus, handles, talk)
    assert SECRET not in caplog.text
    assert "abcdefgh" not in caplog.text
    assert f"sending {MASK}" in caplog.text
    assert f"{MASK} 100%" in caplog.text
    assert f"OSError: {MASK}" in caplog.text
    assert {record.filename for record in caplog.records if "sending" in record.message} == {"test_secrets.py"}


async def test_what_is_off_is_off(make_nexus: Any, handles: Handles) -> None:
    nexus = make_nexus(secrets={"enabled": False})
    await worked(nexus, handles, lambda task, context: f"password={SECRET}")
    assert nexus.get_all_tasks()[0].result == f"password={SECRET}"
