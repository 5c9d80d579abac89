"""The limits of a key, as a client meets them."""

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
from openai import OpenAI

from tests import pictures
from tests.flows.keys import section, with_key
from tests.flows.raw import Answer, chat, send
from tests.pictures import SCENES, data_url, message
from tests.services import Server, running_redis, running_server, wait_for_log

PICTURE = data_url(pictures.png(SCENES[0]))
LIMITS = {
    "three": ["requests_per_minute = 3"],
    "two": ["requests_per_minute = 2"],
    "pictures": ["pictures_per_minute = 2"],
    "single": ["concurrent = 1"],
    "once": ["requests_per_minute = 1"],
    **{name: ["requests_per_minute = 1"] for name in ("plain", "short", "slash")},
    "free": [],
}


@pytest.fixture(scope="module")
def rationed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Altgate with a key for each kind of limit; a key's text is its name."""
    settings = "\n".join(section(name, name, *lines) for name, lines in LIMITS.items())
    with running_server(tmp_path_factory.mktemp("rationed"), settings=settings) as running:
        assert chat(running, with_key("free")).status == 200  # the model is loaded: from here on it goes quickly
        yield running


def standing(answer: Answer, kind: str = "requests") -> tuple[str | None, ...]:
    """What the headers say of a limit: itself, what remains and when it is whole again."""
    return tuple(answer.headers.get(f"x-ratelimit-{name}-{kind}") for name in ("limit", "remaining", "reset"))


def test_openais_client_meets_a_rate_limit_error(rationed: Server) -> None:
    """After the last request that is left, with the time to come back."""
    messages: list[Any] = [message(PICTURE)]
    with OpenAI(base_url=rationed.base_url, api_key="three", max_retries=0) as client:
        for _ in range(3):
            client.chat.completions.create(model="demo", messages=messages)
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(model="demo", messages=messages)

    assert caught.value.code == "rate_limit_exceeded"
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 20
    assert caught.value.response.headers["x-ratelimit-remaining-requests"] == "0"


def test_every_answer_says_how_the_limit_stands(rationed: Server) -> None:
    """A good one, a bad one, one to a path that is not there, and the refusal; to look costs nothing."""
    key = with_key("two")
    good = chat(rationed, key)
    lost = send(rationed, "GET", "/nothing", headers=key)
    bad = send(rationed, "POST", "/v1/chat/completions", "{", key)
    refused = chat(rationed, key)

    assert [each.status for each in (good, lost, bad, refused)] == [200, 404, 400, 429]
    assert standing(good) == ("2", "1", "30s")
    assert [standing(each)[1] for each in (lost, bad, refused)] == ["1", "0", "0"]
    assert "2 requests a minute" in refused.error["message"]
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert "x-should-retry" not in refused.headers


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/models", 200),
        ("POST", "/v1/embeddings", 404),
        ("POST", "/v1/models", 405),
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/admin/cache?team=x", 403),
    ],
)
def test_only_chat_completions_count(rationed: Server, method: str, path: str, status: int) -> None:
    """What asks for none costs nothing, as at OpenAI, and is told how things stand all the same."""
    answers = [send(rationed, method, path, "{}" if method == "POST" else None, with_key("once")) for _ in range(3)]

    assert {each.status for each in answers} == {status}
    assert {standing(each) for each in answers} == {("1", "1", "0s")}


@pytest.mark.parametrize(
    ("path", "key"),
    [("/v1/chat/completions", "plain"), ("/chat/completions", "short"), ("/v1/chat/completions/", "slash")],
)
def test_a_chat_completion_counts_under_every_path(rationed: Server, path: str, key: str) -> None:
    """A request that cannot be read counts as well, as at OpenAI: else it could be sent without end."""
    assert [send(rationed, "POST", path, "{", with_key(key)).status for _ in range(2)] == [400, 429]


def test_what_there_was_no_room_for_costs_nothing(tmp_path: Path) -> None:
    """Neither when all places are taken nor when memory is, before the body or in its middle: to try again, as clients
    do, would use up the limit."""
    server = '[server]\nmax_requests = 2\nmax_bytes_in_flight = "4KB"\n[engines]\npreload = []\n'
    settings = server + section("two", "two", *LIMITS["two"]) + section("free", "free")
    with running_server(tmp_path, settings=settings) as cramped:
        with uploading(cramped, "free", beginning=b" " * 3_000):
            while chat(cramped, with_key("free"), user="x" * 2_000).status != 429:
                pass  # the beginning has not been read yet
            no_memory = [chat(cramped, with_key("two"), user="x" * 2_000) for _ in range(3)]
            with uploading(cramped, "free"):
                no_place = [chat(cramped, with_key("two")) for _ in range(3)]
        wait_for_log(cramped, "POST /v1/chat/completions 499", times=2)
        after = send(cramped, "POST", "/v1/chat/completions", "{", with_key("two"))

    assert {each.status for each in no_memory + no_place} == {429}
    assert {each.headers["retry-after"] for each in no_memory + no_place} == {"1"}
    assert "2 requests are under way" in no_place[0].error["message"]
    assert "memory" in no_memory[0].error["message"]
    assert (after.status, standing(after)) == (400, ("2", "1", "30s"))


def test_pictures_are_charged_by_their_number(rationed: Server) -> None:
    """Two a minute: a request with three never passes, one with one and another with one do, the next does not."""
    key = with_key("pictures")
    three, *rest = (chat(rationed, key, messages=[message(*[PICTURE] * count)]) for count in (3, 1, 1, 1))

    assert [each.status for each in rest] == [200, 200, 429]
    assert [standing(each, "pictures")[1] for each in rest] == ["1", "0", "0"]
    assert (three.status, three.headers["x-should-retry"]) == (429, "false")
    assert "retry-after" not in three.headers
    assert chat(rationed, key).status == 200
    told = told_of(rationed, rest[-1])
    assert told["error"] == "rate_limit_exceeded"
    assert not told.keys() & {"model", "cache", "digests"}  # its answer is kept, and was not looked for


def told_of(server: Server, answer: Answer) -> dict[str, Any]:
    """What the log says of a request."""
    name = answer.headers["x-request-id"]
    wait_for_log(server, name)
    [line] = [line for line in server.log.read_text().splitlines() if name in line]
    told: dict[str, Any] = json.loads(line)
    return told


def test_a_stream_says_it_too(rationed: Server) -> None:
    """The headers come before the first event."""
    answer = chat(rationed, with_key("pictures"), stream=True)

    assert answer.headers["content-type"].startswith("text/event-stream")
    assert standing(answer, "pictures")[0] == "2"


def test_one_at_a_time_is_one_at_a_time(rationed: Server) -> None:
    """A request that is under way holds the place of its key, and a client that leaves gives it back."""
    key = with_key("single")
    with uploading(rationed, "single"):
        refused = chat(rationed, key)
        looked = send(rationed, "GET", "/v1/models", headers=key)
        others = chat(rationed, with_key("free"))
    wait_for_log(rationed, "POST /v1/chat/completions 499")

    assert [refused.status, looked.status, others.status] == [429, 200, 200]
    assert "1 request under way at once" in refused.error["message"]
    assert refused.headers["retry-after"] == "1"
    assert chat(rationed, key).status == 200


@pytest.mark.parametrize("stream", [False, True])
def test_one_after_another_is_not_two_at_once(rationed: Server, stream: bool) -> None:
    """Whoever has the whole answer may ask again in the same moment."""
    statuses = [chat(rationed, with_key("single"), stream=stream).status for _ in range(50)]

    assert statuses == [200] * 50


def uploading(server: Server, key: str, beginning: bytes = b"") -> socket.socket:
    """A connection on which a request with that key has begun, and waits for the rest of its body."""
    address = urlsplit(server.root)
    connection = socket.create_connection((address.hostname, address.port))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
    connection.sendall(head.encode() + b"expect: 100-continue\r\ncontent-length: 10000\r\n\r\n")
    assert connection.recv(100).startswith(b"HTTP/1.1 100")
    connection.sendall(beginning)
    return connection


def test_who_has_no_limit_is_told_none(rationed: Server) -> None:
    """No headers about limits that are not there."""
    answer = chat(rationed, with_key("free"))

    assert answer.status == 200
    assert not [name for name in answer.headers if name.startswith("x-ratelimit")]
    assert json.loads(answer.body)["object"] == "chat.completion"


def test_two_gateways_keep_to_one_limit_and_go_on_without_redis(tmp_path: Path) -> None:
    """What was used at one is used at the other; without their Redis each goes on from what it knows."""
    with running_redis(tmp_path) as redis, ExitStack() as stack:
        limits = section("key", "key", "requests_per_minute = 2", "concurrent = 1")
        settings = f'[engines]\npreload = []\n[cache]\nredis = "{redis.url}"\n{limits}'
        folders = [tmp_path / name for name in ("one", "other")]
        for folder in folders:
            folder.mkdir()
        one, other = (stack.enter_context(running_server(folder, settings=settings)) for folder in folders)

        with uploading(one, "key"):
            busy = unreadable(other)
        wait_for_log(one, "POST /v1/chat/completions 499")
        answers = [unreadable(server) for server in (other, one, other)]
        redis.kill()
        alone = unreadable(other)

    assert (busy.status, standing(busy)[1]) == (429, "1")
    assert "under way" in busy.error["message"]
    assert [(each.status, standing(each)[1]) for each in answers] == [(400, "0"), (429, "0"), (429, "0")]
    assert (alone.status, standing(alone)[1]) == (429, "0")


def unreadable(server: Server) -> Answer:
    """A request that needs no model, and counts all the same."""
    return send(server, "POST", "/v1/chat/completions", "{", with_key("key"))
