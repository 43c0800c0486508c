"""Which URLs may be called, and how a URL is shown. One parser, httpx's own, both checks and connects."""

import ipaddress
import re
from collections.abc import Iterable
from typing import Final

import httpx

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST_NAME: Final = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")
_SHOWN_PATH: Final = 200


def parse_url(text: str | httpx.URL) -> httpx.URL:
    """An http or https URL whose host can be compared; ValueError, which does not repeat it, for any other.

    A host is a name of letters, digits, `-`, `_` and dots, or an IP address. Anything else (a backslash, a
    percent sign) is refused, because a proxy on the way may read another host in it than we did.
    """
    try:
        url = httpx.URL(text)
        port = url.port
    except (httpx.InvalidURL, UnicodeError):
        raise ValueError("is no URL; write it as https://host/path") from None
    if url.scheme not in ("http", "https"):
        raise ValueError("is neither http nor https; write it as https://host/path")
    if _plain_host(url.raw_host.decode("ascii", "replace")) is None or (port is not None and not 0 < port < 65_536):
        raise ValueError("has no host that can be called; write it as https://host/path")
    return url


def is_allowed(url: httpx.URL, allowed_hosts: Iterable[str]) -> bool:
    """Whether the URL's host is among them: the same name or address, below `*.example.org`, or any with `*`.

    Letter case, a dot at the end, the spelling of an IPv6 address, port and user play no part. `*` means any:
    also this machine and the network around it.
    """
    host = _plain_host(url.raw_host.decode("ascii", "replace"))
    return host is not None and any(_matches(host, pattern) for pattern in allowed_hosts)


def _matches(host: str, pattern: str) -> bool:
    if pattern == "*":
        return True
    if pattern.startswith("*."):
        domain = _ascii_host(pattern[2:])
        return domain is not None and not _is_address(host) and host.endswith(f".{domain}")
    return host == _ascii_host(pattern)


def _ascii_host(text: str) -> str | None:
    """The host of a setting as a URL would carry it: an international name in its ASCII form."""
    try:
        return _plain_host(httpx.URL(scheme="http", host=text.strip("[]"), path="/").raw_host.decode())
    except (httpx.InvalidURL, UnicodeError):
        return None


def _plain_host(raw: str) -> str | None:
    host = raw.lower().removesuffix(".")
    if _is_address(host):
        return ipaddress.ip_address(host).compressed
    return host if _HOST_NAME.fullmatch(host) else None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def show(url: httpx.URL) -> str:
    """The URL for a message: without user and password, without the query, which may hold a key."""
    path = url.raw_path.decode("ascii", "replace").partition("?")[0]
    host = url.raw_host.decode("ascii", "replace")
    port = f":{url.port}" if url.port is not None else ""
    shown = f"[{host}]" if ":" in host else host
    return f"{url.scheme}://{shown}{port}{path[:_SHOWN_PATH]}{'…' if len(path) > _SHOWN_PATH else ''}"
