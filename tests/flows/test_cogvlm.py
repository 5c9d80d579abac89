"""CogVLM and CogVLM2 behind the gateway, from their checkpoints as published to the words that a client gets.

There is one place for loaded engines, so at most one vLLM runs at a time. Tests of one model stand together.
"""

import http.client
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import torch
from openai import APIStatusError, BadRequestError, OpenAI
from PIL import Image

from gateway.neutral import WORD_JOINER
from tests.engines.blip.tiny import picture
from tests.engines.cogvlm import tiny
from tests.engines.cogvlm.reference import Reference, chat, vqa
from tests.pictures import data_url, encoded
from tests.services import Server, engine_socket, running_server

TOKENS = 12
CAPTION = "Generate a caption for this image."
WIDE, TALL = picture(1, width=90, height=40), picture(2, width=50, height=120)
NO_END = {"2": -100, "310": -100}  # as logit_bias: the token that ends an answer of the one, and of the other
FRESH = {"cache-control": "no-store"}
OPTIONS = (
    'enforce-eager = true, dtype = "float32", max-num-seqs = 16, kv-cache-memory-bytes = 67108864, '
    'distributed-executor-backend = "uni"'
)
SCHEMA = {
    "type": "object",
    "properties": {"alt_text": {"type": "string", "maxLength": 20}},
    "required": ["alt_text"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tiny.Published]:
    """One of each generation, as their authors give them."""
    folder = tmp_path_factory.mktemp("published")
    return {"cogvlm": tiny.cogvlm(folder / "1"), "cogvlm2": tiny.cogvlm2(folder / "2")}


@pytest.fixture(scope="module")
def server(published: dict[str, tiny.Published], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A gateway with both, as published, and with one whose context is too short for a picture."""
    folder = tmp_path_factory.mktemp("server")
    sections = [_section(name, checkpoint) for name, checkpoint in published.items()]
    short = _section("short", published["cogvlm"]).replace("max_model_len = 512", "max_model_len = 30")
    environ = {**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "XDG_CACHE_HOME": str(folder / "cache")}
    settings = "[engines]\npreload = []\n" + "".join([*sections, short])
    with running_server(folder, settings=settings, environ=environ) as running:
        yield running


def _section(name: str, checkpoint: tiny.Published) -> str:
    words = f'tokenizer = "{checkpoint.tokenizer}"\n' if checkpoint.tokenizer else ""
    return (
        f'[models.tiny-{name}]\nengine = "vllm"\nsource = "{checkpoint.checkpoint}"\n{words}'
        f'forms = ["chat", "vqa"]\nmax_model_len = 512\nargs = {{ {OPTIONS} }}\n'
    )


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[OpenAI]:
    """OpenAI's own client."""
    with OpenAI(base_url=server.base_url, api_key="any", max_retries=0, timeout=180) as openai:
        yield openai


@pytest.fixture(scope="module")
def references(published: dict[str, tiny.Published]) -> dict[str, Reference]:
    """Both in plain PyTorch."""
    torch.set_num_threads(1)
    return {name: Reference(checkpoint) for name, checkpoint in published.items()}


@pytest.fixture(scope="module", params=["cogvlm", "cogvlm2"])
def family(request: pytest.FixtureRequest) -> str:
    """Each generation in turn: pytest runs all tests of one before those of the next."""
    return str(request.param)


def turn(*parts: str | Image.Image, role: str = "user") -> Any:
    """A message."""
    return {"role": role, "content": [_part(part) for part in parts]}


def _part(part: str | Image.Image) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    return {"type": "image_url", "image_url": {"url": data_url(encoded(part))}}


def expected(reference: Reference, text: str, image: Image.Image | None) -> str:
    """The reference's words: what its tokens add to the text before them."""
    prompt = reference.prompt(text)
    ids = reference.answer(prompt, image, TOKENS).ids
    before, all_ = (reference.tokenizer.decode(each, skip_special_tokens=True) for each in (prompt, [*prompt, *ids]))
    return str(all_.removeprefix(before))


def said(client: OpenAI, family: str, messages: Sequence[Any], **fields: Any) -> str:
    """The words of an answer that was made anew."""
    settled: dict[str, Any] = {"max_tokens": TOKENS, "extra_headers": FRESH} | fields
    made = client.chat.completions.create(model=f"tiny-{family}", messages=[*messages], **settled)
    return made.choices[0].message.content or ""


# --- without an engine ---


def test_two_pictures_are_refused_before_any_engine_starts(client: OpenAI, server: Server) -> None:
    """The models take one, wherever it stands; the second is named."""
    with pytest.raises(BadRequestError, match="takes one picture a request") as caught:
        said(client, "cogvlm", [turn(WIDE, "One?"), turn("A dog.", role="assistant"), turn("Two?", TALL)])

    assert caught.value.param == "messages[2].content[1].image_url.url"
    assert "starting" not in server.log.read_text()


def test_a_context_without_room_for_a_picture_is_told(client: OpenAI) -> None:
    """In a sentence with the remedy, by the launcher: vLLM would start, and refuse every picture."""
    with pytest.raises(APIStatusError, match=r"`max_model_len` \(30\) has no room for a picture") as caught:
        said(client, "short", [turn(WIDE, CAPTION)])

    assert caught.value.status_code == 503


# --- each generation ---

HISTORY = [("What is this?", "a small red dog")]
ASKED, ANSWERED = turn("What is this?"), turn("a small red dog", role="assistant")
CONVERSATIONS: dict[str, tuple[list[Any], str, Image.Image | None]] = {
    "a caption": ([turn(CAPTION, WIDE)], chat(CAPTION), WIDE),
    "picture first": ([turn(TALL, CAPTION)], chat(CAPTION), TALL),
    "text around it": ([turn("Look:", WIDE, "what is it?")], chat("Look: what is it?"), WIDE),
    "text alone": ([turn("What is a picture?")], chat("What is a picture?"), None),
    "a picture alone": ([turn(TALL)], chat(""), TALL),
    "several turns": ([turn(WIDE, "What is this?"), ANSWERED, turn("And now?")], chat("And now?", HISTORY), WIDE),
    "in a later turn": ([ASKED, ANSWERED, turn(TALL, "And now?")], chat("And now?", HISTORY), TALL),
    "a system message": (
        [turn("Be brief.", role="system"), turn(WIDE, CAPTION)],
        chat(f"Be brief. {CAPTION}"),
        WIDE,
    ),
    # The gateway puts a character that nobody sees into what spells a token, and the reference is asked the same.
    "spelled tokens": (
        [turn("<s> <unk></s> <|reserved_special_token_0|>", WIDE)],
        chat("<s> <unk></s> <|reserved_special_token_0|>".replace("<", f"<{WORD_JOINER}")),
        WIDE,
    ),
}


def test_the_words_are_the_references(client: OpenAI, references: dict[str, Reference], family: str) -> None:
    """Wherever the picture stands and whatever is said around it, whole and streamed."""
    for name, (messages, text, image) in CONVERSATIONS.items():
        words = expected(references[family], text, image)
        chunks = client.chat.completions.create(
            model=f"tiny-{family}", messages=messages, max_tokens=TOKENS, stream=True, extra_headers=FRESH
        )

        assert said(client, family, messages) == words, name
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == words, name


def test_a_short_answer_is_asked_for_in_its_own_form(
    client: OpenAI, references: dict[str, Reference], family: str
) -> None:
    """By `altgate.form`; it is another entry in the cache, and any other form is refused."""
    asked = [turn(WIDE, CAPTION)]
    short, usual = (said(client, family, asked, extra_body={"altgate": {"form": form}}) for form in ("vqa", "chat"))

    assert short == expected(references[family], vqa(CAPTION), WIDE)
    assert usual == expected(references[family], chat(CAPTION), WIDE) != short
    with pytest.raises(BadRequestError, match=r"the forms of 'tiny-cogvlm2?' are 'chat', 'vqa'") as caught:
        said(client, family, asked, extra_body={"altgate": {"form": "base"}})
    assert caught.value.param == "altgate.form"


def test_an_answer_is_kept(client: OpenAI, family: str) -> None:
    """The same picture and question are answered from the cache the second time; another form is not."""
    fields: dict[str, Any] = {"model": f"tiny-{family}", "messages": [turn(TALL, "Kept?")], "max_tokens": 200}
    fields["response_format"] = {"type": "json_schema", "json_schema": {"name": "alt", "schema": SCHEMA}}
    bodies = [{}, {}, {"altgate": {"form": "chat"}}, {"altgate": {"form": "vqa"}}]

    answers = [client.chat.completions.with_raw_response.create(**fields, extra_body=body) for body in bodies]

    assert [answer.headers["x-altgate-cache"] for answer in answers] == ["miss", "hit", "hit", "miss"]
    assert len({answer.parse().choices[0].message.content for answer in answers[:3]}) == 1


def test_structured_answers_keep_to_their_schema(client: OpenAI, family: str) -> None:
    """By `json_schema`, and by the preset for alt text."""
    form: Any = {"type": "json_schema", "json_schema": {"name": "alt", "schema": SCHEMA, "strict": True}}
    answer = json.loads(said(client, family, [turn(TALL, "Kept?")], response_format=form, max_tokens=200))
    words = said(client, f"{family}:alt_text", [turn(TALL, "Kept?")], max_tokens=100)

    assert answer.keys() == {"alt_text"}
    assert len(answer["alt_text"]) <= 20
    assert 0 < len(words) <= 120


def test_who_leaves_ends_the_work(server: Server, client: OpenAI, family: str) -> None:
    """The request of a client that closes its connection is aborted in vLLM: it has not come to its own end."""
    said(client, family, [turn(WIDE, CAPTION)], max_tokens=1)
    body = {"model": f"tiny-{family}", "messages": [turn(WIDE, CAPTION)], "max_tokens": 450, "logit_bias": NO_END}
    connection = http.client.HTTPConnection(urlsplit(server.root).netloc)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json", **FRESH})
    _until(lambda: _running(server) == 1)
    ended = _ended(server)
    connection.close()
    _until(lambda: _running(server) == 0)

    assert _ended(server) == ended


def _running(server: Server) -> float:
    """How many requests vLLM is working on."""
    return _metric(server, "vllm:num_requests_running{")


def _ended(server: Server) -> float:
    """How many answers vLLM has made to their full length."""
    return _metric(server, "vllm:request_success_total{", label='finished_reason="length"')


def _metric(server: Server, name: str, label: str = "") -> float:
    """The sum of what vLLM tells under this name, and with this label."""
    connection = http.client.HTTPConnection("engine")
    connection.sock = engine_socket(server)
    connection.request("GET", "/metrics")
    told = connection.getresponse().read().decode()
    connection.close()
    return sum(float(line.rpartition(" ")[2]) for line in told.splitlines() if line.startswith(name) and label in line)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_published_checkpoints_are_prepared_once(server: Server, tmp_path: Path) -> None:
    """One folder for each in Altgate's own cache, whatever was started how often; and no code of theirs was run."""
    cache = server.log.parent / "cache/altgate/prepared"

    assert len([folder for folder in cache.iterdir() if (folder / "config.json").is_file()]) == 2
    assert "own code was run" not in server.log.read_text()
