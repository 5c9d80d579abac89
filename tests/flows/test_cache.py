"""The cache, as a client sees it."""

import http.client
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from engines.demo import scenes
from tests import pictures
from tests.flows.raw import Answer, chat
from tests.pictures import SCENES, data_url, message
from tests.services import Server, running_redis, running_server

ONE, OTHER = (pictures.png(scene) for scene in SCENES[100:102])


def about(server: Server, *urls: str, headers: dict[str, str] | None = None, **fields: Any) -> Answer:
    """A chat completion about those pictures."""
    return chat(server, headers, **({"messages": [message(*urls)]} | fields))


def cached(answer: Answer) -> str:
    """What the answer says of the cache."""
    assert answer.status == 200, answer.body
    return answer.headers["x-altgate-cache"]


def test_the_same_request_is_answered_from_the_cache(server: Server) -> None:
    """The second time it is a hit: the same words, an id and a time of its own."""
    first, second = (about(server, data_url(pictures.png(SCENES[150]))) for _ in range(2))

    assert [cached(first), cached(second)] == ["miss", "hit"]
    assert first.json()["choices"] == second.json()["choices"]
    assert first.json()["usage"] == second.json()["usage"]
    assert first.json()["id"] != second.json()["id"]


@pytest.mark.parametrize("stream", [False, True])
def test_who_sends_the_same_bytes_again_and_again_is_told_the_same(server: Server, stream: bool) -> None:
    """From the third time on the request is known by its bytes and not read: all that an answer says stays, but for
    what is its own; and the same bytes with other wishes are read again.
    """
    asked: dict[str, Any] = {"seed": 7 + stream, "stream": stream, "top_k": 5}
    answers = [about(server, data_url(pictures.png(SCENES[151])), **asked) for _ in range(4)]

    assert [cached(answer) for answer in answers] == ["miss", "hit", "hit", "hit"]
    assert ["parse" in answer.headers["server-timing"] for answer in answers] == [True, True, False, False]
    assert len({answer.headers["x-request-id"] for answer in answers}) == 4
    for name in ("x-altgate-image", "x-altgate-ignored", "content-type"):
        assert {answer.headers[name] for answer in answers[1:]} == {answers[0].headers[name]}
    plain = [re.sub(rb'"(id|created)":("[^"]*"|[0-9]+)', b"", answer.body) for answer in answers]
    assert plain[1] == plain[2] == plain[3] != answers[1].body
    anew = about(server, data_url(pictures.png(SCENES[151])), headers={"cache-control": "no-store"}, **asked)
    assert cached(anew) == "bypass"


def test_another_picture_with_the_same_words_is_never_a_hit(server: Server) -> None:
    """The worst bug of caches for captions: here each of ten pictures gets its own answer."""
    answers = {index: about(server, data_url(pictures.png(SCENES[index])), seed=5) for index in range(100, 110)}

    assert {cached(answer) for answer in answers.values()} == {"miss"}
    for index, answer in answers.items():
        assert (
            about(server, data_url(pictures.png(SCENES[index])), seed=5).json()["choices"] == answer.json()["choices"]
        )


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": 4},
        {"stop": ["zebra"]},
        {"seed": 11},
        {"altgate": {"task": "alt_text"}},
        {"altgate": {"prefix": "a"}},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"type": "object", "properties": {"caption": {"type": "string"}}},
            }
        },
        {"messages": [message(data_url(ONE), text="Other words.")]},
    ],
    ids=str,
)
def test_whatever_shapes_the_answer_makes_another_entry(server: Server, fields: dict[str, Any]) -> None:
    """A request that differs in one field is generated anew."""
    about(server, data_url(ONE))

    assert cached(about(server, data_url(ONE), **fields)) == "miss"


@pytest.mark.parametrize("form", ["padding", "label", "bare", "input_image"])
def test_one_picture_is_one_picture_in_every_form(server: Server, form: str) -> None:
    """The bytes count, not how they were written."""
    about(server, data_url(ONE))
    plain = data_url(ONE)
    forms: dict[str, Any] = {
        "padding": {"type": "image_url", "image_url": plain.rstrip("=")},
        "label": {"type": "image_url", "image_url": {"url": plain.replace("image/png", "image/jpeg")}},
        "bare": {"type": "image_url", "image_url": {"url": plain.partition(",")[2]}},
        "input_image": {"type": "input_image", "image_url": plain},
    }
    words = {"type": "text", "text": "Generate a caption for this image."}

    assert cached(chat(server, messages=[{"role": "user", "content": [words, forms[form]]}])) == "hit"


def test_a_hit_streams_when_a_stream_was_asked_for(server: Server) -> None:
    """Whole or streamed is one entry."""
    whole = about(server, data_url(ONE)).json()["choices"][0]["message"]["content"]

    streamed = about(server, data_url(ONE), stream=True)

    assert cached(streamed) == "hit"
    assert whole.encode() in streamed.body
    assert streamed.body.endswith(b"data: [DONE]\n\n")


def test_a_streamed_answer_is_kept(server: Server) -> None:
    """What was streamed once is a hit afterwards, whole."""
    streamed = about(server, data_url(OTHER), stream=True, max_tokens=40)

    assert [cached(streamed), cached(about(server, data_url(OTHER), max_tokens=40))] == ["miss", "hit"]


def test_cache_control_is_obeyed(server: Server) -> None:
    """`no-cache` generates anew and keeps the answer; `no-store` neither looks nor keeps."""
    url = data_url(pictures.png(SCENES[111]))

    assert cached(about(server, url, headers={"cache-control": "no-store"})) == "bypass"
    assert cached(about(server, url, headers={"cache-control": "no-cache"})) == "bypass"
    assert cached(about(server, url)) == "hit"
    assert cached(about(server, url, headers={"Cache-Control": "No-Store, max-age=0"})) == "bypass"


def test_directives_on_several_lines_are_one(server: Server) -> None:
    """What is to be kept nowhere is not, whichever line says so."""
    connection = http.client.HTTPConnection(urlsplit(server.root).netloc)
    body = json.dumps({"model": "demo", "messages": [message(data_url(pictures.png(SCENES[77])))]}).encode()
    connection.putrequest("POST", "/v1/chat/completions")
    for directive in ("max-age=100", "no-store"):
        connection.putheader("cache-control", directive)
    connection.putheader("content-length", str(len(body)))
    connection.endheaders(body)
    answer = connection.getresponse()
    answer.read()
    connection.close()

    assert answer.headers["x-altgate-cache"] == "bypass"


def test_an_answer_may_be_too_old(server: Server) -> None:
    """`max-age` bounds the age of what is found, `age` tells it; what is made instead is kept."""
    url = data_url(pictures.png(SCENES[112]))
    about(server, url)

    found = about(server, url, headers={"cache-control": "max-age=3600"})
    assert (cached(found), found.headers["age"].isdigit()) == ("hit", True)
    assert cached(about(server, url, headers={"cache-control": "max-age=0"})) == "miss"
    assert int(about(server, url).headers["age"]) <= int(found.headers["age"]) + 1
    assert "age" not in about(server, url, headers={"cache-control": "no-cache"}).headers


def test_an_answer_that_was_kept_or_none(server: Server) -> None:
    """`only-if-cached` never makes an answer: a hit, or 504 and no retries by OpenAI's client."""
    url = data_url(pictures.png(SCENES[113]))
    only = {"cache-control": "only-if-cached"}

    refused = [about(server, url, headers=only), about(server, url, headers=only, temperature=1)]
    about(server, url)

    assert [(each.status, each.error["code"]) for each in refused] == [(504, "not_cached")] * 2
    assert {each.headers["x-should-retry"] for each in refused} == {"false"}
    assert cached(about(server, url, headers=only)) == "hit"
    assert cached(about(server, url, headers=only, stream=True)) == "hit"


def test_sampling_is_not_cached_unless_it_has_a_seed(server: Server) -> None:
    """Who asks for chance gets it each time; a seed makes it repeatable."""
    url = data_url(ONE)

    assert [cached(about(server, url, temperature=1)) for _ in range(2)] == ["bypass", "bypass"]
    assert [cached(about(server, url, temperature=1, seed=99)) for _ in range(2)] == ["miss", "hit"]


def test_an_answer_that_was_cut_off_is_not_kept(server: Server) -> None:
    """Only complete answers are."""
    assert [cached(about(server, data_url(ONE), max_tokens=2)) for _ in range(2)] == ["miss", "miss"]


shown = [ONE]  # what the site serves, the last of these


@pytest.fixture
def site() -> Iterator[str]:
    """A site on loopback that serves one picture at a time."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(shown[-1])

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the base class's name
            """Says nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as http_server:
        threading.Thread(target=http_server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http_server.server_port}/a.png"
        http_server.shutdown()


def test_redis_and_urls(tmp_path: Path, site: str) -> None:
    """With a Redis: a picture by URL is the same as by base64, a second server finds what the first one kept, and a
    Redis that is gone costs nobody their answer."""
    port = urlsplit(site).port
    with running_redis(tmp_path) as redis:
        settings = (
            f'[cache]\nredis = "{redis.url}"\n'
            f'[images]\nallowed_networks = ["127.0.0.0/8"]\nallowed_ports = [80, 443, {port}]\n'
        )
        with running_server(tmp_path, settings=settings) as first:
            assert "Redis" in first.banner
            by_url, *again = (about(first, site) for _ in range(3))
            assert [cached(by_url), *map(cached, again)] == ["miss", "hit", "hit"]
            assert by_url.json()["choices"][0]["message"]["content"] == scenes.caption(SCENES[100])
        with running_server(tmp_path, settings=settings) as second:
            assert cached(about(second, data_url(ONE))) == "hit"
            shown.append(OTHER)
            assert cached(about(second, site)) == "miss"  # the same request, but it is another picture now
            redis.kill()
            assert cached(about(second, data_url(ONE))) == "hit"  # from its own memory
            assert cached(about(second, data_url(pictures.png(SCENES[102])))) == "miss"
