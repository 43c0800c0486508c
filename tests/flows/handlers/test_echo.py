"""A task that only wants its payload back."""

from flows.handlers import find


def test_an_echo_task_results_in_its_payload(task, context):
    echo = find("echo")

    assert echo(task("echo", {"greeting": "hello", "list": [1, None]}), context()) == {
        "greeting": "hello",
        "list": [1, None],
    }
