"""The real boards of a fleet: none brings a traceback, none loses a record, every raw word maps as proposed.

They lie beside the checkout (`../shared/boards`, or the folder that NEXUS_TEST_BOARDS names) and are not part of it.
"""

import functools
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from nexus.boards import Board, read_board, read_documents
from nexus.boards.shapes import Found, find_records
from nexus.boards.times import AbsurdTime, instant_of
from nexus.boards.vocabulary import PRIORITIES, agent_of, fold
from nexus.errors import BoardUnreadable

FOLDER = Path(os.environ.get("NEXUS_TEST_BOARDS") or Path(__file__).parents[4] / "shared" / "boards")
pytestmark = pytest.mark.skipif(not (FOLDER / "mapping.md").is_file(), reason=f"the fleet's boards are not at {FOLDER}")

OTHER_COUNTS = {
    "ad.contracts.contract_pool.json": (33, "3 contracts stand a second time, in short, under next_contracts"),
    "ad.data.refactoring_tasks.v1.json": (
        11,
        "a phase stands twice in one object; the 5 tasks of the first are kept too",
    ),
    "ad.ws.Agent-2.working_tasks.v1.json": (5, "previous_task stands twice in one object; both are kept"),
    "vo.runtime.task_board.v1.json": (11, "the tasks of one agent's current_task and task_history count too"),
    "vo.runtime.task_board.v2.json": (11, "the tasks of one agent's current_task and task_history count too"),
}
"""Where we find more than the table of the boards' own README counts, and why."""

UNREADABLE = {
    "ad.CAPTAIN_5_CONTRACT_TRACKING.json",
    "ad.logs.contract_statuses.v1.json",
    "ad.persistent_data.backups.mission_001_1755610796.json",
    "ad.ws.meeting.meeting.v6.json",
    "dd.test_fortress.failure_templates.invalid_task.json",
    "sw.docs.devlogs.2025-06-05-duplication-tasks.yaml",
    "vo.coord.shmbox.completed_tasks.json",
    "vo.coord.tasks.task_list.v1.json",
    "vo.dup.task_POST-RESTRUCTURE-CI-008.yaml",
}
"""Cut off, overwritten or empty; the README counts no record in any of them."""

NOT_TASKS = {"TEMPLATE", "operational"}
PAUSED = "paused"  # we have no pause: blocked, with the raw word as the reason


def files() -> list[Path]:
    return sorted(path for path in FOLDER.glob("*") if path.suffix in (".json", ".yaml"))


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table after a heading of mapping.md."""
    section = (FOLDER / "mapping.md").read_text(encoding="utf-8").split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[1:]]


def counted() -> dict[str, int]:
    lines = (FOLDER / "README.md").read_text(encoding="utf-8").splitlines()
    found = (re.match(r"\| `([^`]+)` \| .*? \| [\w-]+ \| (\d+)\*? \|", line) for line in lines)
    return {match[1]: int(match[2]) for match in found if match}


@functools.cache
def board(path: Path) -> Board | None:
    try:
        return read_board(path)
    except BoardUnreadable:
        return None


def look(path: Path) -> list[Found]:
    return [find_records(document, path.name, path.stem) for document in read_documents(path)]


def test_only_files_that_are_broken_beyond_repair_are_refused_and_in_one_line():
    refused = {}
    for path in files():
        try:
            read_board(path)
        except BoardUnreadable as error:
            refused[path.name] = str(error)
    assert set(refused) == UNREADABLE
    assert all("\n" not in line and len(line) < 300 for line in refused.values())


def test_every_record_that_the_readme_counts_is_found():
    expected = counted()
    assert len(expected) == len(files())
    for path in files():
        if path.name in UNREADABLE:
            assert expected[path.name] == 0
            continue
        found = sum(len(part.records) for part in look(path))
        assert found == OTHER_COUNTS.get(path.name, (expected[path.name], ""))[0], path.name


def test_every_record_is_a_task_a_duplicate_or_a_reject_with_a_reason():
    for path in files():
        read = board(path)
        if read is not None:
            parts = look(path)
            total = sum(len(part.records) + len(part.strays) for part in parts)
            assert len(read.tasks) + len(read.rejects) + read.duplicates == total
            assert total or any("no task records" in warning for warning in read.warnings), path.name


def test_a_record_is_rejected_only_for_its_id_or_for_being_no_task():
    reasons = [reject.reason for path in files() if (read := board(path)) for reject in read.rejects]
    known = ("its id stands already in", "is no task", "its id is the unfilled placeholder")
    assert not [reason for reason in reasons if not reason.startswith(known)]


def test_the_whole_folder_is_read_in_one_import():
    read = read_board(FOLDER)
    assert {Path(reject.file).name for reject in read.rejects if not reject.location} >= UNREADABLE
    assert len({task.task_id for task in read.tasks}) == len(read.tasks) > 1000
    assert read == read_board(FOLDER)


def words_of(value: Any) -> set[str]:
    """Every text and number in a raw value."""
    if isinstance(value, dict):
        return set(value) | {word for part in value.values() for word in words_of(part)}
    if isinstance(value, list):
        return {word for part in value for word in words_of(part)}
    return set() if value is None or value == "" else {str(value).strip()}


def in_other_words(word: str) -> set[Any]:
    """The shapes in which a value may stand after mapping: as it was, folded, as a priority, as a moment."""
    forms: set[Any] = {word, fold(word), str(PRIORITIES.get(fold(word), word))}
    try:
        return forms | {instant_of(word) or word}
    except AbsurdTime:
        return forms


def test_no_value_of_any_record_is_lost():
    by_place = {}
    for path in files():
        if read := board(path):
            by_place |= {(path.name, task.source.location): task for task in read.tasks}
    checked = 0
    for path in files():
        for part in look(path) if board(path) else []:
            for record in part.records:
                task = by_place.get((path.name, record.source.location))
                if task is None:
                    continue
                kept = set().union(*map(in_other_words, words_of(json.loads(task.model_dump_json()))))
                for word in set().union(*map(words_of, record.value.values())):
                    assert not kept.isdisjoint(in_other_words(word)), (path.name, record.source.location, word)
                    checked += 1
    assert checked > 10_000


@pytest.fixture
def one(read):
    def run(**record: Any) -> Any:
        result = read([{"task_id": "t", "description": "d"} | record])
        return (*result.tasks, *result.rejects)[0]

    return run


def test_every_raw_status_maps_as_proposed(one):
    table = rows("Status")
    assert len(table) > 70
    for raw, _, _, proposed, *_ in table:
        word = None if "<absent" in raw else raw.strip("`")
        result = one(status=word, assigned_to="Agent-1")
        if word in NOT_TASKS:
            assert proposed == "do not import"
            assert "status says" in result.reason
        elif proposed == PAUSED:
            assert (result.status, result.state.reason, result.new.extra["raw_status"]) == ("blocked", word, word)
        else:
            assert result.status == proposed, word
            assert word is None or fold(word) == proposed or result.new.extra["raw_status"] == word


def test_every_raw_priority_maps_as_proposed(one):
    table = rows("Priority")
    assert len(table) > 30
    for raw, _, _, proposed, *_ in table:
        bare = raw.strip("`")
        value: Any = None if "<absent" in raw else int(bare.split()[0]) if "(number)" in bare else bare
        assert one(priority=value, params={}).new.priority == int(proposed), raw


def test_every_form_of_time_maps_as_proposed(one):
    table = rows("Time stamps")
    assert len(table) == 15
    for form, _, proposed, _, examples in table:
        for example in re.findall(r"`([^`]+)`", examples):
            value: Any = None if example == "None" else float(example) if form == "epoch number" else example
            task = one(created_at=value)
            kept = task.new.extra.get("raw_created_at")
            if "null" in proposed:
                assert (task.state.created_at, kept) == (None, value), form
            else:
                assert task.state.created_at is not None, example
                assert kept in (None, value)
            if "assumed" in proposed or "as above" in proposed:
                assert kept == value


def test_every_agents_name_maps_as_proposed():
    table = rows("Agent names")
    assert len(table) > 80
    for raw, _, proposed, *_ in table:
        assert agent_of(raw.strip("`")) == (None if proposed == "(nobody)" else proposed), raw
