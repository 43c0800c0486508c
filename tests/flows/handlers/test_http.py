"""Requests that agents make, to a real server: who may be called, what is kept, what is tried again."""

import gzip
import json
import threading
import time
import tracemalloc
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from flows.handlers import GiveUp, Retry
from flows.handlers.errors import HttpFailed
from flows.handlers.hosts import is_allowed, parse_url, show
from flows.handlers.http import http
from nexus.values import json_size


@dataclass
class Site:
    """A web site of a test: what it answers by path, and what it was asked."""

    pages: dict = field(default_factory=dict)
    asked: list = field(default_factory=list)
    hung: threading.Event = field(default_factory=threading.Event)
    port: int = 0

    def url(self, path="/", host="127.0.0.1"):
        return f"http://{host}:{self.port}{path}"

    def page(self, path, body=b"", status=200, **headers):
        self.pages[path] = (status, body, {name.replace("_", "-"): value for name, value in headers.items()})
        return self.url(path)


@pytest.fixture
def site():
    site = Site()

    class Pages(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            site.asked.append((self.command, self.path, dict(self.headers.items()), body))
            if self.path == "/hangs":
                site.hung.wait(20)
                return
            status, answer, headers = site.pages.get(self.path, (404, b"no such page", {}))
            self.send_response_only(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if callable(answer):
                self.send_header("Connection", "close")
                self.end_headers()
                answer(self.wfile)
            else:
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer)

        do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = do_GET  # noqa: N815

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    site.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield site
    site.hung.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def ask(task, context):
    """Makes a request where 127.0.0.1 is allowed."""

    async def ask(
        url,
        *,
        task_timeout=None,
        idempotency_key="EP07-T3",
        max_payload_bytes=1_048_576,
        settings=None,
        **payload,
    ):
        return await http(
            task("http", {"url": url, **payload}, timeout_seconds=task_timeout),
            context(
                idempotency_key,
                http={"allowed_hosts": ["127.0.0.1"], "timeout_seconds": 10, **(settings or {})},
                max_payload_bytes=max_payload_bytes,
            ),
        )

    return ask


async def test_json_comes_back_as_json_with_the_few_headers_that_matter(site, ask):
    url = site.page(
        "/a", b'{"chapters": [1, 2]}', content_type="application/json; charset=utf-8", x_noise="1", etag='"7"'
    )

    assert await ask(url) == {
        "status": 200,
        "headers": {"content-type": "application/json; charset=utf-8", "etag": '"7"'},
        "json": {"chapters": [1, 2]},
        "truncated": False,
    }


async def test_text_comes_back_in_its_own_encoding(site, ask):
    latin = site.page("/latin", "größer".encode("latin-1"), content_type="text/plain; charset=latin-1")
    odd = site.page("/odd", "größer".encode(), content_type="text/plain; charset=hex")
    binary = site.page("/binary", b"\xff\x00\xfe", content_type="image/png")

    assert (await ask(latin))["text"] == "größer"
    assert (await ask(odd))["text"] == "größer"
    assert (await ask(binary))["text"] == "\N{REPLACEMENT CHARACTER}" * 3


@pytest.mark.parametrize(
    "body", [b"{not json", b"[NaN]", rb'["a\u0000b"]', rb'["\ud800"]', b"[" * 5000 + b"]" * 5000, b"9" * 5000]
)
async def test_json_that_the_board_cannot_keep_comes_back_as_text(site, ask, body):
    result = await ask(site.page("/a", body, content_type="application/problem+json"))

    assert result["text"] == body.decode()


async def test_a_long_answer_is_cut_and_says_so(site, ask):
    url = site.page("/long", b"x" * 100_000, content_type="application/json")
    settings = {"max_response_bytes": 1000}

    result = await ask(url, settings=settings)
    assert (result["text"], result["truncated"]) == ("x" * 1000, True)

    result = await ask(site.page("/fits", b"x" * 1000), settings=settings)
    assert (result["text"], result["truncated"]) == ("x" * 1000, False)


async def test_an_answer_without_end_is_left_at_the_limit(site, ask):
    def for_ever(out):
        try:
            while not site.hung.is_set():
                out.write(b"y" * 65536)
        except OSError:
            pass

    result = await ask(site.page("/for-ever", for_ever))

    assert result["truncated"]
    assert 1_000_000 < json_size(result) <= 1_048_576


async def test_a_compressed_answer_is_read_and_a_bomb_stays_small(site, ask):
    plain = site.page("/zip", gzip.compress(b"hello"), content_encoding="gzip")
    assert (await ask(plain))["text"] == "hello"
    assert site.asked[-1][2]["Accept-Encoding"] == "gzip"

    bomb = site.page("/bomb", gzip.compress(b"\0" * 50_000_000), content_encoding="gzip")
    tracemalloc.start()
    try:
        result = await ask(bomb, settings={"max_response_bytes": 1000})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5 * 2**20
    assert (len(result["text"]), result["truncated"]) == (1000, True)


@pytest.mark.parametrize(("encoding", "body"), [("br", b"hello"), ("gzip", b"hello")])
async def test_a_compression_that_nobody_asked_for_is_given_up(site, ask, encoding, body):
    with pytest.raises(GiveUp, match=encoding):
        await ask(site.page("/odd", body, content_encoding=encoding))


async def test_a_result_that_is_longer_as_json_than_a_task_may_hold_is_cut_to_fit(site, ask):
    text = await ask(site.page("/quotes", b'"' * 3000), max_payload_bytes=4096)
    assert json_size(text) <= 4096
    assert text["truncated"]

    wide = json.dumps(["x" * 4090]).encode()
    whole = await ask(site.page("/wide", wide, content_type="application/json"), max_payload_bytes=4096)
    assert json_size(whole) <= 4096
    assert whole["text"].startswith('["xxx')


async def test_method_headers_and_body_reach_the_server(site, ask):
    url = site.page("/orders?paid=1", b"", 201)

    assert (await ask(url, method="post", json={"title": "Über"}, headers={"X-Shop": "7"}))["status"] == 201
    method, path, headers, body = site.asked[-1]
    assert (method, path, json.loads(body)) == ("POST", "/orders?paid=1", {"title": "Über"})
    assert headers["Content-Type"] == "application/json"
    assert headers["X-Shop"] == "7"
    assert headers["Host"] == f"127.0.0.1:{site.port}"

    await ask(url, method="PUT", content="größer", headers={"Content-Type": "text/plain"})
    assert site.asked[-1][3] == "größer".encode()

    assert (await ask(url, method="HEAD"))["text"] == ""


async def test_what_changes_something_carries_the_same_key_at_every_attempt(site, ask):
    url = site.page("/orders")

    for method in ("POST", "PUT", "PATCH", "DELETE"):
        await ask(url, method=method)
        assert site.asked[-1][2]["Idempotency-Key"] == "EP07-T3"
    for method in ("GET", "HEAD", "OPTIONS"):
        await ask(url, method=method)
        assert "Idempotency-Key" not in site.asked[-1][2]
    await ask(url, method="POST", headers={"idempotency-key": "own"})
    assert [value for name, value in site.asked[-1][2].items() if name.lower() == "idempotency-key"] == ["own"]
    await ask(url, method="POST", idempotency_key="Folge 7: größer")
    assert site.asked[-1][2]["Idempotency-Key"] == "Folge 7: gr%C3%B6%C3%9Fer"


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        ({"method": "TRACE"}, "method"),
        ({"method": "CONNECT"}, "method"),
        ({"methods": "GET"}, "methods: Extra inputs"),
        ({"json": 1, "content": "1"}, "keep one"),
        ({"headers": {"Host": "other"}}, "Host is set by the handler"),
        ({"headers": {"transfer-encoding": "chunked"}}, "set by the handler"),
        ({"headers": {"Proxy-Authorization": "s3cret"}}, "set by the handler"),
        ({"headers": {"X": "s3cret\r\nHost: other"}}, "the value of X"),
        ({"headers": {"X: s": "1"}}, "no name of a header"),
        ({"headers": {"X": "größer"}}, "not ASCII"),
        ({"accepted_statuses": []}, "accepted_statuses"),
        ({"accepted_statuses": [7]}, "accepted_statuses"),
        ({"timeout_seconds": -1}, "timeout_seconds"),
    ],
)
async def test_a_payload_that_cannot_be_is_given_up_with_the_field_that_is_wrong(site, ask, payload, told):
    with pytest.raises(GiveUp, match=told) as refusal:
        await ask(site.page("/"), **payload)
    assert "s3cret" not in str(refusal.value)
    assert not site.asked


ODD_URLS = {
    "http://allowed@evil.test/": "allowed_hosts",
    "http://allowed:pass@evil.test/": "allowed_hosts",
    "http://evil.test#@allowed/": "allowed_hosts",
    "http://evil.test?@allowed/": "allowed_hosts",
    "http://allowed.evil.test/": "allowed_hosts",
    "http://notallowed/": "allowed_hosts",
    "http://127.1/": "allowed_hosts",
    "http://2130706433/": "allowed_hosts",
    "http://[::ffff:127.0.0.1]/": "allowed_hosts",
    "http://allowed\\@evil.test/": "allowed_hosts",
    "http://evil.test\\.allowed/": "no host",
    "http://allowed%2eevil.test/": "no host",
    "http://%61llowed/": "no host",
    "http://allowed:99999/": "no host",
    "http://allowed:0/": "no host",
    f"http://{'a' * 64}.allowed/": "no host",
    "http:///path": "no host",
    "http:allowed/": "no host",
    "//allowed/": "neither http nor https",
    "ftp://allowed/": "neither http nor https",
    "file:///etc/passwd": "neither http nor https",
    "javascript:alert(1)": "is no URL|neither",
    "http://[::1": "is no URL",
    "http://allowed:80:90/": "is no URL",
    "http://allowed\t.evil.test/": "is no URL",
    "http://allowed\r\nHost: evil/": "is no URL",
    "http://allowed\x00/": "NUL",
    "": "neither",
}


@pytest.mark.parametrize(("url", "told"), ODD_URLS.items(), ids=map(repr, ODD_URLS))
async def test_no_spelling_of_a_url_reaches_a_host_that_is_not_allowed(ask, url, told):
    with pytest.raises(GiveUp, match=told):
        await ask(url, settings={"allowed_hosts": ["allowed", "*.allowed", "127.0.0.1"]})


async def test_nothing_is_allowed_until_an_operator_says_so(site, ask):
    with pytest.raises(GiveUp, match="NEXUS_HTTP__ALLOWED_HOSTS"):
        await ask(site.page("/"), settings={"allowed_hosts": []})
    assert not site.asked


@pytest.mark.parametrize(
    ("url", "allowed", "may"),
    [
        ("http://example.org/", "example.org", True),
        ("HTTPS://EXAMPLE.ORG.:8443/", "Example.org", True),
        ("http://a.example.org/", "example.org", False),
        ("http://a.example.org/", "*.example.org", True),
        ("http://b.a.example.org/", "*.example.org", True),
        ("http://example.org/", "*.example.org", False),
        ("http://badexample.org/", "*.example.org", False),
        ("http://anything.test/", "*", True),
        ("http://[::1]/", "::1", True),
        ("http://[0:0:0:0:0:0:0:1]:80/", "[::1]", True),
        ("http://[::2]/", "::1", False),
        ("http://10.0.0.1/", "*.0.0.1", False),
        ("http://bücher.example/", "bücher.example", True),
        ("http://xn--bcher-kva.example/", "*.example", True),
        ("http://xn--bcher-kva.example/", "bücher.example", True),
        ("http://example.org/", "http://example.org", False),
        ("http://example.org/", "exam ple.org", False),
    ],
)
def test_which_host_matches_which_setting(url, allowed, may):
    assert is_allowed(parse_url(url), [allowed]) is may


async def test_user_and_password_become_a_header_and_are_shown_nowhere(site, ask, caplog):
    caplog.set_level("DEBUG")
    site.page("/down?key=t0ken", b"", 503)
    url = f"http://ada:s3cr%40et@127.0.0.1:{site.port}/down?key=t0ken"

    with pytest.raises(HttpFailed) as failure:
        await ask(url, headers={"X-Api-Key": "k3y"})

    assert httpx.BasicAuth("ada", "s3cr@et")._auth_header == site.asked[-1][2]["Authorization"]
    assert str(failure.value) == f"GET {site.url('/down')} answered 503"
    ours = " ".join(record.getMessage() for record in caplog.records if record.name.startswith("nexus"))
    assert f"GET {site.url('/down')}" in ours
    assert "t0ken" not in ours
    assert not any(word in caplog.text for word in ("s3cr", "k3y", "ada:"))


def test_a_url_is_shown_without_what_may_be_secret():
    assert show(parse_url("https://u:p@[::1]:8443/a/b?key=1#f")) == "https://[::1]:8443/a/b"
    assert len(show(parse_url("http://example.org/" + "x" * 5000))) < 250


async def test_redirects_are_followed_within_the_allowed_hosts(site, ask):
    site.page("/end", b"here")
    site.page("/middle", b"", 302, location="/end")

    assert (await ask(site.page("/start", b"", 301, location=site.url("/middle"))))["text"] == "here"
    assert [path for _, path, _, _ in site.asked] == ["/start", "/middle", "/end"]


@pytest.mark.parametrize(
    "target", ["http://localhost:{port}/", "//localhost:{port}/", "http://127.0.0.1@localhost:{port}/"]
)
async def test_a_redirect_to_a_forbidden_host_is_refused_before_it_is_asked(site, ask, target):
    site.page("/", b"secret")

    with pytest.raises(GiveUp, match=r"localhost is not among the hosts"):
        await ask(site.page("/start", b"", 302, location=target.format(port=site.port)))
    assert [path for _, path, _, _ in site.asked] == ["/start"]


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/", "gopher://127.0.0.1/"])
async def test_a_redirect_leads_to_http_only(site, ask, target):
    with pytest.raises(GiveUp, match="the redirect is neither http nor https"):
        await ask(site.page("/start", b"", 302, location=target))


async def test_a_redirect_brings_no_credentials_of_its_own(site, ask):
    site.page("/end", b"here")

    await ask(site.page("/start", b"", 302, location=f"http://eve:pass@127.0.0.1:{site.port}/end"))

    assert site.asked[-1][1] == "/end"
    assert "Authorization" not in site.asked[-1][2]


async def test_a_circle_of_redirects_ends(site, ask):
    with pytest.raises(GiveUp, match="more than 5 redirects"):
        await ask(site.page("/start", b"", 302, location="/start"))
    assert len(site.asked) == 6


async def test_a_redirect_that_the_task_accepts_is_its_result(site, ask):
    result = await ask(site.page("/start", b"", 302, location="/end"), accepted_statuses=[302])

    assert (result["status"], result["headers"]["location"]) == (302, "/end")
    assert len(site.asked) == 1


async def test_a_redirect_to_another_site_gets_none_of_the_tasks_secrets(site, ask):
    site.page("/end", b"here")
    url = site.page("/start", b"", 307, location=site.url("/end", host="localhost"))
    headers = {
        "Authorization": "Bearer s3cret",
        "X-Api-Key": "s3cret",
        "Cookie": "a=s3cret",
        "Accept": "text/plain",
    }
    settings = {"allowed_hosts": ["127.0.0.1", "localhost"]}

    await ask(url, method="POST", json={"a": 1}, headers=headers, settings=settings)

    method, _, there, body = site.asked[-1]
    assert (method, json.loads(body)) == ("POST", {"a": 1})
    assert there["Host"] == f"localhost:{site.port}"
    assert there["Accept"] == "text/plain"
    assert there["Idempotency-Key"] == "EP07-T3"
    assert "s3cret" not in str(there)
    assert str(site.asked[0][2]).count("s3cret") == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 410, 422, 304])
async def test_an_answer_that_another_try_will_not_change_is_given_up(site, ask, status):
    with pytest.raises(GiveUp, match=rf"GET http://127\.0\.0\.1:\d+/no answered {status}"):
        await ask(site.page("/no", b"", status, retry_after="5"))


async def test_a_refusal_says_what_the_server_says(site, ask):
    with pytest.raises(GiveUp, match="404; it says: no such page"):
        await ask(site.url("/missing"))


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
async def test_an_answer_of_the_moment_is_tried_again_by_the_policy(site, ask, status):
    with pytest.raises(HttpFailed, match=str(status)) as failure:
        await ask(site.page("/busy", b"", status))
    assert failure.value.status == status


async def test_a_task_may_accept_any_status(site, ask):
    assert (await ask(site.url("/missing"), accepted_statuses=[200, 404]))["text"] == "no such page"
    with pytest.raises(GiveUp, match="answered 204"):
        await ask(site.page("/empty", b"", 204), accepted_statuses=[200])


SERVER_TIME = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)


@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [
        ("7", 7),
        ("0", 0),
        ("999999999", 86_400),
        ("9" * 5000, 86_400),
        (format_datetime(SERVER_TIME + timedelta(seconds=90), usegmt=True), 90),
        (format_datetime(SERVER_TIME - timedelta(seconds=90), usegmt=True), 0),
        (format_datetime(SERVER_TIME + timedelta(days=90), usegmt=True), 86_400),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
async def test_a_server_that_says_when_is_asked_then(site, ask, status, retry_after, seconds):
    def nothing(out):
        pass

    # Its own clock is years ahead of ours: the date counts from its Date.
    url = site.page("/busy", nothing, status, retry_after=retry_after, date=format_datetime(SERVER_TIME, usegmt=True))
    with pytest.raises(Retry, match=str(status)) as again:
        await ask(url)
    assert again.value.retry_after_seconds == seconds


@pytest.mark.parametrize("retry_after", ["", "soon", "-5", "1.5", "²", "Tue, 99 Foo 2031"])
async def test_a_server_that_says_nonsense_leaves_it_to_the_policy(site, ask, retry_after):
    with pytest.raises(HttpFailed):
        await ask(site.page("/busy", b"", 503, retry_after=retry_after))


async def test_who_cannot_be_reached_is_tried_again_and_the_message_says_who(site, ask):
    free = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    port = free.server_port
    free.server_close()

    with pytest.raises(HttpFailed, match=rf"GET http://127\.0\.0\.1:{port}/x: ConnectError") as failure:
        await ask(f"http://u:s3cret@127.0.0.1:{port}/x")
    assert failure.value.status is None
    assert "s3cret" not in str(failure.value)


async def test_an_answer_that_breaks_off_is_tried_again(site, ask):
    url = site.page("/broken", lambda out: out.write(b"only this"), content_length="1000")

    with pytest.raises(HttpFailed, match="RemoteProtocolError"):
        await ask(url)


@pytest.mark.parametrize(
    ("of_the_payload", "of_the_task", "of_the_settings"), [(0.2, 20, 20), (None, 0.2, 20), (None, None, 0.2)]
)
async def test_a_server_that_does_not_answer_is_left(site, ask, of_the_payload, of_the_task, of_the_settings):
    payload = {} if of_the_payload is None else {"timeout_seconds": of_the_payload}
    with pytest.raises(TimeoutError, match=r"/hangs took longer than 0\.2 s"):
        await ask(
            site.url("/hangs"),
            task_timeout=of_the_task,
            settings={"timeout_seconds": of_the_settings},
            **payload,
        )


async def test_a_server_that_sends_a_byte_now_and_then_is_left_as_well(site, ask):
    def drip(out):
        try:
            while not site.hung.wait(0.05):
                out.write(b".")
        except OSError:
            pass

    started = time.monotonic()
    with pytest.raises(TimeoutError):
        await ask(site.page("/drip", drip), timeout_seconds=0.4)
    assert time.monotonic() - started < 3
