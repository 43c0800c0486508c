"""Who does which task type: decorated functions, built-ins, plugins, and functions lent for a test."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from flows.handlers import find, handler, task_types
from flows.handlers.errors import HandlerConflict
from flows.handlers.registry import _Registry, broken_plugins, registered, runnable_types
from nexus.errors import NexusError
from nexus.settings import NexusSettings

ROOT = Path(__file__).parents[3]


def summarise(task, context):
    return "short"


def translate(task, context):
    return "kurz"


def test_the_built_in_handlers_are_there_without_an_installation():
    assert {"echo", "command", "http"} <= task_types()
    assert find("echo").__module__ == "flows.handlers.echo"
    assert {"echo", "command", "http"}.isdisjoint(broken_plugins())
    assert find("nobody-does-this") is None


def test_the_decorator_gives_the_function_back_and_takes_it_twice():
    async def proofread(task, context):
        return "fine"

    assert handler("proofread")(proofread) is proofread
    assert handler("proofread")(proofread) is proofread
    assert find("proofread") is proofread


def test_a_second_function_for_a_type_is_refused_and_the_error_names_both():
    registry = _Registry()
    registry.register("summarise", summarise)

    with pytest.raises(HandlerConflict, match=r"summarise.*summarise.*translate") as refusal:
        registry.register("summarise", translate)

    assert isinstance(refusal.value, NexusError)
    assert registry.find("summarise") is summarise


def test_a_notebook_cell_that_is_run_again_replaces_its_own_function():
    registry = _Registry()
    cell = "def review(task, context):\n    return {answer!r}"
    first, second = {"__name__": "notebook"}, {"__name__": "notebook"}
    exec(cell.format(answer="old"), first)
    exec(cell.format(answer="new"), second)

    registry.register("review", first["review"])
    registry.register("review", second["review"])

    assert registry.find("review") is second["review"]


def test_two_functions_made_by_one_factory_are_two_functions():
    def make(answer):
        def inner(task, context):
            return answer

        return inner

    registry = _Registry()
    registry.register("ask", make(1))

    with pytest.raises(HandlerConflict):
        registry.register("ask", make(2))


@pytest.mark.parametrize("task_type", ["echo", "command", "http"])
def test_a_built_in_type_is_taken_whatever_was_imported_first(task_type):
    with pytest.raises(HandlerConflict, match="built in"):
        _Registry().register(task_type, summarise)


@pytest.mark.parametrize("task_type", ["", "  ", "two\nlines", "x" * 101])
def test_a_type_that_no_task_can_have_is_refused(task_type):
    with pytest.raises(ValueError):
        handler(task_type)(summarise)


@pytest.mark.parametrize("function", [lambda: 1, lambda task: 1, lambda task, context, more: 1])
def test_a_function_that_cannot_take_a_task_and_a_context_is_refused_at_once(function):
    with pytest.raises(TypeError, match=r"must take \(task, context\)"):
        handler("wrong-hands")(function)


def test_a_function_lent_for_a_test_stands_in_front_and_goes_away_again():
    real = find("echo")

    with registered("echo", summarise):
        assert find("echo") is summarise
        with registered("echo", translate):
            assert find("echo") is translate
        assert find("echo") is summarise
    assert find("echo") is real

    with registered("only-here", summarise):
        assert "only-here" in task_types()
    assert "only-here" not in task_types()
    assert find("only-here") is None


def test_loans_of_two_threads_may_end_in_any_order():
    lent, may_end = threading.Event(), threading.Event()

    def other_thread():
        with registered("shared", summarise):
            lent.set()
            may_end.wait(10)

    thread = threading.Thread(target=other_thread)
    thread.start()
    assert lent.wait(10)
    with registered("shared", translate):
        may_end.set()
        thread.join()
        assert find("shared") is translate
    assert find("shared") is None


def test_an_agent_without_allowed_programs_or_hosts_leaves_such_tasks_to_others():
    none = NexusSettings.load()
    programs = NexusSettings.load(command={"allowed_programs": ["git"]})
    hosts = NexusSettings.load(http={"allowed_hosts": ["example.org"]})

    assert {"echo", "command", "http"} & runnable_types(none) == {"echo"}
    assert {"echo", "command", "http"} & runnable_types(programs) == {"echo", "command"}
    assert {"echo", "command", "http"} & runnable_types(hosts) == {"echo", "http"}


PLUGINS = {
    "good_plugin": """
        from flows.handlers import handler
        @handler("paint")
        def paint(task, context): return "blue"
        @handler("draw")
        async def draw(task, context): return "line"
    """,
    "callable_plugin": "def sing(task, context): return 'la'",
    "half_plugin": """
        from flows.handlers import handler
        @handler("half")
        def half(task, context): return helper()
        import a_module_that_nobody_has
    """,
    "leaving_plugin": "raise SystemExit('no licence')",
    "greedy_plugin": """
        from flows.handlers import handler
        @handler("greed")
        def greed(task, context): return 1
        @handler("echo")
        def echo(task, context): return 2
    """,
    "curious_plugin": """
        from flows.handlers import handler, task_types
        @handler("count")
        def count(task, context): return 1
        task_types()
    """,
    "number_plugin": "value = 7",
}
ENTRY_POINTS = """
[nexus.handlers]
alpha-greedy = greedy_plugin
broken = half_plugin
curious = curious_plugin
echo = flows.handlers.echo
gone = no_such_module
leaving = leaving_plugin
number = number_plugin:value
paint = good_plugin
sing = callable_plugin:sing
"""
ASK = """
import json, sys, threading
from flows.handlers import find, task_types
from flows.handlers.registry import broken_plugins
assert "flows.handlers.http" not in sys.modules, "built-ins load at the first question"
start, seen = threading.Barrier(8), []
def ask():
    start.wait()
    seen.append(task_types())
threads = [threading.Thread(target=ask) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(json.dumps({
    "types": sorted(task_types()),
    "same": len(set(seen)) == 1,
    "broken": broken_plugins(),
    "song": find("sing")(None, None),
    "echo": find("echo").__module__,
}))
"""


@pytest.fixture
def with_plugins(tmp_path):
    """What a process answers in whose path somebody has installed a package with plugins."""
    site = tmp_path / "site"
    info = site / "studio-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: studio\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    for name, source in PLUGINS.items():
        lines = source.strip("\n").splitlines()
        indent = len(lines[0]) - len(lines[0].lstrip())
        (site / f"{name}.py").write_text("\n".join(line[indent:] for line in lines))
    run = subprocess.run(
        [sys.executable, "-c", ASK],
        env={"PYTHONPATH": f"{ROOT}:{site}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout), run.stderr


def test_plugins_are_loaded_once_and_a_broken_one_breaks_no_other(with_plugins):
    answer, log = with_plugins

    assert {"paint", "draw", "sing", "count", "echo", "command", "http"} <= set(answer["types"])
    assert answer["song"] == "la"
    assert answer["echo"] == "flows.handlers.echo"
    assert answer["same"], "every thread that asked at once got the whole answer"
    broken = {name: answer["broken"][name] for name in ("alpha-greedy", "broken", "gone", "leaving", "number")}
    assert broken["alpha-greedy"].startswith("HandlerConflict: Task type 'echo'")
    assert "a_module_that_nobody_has" in broken["broken"]
    assert "no_such_module" in broken["gone"]
    assert broken["leaving"] == "SystemExit: no licence"
    assert "int" in broken["number"]
    for name in broken:
        assert f"Handler plugin '{name}' is broken" in log
    assert {"half", "greed"}.isdisjoint(answer["types"]), "half a plugin is none"
