"""Where tasks are found, and what is not taken for one."""

import json

import pytest


def found(board):
    return {task.task_id: task for task in board.tasks}


@pytest.mark.parametrize(
    ("document", "ids"),
    [
        ([{"id": 1, "title": "t"}, {"contract_id": "c", "status": "todo"}], ["1", "c"]),
        ({"contracts": {"GROUP": {"manager": "x", "contracts": [{"contract_id": "c", "title": "t"}]}}}, ["c"]),
        ({"agents": {"Agent-1": {"status": "BUSY", "tasks": {"t": {"description": "d", "status": "todo"}}}}}, ["t"]),
        ({"tasks": {"Agent-1": [{"id": "a", "title": "t"}], "Agent-2": [{"id": "b", "title": "t"}]}}, ["a", "b"]),
        ({"Agent-1": [{"id": "a", "desc": "d"}]}, ["a"]),
        ({"task_board": {"T-1": {"owner": "Agent-2", "status": "Done"}}}, ["T-1"]),
        ({"name": "plan", "phases": [{"name": "p", "tasks": [{"task_id": "a", "title": "t"}]}]}, ["a"]),
        ({"current_task": {"id": "a", "status": "todo"}, "previous_task": {"id": "b", "status": "done"}}, ["a", "b"]),
        ({"message_id": "m", "body": {"task_id": "a", "status": "PENDING"}}, ["a"]),
        ({"deep": {"er": {"list_of": [{"id": "a", "status": "todo"}]}}}, ["a"]),
        ({"x": {"description": "d"}, "y": {"task_type": "echo"}, "version": 3}, ["x", "y"]),
        ({"task_id": "a", "title": "t", "tasks": [{"task_id": "b", "title": "t"}]}, ["a", "b"]),
        ({"swarm": {"open_contracts": {"C-1": {"title": "t", "focus": "f"}}}}, ["C-1"]),
    ],
)
def test_a_shape_gives_its_tasks(read, document, ids):
    board = read(document)
    assert sorted(found(board)) == ids
    assert not board.rejects


@pytest.mark.parametrize(
    "document",
    [
        {"$schema": "s", "title": "TaskList", "type": "object", "properties": {"tasks": {"type": "array"}}},
        {"message_id": "m", "type": "note", "subject": "s", "body": {"text": "hello"}},
        {"proposal_id": "p", "title": "t", "description": "d", "tasks": ["one", "two"], "status": "proposed"},
        {"template_id": "t", "task_structure": {"task_id": "{{task_id}}", "priority": "{{priority}}"}},
        {"agents": {"Agent-1": {"agent_id": "Agent-1", "name": "One", "status": "ACTIVE"}}},
        {"total_tasks": 7, "completed": 1, "last_task": {"id": "x", "status": "claimed"}},
        {"milestones": [{"id": "m", "title": "t", "description": "d"}], "tasks": {}},
        {"tasks": []},
        [],
        {},
        {"nexus_board": 1, "tasks": []},
    ],
)
def test_what_holds_no_task_says_so(read, document):
    board = read(document)
    assert not board.tasks
    assert not board.rejects
    assert any("no task records in it" in warning for warning in board.warnings)


def test_what_is_left_out_is_named(read):
    board = read({"tasks": [{"id": "a", "title": "t"}], "owner": "me", "summary": {"done": 3}})
    assert board.warnings == (f"{board.files[0]}: not part of any task, and not imported: owner, summary",)


@pytest.mark.parametrize(
    ("document", "place"),
    [
        ([{"id": "a", "title": "t"}, 7], "[1]"),
        ([{"priority": 5}], "[0]"),
        ({"tasks": ["buy milk"]}, "tasks[0]"),
        ({"tasks": 5}, "tasks"),
        ({"tasks": {"a": {"title": "t"}, "b": 5}}, "tasks.b"),
        ({"a": {"description": "d"}, "b": {"description": "d"}, "c": {"colour": "red"}}, "c"),
        ("hello", ""),
    ],
)
def test_what_stands_among_tasks_and_is_none_is_rejected_with_its_place(read, document, place):
    (reject,) = read(json.dumps(document)).rejects
    assert reject.location == place
    assert "task" in reject.reason
    assert reject.record


def test_the_place_of_a_task_speaks_where_the_task_does_not(read):
    board = read(
        {
            "agent_id": "agent_002",
            "episode_id": "EP07",
            "completed_tasks": [{"id": "a", "title": "t"}, {"id": "b", "title": "t", "status": "todo"}],
            "claimed_tasks": [{"id": "c", "title": "t"}],
        }
    )
    tasks = found(board)
    assert (tasks["a"].status, tasks["a"].state.claimed_by) == ("completed", "Agent-2")
    assert (tasks["b"].status, tasks["b"].new.assigned_to) == ("pending", "Agent-2")
    assert (tasks["c"].status, tasks["c"].state.claimed_by) == ("claimed", "Agent-2")
    assert {task.new.episode_id for task in board.tasks} == {"EP07"}


def test_a_list_of_finished_tasks_is_told_by_its_files_name(read):
    assert read([{"id": "a", "title": "t"}], "completed_tasks.json").tasks[0].status == "completed"


def test_milestones_say_what_an_episodes_task_is_about(read):
    board = read(
        {
            "episode": 2,
            "milestones": [{"id": "LOOP-1", "description": "Close the loop"}],
            "task_board": {"LOOP-1": {"owner": "Agent-2", "points": 5, "status": "Done"}},
        }
    )
    (task,) = board.tasks
    assert (task.task_id, task.new.description, task.new.episode_id) == ("LOOP-1", "Close the loop", "2")


def test_a_task_inside_a_task_knows_its_parent(read):
    tasks = found(read([{"id": "a", "title": "t", "subtasks": [{"id": "b", "title": "u"}]}]))
    assert tasks["b"].new.related_task_id == "a"
    assert "subtasks" not in tasks["a"].new.extra


def test_nesting_without_end_is_searched_to_a_bounded_depth(read):
    document: object = {"id": "deep", "title": "t"}
    for _ in range(400):
        document = {"tasks": [document]}
    board = read(document)
    assert not board.tasks
    assert board.rejects
