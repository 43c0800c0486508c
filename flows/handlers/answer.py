"""What is taken from the answer to an HTTP request: a body of bounded size, and when to ask again."""

import json
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import httpx

from flows.handlers.payload import decode, fit
from nexus.clock import utc_now
from nexus.schemas import clean
from nexus.values import check_json, json_size

MAX_RETRY_AFTER_SECONDS: Final = 86_400.0
"""A server that asks for more is asked again after a day: its word is not proof against a slip of the pen."""

ACCEPT_ENCODING: Final = "gzip"
"""The one compression that `read_answer` takes."""

_KEPT_HEADERS: Final = ("content-type", "etag", "last-modified", "link", "location", "retry-after")
_HEADER_CHARACTERS: Final = 2000


class UnknownEncoding(ValueError):
    """The body is compressed in a way that was not asked for."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that was read to its end, or to the limit."""

    status: int
    headers: dict[str, str]
    """The few that a task may want, lower-case names."""
    body: bytes
    encoding: str
    truncated: bool
    """The body was longer; the beginning was kept."""

    @property
    def text(self) -> str:
        """The body as text."""
        return decode(self.body, self.encoding)

    def result(self, limit: int) -> dict[str, Any]:
        """What the task keeps, at most `limit` bytes as JSON: status, headers, truncated, and json or text.

        `json` where the server says that it is JSON, it is whole, and the board can keep it; else `text`.
        """
        result: dict[str, Any] = {"status": self.status, "headers": self.headers, "truncated": self.truncated}
        if self._is_json and not self.truncated:
            try:
                # From bytes: JSON says by itself whether it is UTF-8, UTF-16 or UTF-32.
                whole = {**result, "json": check_json(json.loads(self.body))}
                if json_size(whole) <= limit:
                    return whole
            except (ValueError, RecursionError):  # no JSON after all, or none that both databases can keep
                pass
        result["text"] = self.text
        if fit(result, limit, "text"):
            result["truncated"] = True
        return result

    @property
    def _is_json(self) -> bool:
        kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        return kind == "application/json" or kind.endswith("+json")


async def read_answer(response: httpx.Response, limit: int) -> Answer:
    """Reads the body as it streams in, and stops after `limit` bytes of it, decompressed.

    Raises `UnknownEncoding` for a compression that was not asked for, or that is broken.
    """
    inflate = _inflater(response.headers.get("content-encoding", ""))
    body, truncated = bytearray(), False
    async for chunk in response.aiter_raw():
        # One more than may be kept is asked for, which tells a body that just fits from one that does not.
        # httpx would inflate a whole chunk first: 64 KiB can stand for 64 MiB.
        body += inflate(chunk, limit + 1 - len(body))
        if len(body) > limit:
            del body[limit:]
            truncated = True
            break
    headers = {
        name: clean(response.headers[name], _HEADER_CHARACTERS) for name in _KEPT_HEADERS if name in response.headers
    }
    return Answer(response.status_code, headers, bytes(body), response.charset_encoding or "utf-8", truncated)


def _inflater(encoding: str) -> Any:
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return lambda chunk, room: chunk[:room]
    if encoding not in ("gzip", "x-gzip"):
        raise UnknownEncoding(f"the body is compressed as {encoding!r}, which was not asked for")
    stream = zlib.decompressobj(16 + zlib.MAX_WBITS)  # 16: with gzip's own header

    def inflate(chunk: bytes, room: int) -> bytes:
        try:
            return stream.decompress(chunk, room)
        except zlib.error as error:
            raise UnknownEncoding(f"the body is no valid {encoding}: {error}") from None

    return inflate


def retry_after(headers: httpx.Headers) -> float | None:
    """Seconds until the server wants to be asked again, at most a day; None where it does not say.

    A date is counted from the server's own `Date`, because this machine's clock may be wrong.
    """
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return min(float(value), MAX_RETRY_AFTER_SECONDS)  # float, as int refuses thousands of digits
    at = _date(value)
    if at is None:
        return None
    now = _date(headers.get("date", "")) or utc_now()
    return min(max((at - now).total_seconds(), 0.0), MAX_RETRY_AFTER_SECONDS)


def _date(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
