"""Processes of which one thing is asked: each imports only what it measures, and its memory and CPU are its own."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, Self

PATIENCE_SECONDS: Final = 60
"""How long a process may take to end when there is nothing more to do; then it is killed."""


class ChildFailed(Exception):
    """A process ended instead of answering, or did not do what it was told; the message says what is known."""


class Child:
    """A `benchmarks.child` with one object in it. A context manager: at its end the process ends.

    It ends as well when whoever measures is killed: nobody holds its stdin any more.
    """

    def __init__(self, where: str, *arguments: Any, environment: Mapping[str, str] | None = None) -> None:
        """`where` is MODULE:CLASS, a context manager; `arguments` and all that it is told are JSON."""
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self._asked = f"{where}{arguments}"
        self._process = subprocess.Popen(  # noqa: S603 - our own Python, our own arguments
            [sys.executable, "-m", "benchmarks.child", where, json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **(environment or {})},
            start_new_session=True,  # Ctrl-C is for whoever measures, who then ends it
        )

    def send(self, method: str, *given: Any) -> None:
        """Have it begin; `answer` waits for the end."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps([method, *given]) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failed() from None

    def answer(self) -> Any:
        """What became of what was sent. Raises `ChildFailed`."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._failed()
        return json.loads(line)

    def ask(self, method: str, *given: Any) -> Any:
        """`send` and `answer`."""
        self.send(method, *given)
        return self.answer()

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Have it leave what it has entered, at once where something went wrong here; without it where it is stuck."""
        assert self._process.stdin is not None and self._process.stdout is not None
        if kind is not None:
            self._process.send_signal(signal.SIGINT)
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._said.close()

    def _failed(self) -> ChildFailed:
        code = self._process.wait()
        self._said.seek(0)
        return ChildFailed(f"{self._asked} ended with {code}:\n{self._said.read()[-4000:]}")


def unstoppable() -> None:
    """Have this process end with its stdin only: what it starts, it is to stop as well."""
    signal.signal(signal.SIGINT, lambda *_: None)  # SIG_IGN would be handed down
