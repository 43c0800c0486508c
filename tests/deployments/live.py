"""Real processes: commands in their own interpreter, with a home of their own and none of the user's settings."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class Command:
    """A Python program under test: its lines, its signals, its end."""

    def __init__(self, code: str, *arguments: str, env: dict[str, str], cwd: Path) -> None:
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-u", "-c", code, *arguments],
            env=env,
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def says(self, text: str, seconds: float = 90) -> str:
        """The first line with this text, waited for."""
        found: list[str] = []

        def said() -> bool:
            over = self.process.poll() is not None
            if over:
                self._reader.join(5)
            found[:] = [line for line in self.lines if text in line]
            return bool(found) or over

        wait_until(said, seconds, lambda: f"{text!r} in {self.lines}")
        assert found, f"ended without saying {text!r}: {self.lines}"
        return found[0]

    def answer(self) -> Any:
        """The JSON document that it printed."""
        return json.loads(self.says("{"))

    def finish(self) -> int:
        """Lets a program that waits for its standard input to close end itself."""
        assert self.process.stdin
        self.process.stdin.close()
        return self.ended()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def ended(self, seconds: float = 60) -> int:
        """Its exit code."""
        code = self.process.wait(seconds)
        self._reader.join(5)
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(40)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._reader.join(5)
        for stream in (self.process.stdin, self.process.stdout):
            if stream:
                stream.close()


def wait_until(fact: Callable[[], object], seconds: float = 60, what: Callable[[], str] = lambda: "the fact") -> None:
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain for {what()}"
        time.sleep(0.2)


async def wait_until_async(fact: Callable[[], Awaitable[object]], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not await fact():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain"
        await asyncio.sleep(0.2)


def clean_environment(home: Path, **values: str) -> dict[str, str]:
    """None of the user's settings for Prefect or the nexus; our packages importable from any directory."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("NEXUS_", "PREFECT_"))}
    return {**env, "HOME": str(home), "PYTHONPATH": str(ROOT), "NEXUS_HOME": str(home / "board"), **values}


def ask(url: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """Asks Prefect's API as the UI does; again where its database was busy, as Prefect's own client does."""
    for _ in range(20):
        try:
            return _ask(url, path, body)
        except urllib.error.HTTPError as error:
            if error.code != 503:
                raise
        time.sleep(0.5)
    return _ask(url, path, body)


def _ask(url: str, path: str, body: dict[str, Any] | None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{url}{path}", data=data, headers={"Content-Type": "application/json"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=120) as answer:
        return json.loads(answer.read())


def processes_of(home: Path) -> dict[int, str]:
    """Every process that lives for this home, by its environment or its command."""
    found = {}
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            command = (directory / "cmdline").read_bytes().replace(b"\0", b" ")
            if str(home).encode() in command + (directory / "environ").read_bytes():
                found[int(directory.name)] = command.decode()
        except OSError:
            continue
    return found


def end_processes_of(home: Path) -> None:
    """What a failed test left behind."""
    for pid in processes_of(home):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
