"""The connections of a process are many, not endless."""

from contextlib import ExitStack

import pytest

from nexus import TaskNexus
from nexus.errors import DatabaseUnavailable


def test_when_all_are_in_use_it_says_so_and_what_to_do(nexus: TaskNexus) -> None:
    nexus.add_task({"task_id": "T"})
    pool = nexus._database.engine.pool
    pool._timeout = 0.1  # type: ignore[attr-defined]  # half a minute otherwise
    with ExitStack() as busy:
        for _ in range(15):
            busy.enter_context(nexus._database.engine.connect())
        for verb in (nexus.stats, lambda: nexus.cancel("T")):
            with pytest.raises(DatabaseUnavailable, match=r"all 15 connections .* fewer threads") as told:
                verb()
            assert "\n" not in str(told.value)
            assert "not known" not in str(told.value)
    assert nexus.stats() == {"pending": 1}


def test_what_was_said_to_be_claimed_is_kept_whatever_became_of_the_connection(nexus: TaskNexus) -> None:
    """SQLAlchemy takes a connection out of the mode it was made in, where somebody asked for another meanwhile."""
    nexus.add_tasks([{"task_id": f"T-{number}"} for number in range(3)])
    with nexus._database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
    [first] = nexus.claim("Ada")
    nexus.start(first)
    nexus.complete(first, "done")
    nexus.claim("Ada", 2, start=True)
    assert nexus.stats() == {"completed": 1, "in_progress": 2}
