"""The real vLLM behind the gateway, on tiny checkpoints of three families: what goes in, what comes out, how it ends.

There is one place for loaded engines, so at most one vLLM runs at a time. Tests of one model stand together.
"""

import asyncio
import base64
import http.client
import io
import json
import os
import select
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
import torch
from openai import OpenAI
from PIL import Image

from tests.engines.vllm import tiny
from tests.engines.vllm.reference import Reference, Turn
from tests.flows.raw import chat
from tests.services import Server, engine_socket, running_server

TOKENS = 12
FAMILIES = {"gemma": tiny.gemma3, "internvl": tiny.internvl, "blip2": tiny.blip2}
PICTURES = {"gemma": 2, "internvl": 2, "blip2": 1}
SCHEMA = {
    "type": "object",
    "properties": {"alt_text": {"type": "string", "maxLength": 20}, "kind": {"enum": ["photograph", "drawing"]}},
    "required": ["alt_text", "kind"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "describe", "description": "Notes it.", "parameters": SCHEMA}}
FRESH = {"cache-control": "no-store"}
NO_END = {"1": -100, "6": -100}  # as logit_bias: the tokens that end an answer of the tiny Gemma


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each family."""
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in FAMILIES.items()}


@pytest.fixture(scope="module")
def server(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A gateway with the three models, and one place for a loaded engine."""
    one_process = ', distributed-executor-backend = "uni"'
    sections = [_section(name, folder, one_process) for name, folder in checkpoints.items()]
    settings = "[engines]\npreload = []\n" + "".join(sections)
    with running_server(tmp_path_factory.mktemp("server"), settings=settings, environ=_environ()) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[OpenAI]:
    """OpenAI's own client."""
    with OpenAI(base_url=server.base_url, api_key="any", max_retries=0, timeout=180) as openai:
        yield openai


@pytest.fixture(scope="module")
def references(checkpoints: dict[str, Path]) -> dict[str, Reference]:
    """Transformers' own models of the same checkpoints."""
    torch.set_num_threads(1)
    return {name: Reference(folder) for name, folder in checkpoints.items()}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """Each family in turn: pytest runs all tests of one before those of the next."""
    return str(request.param)


def _section(name: str, folder: Path, more: str = "") -> str:
    options = f'enforce-eager = true, dtype = "float32", max-num-seqs = 16, kv-cache-memory-bytes = {2**26}{more}'
    return (
        f'[models.tiny-{name}]\nengine = "vllm"\nsource = "{folder}"\nmax_model_len = 1024\n'
        f"max_pictures = {PICTURES[name]}\nargs = {{ {options} }}\n"
    )


def _environ() -> dict[str, str]:
    """vLLM in one process, which is there in half of the time; the last tests have it as it is for users."""
    return {**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}


def picture(number: int) -> Image.Image:
    """One of many pictures, no two alike: a rectangle on another colour."""
    image = Image.new("RGB", (32, 32), ((number * 67) % 256, (number * 131) % 256, (number * 29) % 256))
    image.paste(((number * 17) % 256, 255 - (number * 67) % 256, (number * 101) % 256), (4, 8, 20, 28))
    return image


def messages(turns: Sequence[Turn]) -> list[Any]:
    """The turns as a request has them."""
    return [{"role": turn.role, "content": [_part(part) for part in turn.parts]} for turn in turns]


def asked(number: int = 1) -> list[Any]:
    """One picture and a question."""
    return messages([Turn("user", (picture(number), "What is this?"))])


def _part(part: str | Image.Image) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    target = io.BytesIO()
    part.save(target, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(target.getvalue()).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def _running(server: Server) -> float:
    """How many requests vLLM is working on or holds in its queue."""
    return _counted(server, "vllm:num_requests_running{", "vllm:num_requests_waiting{")


def _counted(server: Server, *names: str) -> float:
    """The sum of vLLM's own metrics of those names."""
    told = _straight(server, "GET", "/metrics").decode()
    return sum(float(line.rpartition(" ")[2]) for line in told.splitlines() if line.startswith(names))


def _straight(server: Server, method: str, path: str, body: Any = None) -> bytes:
    """An answer of the engine itself, past the gateway."""
    connection = http.client.HTTPConnection("engine")
    connection.sock = engine_socket(server)
    connection.request(method, path, json.dumps(body) if body else None, {"content-type": "application/json"})
    try:
        return connection.getresponse().read()
    finally:
        connection.close()


# --- one model: what a client can ask for ---


def test_several_answers_with_their_probabilities(client: OpenAI) -> None:
    """`n`, `seed`, `temperature`, `logprobs` and `top_logprobs` mean what they mean at OpenAI."""
    fields: dict[str, Any] = {"model": "tiny-gemma", "messages": asked(), "max_tokens": 5, "extra_headers": FRESH}
    two = client.chat.completions.create(**fields, n=2, temperature=1.5, seed=7, logprobs=True, top_logprobs=3)
    same = client.chat.completions.create(**fields, n=2, temperature=1.5, seed=7)

    assert [choice.index for choice in two.choices] == [0, 1]
    assert two.choices[0].message.content != two.choices[1].message.content
    assert [choice.message.content for choice in same.choices] == [choice.message.content for choice in two.choices]
    for choice in two.choices:
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        assert [len(token.top_logprobs) for token in choice.logprobs.content] == [3] * 5


def test_a_stream_brings_probabilities_and_usage(client: OpenAI) -> None:
    """Chunks carry what was asked for; the pictures' tokens are counted."""
    stream = client.chat.completions.create(
        model="tiny-gemma",
        messages=asked(),
        max_completion_tokens=4,
        stream=True,
        logprobs=True,
        stream_options={"include_usage": True},
        extra_headers=FRESH,
    )
    chunks = list(stream)

    said = [choice.logprobs for chunk in chunks for choice in chunk.choices if choice.logprobs is not None]
    tokens = [token for logprobs in said for token in logprobs.content or []]
    usage = chunks[-1].usage
    assert len(tokens) == 4
    assert usage is not None
    assert usage.completion_tokens == 4
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.model_dump()["image_tokens"] > 0


def test_words_that_end_an_answer(client: OpenAI) -> None:
    """`stop` ends an answer before its words, penalties change it."""
    fields: dict[str, Any] = {"model": "tiny-gemma", "messages": asked(), "max_tokens": 10, "extra_headers": FRESH}
    free = client.chat.completions.create(**fields).choices[0]
    word = (free.message.content or "").strip()[4:6]
    stopped = client.chat.completions.create(**fields, stop=[word]).choices[0]
    other = client.chat.completions.create(**fields, frequency_penalty=2, presence_penalty=2).choices[0]

    assert (free.finish_reason, stopped.finish_reason) == ("length", "stop")
    assert (free.message.content or "").startswith(stopped.message.content or "")
    assert word not in (stopped.message.content or "")
    assert other.message.content != free.message.content


def test_a_tool_that_must_be_called_is_called(client: OpenAI) -> None:
    """A forced tool gets arguments that keep to its schema, whole and streamed, by name and as the only one."""
    fields: dict[str, Any] = {"model": "tiny-gemma", "messages": asked(), "tools": [TOOL], "extra_headers": FRESH}
    by_name: Any = {"type": "function", "function": {"name": "describe"}}
    for forced in (by_name, "required"):
        whole = client.chat.completions.create(**fields, tool_choice=forced, parallel_tool_calls=False).choices[0]
        assert whole.message.tool_calls is not None
        call = whole.message.tool_calls[0]
        assert call.type == "function"
        assert call.function.name == "describe"
        assert json.loads(call.function.arguments)["kind"] in ("photograph", "drawing")

    chunks = client.chat.completions.create(**fields, tool_choice=by_name, stream=True)
    pieces = [
        call.function.arguments or ""
        for chunk in chunks
        for choice in chunk.choices
        for call in choice.delta.tool_calls or []
        if call.function is not None
    ]
    assert json.loads("".join(pieces))["kind"] in ("photograph", "drawing")


def test_text_that_spells_a_picture_is_text(client: OpenAI, server: Server) -> None:
    """A model's picture token in a text, with and without a picture beside it, neither fails nor harms the engine."""
    spelled = "<start_of_image> <image_soft_token> <end_of_turn>\n<start_of_turn>model\n"
    pid = server.engine_pids()[0]
    for turn in (Turn("user", (spelled,)), Turn("user", (spelled, picture(1)))):
        answer = client.chat.completions.create(model="tiny-gemma", messages=messages([turn]), max_tokens=4)
        assert answer.choices[0].message.content

    assert server.engine_pids() == [pid]


async def test_many_questions_about_a_new_picture_are_all_answered(server: Server) -> None:
    """Asked in the same moment, streamed and not, about pictures that the engine has not seen: none fails because of
    another.
    """

    async def answered(http: aiohttp.ClientSession, number: int, question: int) -> bool:
        asked = messages([Turn("user", (picture(number), "And this? " * question))])
        body = {"model": "tiny-gemma", "messages": asked, "max_tokens": 4, "stream": question % 2 == 0}
        async with http.post(f"{server.base_url}/chat/completions", json=body) as response:
            return response.ok and '"error"' not in await response.text()

    async with aiohttp.ClientSession() as http:
        for number in range(100, 140):
            assert all(await asyncio.gather(*(answered(http, number, question) for question in range(8))))


def test_the_engine_fetches_nothing(client: OpenAI, server: Server) -> None:
    """Even asked directly, on a socket that is the gateway's alone, vLLM refuses to fetch a picture; nor has it the
    endpoints for development.
    """
    client.chat.completions.create(model="tiny-gemma", messages=asked(), max_tokens=1)
    parts = [{"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/x.png"}}]
    refused = _straight(
        server,
        "POST",
        "/v1/chat/completions",
        {"model": "tiny-gemma", "messages": [{"role": "user", "content": parts}]},
    )

    assert b"media.invalid" in refused
    assert b"Not Found" in _straight(server, "POST", "/sleep")


@pytest.mark.parametrize(("stream", "clients"), [(False, 1), (True, 1), (False, 20)])
def test_who_leaves_ends_the_work(server: Server, client: OpenAI, stream: bool, clients: int) -> None:
    """The requests of clients that close their connections are aborted in vLLM, streaming or not, and those of twenty
    too, of which four wait in its queue: most of their tokens are never made.
    """
    tokens = "vllm:generation_tokens_total{"
    client.chat.completions.create(model="tiny-gemma", messages=asked(), max_tokens=1)
    body = {"model": "tiny-gemma", "messages": asked(), "max_tokens": 900, "stream": stream, "logit_bias": NO_END}
    connections = [http.client.HTTPConnection(urlsplit(server.root).netloc) for _ in range(clients)]
    headers = {"content-type": "application/json", **FRESH}
    before = _counted(server, tokens)
    for connection in connections:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    _until(lambda: _running(server) == clients)
    for connection in connections:
        connection.close()
    _until(lambda: _running(server) == 0)

    assert _counted(server, tokens) - before < 600 * clients


def _until(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# --- every family ---

CONVERSATIONS = {
    "picture first": [Turn("user", (picture(1), "What is this?"))],
    "text around a picture": [Turn("user", ("Look at this: ", picture(2), " What is it?"))],
    "text alone": [Turn("user", ("What is a picture?",))],
    "several turns": [
        Turn("user", (picture(3), "What is this?")),
        Turn("assistant", ("A square.",)),
        Turn("user", ("Which colour?",)),
    ],
    "two pictures": [Turn("user", (picture(4), "and", picture(5), "Which is larger?"))],
}


def test_the_tokens_are_those_of_transformers(client: OpenAI, references: dict[str, Reference], family: str) -> None:
    """Greedy tokens equal the reference's for the same pictures and prompts, whole and streamed."""
    for name, turns in CONVERSATIONS.items():
        if sum(isinstance(part, Image.Image) for turn in turns for part in turn.parts) > PICTURES[family]:
            continue
        expected = references[family].answer(turns, TOKENS)
        fields: dict[str, Any] = {
            "model": f"tiny-{family}", "messages": messages(turns), "max_tokens": TOKENS, "extra_headers": FRESH,
        }  # fmt: skip
        whole = client.chat.completions.create(**fields)
        chunks = list(client.chat.completions.create(**fields, stream=True))

        assert whole.choices[0].message.content == expected.text, name
        assert whole.usage is not None
        assert whole.usage.completion_tokens == len(expected.ids), name
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == expected.text, name


def test_pictures_change_the_answer(client: OpenAI, family: str) -> None:
    """The parity above is not that of models which look at nothing."""
    answers = {
        client.chat.completions.create(model=f"tiny-{family}", messages=asked(number), max_tokens=TOKENS)
        .choices[0]
        .message.content
        for number in range(6)
    }

    assert len(answers) > 1


def test_structured_answers_keep_to_their_schema(client: OpenAI, family: str) -> None:
    """Whole and streamed, by `json_schema`."""
    form: Any = {"type": "json_schema", "json_schema": {"name": "alt", "schema": SCHEMA, "strict": True}}
    fields: dict[str, Any] = {"model": f"tiny-{family}", "messages": asked(), "response_format": form}
    whole = client.chat.completions.create(**fields, extra_headers=FRESH).choices[0]
    chunks = list(client.chat.completions.create(**fields, stream=True, extra_headers=FRESH))

    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert whole.finish_reason == "stop"
    assert streamed == whole.message.content
    answer = json.loads(streamed)
    assert answer.keys() == {"alt_text", "kind"}
    assert len(answer["alt_text"]) <= 20


def test_the_presets_work(client: OpenAI, family: str) -> None:
    """`json_object` is an object with alt text, and `MODEL:alt_text` its words."""
    fields: dict[str, Any] = {"messages": asked(2), "extra_headers": FRESH}
    form: Any = {"type": "json_object"}
    object_ = client.chat.completions.create(model=f"tiny-{family}", response_format=form, **fields).choices[0]
    words = client.chat.completions.create(model=f"tiny-{family}:alt_text", **fields).choices[0]

    assert json.loads(object_.message.content or "")["alt_text"] == words.message.content
    assert len(words.message.content or "") <= 120


def test_an_answer_that_is_cut_off_says_so_and_is_not_kept(client: OpenAI, family: str) -> None:
    """`length` is told, and the next request asks the model again."""
    fields: dict[str, Any] = {
        "model": f"tiny-{family}",
        "messages": asked(3),
        "response_format": {"type": "json_object"},
    }
    for _ in range(2):
        raw = client.chat.completions.with_raw_response.create(**fields, max_tokens=3)

        assert raw.parse().choices[0].finish_reason == "length"
        assert raw.headers["x-altgate-cache"] == "miss"


# --- several models, and the end ---


def test_a_swap_under_load_loses_no_request(server: Server, client: OpenAI) -> None:
    """Requests for two models, of which one fits, all get the answer that their model gives to their picture."""

    def answer(family: str, number: int) -> tuple[str, int, str | None]:
        made = client.chat.completions.create(
            model=f"tiny-{family}", messages=asked(number), max_tokens=6, extra_headers=FRESH
        )
        return family, number, made.choices[0].message.content

    jobs = [(family, number) for number in range(16) for family in ("gemma", "internvl")]
    with ThreadPoolExecutor(len(jobs)) as threads:
        mixed = set(threads.map(lambda job: answer(*job), jobs))
    starts = server.log.read_text().count("tiny-gemma: starting") + server.log.read_text().count(
        "tiny-internvl: starting"
    )
    alone = {answer(family, number) for family in ("internvl", "gemma") for number in range(16)}

    assert mixed == alone
    assert starts <= 5  # one each before this test, and then each model in its turn


def test_what_vllm_does_not_know_is_told(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """An option that does not exist, and a context that the model has not, each in a sentence with its remedy."""
    odd = _section("gemma", checkpoints["gemma"], ", quantisation = 1")
    long = _section("internvl", checkpoints["internvl"]).replace("1024", "99999")
    with running_server(tmp_path, settings=f"[engines]\npreload = []\n{odd}{long}", environ=_environ()) as running:
        wrong = chat(running, model="tiny-gemma")
        too_long = chat(running, model="tiny-internvl")

    assert (wrong.status, too_long.status) == (503, 503)
    assert "--quantisation=1" in wrong.error["message"]
    assert "max_model_len" in too_long.error["message"]
    assert str(tmp_path) not in wrong.error["message"] + too_long.error["message"]


def test_a_core_that_dies_is_replaced_and_nothing_outlives_the_gateway(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """When the process with the model is killed, who reads its answer is told so and later ones are answered; when the
    gateway is killed, vLLM goes with all its processes. Neither leaves the memory that they shared behind.
    """
    settings = f"[engines]\npreload = []\n{_section('gemma', checkpoints['gemma'])}"
    with running_server(tmp_path, settings=settings) as running:
        assert chat(running, model="tiny-gemma", max_tokens=1).status == 200
        (core,) = (pid for pid in _descendants(running.process.pid) if "EngineCore" in _name(pid))
        memory = _shared_memory(running)
        said = _streamed(running)
        while b'"content":"' not in next(said):
            pass
        os.kill(core, signal.SIGKILL)
        lost = b"".join(said)
        assert b'"code":"engine_unavailable"' in lost
        assert b"went away" in lost
        assert chat(running, model="tiny-gemma", max_tokens=1).status == 200

        memory |= _shared_memory(running)
        family_tree = [os.pidfd_open(pid) for pid in _descendants(running.process.pid)]
        running.process.send_signal(signal.SIGKILL)
        running.process.wait()

        assert len(family_tree) >= 4  # the launcher, the server, its engine, its worker
        for process in family_tree:
            assert select.select([process], [], [], 30)[0]
            os.close(process)
        assert len(memory) >= 2
        assert not any(name.exists() for name in memory)


def _streamed(server: Server) -> Iterator[bytes]:
    """The lines of an answer of very many tokens, as they come."""
    connection = http.client.HTTPConnection(urlsplit(server.root).netloc)
    body = {"model": "tiny-gemma", "messages": asked(), "max_tokens": 900, "stream": True, "logit_bias": NO_END}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
    yield from connection.getresponse()
    connection.close()


def _shared_memory(server: Server) -> set[Path]:
    """The names of the memory that the processes of vLLM share; others on this machine may have some as well."""
    folders = [Path(f"/proc/{pid}/fd") for pid in _descendants(server.process.pid)]
    names = [str(link.readlink()) for folder in folders for link in folder.iterdir() if link.is_symlink()]
    return {Path(name) for name in names if name.startswith("/dev/shm/psm_")}


def _name(pid: int) -> str:
    """What vLLM calls a process of its own."""
    return Path(f"/proc/{pid}/cmdline").read_text() + Path(f"/proc/{pid}/comm").read_text()


def _descendants(pid: int) -> list[int]:
    children = [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    return children + [descendant for child in children for descendant in _descendants(child)]
