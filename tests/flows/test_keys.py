"""Keys at the front door: who gets in, and what each may see."""

import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
from openai import OpenAI

from tests import pictures
from tests.flows.keys import section, with_key
from tests.flows.raw import chat, send
from tests.pictures import SCENES, data_url, message
from tests.services import Server, running_server, wait_for_log

PICTURE = data_url(pictures.png(SCENES[0]))
CI, LIMITED, ADMIN = (f"ag-{name}{'x' * 40}" for name in ("ci-", "lim", "adm"))


KEYS = (
    section("ci", CI)
    + section("limited", LIMITED, 'team = "web"', 'models = ["demo"]', "requests_per_minute = 1000")
    + section("chief", ADMIN, "admin = true")
)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Altgate with three keys, on every address of this machine."""
    settings = '[server]\nhost = "0.0.0.0"\n' + KEYS
    with running_server(tmp_path_factory.mktemp("guarded"), settings=settings) as running:
        yield running


def client(server: Server, key: str) -> OpenAI:
    """OpenAI's own client, which does not try again."""
    return OpenAI(base_url=server.base_url, api_key=key, max_retries=0)


def test_openais_client_gets_in_with_its_key_alone(guarded: Server) -> None:
    """The right key is served, a wrong one is an AuthenticationError, before a body of any size is read."""
    messages: list[Any] = [message(PICTURE)]
    with client(guarded, CI) as right, client(guarded, "ag-wrong") as wrong:
        assert right.chat.completions.create(model="demo", messages=messages).choices[0].message.content
        with pytest.raises(openai.AuthenticationError) as caught:
            wrong.chat.completions.create(model="demo", messages=[message(PICTURE, text="x" * 10_000_000)])  # type: ignore[list-item]

    assert caught.value.code == "invalid_api_key"
    assert "ag-wrong" not in str(caught.value.body)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1/models",
        "/models",
        "/v1/models/demo",
        "/v1/chat/completions",
        "/chat/completions",
        "/admin/cache",
        "/nothing",
        "/health/",
        "//health",
        "/health/x",
        "/HEALTH",
        "/v1//health",
        "/health%2f..%2fv1/models",
        "/health/../v1/models",
        "/v1/models?/health",
        "/v1/models#/health",
        "/%76%31/models",
        "/docs",
        "/schema",
        "/metrics",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "DELETE"])
def test_every_path_needs_a_key(guarded: Server, method: str, path: str) -> None:
    """Paths that are served, that are not, and that only look like one that is open: without a key they are all 401."""
    answer = send(guarded, method, path)

    assert answer.status == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["x-request-id"].startswith("req_")
    assert (answer.error["type"], answer.error["code"]) == ("invalid_request_error", "invalid_api_key")


@pytest.mark.parametrize("path", ["/health", "/v1/health", "/healthz", "/ping", "/ready", "/v1/ready", "/readyz"])
def test_whoever_looks_after_the_machine_needs_none(guarded: Server, path: str) -> None:
    """Alive and ready are told to all."""
    assert send(guarded, "GET", path).status in (200, 503)


@pytest.mark.parametrize(
    "host", ["127.0.0.1/health", "x?/health", "x#/health", "a b", "/health", "health", "127.0.0.1:80:90"]
)
def test_no_host_header_opens_the_door(guarded: Server, host: str) -> None:
    """Who may pass is decided by the path that the routes go by, and by nothing else."""
    assert send(guarded, "GET", "/v1/models", headers={"host": host}).status in (400, 401)


@pytest.mark.parametrize("name", ["x-forwarded-for", "x-real-ip", "x-original-url", "x-forwarded-host", "x-api-key"])
def test_no_other_header_opens_the_door(guarded: Server, name: str) -> None:
    """Neither an address that is claimed nor a path that is claimed."""
    value = CI if name == "x-api-key" else "/health" if "url" in name else "127.0.0.1"

    assert send(guarded, "GET", "/v1/models", headers={name: value}).status == 401


@pytest.mark.parametrize(
    "value",
    [
        b"Bearer",
        b"Bearer ",
        b"Basic " + CI.encode(),
        b"Bearer ' OR 1=1; --",
        "Bearer schlüssel-🔑".encode(),
        b"Bearer " + CI.encode() + b" " + CI.encode(),
        b"Bearer " + b"x" * 20_000,
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_is_no_key_is_401(guarded: Server, value: bytes) -> None:
    """In OpenAI's shape, without an echo, and the log has nothing of it either."""
    answer = raw(guarded, b"authorization: " + value)

    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"invalid_api_key" in answer
    assert CI.encode() not in answer
    assert b"OR 1=1" not in answer


def test_two_authorization_headers_are_401(guarded: Server) -> None:
    """Also when one of them, or each, is right: what a proxy would have read is not to be guessed."""
    header = b"authorization: Bearer " + CI.encode()

    assert raw(guarded, header).startswith(b"HTTP/1.1 200 ")
    assert raw(guarded, header, header).startswith(b"HTTP/1.1 401 ")


def test_a_header_of_a_megabyte_is_refused_and_the_server_goes_on(guarded: Server) -> None:
    """It never gets as far as a key."""
    assert b" 200 " not in raw(guarded, b"authorization: Bearer " + b"x" * 2**20)[:20]
    assert send(guarded, "GET", "/health").status == 200


def raw(server: Server, *headers: bytes) -> bytes:
    """The answer to a GET with headers that no client library would send."""
    address = urlsplit(server.root)
    with socket.create_connection(("127.0.0.1", address.port or 80)) as connection:
        lines = b"\r\n".join([b"GET /v1/models HTTP/1.1", b"host: x", b"connection: close", *headers, b"", b""])
        try:
            connection.sendall(lines)
            return b"".join(iter(lambda: connection.recv(65536), b""))
        except ConnectionError:  # refused while it was being sent
            return b""


def test_the_log_names_the_key_and_never_shows_it(guarded: Server) -> None:
    """Who asked stands beside each request; a wrong key leaves a line with its id."""
    good = send(guarded, "GET", "/v1/models", headers=with_key(CI))
    bad = send(guarded, "GET", "/v1/models", headers=with_key("ag-s3cret"))

    wait_for_log(guarded, f"{good.headers['x-request-id']} ci")
    wait_for_log(guarded, f"{bad.headers['x-request-id']}: The API key is not known here")
    log = guarded.log.read_text()
    assert CI not in log
    assert "s3cret" not in log


def test_a_body_is_not_read_for_who_has_no_key(guarded: Server) -> None:
    """The refusal comes while the body is still awaited."""
    address = urlsplit(guarded.root)
    with socket.create_connection(("127.0.0.1", address.port or 80)) as connection:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n{")

        assert connection.recv(100).startswith(b"HTTP/1.1 401 ")


def test_a_key_sees_the_models_that_it_may_use(guarded: Server) -> None:
    """Another does not exist for it: neither in the list nor by its name, and a request for it is 404."""
    listed = {
        key: {each["id"] for each in send(guarded, "GET", "/v1/models", headers=with_key(key)).json()["data"]}
        for key in (CI, LIMITED)
    }
    shown = send(guarded, "GET", "/v1/models/blip-base", headers=with_key(LIMITED))
    with client(guarded, LIMITED) as limited, pytest.raises(openai.NotFoundError) as caught:
        limited.chat.completions.create(model="blip-base", messages=[message(PICTURE)])  # type: ignore[list-item]

    assert {"demo", "blip-base"} <= listed[CI]
    assert {name.partition(":")[0] for name in listed[LIMITED]} == {"demo"}
    assert (shown.status, caught.value.code, caught.value.param) == (404, "model_not_found", "model")
    assert chat(guarded, with_key(LIMITED)).status == 200


@pytest.mark.parametrize(("key", "status"), [(CI, 403), (LIMITED, 403), (ADMIN, 200)])
@pytest.mark.parametrize("path", ["/admin/cache", "/v1/admin/cache", "/admin/cache/", "//admin/cache"])
def test_administrators_alone_may_see_the_cache(guarded: Server, path: str, key: str, status: int) -> None:
    """However the path is spelled: a spelling that is not served is 404 to all."""
    answer = send(guarded, "GET", path, headers=with_key(key))

    assert answer.status in (status, 404)
    if answer.status == 403:
        assert answer.error["code"] == "admin_key_required"


def test_without_keys_nobody_is_an_administrator(server: Server) -> None:
    """A web page that makes a browser of this machine ask must not clear anything."""
    assert [send(server, method, "/admin/cache?team=x").status for method in ("GET", "DELETE")] == [403, 403]


def test_a_web_page_with_a_key_is_let_in(guarded: Server) -> None:
    """The rule about pages from elsewhere guards gateways that ask for no key."""
    assert chat(guarded, with_key(CI) | {"origin": "https://app.example"}).status == 200


def test_the_banner_says_that_a_key_is_needed(guarded: Server) -> None:
    """And shows how it is sent."""
    assert "needed; known are those of ci, limited, chief" in guarded.banner
    assert "Authorization: Bearer" in guarded.banner
