"""The Prefect API that this board's commands speak to: the configured one, or a server of our own.

Our own server lies in the board's home: `server.json` says where it is, `server.log` what it said,
`prefect/` holds its database. Every command that uses it holds a shared lock on `server.users`, which the
kernel drops when the command dies: whoever starts alone adopts what a killed predecessor left behind, and
the last to leave stops it, unless it was asked to keep it.
"""

import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from deployments.errors import ApiUnreachable, NoServer, PortTaken, PrefectImportedTooEarly, ServerFailed, api_url
from deployments.ports import free_port, port_is_free
from deployments.prefect_config import configured_api_url
from deployments.processes import FileLock, ProcessRef, deciding, spawn
from deployments.server_settings import server_environment
from nexus.settings import NexusSettings

__all__ = ["Api", "OwnServer", "configured_api_url", "healthy", "prefect_server"]

Say = Callable[[str], None]
"""Tells the user one line of what goes on."""

Check = Callable[[], None]
"""Called while waiting; it may raise to give up, and what was started is stopped then."""

START_SECONDS: Final = 180
"""A cold start takes 7-18 s on a quiet machine and has been seen to take 50 on a busy one."""

STOP_SECONDS: Final = 15
"""SIGTERM takes 2 s on SQLite, 7 on PostgreSQL; after this it is killed."""


@dataclass(frozen=True)
class Api:
    """The Prefect API in use."""

    url: str
    owned: bool
    """Our own server, and no other command used it when we came: what runs there is a dead process's."""
    server: "OwnServer | None" = None
    """Our own server; None where an API is configured."""

    @property
    def ui_url(self) -> str:
        """Where a person looks. For a configured API Prefect knows it: its cloud has another address for that."""
        if self.server is None:
            from prefect.settings import get_current_settings

            return get_current_settings().ui_url or self.url
        return self.url.removesuffix("/api")


class OwnServer:
    """The Prefect server of one home."""

    def __init__(self, settings: NexusSettings, *, any_port: bool = False) -> None:
        self.settings, self.any_port = settings, any_port
        self.home = settings.home.absolute()
        self.log = self.home / "server.log"
        self.url = ""
        self.process: ProcessRef | None = None
        self._state = self.home / "server.json"
        self._users = FileLock(self.home / "server.users")

    def enter(self, say: Say, check: Check) -> bool:
        """Joins the server, or starts one; True where nobody else uses it. It answers when this returns."""
        self.settings.make_home()
        try:
            with deciding(self.home / "service.lock"):
                alone = self._users.try_acquire()
                found = self._find()
                if found and alone and self._moved():
                    found = self._end()
                if not found:
                    self._start()
                self._users.try_acquire(shared=True)
            self._wait(say, check)
        except BaseException:
            self.leave()
            raise
        return alone

    def leave(self, *, keep: bool = False, adopted: bool = False) -> None:
        """Lets go of the server; stops it if we are its last user and nobody asked to keep it.

        `adopted`: what others asked for does not count.
        """
        with deciding(self.home / "service.lock"):
            last = self._users.try_acquire()
            if not self._find():
                self._state.unlink(missing_ok=True)
            elif keep:
                self._write(kept=True)
            elif last and (adopted or not self.kept()):
                self._end()
            self._users.release()

    def restart(self, say: Say, check: Check) -> None:
        """Starts it again where it was, after it died."""
        with deciding(self.home / "service.lock"):
            if not self._find():
                self._start(int(self.url.rpartition(":")[2].removesuffix("/api")))
        self._wait(say, check)

    def alive(self) -> bool:
        return self.process is not None and self.process.alive()

    def address(self) -> str | None:
        """Where it answers, or should; None where it does not run. Only looks."""
        return self.url if self._find() else None

    def _find(self) -> bool:
        """Whether the server that the state file speaks of lives; `process` and `url` are its then."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            state = json.loads(self._state.read_text(encoding="utf-8"))
            known = self.process if self.process and self.process.pid == state["pid"] else None
            self.process, self.url = known or ProcessRef(state["pid"], state["started"]), state["url"]
            return self.process.alive()
        return False

    def kept(self) -> bool:
        """Whether an earlier command asked that it stay."""
        with suppress(OSError, ValueError):
            return bool(json.loads(self._state.read_text(encoding="utf-8")).get("kept"))
        return False

    def _moved(self) -> bool:
        """Whether it stands on another port than the one wanted now, and could be there."""
        service = self.settings.service
        wanted = api_url(service.host, service.port)
        return not self.any_port and self.url != wanted and port_is_free(service.host, service.port)

    def _start(self, port: int | None = None) -> None:
        host, port = self.settings.service.host, port or self.settings.service.port
        if not port_is_free(host, port):
            if not self.any_port:
                raise PortTaken(host, port, by_prefect=healthy(api_url(host, port)))
            port = free_port(host)
        self.url = api_url(host, port)
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", host, "--port", str(port)]
        self.process = spawn(command, env=server_environment(self.settings, self.url), log=self.log)
        self._write(kept=False)

    def _write(self, *, kept: bool) -> None:
        assert self.process is not None
        state = {"pid": self.process.pid, "started": self.process.started, "url": self.url, "kept": kept}
        # Replaced in one move: a power cut leaves the old file or the new one, never half of one.
        draft = self._state.with_suffix(".tmp")
        draft.write_text(json.dumps(state), encoding="utf-8")
        draft.replace(self._state)

    def _end(self) -> bool:
        if self.process:
            self.process.stop(STOP_SECONDS)
        self._state.unlink(missing_ok=True)
        return False

    def _wait(self, say: Say, check: Check) -> None:
        """Waits until it answers; the second command of two that start at once waits here as well."""
        assert self.process is not None
        begun = time.monotonic()
        told = 0.0
        while not healthy(self.url):
            check()
            seconds = time.monotonic() - begun
            if not self.process.alive():
                raise ServerFailed("ended while it was starting", self.log)
            if seconds > START_SECONDS:
                self.process.stop(STOP_SECONDS)
                raise ServerFailed(f"did not answer within {START_SECONDS} s", self.log)
            if seconds >= told:
                say(f"Prefect server starting … {seconds:.0f} s" if told else "Prefect server starting …")
                told += 5
            time.sleep(0.2)


@contextmanager
def prefect_server(
    settings: NexusSettings,
    *,
    any_port: bool = False,
    keep: bool = False,
    adopt: bool = False,
    say: Say = lambda _: None,
    check: Check = lambda: None,
) -> Iterator[Api]:
    """The Prefect API for the time of the block: the configured one, or a server of our own.

    For that time the environment names it, so Prefect and flows are to be imported inside.
    `any_port`: another port where the wanted one is taken; else `PortTaken`. `keep`: our own server stays
    behind. `adopt`: it stops with us even if an earlier command asked to keep it. `say` hears how the start
    goes on, `check` is called meanwhile. Raises a `ServiceError` where there is no API to be had.
    """
    if configured := configured_api_url():
        yield _reached(configured)
        return
    server = OwnServer(settings, any_port=any_port)
    alone = server.enter(say, check)
    try:
        _check_prefect_knows(server.url)
        with _environment(client_environment(settings, server.url)):
            yield Api(server.url, owned=alone, server=server)
    finally:
        server.leave(keep=keep, adopted=adopt)


@contextmanager
def running_server(settings: NexusSettings) -> Iterator[Api]:
    """The same, where it is there already: nothing is started. Raises `ApiUnreachable`, `NoServer`."""
    if configured := configured_api_url():
        yield _reached(configured)
        return
    url = OwnServer(settings).address()
    if url is None or not healthy(url):
        raise NoServer(url)
    _check_prefect_knows(url)
    with _environment(client_environment(settings, url)):
        yield Api(url, owned=False)


def _reached(configured: str) -> Api:
    _check_prefect_knows(configured)
    if why := unreachable(configured):
        raise ApiUnreachable(configured, why)
    return Api(configured, owned=False)


def client_environment(settings: NexusSettings, url: str) -> dict[str, str]:
    """What a process needs to speak to our own server."""
    return {
        "PREFECT_API_URL": url,
        # Its own home: the user's profiles and Prefect's other files are left alone.
        "PREFECT_HOME": str(settings.home.absolute() / "prefect"),
        # An address that goes missing is an error at once then, not a temporary server that forgets all.
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        "DO_NOT_TRACK": "1",
    }


def healthy(url: str, seconds: float = 2) -> bool:
    """Whether a Prefect API answers at this address: no other program says `true` there."""
    # On the loopback a proxy of the environment has no business.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/health", timeout=seconds) as answer:
            return bool(answer.read(16).strip() == b"true")
    except (OSError, ValueError):
        return False


def unreachable(url: str, seconds: float = 10) -> str:
    """Why nothing answers at a configured address; empty where something does, be it with a refusal."""
    if not url.startswith(("http://", "https://")):
        return "it is no http:// or https:// address"
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=seconds):  # nosec B310 # noqa: S310 - checked above
            return ""
    except urllib.error.HTTPError as error:
        # A server that wants credentials first is there; Prefect's client brings them.
        return "" if error.code < 500 else f"HTTP {error.code}"
    except urllib.error.URLError as error:
        # A certificate that only Prefect's settings know how to check is for Prefect's client to judge.
        return "" if type(error.reason).__module__ == "ssl" else str(error.reason)
    except (OSError, ValueError) as error:
        return str(error)


def _check_prefect_knows(url: str) -> None:
    """Prefect reads its settings once, when it is first imported."""
    if "prefect" in sys.modules:
        from prefect.settings import get_current_settings

        known = get_current_settings().api.url
        if known != url:
            raise PrefectImportedTooEarly(url, known)


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Sets variables for the time of the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
