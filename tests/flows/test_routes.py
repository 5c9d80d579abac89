"""Paths, methods and headers that clients and probes use."""

import socket
import time
from urllib.parse import urlsplit

import pytest

from tests.flows.raw import chat, send
from tests.services import Server


@pytest.mark.parametrize("path", ["/", "/ping", "/health", "/healthz", "/ready", "/readyz", "/v1/models", "/models"])
def test_reads_answer_get_and_head(server: Server, path: str) -> None:
    """HEAD has the same status and no body."""
    chat(server)  # by then the demo model is loaded, so /ready is well

    assert send(server, "GET", path).status == 200
    head = send(server, "HEAD", path)
    assert (head.status, head.body) == (200, b"")


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/chat/completions", "/v1/chat/completions/", "//v1/chat/completions"]
)
def test_chat_is_served_with_and_without_the_prefix(server: Server, path: str) -> None:
    """A doubled slash, a slash at the end and a missing prefix all come from real base URLs. The status is 200."""
    body = '{"model": "demo", "messages": [{"role": "user", "content": "Hi"}]}'

    assert send(server, "POST", path, body).status == 200


@pytest.mark.parametrize(
    "name",
    ["demo", "demo:alt_text", "Salesforce/blip-image-captioning-base", "Salesforce%2Fblip-image-captioning-base"],
)
@pytest.mark.parametrize("prefix", ["/v1/models/", "/models/"])
def test_a_model_is_shown_by_name_and_alias(server: Server, prefix: str, name: str) -> None:
    """Names with slashes work plain and encoded."""
    shown = send(server, "GET", prefix + name).json()

    assert shown["id"] == name.replace("%2F", "/")
    assert shown["object"] == "model"
    assert shown["max_model_len"] > 0
    assert shown["engine"] == "blip"
    assert send(server, "HEAD", prefix + name).status == 200


def test_the_list_tells_what_clients_look_for(server: Server) -> None:
    """OpenAI's fields, `max_model_len`, and our own: modalities, engine, status, aliases."""
    listed = send(server, "GET", "/v1/models").json()

    assert listed["object"] == "list"
    entries = {entry["id"]: entry for entry in listed["data"]}
    demo = entries["demo"]
    assert isinstance(demo["created"], int)
    assert demo["owned_by"] == "altgate"
    assert demo["modalities"] == ["text", "image"]
    assert "blip" in entries["blip-base"]["aliases"]
    assert entries["blip-base"]["status"] == "stopped"
    assert entries["demo:alt_text"]["preset"] == "alt_text"


def test_the_list_says_what_is_loaded(server: Server) -> None:
    """Once a model has answered, the list says that it is ready, and where."""
    chat(server)

    demo = send(server, "GET", "/v1/models/demo").json()

    assert (demo["status"], demo["device"]) == ("ready", "cpu")


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/health"), ("GET", "/nothing"), ("POST", "/v1/chat/completions")]
)
def test_every_answer_has_an_id_and_its_time(server: Server, method: str, path: str) -> None:
    """Errors as well, so that they can be found in the log."""
    headers = send(server, method, path).headers

    assert headers["x-request-id"].startswith("req_")
    assert int(headers["openai-processing-ms"]) >= 0


@pytest.mark.parametrize("segments", [1, 2])
@pytest.mark.parametrize("protocol", ["h2c", "websocket"])
def test_an_offered_upgrade_is_ignored(server: Server, protocol: str, segments: int) -> None:
    """Java's client offers HTTP/2 with every first request; it is answered as if it had not, its body included."""
    body = b'{"model": "demo", "messages": [{"role": "user", "content": "Hi"}]}'
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: Upgrade, HTTP2-Settings\r\n"
        f"upgrade: {protocol}\r\nhttp2-settings: AAEAAEAAAAIA\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode()
    address = urlsplit(server.root)
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for segment in (head, body) if segments == 2 else (head + body,):
            connection.sendall(segment)
        connection.settimeout(30)
        answer = connection.recv(65536)
        while b"describes pictures" not in answer and (more := connection.recv(65536)):
            answer += more

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"describes pictures" in answer


def test_405_says_what_is_allowed(server: Server) -> None:
    """As HTTP wants it."""
    assert "POST" in send(server, "GET", "/v1/chat/completions").headers["allow"]


def test_an_answer_has_everything_that_openais_has(server: Server) -> None:
    """Required fields are there, nulls where they may be null, strings where clients need strings."""
    before = int(time.time())

    answer = chat(server).json()

    choice = answer["choices"][0]
    assert choice.keys() >= {"index", "message", "logprobs", "finish_reason"}
    assert choice["message"].keys() >= {"role", "content", "refusal"}
    assert isinstance(choice["message"]["content"], str)
    assert choice["finish_reason"] == "stop"
    assert before <= answer["created"] <= time.time() + 1
    assert answer["usage"].keys() >= {"prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details"}
    assert answer["system_fingerprint"]
