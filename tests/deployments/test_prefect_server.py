"""The Prefect server of a home: started once, shared, adopted, kept, moved, refused. All with real servers."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deployments import prefect_server as under_test
from deployments.errors import PortTaken, ServerFailed, api_url
from deployments.ports import free_port
from deployments.prefect_server import OwnServer, client_environment, healthy, prefect_server, unreachable
from deployments.processes import ProcessRef
from deployments.server_settings import server_environment
from nexus.settings import NexusSettings

from .live import Command, ask, clean_environment, end_processes_of, processes_of, wait_until

# A command that uses the server until its standard input closes, as `nexus run` does.
USE = """
import json, os, sys
from deployments.errors import ServiceError
from deployments.prefect_server import prefect_server
from nexus.settings import NexusSettings
options = json.loads(sys.argv[1])
try:
    with prefect_server(NexusSettings.load(), **options, say=lambda line: print(line, flush=True)) as api:
        assert "prefect" not in sys.modules
        assert os.environ["PREFECT_API_URL"] == api.url
        pid = api.server.process.pid if api.server else None
        print(json.dumps({"url": api.url, "owned": api.owned, "pid": pid}), flush=True)
        sys.stdin.read()
    assert "PREFECT_API_URL" not in os.environ
except ServiceError as error:
    print(type(error).__name__, error)
    sys.exit(1)
"""

Use = Callable[..., Command]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    end_processes_of(tmp_path)


@pytest.fixture
def use(home: Path, start: Callable[..., Command]) -> Use:
    def command(port: int, *, env: dict[str, str] | None = None, **options: bool) -> Command:
        environment = clean_environment(home, NEXUS_SERVICE__PORT=str(port), **(env or {}))
        return start(USE, json.dumps(options), env=environment, cwd=home)

    return command


def settings_of(home: Path, port: int = 4200) -> NexusSettings:
    return NexusSettings.load(home=home / "board", service={"port": port})


def test_the_life_of_a_server(home: Path, use: Use) -> None:
    port = free_port("127.0.0.1")

    # Two commands start at once: one server, and one of the two came to an empty house.
    one, two = use(port), use(port)
    first, second = one.answer(), two.answer()
    assert first["pid"] == second["pid"]
    assert first["url"] == second["url"] == f"http://127.0.0.1:{port}/api"
    assert sorted([first["owned"], second["owned"]]) == [False, True]
    url, server = first["url"], first["pid"]
    assert ask(url, "/health") is True

    # The UI finds its API on this port too, and nobody is told of it.
    with_settings = ask(url.removesuffix("/api"), "/ui-settings")
    assert with_settings["api_url"] == url
    assert ask(url, "/admin/settings")["server"]["analytics_enabled"] is False

    # Whoever leaves first leaves it running.
    assert one.finish() == 0
    assert healthy(url)

    # The last is killed: the server is left behind, the next command adopts and, asked to, keeps it.
    two.signal(signal.SIGKILL)
    two.ended()
    assert healthy(url)
    third = use(port, keep=True)
    assert third.answer() == {"url": url, "owned": True, "pid": server}
    assert third.finish() == 0
    assert healthy(url)

    # A passer-by uses the kept server, and does not stop it.
    fourth = use(port, any_port=True)
    assert fourth.answer() == {"url": url, "owned": True, "pid": server}
    assert fourth.finish() == 0
    assert healthy(url)

    # Another home does not take it for its own.
    stranger = settings_of(home / "elsewhere", port)
    with pytest.raises(PortTaken, match=f"PREFECT_API_URL={url}") as refused, prefect_server(stranger):
        pass
    assert refused.value.by_prefect
    assert "\n" not in str(refused.value)

    # `up` adopts it for good: with it, it ends.
    last = use(port, adopt=True)
    assert last.answer()["pid"] == server
    assert last.finish() == 0
    assert processes_of(home) == {}
    assert not healthy(url)
    assert not (home / "board" / "server.json").exists()
    with sqlite3.connect(home / "board" / "prefect" / "prefect.db") as database:
        assert database.execute("select count(*) from flow_run").fetchone() == (0,)


def test_a_taken_port(home: Path, use: Use) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        strict = use(port)
        assert strict.ended() == 1
        assert "PortTaken" in strict.lines[-1]
        assert "NEXUS_SERVICE__PORT" in strict.lines[-1]
        assert processes_of(home) == {}

        # `run` goes elsewhere instead, and stays there when asked to.
        elsewhere = use(port, any_port=True, keep=True)
        answer = elsewhere.answer()
        assert answer["url"] != api_url("127.0.0.1", port)
        assert elsewhere.finish() == 0
        assert healthy(answer["url"])

    # Once the wanted port is free, `up` moves the same server's data there.
    moved = use(port, adopt=True)
    again = moved.answer()
    assert again["url"] == api_url("127.0.0.1", port)
    assert again["pid"] != answer["pid"]
    assert not healthy(answer["url"])
    # Ctrl-C in a command that does not care about it.
    moved.signal(signal.SIGINT)
    moved.ended()
    assert processes_of(home) == {}


def test_a_server_that_cannot_start_says_why(home: Path, use: Use) -> None:
    broken = use(free_port("127.0.0.1"), env={"PREFECT_SERVER_LOGGING_LEVEL": "LOUD"})
    assert broken.ended() == 1
    assert "ServerFailed" in broken.lines[-1]
    assert "server.log" in broken.lines[-1]
    assert processes_of(home) == {}


def test_a_server_that_does_not_answer_is_stopped(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "START_SECONDS", 1)
    board = home / "board"
    board.mkdir()
    with subprocess.Popen(["sleep", "60"]) as hung:
        state = {"pid": hung.pid, "started": ProcessRef.of(hung.pid).started, "url": "http://127.0.0.1:9/api"}
        (board / "server.json").write_text(json.dumps(state))
        server = OwnServer(settings_of(home, 9), any_port=True)
        with pytest.raises(ServerFailed, match="did not answer"):
            server.enter(lambda _: None, lambda: None)
        assert hung.wait(5) == -signal.SIGTERM
    assert not (board / "server.json").exists()


@pytest.mark.parametrize("state", ["", "{}", "[]", '{"pid": 1', '{"pid": %d, "started": 1, "url": "x"}'])
def test_a_useless_state_file_is_no_server(home: Path, state: str) -> None:
    board = home / "board"
    board.mkdir()
    (board / "server.json").write_text(state % os.getpid() if "%d" in state else state)
    with socket.socket() as other, pytest.raises(PortTaken):
        other.bind(("127.0.0.1", 0))
        # It goes as far as looking at the port, and this process, whose pid stands there, lives on.
        OwnServer(settings_of(home, other.getsockname()[1])).enter(lambda _: None, lambda: None)


def test_a_configured_api_is_used_as_it_is(home: Path, use: Use) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    away = use(4200, env={"PREFECT_API_URL": f"http://127.0.0.1:{port}/api"})
    assert away.ended() == 1
    assert "ApiUnreachable" in away.lines[-1]
    assert "PREFECT_API_URL" in away.lines[-1]
    assert not (home / "board").exists(), "nothing of our own is begun"


@pytest.mark.parametrize("url", ["127.0.0.1:4200/api", "ftp://host/api", "http://[bad/api", "http://127.0.0.1:9/api"])
def test_an_address_where_nothing_answers(url: str) -> None:
    assert unreachable(url)


def test_prefect_imported_too_early(home: Path) -> None:
    code = (
        "import prefect, os; os.environ['PREFECT_API_URL'] = 'http://127.0.0.1:9/api'\n"
        "from deployments.prefect_server import prefect_server; from nexus.settings import NexusSettings\n"
        "with prefect_server(NexusSettings.load()): pass"
    )
    run = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env=clean_environment(home),
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "PrefectImportedTooEarly" in run.stderr


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:4200/api"),
        ("0.0.0.0", "http://127.0.0.1:4200/api"),
        ("::", "http://[::1]:4200/api"),
        ("board.example.org", "http://board.example.org:4200/api"),
    ],
)
def test_the_address_for_a_client_on_this_machine(host: str, url: str) -> None:
    assert api_url(host, 4200) == url


def test_the_server_is_tuned_unless_the_user_knows_better(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE", "7")
    monkeypatch.setenv("PREFECT_API_URL", "http://elsewhere/api")
    env = server_environment(settings_of(home), "http://127.0.0.1:4200/api")
    assert env["PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE"] == "7"
    assert env["PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE"] == "50"
    assert env["PREFECT_API_URL"] == "http://127.0.0.1:4200/api"
    assert (
        env["PREFECT_HOME"] == client_environment(settings_of(home), "x")["PREFECT_HOME"] == str(home / "board/prefect")
    )


def test_prefect_knows_every_setting_that_we_set(home: Path) -> None:
    """A setting that a new Prefect has renamed would be dropped without a word."""
    code = (
        "import os; from prefect.settings import get_current_settings\n"
        "known = get_current_settings().to_environment_variables(exclude_unset=True, include_aliases=True)\n"
        "print([name for name in os.environ if name.startswith('PREFECT_') and name not in known])"
    )
    env = server_environment(settings_of(home), "http://127.0.0.1:4200/api")
    ours = {name: value for name, value in env.items() if name.startswith("PREFECT_") and name not in os.environ}
    run = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env=clean_environment(home, **ours),
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stdout == "[]\n", run.stdout + run.stderr


def test_giving_up_while_it_starts_leaves_nothing(home: Path) -> None:
    def give_up() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        OwnServer(settings_of(home, free_port("127.0.0.1"))).enter(lambda _: None, give_up)
    wait_until(lambda: processes_of(home) == {}, 20)
