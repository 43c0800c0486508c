"""The `http` handler: one request to an allowed host, its answer kept within a limit.

Off until an operator names hosts in `http.allowed_hosts`. Every redirect is checked against them again.
Messages and logs show neither headers nor user, password or query of a URL; a secret belongs into a header.
"""

import asyncio
import base64
import logging
import re
import ssl
from functools import cache
from typing import Annotated, Any, Final, Literal
from urllib.parse import quote, unquote

import httpx
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from flows.handlers.answer import ACCEPT_ENCODING, Answer, UnknownEncoding, read_answer, retry_after
from flows.handlers.contract import GiveUp, Retry, TaskContext
from flows.handlers.errors import HttpFailed
from flows.handlers.hosts import is_allowed, parse_url, show
from flows.handlers.payload import Payload
from flows.handlers.registry import handler
from nexus.schemas import Task
from nexus.settings import HttpSettings
from nexus.values import Json, Seconds, check_text

MAX_REDIRECTS: Final = 5

_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_WORTH_ANOTHER_TRY: Final = frozenset({408, 425, 429})
"""The answers below 500 that speak of the moment and not of the request."""

_SET_BY_THE_HANDLER: Final = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer", "expect"}
)
"""With them one request could be read as two, or reach another site on an allowed machine."""

_ALSO_FOR_STRANGERS: Final = frozenset({"accept", "accept-language", "content-type", "user-agent"})
"""What of the task's own headers follows a redirect to another site: nothing that could be a secret."""

_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE: Final = re.compile(r"[\x20-\x7e\t]*")
_EXCERPT_CHARACTERS: Final = 500


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


def _check_url(value: str) -> str:
    parse_url(check_text(value))
    return value


def _check_headers(headers: dict[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        if not _TOKEN.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a header")
        if name.lower() in _SET_BY_THE_HANDLER or name.lower().startswith("proxy-"):
            raise ValueError(f"{name} is set by the handler; leave it out")
        if not _HEADER_VALUE.fullmatch(value):
            raise ValueError(f"the value of {name} holds a line break or what is not ASCII; encode it")
    return headers


# httpx logs every URL at INFO, and a URL may hold a key in its query.
logging.getLogger("httpx").setLevel(logging.WARNING)


class HttpPayload(Payload):
    """What an `http` task says."""

    method: Annotated[Literal["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"], BeforeValidator(_upper)] = (
        "GET"
    )
    url: Annotated[str, AfterValidator(_check_url)] = Field(description="http or https, at an allowed host")
    headers: Annotated[dict[str, str], AfterValidator(_check_headers)] = Field(default_factory=dict)
    json_body: Json = Field(None, alias="json", description="The body, sent as JSON; null: none")
    content: Annotated[str, AfterValidator(check_text)] | None = Field(
        None, description="The body, sent as it is in UTF-8; instead of json"
    )
    timeout_seconds: Seconds | None = Field(None, description="For the whole exchange; else the task's timeout")
    accepted_statuses: list[Annotated[int, Field(ge=100, le=599)]] | None = Field(
        None, min_length=1, description="Instead of 200 to 299; a redirect that is named here is not followed"
    )

    @model_validator(mode="after")
    def _one_body(self) -> "HttpPayload":
        if self.json_body is not None and self.content is not None:
            raise ValueError("json and content are both set; keep one")
        return self

    def accepts(self, status: int) -> bool:
        """Whether an answer with this status is what the task wants."""
        return 200 <= status <= 299 if self.accepted_statuses is None else status in self.accepted_statuses


@handler("http")
async def http(task: Task, context: TaskContext) -> dict[str, Any]:
    """Makes the request of an `HttpPayload`; returns status, a few headers, json or text, truncated.

    A method that changes something carries `Idempotency-Key`, the same at every attempt, unless the task sets
    its own. Raises `Retry` where the server says when to ask again, `HttpFailed` where it is not reached or
    another try may do (408, 425, 429, 5xx), `TimeoutError` when it takes too long, and `GiveUp` for the rest:
    a wrong payload, a host that is not allowed, any other answer.
    """
    payload = HttpPayload.of(task)
    settings = context.settings.http
    timeout_seconds = payload.timeout_seconds or task.timeout_seconds or settings.timeout_seconds
    request = _request(payload, context.idempotency_key)
    asked = f"{request.method} {show(request.url)}"
    context.logger.info("Asking %s", asked)
    try:
        async with asyncio.timeout(timeout_seconds):
            answer, again_after = await _exchange(request, payload, settings)
    except TimeoutError:
        raise TimeoutError(f"{asked} took longer than {timeout_seconds:g} s") from None
    except UnknownEncoding as error:
        raise GiveUp(f"{asked}: {error}") from None
    except httpx.HTTPError as error:
        raise HttpFailed(f"{asked}: {type(error).__name__}: {error}".rstrip(": ")) from error
    if payload.accepts(answer.status):
        return answer.result(context.settings.max_payload_bytes)
    raise _refusal(asked, answer, again_after)


def _request(payload: HttpPayload, idempotency_key: str) -> httpx.Request:
    url = parse_url(payload.url)
    headers = httpx.Headers({"User-Agent": "nexus-flows", "Accept": "*/*", "Accept-Encoding": ACCEPT_ENCODING})
    if payload.method not in _SAFE_METHODS:
        # A key may be any text, a header is ASCII; the same key always becomes the same header.
        headers["Idempotency-Key"] = quote(idempotency_key, safe=" !#$&'()*+,/:;<=>?@[]^`{|}~")
    if url.userinfo:
        # Out of the URL and into a header, which no library writes to a log.
        user, _, password = url.userinfo.decode("ascii").partition(":")
        token = base64.b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode("ascii")
        headers["Authorization"] = f"Basic {token}"
    headers.update(payload.headers)
    return httpx.Request(
        payload.method, _anonymous(url), headers=headers, json=payload.json_body, content=payload.content
    )


async def _exchange(
    request: httpx.Request, payload: HttpPayload, settings: HttpSettings
) -> tuple[Answer, float | None]:
    """The last answer, after at most `MAX_REDIRECTS` redirects, and the seconds of its Retry-After."""
    # No timeout of its own: the caller's bounds the whole, also a server that sends a byte now and then.
    options: Any = {"verify": _tls(), "timeout": None, "follow_redirects": False}
    async with httpx.AsyncClient(**options) as client:
        for _ in range(MAX_REDIRECTS + 1):
            _check_allowed(request.url, settings)
            response = await client.send(request, stream=True)
            try:
                following = response.next_request
                if following is None or payload.accepts(response.status_code):
                    return await read_answer(response, settings.max_response_bytes), retry_after(response.headers)
            finally:
                await response.aclose()
            request = _redirected(request, following, payload)
    raise GiveUp(f"{request.method} {show(request.url)}: more than {MAX_REDIRECTS} redirects")


@cache
def _tls() -> ssl.SSLContext:
    # Once a process: reading the system's authorities takes longer than most requests.
    return httpx.create_ssl_context()


def _redirected(request: httpx.Request, following: httpx.Request, payload: HttpPayload) -> httpx.Request:
    try:
        url = parse_url(following.url)
    except ValueError as error:
        raise GiveUp(f"{request.method} {show(request.url)}: the redirect {error}") from None
    following.url = _anonymous(url)
    if _site(following.url) != _site(request.url):
        # httpx takes away Authorization and Cookie; a key in a header of any other name is a secret as well.
        for name in payload.headers:
            if name.lower() not in _ALSO_FOR_STRANGERS:
                following.headers.pop(name, None)
    return following


def _anonymous(url: httpx.URL) -> httpx.URL:
    return url.copy_with(userinfo=b"", fragment=None)


def _site(url: httpx.URL) -> tuple[str, bytes, int | None]:
    return url.scheme, url.raw_host, url.port


def _check_allowed(url: httpx.URL, settings: HttpSettings) -> None:
    if not is_allowed(url, settings.allowed_hosts):
        raise GiveUp(
            f"{url.host} is not among the hosts that may be called here ({show(url)}); "
            "an operator can add it to http.allowed_hosts (NEXUS_HTTP__ALLOWED_HOSTS)"
        )


def _refusal(asked: str, answer: Answer, again_after: float | None) -> Exception:
    """What an answer that is not accepted means for the task."""
    excerpt = answer.text.strip()[:_EXCERPT_CHARACTERS]
    message = f"{asked} answered {answer.status}{f'; it says: {excerpt}' if excerpt else ''}"
    if answer.status < 500 and answer.status not in _WORTH_ANOTHER_TRY:
        return GiveUp(message)
    if again_after is not None:
        return Retry(message, after_seconds=again_after)
    return HttpFailed(message, status=answer.status)
