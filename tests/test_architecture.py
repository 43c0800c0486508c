"""The rules of the house, run as tests: imports go down only, and the tools have nothing to say."""

import ast
import importlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CODE = sorted(
    path for floor in ("nexus", "flows", "deployments") for path in (ROOT / floor).rglob("*.py") if path.is_file()
)

LONGER_THAN_500_LINES = {
    "nexus/task_nexus.py": "the facade: a short method per public verb, and half of it says what they promise",
}
"""Files that may be longer than 500 lines, each with its reason."""

PUBLIC = {
    *("TaskNexus", "NexusSettings", "TaskMonitoringConfig", "NewTask", "Task", "Attempt", "Claim", "TaskStatus"),
    *("RetryPolicy", "SweepReport"),
}
ERRORS = {
    *("NexusError", "TaskNotFound", "TaskExists", "IllegalTransition", "ClaimLost", "AgentNotConfirmed"),
    "InvalidTask",
}
VERBS = (
    "add_task add_tasks get_task_by_id get_all_tasks get_pending_tasks get_tasks_by_agent stats "
    "get_next_task claim claim_task start heartbeat complete fail release mark_task_in_progress "
    "mark_task_completed mark_task_failed cancel retry block unblock approve reject history attempts "
    "register_agent agents explain sweep"
)
FIELDS = {
    "Task": (
        "task_id task_type description payload status priority tags depends_on required_capabilities assigned_to "
        "claimed_by claim_no lease_expires_at attempt_count retry_policy timeout_seconds requires_review available_at "
        "deadline created_at updated_at pending_since result error reason related_task_id episode_id idempotency_key "
        "extra"
    ),
    "Claim": "task task_id agent_id claim_no lease_expires_at",
    "Attempt": (
        "task_id number claim_no agent_id outcome started_at heartbeat_at finished_at error result late_result note "
        "run_ref"
    ),
    "RetryPolicy": "max_attempts backoff_seconds multiplier max_backoff_seconds jitter max_losses",
    "SweepReport": (
        "started_at finished_at scanned logged stalled reassigned escalated expired failed conflicts items"
    ),
}


OSV = "api.osv.dev"


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """A tool of this Python's environment, in the checkout."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "COLUMNS": "160"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)


def tool(name: str) -> str:
    """The path of a tool installed beside this Python; skips where there is none."""
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        pytest.skip(f"{name} is not installed: pip install -e '.[test]'")
    return str(path)


@pytest.mark.parametrize(
    "command",
    [
        ("lint-imports",),
        ("ruff", "check", "--no-cache", "."),
        ("ruff", "format", "--no-cache", "--check", "nexus", "flows", "deployments", "benchmarks", "tests"),
        ("mypy",),
        ("bandit", "--quiet", "--configfile", "pyproject.toml", "--recursive", "nexus", "flows", "deployments"),
    ],
    ids=["imports", "ruff", "format", "mypy", "bandit"],
)
def test_the_tools_have_nothing_to_say(command: tuple[str, ...], tmp_path: Path) -> None:
    name, *arguments = command
    if name == "mypy":
        arguments = [*arguments, "--cache-dir", str(ROOT / ".mypy_cache")]
    done = run(tool(name), *arguments)
    assert done.returncode == 0, done.stdout + done.stderr


KNOWN_AND_BORNE: dict[str, str] = {}
"""Vulnerabilities that do not concern this program, by id, each with its reason."""


def test_no_version_that_was_tested_is_known_to_be_vulnerable(tmp_path: Path) -> None:
    """Of the set in constraints.txt. It asks OSV, one question a package; without a network it cannot."""
    try:
        socket.create_connection((OSV, 443), timeout=3).close()
    except OSError as error:
        pytest.skip(f"{OSV}, which knows of vulnerabilities, is not reached: {error}")
    borne = [word for name in KNOWN_AND_BORNE for word in ("--ignore-vuln", name)]
    source = ("--vulnerability-service", "osv", "--no-deps", "--disable-pip", "--progress-spinner", "off")
    done = run(tool("pip-audit"), *source, *borne, "--requirement", str(ROOT / "constraints.txt"))
    assert done.returncode == 0, done.stdout + done.stderr


def imports(path: Path) -> set[str]:
    """The first names of everything that a file imports, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize(
    ("floor", "never"),
    [
        ("nexus", {"prefect", "flows", "deployments"}),
        ("flows", {"sqlalchemy", "alembic", "psycopg", "deployments"}),
        ("deployments", {"sqlalchemy", "alembic", "psycopg"}),
    ],
)
def test_imports_go_down_only(floor: str, never: set[str]) -> None:
    """Read from the text: what is imported inside a function counts."""
    guilty = {
        str(path.relative_to(ROOT)): sorted(imports(path) & never)
        for path in CODE
        if path.relative_to(ROOT).parts[0] == floor and imports(path) & never
    }
    assert not guilty


def loaded_after(module: str) -> set[str]:
    """Which heavy libraries a fresh Python has loaded after importing a module."""
    heavy = ["prefect", "sqlalchemy", "alembic", "psycopg"]
    code = f"import sys, {module}; print(*[name for name in {heavy} if name in sys.modules])"
    done = run(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_names_of_the_nexus_load_on_first_use() -> None:
    assert loaded_after("nexus") == set()
    assert "prefect" not in loaded_after("nexus.task_nexus")


def test_the_nexus_command_starts_without_what_it_does_not_need() -> None:
    assert loaded_after("nexus.cli.app") == set()


def test_every_public_name_of_the_design_is_there() -> None:
    nexus, errors = importlib.import_module("nexus"), importlib.import_module("nexus.errors")
    assert set(nexus.__all__) >= PUBLIC
    assert all(getattr(nexus, name) is not None for name in nexus.__all__)
    assert sorted(nexus.__all__) == dir(nexus)
    for name in ERRORS:
        assert issubclass(getattr(errors, name), errors.NexusError)
    assert [verb for verb in VERBS.split() if not callable(getattr(nexus.TaskNexus, verb, None))] == []
    for model, fields in FIELDS.items():
        assert set(fields.split()) <= set(getattr(nexus, model).model_fields), model
    with pytest.raises(AttributeError):
        nexus.no_such_name  # noqa: B018 - the access is the test


def test_every_verb_and_module_says_what_it_does() -> None:
    nexus = importlib.import_module("nexus")
    public = [name for name in vars(nexus.TaskNexus) if not name.startswith("_")]
    assert [name for name in public if not getattr(nexus.TaskNexus, name).__doc__] == []
    silent = [
        str(path.relative_to(ROOT))
        for path in CODE
        if path.stat().st_size and not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert silent == []


def test_no_file_grows_beyond_reading() -> None:
    lines = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in CODE}
    long = {name: count for name, count in lines.items() if count > 500}
    assert long.keys() <= LONGER_THAN_500_LINES.keys(), long
