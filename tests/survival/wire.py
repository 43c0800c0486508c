"""A wire between the nexus and a PostgreSQL server, which a test can cut in the moment that matters.

`Wire(server)` listens on a port of its own and passes everything on. `lose(how)` makes it lose the next COMMIT:

- `"answer"`: the server commits, and the answer never comes back;
- `"commit"`: the COMMIT never reaches the server;
- `"in time"`: both ends are cut as soon as the COMMIT is passed on;
- `"late"`: the nexus is cut off, and the COMMIT reaches the server when nobody expects it any more.

`lose(how, of=b"")` does that to the next message, whatever it is: a statement that is a transaction in itself has no
COMMIT. `lose("work", after)` cuts both ends in the middle of the work, when so many more messages have been passed on.
`starts_for(seconds)` answers new connections for so long as a server does that is about to start.
"""

import socket
import threading
import time
from contextlib import suppress
from typing import Any

import sqlalchemy as sa

HOWS = ("answer", "commit", "in time", "late", "work")
LATE_SECONDS = 0.3


class Wire:
    """Passes bytes on, between any number of clients and one server."""

    def __init__(self, server: str) -> None:
        url = sa.make_url(server)
        self._server = _address(url)
        self._how: str | None = None
        self._after = 0
        self._of = b"COMMIT"
        self._once = threading.Lock()
        self._starting_until = 0.0
        self.cuts = 0
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.url = url._replace(host="127.0.0.1", port=port, query=sa.util.immutabledict()).render_as_string(False)
        threading.Thread(target=self._accept, daemon=True).start()

    def lose(self, how: str, after: int = 0, of: bytes = b"COMMIT") -> None:
        """Lose the next COMMIT (or what else holds these bytes), or the connection before it."""
        assert how in HOWS
        self._after, self._of, self._how = after, of, how

    def starts_for(self, seconds: float) -> None:
        """Be a server that is starting up."""
        self._starting_until = time.monotonic() + seconds

    def close(self) -> None:
        """No more connections."""
        _cut(self._listener)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            if time.monotonic() < self._starting_until:
                threading.Thread(target=_say_that_it_starts, args=(client,), daemon=True).start()
                continue
            server = socket.socket(self._server[0])
            try:
                server.connect(self._server[1])
            except OSError:
                client.close()
                continue
            threading.Thread(target=self._pass_on, args=(client, server), daemon=True).start()
            threading.Thread(target=self._answer, args=(server, client), daemon=True).start()

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        while data := _read(client):
            how = self._taken(data)
            if how is None:
                _send(server, data)
                continue
            self.cuts += 1
            if how in ("commit", "work"):
                _cut(server)
            elif how == "late":
                _cut(client)
                time.sleep(LATE_SECONDS)
                _send(server, data)
            elif how == "answer":
                _cut(client)
                _send(server, data)
                time.sleep(0.02)
            else:
                _send(server, data)
            _cut(client)
        _cut(server)

    def _taken(self, data: bytes) -> str | None:
        with self._once:
            if self._how == "work" and self._after:
                self._after -= 1
                return None
            if self._how is None or (self._how != "work" and self._of not in data):
                return None
            how, self._how = self._how, None
            return how

    def _answer(self, server: socket.socket, client: socket.socket) -> None:
        while data := _read(server):
            _send(client, data)
        _cut(client)


def _say_that_it_starts(client: socket.socket) -> None:
    for _ in range(3):  # it may ask for encryption first, in two ways
        asked = _read(client)
        if asked[4:8] not in (b"\x04\xd2\x16\x2f", b"\x04\xd2\x16\x30"):
            break
        _send(client, b"N")
    fields = b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0"
    _send(client, b"E" + (len(fields) + 4).to_bytes(4, "big") + fields)
    client.close()


def _address(url: sa.URL) -> tuple[int, Any]:
    folder = url.query.get("host") or url.host or "127.0.0.1"
    port = int(url.port or 5432)
    if str(folder).startswith("/"):
        return socket.AF_UNIX, f"{folder}/.s.PGSQL.{port}"
    return socket.AF_INET, (str(folder), port)


def _read(end: socket.socket) -> bytes:
    try:
        return end.recv(65_536)
    except OSError:
        return b""


def _send(end: socket.socket, data: bytes) -> None:
    with suppress(OSError):
        end.sendall(data)


def _cut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
