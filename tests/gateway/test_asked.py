"""What leaves for an engine: our own closed types, made plain, and nothing else of the client's."""

import json
import re
from typing import Any

import msgspec
import pytest

from gateway import asked, prompts, wire
from gateway.catalogue import EngineKind, Model
from gateway.errors import InvalidRequest, UnsupportedParameter
from gateway.neutral import WORD_JOINER
from gateway.prompts import Preset

PRESETS = prompts.load()
PNG = "data:image/png;base64,cG5n"
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGVsbG8=", "detail": "low"}}
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
OTHER = {"type": "function", "function": {"name": "g"}}
FORCED = {"tools": [TOOL], "tool_choice": "required"}
AUTO = {"enable-auto-tool-choice": True, "tool-call-parser": "hermes"}
INSTRUCTED: list[EngineKind] = ["vllm", "remote"]

VLLM_FIELDS: dict[str, Any] = {
    "chat_template": "{{ 1 }}",
    "chat_template_kwargs": {"x": "secret"},
    "mm_processor_kwargs": {"x": "secret"},
    "media_io_kwargs": {"image": {}},
    "structured_outputs": {"regex": "secret"},
    "documents": [{"text": "secret"}],
    "kv_transfer_params": {"x": 1},
    "ec_transfer_params": {"x": 1},
    "vllm_xargs": {"x": "secret"},
    "prompt_embeds": "secret",
    "image_embeds": "secret",
    "uuid": "secret",
    "request_id": "secret",
    "echo": True,
    "session_id": "secret",
    "priority": -7,
    "cache_salt": "secret",
    "truncate_prompt_tokens": 1,
    "ignore_eos": True,
    "min_tokens": 5,
    "allowed_token_ids": [5],
    "return_token_ids": True,
    "return_tokens_as_token_ids": True,
    "return_prompt_text": True,
    "return_mm_kwargs": True,
    "prompt_logprobs": 5,
    "top_k": 5,
    "min_p": 0.5,
    "guided_json": {},
    "guided_regex": "secret",
    "bad_words": ["secret"],
    "stop_token_ids": [5],
    "best_of": 5,
    "use_beam_search": True,
    "add_generation_prompt": False,
    "continue_final_message": True,
    "seed_": 5,
    "skip_special_tokens": False,
    "include_stop_str_in_output": True,
    "repetition_penalty": 1.5,
    "store": True,
    "api_base": "http://secret",
    "base_url": "http://secret",
    "user": "secret",
    "metadata": {"x": "secret"},
    "reasoning_effort": "high",
    "thinking_token_budget": 5,
    "stream_interval": 5,
    "watermarking": True,
    "logprob_token_ids": [5],
    "defer_loading": True,
    "continuous_usage_stats": True,
    "add_special_tokens": True,
    "include_reasoning": False,
    "length_penalty": 0.5,
    "mm_payload": "none",
    "repetition_detection": {"max_pattern_size": 5},
    "return_token_offsets": True,
    "routed_experts_prompt_start": 5,
    "spaces_between_special_tokens": False,
    "truncation_side": "left",
    "backend": "secret",
}
ALLOWED = {
    *wire.ChatRequest.__struct_fields__,
    *("role", "content", "name", "tool_calls", "tool_call_id", "type", "text", "image_url", "url", "detail", "uuid"),
    *("id", "function", "arguments", "description", "parameters", "strict", "json_schema", "schema", "include_usage"),
    "form",
}


def model(engine: EngineKind, **fields: Any) -> Model:
    """A model of that kind."""
    return Model(name="m", engine=engine, source="x", max_pictures=2, **fields)


def request(**fields: Any) -> wire.ChatRequest:
    """A request with those fields over the plainest one."""
    plain = {"model": "alias", "messages": [{"role": "user", "content": [{"type": "text", "text": "What?"}, PICTURE]}]}
    return wire.decode_request(json.dumps(plain | fields).encode())


def upstream(request: wire.ChatRequest, model: Model, preset: Preset | None, scope: str = "") -> wire.ChatRequest:
    """What the engine is asked, where all teams share or for one of them."""
    return asked.upstream(request, model, preset, scope=scope)


def body(asked_for: wire.ChatRequest) -> Any:
    """What leaves, decoded again."""
    return json.loads(wire.encode(asked_for))


def keys(value: object) -> set[str]:
    """Every key in a JSON value, however deep."""
    match value:
        case dict():
            return {*value, *(key for child in value.values() for key in keys(child))}
        case list():
            return {key for child in value for key in keys(child)}
    return set()


@pytest.mark.parametrize("engine", ["blip", "vllm", "remote"])
def test_no_private_field_reaches_an_engine_from_any_place(engine: EngineKind) -> None:
    """Whatever of vLLM's own a client writes, at the top or inside of anything, only our own fields leave."""
    url = PICTURE["image_url"] | VLLM_FIELDS  # type: ignore[operator]
    call = {"id": "c", "function": VLLM_FIELDS | {"name": "f", "arguments": "{}"}} | VLLM_FIELDS
    hostile = request(
        **VLLM_FIELDS,
        messages=[
            VLLM_FIELDS | {"role": "user", "content": [VLLM_FIELDS | PICTURE | {"image_url": url}]},
            VLLM_FIELDS | {"role": "assistant", "content": [VLLM_FIELDS | {"type": "text", "text": "a"}]},
            VLLM_FIELDS | {"role": "assistant", "content": None, "tool_calls": [call]},
            VLLM_FIELDS | {"role": "tool", "tool_call_id": "c", "content": "r"},
        ],
        tools=[VLLM_FIELDS | {"function": VLLM_FIELDS | {"name": "f"}}],
        tool_choice=VLLM_FIELDS | {"type": "function", "function": VLLM_FIELDS | {"name": "f"}},
        stream_options=VLLM_FIELDS | {"include_usage": True},
        response_format=VLLM_FIELDS
        | {"type": "json_schema", "json_schema": VLLM_FIELDS | {"name": "s", "schema": {"type": "object"}}},
    )

    question = asked.upstream(hostile, model(engine), None, scope="a")
    sent = asked.with_pictures(question, model(engine), iter([("digest", PNG)]))

    assert keys(body(sent)) <= ALLOWED
    assert b"secret" not in wire.encode(sent)
    assert wire.encode(sent).count(b"uuid") == (0 if engine == "blip" else 1)


@pytest.mark.parametrize("engine", INSTRUCTED)
def test_a_picture_has_a_name_of_ours_for_the_same_pixels(engine: EngineKind) -> None:
    """Its digest and whatever shapes what we make of it; a client's own name is never read."""
    named = {"url": "data:image/png;base64,eA==", "uuid": "theirs"}
    mine = request(
        messages=[{"role": "user", "content": [{"type": "image_url", "image_url": named, "uuid": "theirs"}]}]
    )

    def uuid(digest: str, **fields: Any) -> str:
        sent = asked.with_pictures(mine, model(engine, **fields), iter([(digest, PNG)]))
        [(_, picture)] = wire.pictures_of(sent)
        assert picture.image_url.url == PNG
        return picture.uuid or ""

    assert uuid("d1").startswith("d1-")
    assert uuid("d1") == uuid("d1")
    assert len({uuid("d1"), uuid("d2"), uuid("d1", picture_size=336)}) == 3


@pytest.mark.parametrize("engine", ["blip", "vllm", "remote"])
def test_what_an_engine_remembers_is_one_teams(engine: EngineKind) -> None:
    """Prompts and pictures: each team has a salt and names for pictures of its own, which do not tell its name; where
    all share there is none, and BLIP's engine, which remembers nothing, gets none."""

    def sent(scope: str) -> tuple[str | None, str | None]:
        question = upstream(request(), model(engine), None, scope=scope)
        made = asked.with_pictures(question, model(engine), iter([("d1", PNG)]))
        [(_, picture)] = wire.pictures_of(made)
        return made.cache_salt, picture.uuid

    one, again, other, shared = sent("team"), sent("team"), sent("other"), sent("")

    assert one == again
    assert shared == (None, None if engine == "blip" else "d1-1024")
    if engine == "blip":
        assert one == other == shared
    else:
        assert re.fullmatch("[0-9a-f]{64}", one[0] or "")
        assert len({one[0], other[0], None}) == len({one[1], other[1], shared[1]}) == 3


@pytest.mark.parametrize(("engine", "detail"), [("blip", "low"), ("remote", "low"), ("vllm", None)])
def test_pictures_leave_no_url_behind(engine: EngineKind, detail: str | None) -> None:
    """Their bytes are kept beside the request; `detail` is for those who know what to do with it."""
    [(_, part)] = wire.pictures_of(upstream(request(), model(engine), None))

    assert part == wire.PicturePart(wire.ImageURL("", detail))


@pytest.mark.parametrize("engine", INSTRUCTED)
def test_fields_mean_the_same_to_every_engine(engine: EngineKind) -> None:
    """Greedy unless chance was asked for, no limits or stops that stop nothing, and roles that all of them know."""
    turns = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    sent = upstream(
        request(messages=turns, max_tokens=-1, max_completion_tokens=0, stop=["", "a"], stream=True),
        model(engine),
        None,
    )

    assert body(sent) == {
        "model": "m",
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
            {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        ],
        "temperature": 0,
        "stop": ["a"],
    }


@pytest.mark.parametrize("engine", INSTRUCTED)
def test_what_a_client_sets_is_passed_on(engine: EngineKind) -> None:
    """Every field that OpenAI has and we know."""
    fields: dict[str, Any] = {
        "max_tokens": 7,
        "max_completion_tokens": 8,
        "temperature": 0.5,
        "top_p": 0.5,
        "n": 2,
        "stop": ["x"],
        "seed": 1,
        "frequency_penalty": 1,
        "presence_penalty": 1,
        "logit_bias": {"5": 1},
        "logprobs": True,
        "top_logprobs": 3,
        "tools": [TOOL, OTHER],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}, "strict": True}},
    }

    sent = body(upstream(request(**fields), model(engine), None))

    assert {name: sent[name] for name in fields} == fields


def test_blip_gets_its_fields_as_they_are() -> None:
    """Its engine reads limits, stops and prefixes for itself, and follows no instructions that could do harm."""
    fields: dict[str, Any] = {"max_tokens": -1, "n": 2, "altgate": {"prefix": "a"}, "tools": [TOOL], "top_logprobs": 2}
    turns = [{"role": "user", "content": [{"type": "text", "text": "<bos>"}, PICTURE]}]

    sent = upstream(request(messages=turns, **fields), model("blip"), None)

    assert sent.temperature is None
    assert sent.messages[0].content[0] == wire.TextPart("<bos>")
    assert {name: body(sent)[name] for name in fields} == fields


@pytest.mark.parametrize("engine", INSTRUCTED)
def test_special_tokens_in_words_are_neutralised(engine: EngineKind) -> None:
    """The known ones and the model's own; the preset's instruction comes through as it is."""
    turns = [{"role": "user", "content": [{"type": "text", "text": "a<bos>[[pic]]b"}, PICTURE]}]
    made = upstream(request(messages=turns), model(engine, special_tokens=("[[pic]]",)), PRESETS["caption"])

    words = [part.text for part in made.messages[0].content if isinstance(part, wire.TextPart)]

    assert words == [f"a<{WORD_JOINER}bos>[{WORD_JOINER}[pic]]b", PRESETS["caption"].instruction]


@pytest.mark.parametrize(
    ("engine", "fields", "param", "remedy"),
    [
        *((engine, {"altgate": {"prefix": "a"}}, "altgate.prefix", "BLIP") for engine in INSTRUCTED),
        *((engine, {"n": 2}, "n", "temperature") for engine in INSTRUCTED),
        *((engine, {"n": 2, "temperature": 0}, "n", "temperature") for engine in INSTRUCTED),
        ("vllm", {"tools": [TOOL]}, "tool_choice", '"required"'),
        ("vllm", {"tools": [TOOL], "tool_choice": "auto"}, "tool_choice", "enable-auto-tool-choice = true"),
    ],
)
def test_what_a_model_cannot_do_is_refused(engine: EngineKind, fields: dict[str, Any], param: str, remedy: str) -> None:
    """Before any picture is fetched, with the remedy."""
    with pytest.raises(UnsupportedParameter, match=remedy) as caught:
        upstream(request(**fields), model(engine), None)

    assert (caught.value.param, caught.value.code) == (param, "unsupported_parameter")


def test_a_vllm_that_is_told_not_to_choose_does_not() -> None:
    """The operator may say so in words as well."""
    with pytest.raises(UnsupportedParameter):
        upstream(request(tools=[TOOL]), model("vllm", args={"enable-auto-tool-choice": False}), None)


@pytest.mark.parametrize(
    ("made", "fields"),
    [
        (model("vllm"), {"tools": [TOOL, OTHER], "tool_choice": "required"}),
        (model("vllm"), {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}}),
        (model("vllm"), {"tools": [TOOL], "tool_choice": "none"}),
        (model("vllm", args=AUTO), {"tools": [TOOL]}),
        (model("vllm", args=AUTO), {"tools": [TOOL], "tool_choice": "auto"}),
        (model("remote"), {"tools": [TOOL]}),
        (model("remote"), FORCED),
    ],
)
def test_tools_are_passed_on_where_they_work(made: Model, fields: dict[str, Any]) -> None:
    """As the client sent them."""
    sent = body(upstream(request(**fields), made, None))

    assert {name: sent[name] for name in fields} == fields


def test_the_only_tool_that_must_be_called_is_called_by_name() -> None:
    """vLLM makes "required" a list of calls, which a small model need not end; a named call it keeps to its schema."""
    sent = body(upstream(request(**FORCED), model("vllm"), None))

    assert sent["tool_choice"] == {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize("engine", INSTRUCTED)
@pytest.mark.parametrize(
    ("fields", "form"),
    [
        ({}, "chat"),
        ({"altgate": {"form": "chat"}}, "chat"),
        ({"altgate": {"form": "vqa"}}, "vqa"),
        ({"chat_template_kwargs": {"form": "vqa", "x": "secret"}}, "chat"),
    ],
)
def test_a_model_of_several_forms_is_told_which(engine: EngineKind, fields: dict[str, Any], form: str) -> None:
    """The client's, or the first; to the engine's template alone, which hears nothing else from a client."""
    sent = body(upstream(request(**fields), model(engine, forms=("chat", "vqa")), None))

    assert sent["chat_template_kwargs"] == {"form": form}
    assert "altgate" not in sent


def test_a_form_that_a_model_does_not_have_is_refused() -> None:
    """With those that it has."""
    for form in ("base", ""):
        with pytest.raises(InvalidRequest, match=r"the forms of 'm' are 'chat', 'vqa'\.") as caught:
            upstream(request(altgate={"form": form}), model("vllm", forms=("chat", "vqa")), None)
        assert (caught.value.param, caught.value.code) == ("altgate.form", "invalid_value")


@pytest.mark.parametrize("engine", ["blip", "vllm", "remote"])
def test_a_model_of_one_form_cannot_be_asked_in_others(engine: EngineKind) -> None:
    """It is refused, not ignored; and its template is told nothing."""
    with pytest.raises(UnsupportedParameter, match="has only one") as caught:
        upstream(request(altgate={"form": "vqa"}), model(engine), None)

    assert caught.value.param == "altgate.form"
    assert "chat_template_kwargs" not in body(upstream(request(), model(engine), None))


@pytest.mark.parametrize("engine", INSTRUCTED)
def test_top_logprobs_need_logprobs(engine: EngineKind) -> None:
    """As OpenAI has it."""
    with pytest.raises(InvalidRequest) as caught:
        upstream(request(top_logprobs=2), model(engine), None)

    assert (caught.value.param, caught.value.code) == ("top_logprobs", "invalid_value")


@pytest.mark.parametrize("engine", INSTRUCTED)
def test_nobody_makes_an_engine_read_a_library(engine: EngineKind) -> None:
    """The texts of a request are bounded together; its pictures do not count."""
    half = {"type": "text", "text": "a" * 2**18}
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 2**20}}
    upstream(request(messages=[{"role": "user", "content": [half, picture]}]), model(engine), None)

    with pytest.raises(InvalidRequest) as caught:
        upstream(request(messages=[{"role": "user", "content": [half, half]}]), model(engine), None)

    assert (caught.value.param, caught.value.code) == ("messages", "string_above_max_length")


def test_too_many_pictures_are_refused_by_the_first_that_is() -> None:
    """With how many there may be."""
    with pytest.raises(InvalidRequest, match="takes 2 pictures") as caught:
        upstream(request(messages=[{"role": "user", "content": [PICTURE] * 3}]), model("vllm"), None)

    assert caught.value.param == "messages[0].content[2].image_url.url"


@pytest.mark.parametrize("engine", ["blip", "vllm", "remote"])
def test_a_preset_brings_its_schema_unless_the_client_has_one(engine: EngineKind) -> None:
    """Text and `json_object` are asked for as the preset's object."""
    own = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
    preset = PRESETS["alt_text"]
    wanted = [None, {"type": "json_object"}, own]

    formats = [upstream(request(response_format=each), model(engine), preset).response_format for each in wanted]

    assert formats == [preset.response_format] * 2 + [msgspec.convert(own, wire.ResponseFormat)]
