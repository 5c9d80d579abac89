"""Every refusal: its status, OpenAI's envelope, the field at fault and a remedy."""

import gzip
import http.client
import json
import random
import signal
import socket
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image

from tests import pictures
from tests.flows.raw import Answer, chat, send
from tests.pictures import SCENES, data_url, message
from tests.services import Server, running_server, wait_for_log

PNG = pictures.png(SCENES[0])
AT = "messages[0].content[0].image_url.url"


def about(server: Server, url: str) -> Answer:
    """A chat completion about that picture."""
    return chat(server, messages=[message(url, text=None)])


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("data:image/png;base64,", "empty_image_file"),
        ("data:image/png;base64,!!!!", "invalid_base64_image"),
        ("data:image/png,hello", "invalid_base64_image"),
        ("data:image/png;base64", "invalid_base64_image"),
        (data_url(PNG[: len(PNG) // 2]), "image_parse_error"),
        (data_url(b"just some words"), "invalid_image_format"),
        (data_url(b"<!doctype html><html></html>"), "invalid_image_format"),
        (data_url(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml"), "invalid_image_format"),
        ("file:///etc/passwd", "invalid_image_url"),
        ("/etc/passwd", "invalid_image_url"),
        ("ftp://example.org/a.png", "invalid_image_url"),
        ("hello", "invalid_image_url"),
        ("", "invalid_image_url"),
    ],
)
def test_what_is_no_picture_is_told_with_openais_codes(server: Server, url: str, code: str) -> None:
    """The client learns which picture, and why; an SDK does not try again."""
    answer = about(server, url)

    assert (answer.status, answer.error["code"], answer.error["param"]) == (400, code, AT)
    assert answer.headers["x-should-retry"] == "false"
    assert "Traceback" not in answer.error["message"]


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/a.png",
        "http://localhost/a.png",
        "http://[::1]/a.png",
        "http://[::ffff:127.0.0.1]/a.png",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://0177.0.0.1/",
        "http://127.1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://[fd00:ec2::254]/",
        "http://10.0.0.1/",
        "http://192.168.1.1/",
        "http://[64:ff9b::7f00:1]/",
        "http://[2002:7f00:1::]/",
        "http://good.example\\@127.0.0.1/",
        "http://user:s3cret@example.org/",
        "http://example.org:22/",
        "http://nothing.invalid/a.png",
    ],
)
def test_a_url_that_must_not_be_fetched_is_refused(server: Server, url: str) -> None:
    """Private, loopback and metadata addresses in every spelling are one code, and nothing of them is echoed."""
    answer = about(server, url)

    assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "invalid_image_url", AT)
    assert "s3cret" not in answer.error["message"]


@pytest.mark.parametrize(
    "host", ["nothing.invalid", "10.0.0.1", "localhost", "user:s3cret@example.org", "example.org:22"]
)
def test_the_log_of_a_failed_download_names_its_kind_and_no_secret(server: Server, host: str) -> None:
    """Neither the query nor a login of a URL is ever written, nor is any of a picture or a key."""
    url = f"http://{host}/a.png?token=s3cret"
    pairs = [[message(url, text=None)], [message(url, data_url(PNG))]]
    answers = [chat(server, {"authorization": "Bearer s3cret"}, messages=messages) for messages in pairs]

    for answer in answers:
        wait_for_log(server, f"ms {answer.headers['x-request-id']}")
    log = server.log.read_text()
    assert all(answer.status == 400 for answer in answers)
    assert "s3cret" not in log
    assert data_url(PNG)[-40:] not in log


def test_two_pictures_are_refused_before_any_is_read(server: Server) -> None:
    """The second one is named; the model takes one."""
    answer = chat(server, messages=[message(data_url(PNG), "http://nothing.invalid/")])

    assert (answer.status, answer.error["param"]) == (400, "messages[0].content[2].image_url.url")
    assert "one picture" in answer.error["message"]


def test_text_alone_is_answered(server: Server) -> None:
    """Set-up checks that send "Hi" to a vision model see it work."""
    answer = chat(server, messages=[{"role": "user", "content": [{"type": "text", "text": "Hi"}]}])

    assert answer.status == 200
    assert "describes pictures" in answer.json()["choices"][0]["message"]["content"]
    assert answer.json()["usage"]["total_tokens"] >= 0


def test_text_alone_with_a_schema_is_a_refusal_in_the_answer(server: Server) -> None:
    """No caption is made up: the sentence stands in `refusal`, where OpenAI's SDK looks."""
    answer = chat(server, response_format={"type": "json_object"})

    message = answer.json()["choices"][0]["message"]
    assert answer.status == 200
    assert "describes pictures" in message["refusal"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"presence_penalty": 1}, "presence_penalty"),
        ({"frequency_penalty": -1}, "frequency_penalty"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required"}, "tool_choice"),
    ],
)
def test_what_the_model_cannot_honour_is_said(server: Server, fields: dict[str, Any], param: str) -> None:
    """Nothing is ignored that would change the answer."""
    answer = chat(server, messages=[message(data_url(PNG))], **fields)

    assert (answer.status, answer.error["param"], answer.error["code"]) == (400, param, "unsupported_parameter")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "messages[0].content[0].type"),
        ({"temperature": 9}, "temperature"),
        ({"model": 5}, "model"),
        ({"altgate": {"task": "sing"}}, "altgate.task"),
    ],
)
def test_a_request_that_cannot_be_read_names_the_field(server: Server, fields: dict[str, Any], param: str) -> None:
    """The path is the one in the request."""
    answer = chat(server, **fields)

    assert (answer.status, answer.error["type"], answer.error["param"]) == (400, "invalid_request_error", param)


@pytest.mark.parametrize("body", [b"", b"{", b"null", b"\x00", b"[" * 10**6])
def test_a_body_that_is_no_request_is_refused(server: Server, body: bytes) -> None:
    """Whatever is sent, the answer has OpenAI's shape."""
    answer = send(server, "POST", "/v1/chat/completions", body, {"content-type": "application/json"})

    assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize(
    ("path", "advice"),
    [
        ("/v1/embeddings", "embeddings"),
        ("/v1/completions", "is_chat_model=True"),
        ("/v1/images/generations", "describes pictures"),
        ("/v1/audio/speech", "Altgate"),
        ("/v1/responses", "openai.chat"),
        ("/nothing", "/v1/chat/completions"),
        ("/v1/chat/completions/extra", "/v1/chat/completions"),
        ("/%00%0a<script>", "/v1/chat/completions"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_paths_that_are_not_served_advise(server: Server, path: str, advice: str, method: str) -> None:
    """404 in OpenAI's shape, with a sentence that helps."""
    answer = send(server, method, path)

    assert answer.status == 404
    assert advice in answer.error["message"]


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/chat/completions"), ("DELETE", "/v1/models"), ("PUT", "/")])
def test_methods_that_are_not_allowed_are_405(server: Server, method: str, path: str) -> None:
    """In OpenAI's shape as well."""
    assert send(server, method, path).error["code"] == "method_not_supported"


@pytest.mark.parametrize(
    "headers",
    [
        {"content-encoding": "gzip"},
        {"content-encoding": "zstd"},
        {"content-type": "multipart/form-data; boundary=x"},
        {"content-type": "image/png"},
    ],
)
def test_bodies_that_are_not_read_are_415(server: Server, headers: dict[str, str]) -> None:
    """A compressed body and one that is no JSON by its label are refused before they are read."""
    answer = send(server, "POST", "/v1/chat/completions", gzip.compress(b"{}"), headers)

    assert (answer.status, answer.error["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-8", "text/plain", "application/x-www-form-urlencoded", None]
)
def test_labels_that_clients_really_send_are_read(server: Server, kind: str | None) -> None:
    """curl -d without a header, fetch() without one: JSON is JSON."""
    body = json.dumps({"model": "demo", "messages": [{"role": "user", "content": "Hi"}]})

    assert send(server, "POST", "/v1/chat/completions", body, {"content-type": kind} if kind else {}).status == 200


@pytest.mark.parametrize("key", [None, "", "Bearer", "Bearer ", "Bearer any", "Basic eDp5"])
def test_any_key_an_empty_one_and_none_are_accepted(server: Server, key: str | None) -> None:
    """Without a key configured, nobody is asked for one."""
    assert chat(server, {"authorization": key} if key is not None else None).status == 200


def test_a_large_photograph_in_base64_is_accepted(server: Server) -> None:
    """Twelve million bytes of picture make a body of sixteen, more than many servers take."""
    noise = Image.frombytes("RGB", (2000, 2000), random.Random(1).randbytes(12_000_000))

    assert about(server, data_url(pictures.encoded(noise, compress_level=0))).status == 200


def test_a_picture_over_the_limit_is_told_from_a_body_over_it(server: Server) -> None:
    """67 MB of base64 are a body that is read, and a picture that is not, though not one of its bytes is wrong."""
    answer = about(server, "data:image/png;base64," + "A" * 67_000_000)

    assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "image_file_too_large", AT)
    assert "20 MiB" in answer.error["message"]


def test_a_body_over_the_limit_is_413_naming_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    """With its length announced or not, and the process goes on."""
    settings = '[server]\nmax_body = "1MiB"\n[engines]\npreload = []'
    with running_server(tmp_path_factory.mktemp("small"), settings=settings) as small:
        announced = send(small, "POST", "/v1/chat/completions", b"x" * (2**20 + 1))
        unannounced = _chunked(small, [b"x" * 2**16] * 17)

        assert "1 MiB" in announced.error["message"]
        assert (announced.status, unannounced) == (413, 413)
        assert send(small, "GET", "/health").status == 200


def _chunked(server: Server, blocks: list[bytes]) -> int:
    """The status of a POST whose length is not announced."""
    connection = http.client.HTTPConnection(urlsplit(server.root).netloc, timeout=60)
    try:
        connection.request("POST", "/v1/chat/completions", iter(blocks), encode_chunked=True)
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://localhost.evil.example", "null", "http://127.0.0.1@x"]
)
def test_a_web_page_from_elsewhere_is_refused(server: Server, origin: str) -> None:
    """A browser says where a page is from; without keys, no page of the web may use the gateway behind it."""
    answer = chat(server, {"origin": origin})

    assert (answer.status, answer.error["code"]) == (403, "origin_not_allowed")


@pytest.mark.parametrize(
    "origin", ["http://localhost:3000", "http://127.0.0.1:5173", "http://[::1]", "https://LOCALHOST"]
)
def test_a_page_of_this_machine_is_served(server: Server, origin: str) -> None:
    """Development servers on loopback may ask."""
    assert chat(server, {"origin": origin}).status == 200


def test_a_body_that_does_not_arrive_is_408(tmp_path_factory: pytest.TempPathFactory) -> None:
    """An upload that stalls gives its place back and loses its connection; one that breaks off is no error of ours."""
    settings = '[server]\nbody_timeout = "2s"\nmax_requests = 1\n[engines]\npreload = []'
    with running_server(tmp_path_factory.mktemp("stalled"), settings=settings) as impatient:
        with stalled(impatient) as connection:
            answer = connection.makefile("rb").read()
        stalled(impatient).close()
        wait_for_log(impatient, "POST /v1/chat/completions 499")

        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"request_timeout" in answer
        assert send(impatient, "POST", "/v1/chat/completions", "{}").status == 400
        assert "Traceback" not in impatient.log.read_text()


def test_what_a_shutdown_cuts_off_is_told(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A request that cannot finish within the limit gets an error in OpenAI's shape, and the server ends in order."""
    settings = '[server]\nshutdown_timeout = "1s"\n[engines]\npreload = []'
    with running_server(tmp_path_factory.mktemp("ending"), settings=settings) as ending:
        with stalled(ending) as connection:
            ending.process.send_signal(signal.SIGTERM)
            answer = connection.makefile("rb").read()
        ending.process.wait(timeout=30)

        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"shutting down" in answer


def stalled(server: Server) -> socket.socket:
    """A connection on which half a body has been sent, and the server has begun to read it."""
    address = urlsplit(server.root)
    connection = socket.create_connection((address.hostname, address.port))
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 1000\r\n\r\n"
    connection.sendall(head)
    assert connection.recv(100).startswith(b"HTTP/1.1 100")
    connection.sendall(b"{")
    return connection


def test_unknown_fields_are_named_in_a_header(server: Server) -> None:
    """What was ignored is told, unless its name could break the header."""
    odd: dict[str, Any] = {"evil\r\nx-injected": 1}

    answer = chat(server, store=True, top_k=5, **odd)

    assert answer.status == 200
    assert answer.headers["x-altgate-ignored"] == "store, top_k"
    assert "x-injected" not in answer.headers


def test_an_engine_that_cannot_load_is_503_with_the_reason(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One clear sentence for the client, the engine's last lines for the log, and no path of this machine."""
    folder = tmp_path_factory.mktemp("broken")
    (folder / "config.json").write_text("{}")
    settings = f'[engines]\npreload = []\n[models.broken]\nengine = "blip"\nsource = "{folder}"'
    with running_server(folder, settings=settings) as broken:
        answer = chat(broken, model="broken", messages=[message(data_url(PNG))])

        assert answer.status == 503
        assert "'broken' cannot be served" in answer.error["message"]
        assert str(folder) not in answer.error["message"]
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.headers["x-should-retry"] == "false"
        assert "its last lines" in broken.log.read_text()
        assert chat(broken, model="broken", stream=True).status == 503
