"""What comes in from outside, byte by byte, at a gateway that asks for a key and has room for a hundred connections."""

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest

from tests.flows.keys import section
from tests.flows.raw import send
from tests.services import Server, running_server

CONNECTIONS = 100
SETTINGS = f"[server]\nmax_connections = {CONNECTIONS}\n[engines]\npreload = []\n"
KEY = b"authorization: Bearer the-key-of-ann\r\n"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The gateway."""
    settings = SETTINGS + section("ann", "the-key-of-ann")
    with running_server(tmp_path_factory.mktemp("guarded"), settings=settings) as server:
        yield server


def connected(server: Server) -> socket.socket:
    """A connection to it."""
    address = urlsplit(server.root)
    return socket.create_connection((address.hostname, address.port), timeout=30)


def told(server: Server, data: bytes) -> bytes:
    """All that comes back until it closes."""
    with connected(server) as connection:
        connection.sendall(data)
        return connection.makefile("rb").read()


def get(target: bytes, *lines: bytes, host: bytes = b"x") -> bytes:
    """A request that ends its connection."""
    headers = [b"host: " + host, b"connection: close", *lines]
    return b"GET " + target + b" HTTP/1.1\r\n" + b"".join(line + b"\r\n" for line in headers) + b"\r\n"


@pytest.mark.parametrize(
    "data",
    [
        get(b"/v1/models"),
        get(b"http://x/v1/models"),
        get(b"http://x/health/../v1/models"),
        get(b"//v1/models"),
        get(b"/health/../v1/models"),
        get(b"/health/%2e%2e/v1/models"),
        get(b"/%76%31/models"),
        get(b"/v1/models?/health"),
        get(b"/v1/models#/health"),
        get(b"/v1/models;/health"),
        get(b"/v1/models", host=b"x/health"),
        get(b"/v1/models", host=b"x?/health"),
        get(b"/v1/models", host=b"x#/health"),
        get(b"/v1/models", host=b"x/health?"),
        get(b"/v1/models", host=b"/health"),
        get(b"/v1/models", b"host: y"),
        get(b"/v1/models", b"x-forwarded-for: 127.0.0.1", b"x-forwarded-host: localhost", b"x-forwarded-proto: https"),
        get(b"/v1/models", b"forwarded: for=127.0.0.1;host=localhost"),
        get(b"/v1/models", b"x-original-url: /health", b"x-rewrite-url: /health"),
        get(b"/v1/models", b"x-http-method-override: OPTIONS"),
        get(b"/health", b"content-length: 0").replace(b"close", b"x") + get(b"/v1/models"),
        b"POST /health HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + get(b"/v1/models"),
        b"POST /health HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
        + get(b"/v1/models"),
    ],
)
def test_no_way_of_writing_it_leads_past_the_key(guarded: Server, data: bytes) -> None:
    """Whom a request claims to come from or go to changes nothing, and neither does a request hidden behind another."""
    answer = told(guarded, data)

    assert answer.startswith(b"HTTP/1.1 ")
    assert b'"object":"list"' not in answer


def test_with_the_key_they_lead_there(guarded: Server) -> None:
    """Also the way in which clients of proxies write it, and two requests at once."""
    one = b"GET http://x/v1/models HTTP/1.1\r\nhost: x\r\n" + KEY
    answer = told(guarded, one + b"\r\n" + one + b"connection: close\r\n\r\n")

    assert answer.count(b"HTTP/1.1 200 OK\r\n") == 2
    assert answer.count(b'"object":"list"') == 2


def test_javas_client_is_answered(guarded: Server) -> None:
    """Its HttpClient offers HTTP/2 with each request; the body behind that offer is read."""
    body = json.dumps({"model": "nobody", "messages": [{"role": "user", "content": "Hi"}]}).encode()
    offer = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAEAAEAAAAIAAAAB\r\n"
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n" % len(body)
    with connected(guarded) as connection:
        connection.sendall(head + offer + KEY + b"\r\n" + body)
        answer = connection.recv(2**16)

    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"model_not_found" in answer


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (get(b"/health", *[b"x-%d: y" % number for number in range(200_000)]), 431),
        (get(b"/health", b"x: " + b"y" * 2**26), 431),
        (get(b"/" + b"a" * 2**16), 414),
        (b"GET /health HTTP/1.1\nhost: x\n\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    ],
)
def test_what_is_too_large_or_no_http_is_refused_in_openais_shape(guarded: Server, data: bytes, status: int) -> None:
    """Before the key is looked at, and while the client still sends."""
    with connected(guarded) as connection:
        try:
            connection.sendall(data)
        except ConnectionError:
            assert len(data) > 2**24  # more than is thrown away
            return
        answer = connection.makefile("rb").read()

    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"].keys() == {"message", "type", "param", "code"}


def test_idle_connections_do_not_keep_others_out(guarded: Server) -> None:
    """Three times as many as there is room for: those that came first make room for those that come, a good client's
    among them, and nobody waits.
    """
    with ExitStack() as stack:
        idle = [stack.enter_context(connected(guarded)) for _ in range(3 * CONNECTIONS)]
        statuses = {send(guarded, "GET", "/health").status for _ in range(20)}
        for connection in idle:
            connection.setblocking(False)
        left = [connection for connection in idle if not ended(connection)]

    assert statuses == {200}
    assert 0 < len(left) < CONNECTIONS
    assert left == idle[-len(left) :]


def ended(connection: socket.socket) -> bool:
    """Whether the other end has closed it."""
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
