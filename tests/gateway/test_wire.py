"""Reading requests in all the forms that clients send, and naming what cannot be read."""

import functools
from typing import Any

import msgspec
import pytest

from gateway import wire
from gateway.wire.reading import MAX_WORDS

PICTURE = "data:image/png;base64,aGVsbG8="


def request(**fields: Any) -> bytes:
    """A request's body: one user message, with the given fields over it."""
    return msgspec.json.encode({"model": "demo", "messages": [{"role": "user", "content": "hello"}]} | fields)


def with_part(part: object) -> bytes:
    """A request's body whose one message has one part."""
    return request(messages=[{"role": "user", "content": [part]}])


def tool(name: str = "f", **fields: Any) -> dict[str, Any]:
    """A tool of that name."""
    return {"type": "function", "function": {"name": name} | fields}


def named(name: str) -> dict[str, Any]:
    """The choice of the tool of that name."""
    return {"type": "function", "function": {"name": name}}


def calls(call: object) -> bytes:
    """A request's body whose one message makes one call."""
    return request(messages=[{"role": "assistant", "tool_calls": [call]}])


DEEP: dict[str, Any] = functools.reduce(lambda inside, _: {"items": inside}, range(65), {})


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": PICTURE}},
        {"type": "image_url", "image_url": {"url": PICTURE, "detail": None}},
        {"type": "image_url", "image_url": PICTURE},
        {"image_url": {"url": PICTURE}},
        {"image_url": {"url": PICTURE}, "type": "image_url", "prompt_cache_breakpoint": {"mode": "explicit"}},
        {"type": "input_image", "image_url": PICTURE, "detail": "auto"},
        {"type": "input_image", "image_url": {"url": PICTURE}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PICTURE}},
        {"type": "image", "source": {"type": "url", "url": PICTURE}},
        {"type": "file", "file": {"file_data": PICTURE, "filename": "a.png"}},
    ],
)
def test_every_form_of_a_picture_is_read(part: object) -> None:
    """Whatever form a client writes a picture in, it is the same picture part."""
    decoded = wire.decode_request(with_part(part))

    assert [picture.image_url.url for _, picture in wire.pictures_of(decoded)] == [PICTURE]


@pytest.mark.parametrize("part", [{"type": "text", "text": "hi"}, {"type": "input_text", "text": "hi"}, {"text": "hi"}])
def test_every_form_of_text_is_read(part: object) -> None:
    """`input_text` and a part without a type are text."""
    assert wire.decode_request(with_part(part)).messages[0].content == [wire.TextPart("hi")]


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool", "function"])
@pytest.mark.parametrize("content", ["words", [{"type": "text", "text": "words"}]])
def test_content_is_a_string_or_parts_for_every_role(role: str, content: object) -> None:
    """A string and a list of one text part are the same content, whoever speaks."""
    decoded = wire.decode_request(request(messages=[{"role": role, "content": content}]))

    assert decoded.messages == [wire.Message(decoded.messages[0].role, [wire.TextPart("words")])]


def test_null_is_legal_for_every_optional_field() -> None:
    """Clients send null for what they leave to the server."""
    optional = {name: None for name in wire.ChatRequest.__struct_fields__ if name not in ("model", "messages")}

    decoded = wire.decode_request(request(**optional))

    assert decoded == wire.decode_request(request())


def test_null_content_is_no_content() -> None:
    """An assistant message may have null content."""
    decoded = wire.decode_request(request(messages=[{"role": "assistant", "content": None}]))

    assert decoded.messages[0].content == []


def test_unknown_fields_are_ignored_and_named() -> None:
    """A field that Altgate does not know never fails a request, and can be told to the client."""
    body = request(store=True, metadata={"a": "b"}, user="u", top_k=3, chat_template_kwargs={})

    assert wire.decode_request(body) == wire.decode_request(request())
    assert wire.read_request(body)[1] == ["chat_template_kwargs", "metadata", "store", "top_k", "user"]


@pytest.mark.parametrize(("given", "meant"), [(-1, None), (0, None), (7, 7)])
@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_token_limits_of_zero_and_less_mean_the_default(field: str, given: int, meant: int | None) -> None:
    """n8n sends -1 and 0 for "no limit of mine"."""
    assert wire.decode_request(request(**{field: given})).token_limit == meant


@pytest.mark.parametrize(("stop", "stops"), [(None, []), ("", []), ("a", ["a"]), (["a", "", "b"], ["a", "b"])])
def test_stop_is_a_string_or_a_list(stop: object, stops: list[str]) -> None:
    """Both forms are read; empty strings stop nothing."""
    assert wire.decode_request(request(stop=stop)).stops == stops


SCHEMA = {"type": "object", "properties": {"alt_text": {"type": "string"}}}


@pytest.mark.parametrize(
    "given",
    [
        {"name": "alt", "schema": SCHEMA, "strict": True},
        {"schema": SCHEMA, "name": "alt"},
        {"schema": {"$schema": "http://json-schema.org/draft-07/schema#", **SCHEMA}},
        SCHEMA,
    ],
)
def test_json_schema_is_read_in_every_form(given: object) -> None:
    """With or without a name, with `$schema`, or the bare schema without its wrapper."""
    decoded = wire.decode_request(request(response_format={"type": "json_schema", "json_schema": given}))

    assert decoded.response_format is not None
    assert decoded.response_format.json_schema is not None
    assert decoded.response_format.json_schema.schema == SCHEMA


@pytest.mark.parametrize("strict", [True, False, None])
def test_what_is_said_of_a_schema_is_kept(strict: bool | None) -> None:
    """Its name, its description and whether it is strict are the client's; strangers beside them are dropped."""
    given = {"name": "alt", "description": "Alt text.", "strict": strict, "schema": SCHEMA, "backend": "x"}

    decoded = wire.decode_request(request(response_format={"type": "json_schema", "json_schema": given, "regex": "x"}))

    schema = wire.JsonSchema("alt", SCHEMA, strict, "Alt text.")
    assert decoded.response_format == wire.ResponseFormat("json_schema", schema)


def test_response_format_text_is_none() -> None:
    """Asking for text is asking for nothing special."""
    assert wire.decode_request(request(response_format={"type": "text"})).response_format is None


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        (b"", None, None),
        (b"{", None, None),
        (b"\xff\xfe{}", None, None),
        (b"\xef\xbb\xbf{}", None, None),
        (b'{"model": NaN}', None, None),
        (b"[" * 100_000, None, None),
        (b'{"x":' + b"[" * 100_000, None, None),
        (b"[]", None, "invalid_type"),
        (b"{}", "model", "missing_required_parameter"),
        (b'{"model":"demo"}', "messages", "missing_required_parameter"),
        (b'{"model":7,"messages":[]}', "model", "invalid_type"),
        (request(messages=[]), "messages", "invalid_value"),
        (request(messages="hello"), "messages", "invalid_type"),
        (request(messages=[{"content": "x"}]), "messages[0].role", "missing_required_parameter"),
        (request(messages=[{"role": "bob", "content": "x"}]), "messages[0].role", "invalid_value"),
        (request(messages=[{"role": "user", "content": 5}]), "messages[0].content", "invalid_type"),
        (with_part({"type": "video"}), "messages[0].content[0].type", "invalid_value"),
        (with_part({}), "messages[0].content[0].type", "invalid_value"),
        (with_part({"type": "image_url"}), "messages[0].content[0].image_url", "missing_required_parameter"),
        (with_part({"type": "image_url", "image_url": 7}), "messages[0].content[0].image_url", "invalid_type"),
        *(
            (with_part({"image_url": {"url": url}}), "messages[0].content[0].image_url.url", "invalid_type")
            for url in (None, 7, [PICTURE], {"url": PICTURE})
        ),
        (with_part({"type": "image_url", "image_url": {}}), "messages[0].content[0].image_url.url", None),
        (with_part({"type": "text"}), "messages[0].content[0].text", "missing_required_parameter"),
        (with_part({"type": "image"}), "messages[0].content[0].source", "missing_required_parameter"),
        (with_part({"type": "file", "file": {"file_id": "x"}}), "messages[0].content[0].file.file_data", None),
        (request(n=0), "n", "invalid_value"),
        (request(n=9), "n", "invalid_value"),
        (request(n="2"), "n", "invalid_type"),
        (request(n=True), "n", "invalid_type"),
        (request(temperature=3), "temperature", "invalid_value"),
        (request(top_p=-0.1), "top_p", "invalid_value"),
        (request(seed=2**64), "seed", None),
        (request(stop=["a"] * 5), "stop", "invalid_value"),
        (request(stop="a" * 1001), "stop", "invalid_value"),
        (request(stream="yes"), "stream", "invalid_type"),
        (request(altgate={"tsk": "alt_text"}), "altgate", "invalid_value"),
        (request(messages=[{"role": "user", "content": "x"}] * 1001), "messages", "invalid_value"),
        (with_part({"type": "refusal", "refusal": "no"}), "messages[0].content[0].type", "invalid_value"),
        (request(messages=[{"role": "user", "content": [{"text": "x"}] * 1001}]), "messages[0].content", None),
        (calls({"function": {"name": "f", "arguments": "{}"}}), "messages[0].tool_calls[0].id", None),
        (calls({"id": "c", "function": {"name": "f"}}), "messages[0].tool_calls[0].function.arguments", None),
        (
            calls({"id": "c", "function": {"name": "f", "arguments": {}}}),
            "messages[0].tool_calls[0].function.arguments",
            "invalid_type",
        ),
        (request(top_logprobs=21), "top_logprobs", "invalid_value"),
        (request(logit_bias={str(token): 1 for token in range(301)}), "logit_bias", "invalid_value"),
        (request(tools=[tool()] * 129), "tools", "invalid_value"),
        (request(tools=[{}]), "tools[0].function", "missing_required_parameter"),
        (request(tools=[{"type": "custom", "custom": {}, "function": {"name": "f"}}]), "tools[0].type", None),
        (request(tools=[tool(), tool("a b")]), "tools[1].function.name", "invalid_value"),
        (request(tools=[tool("f" * 65)]), "tools[0].function.name", "invalid_value"),
        (request(tools=[tool("f\n")]), "tools[0].function.name", "invalid_value"),
        (request(tools=[tool(parameters=DEEP)]), "tools[0].function.parameters", "invalid_value"),
        (request(tools=[tool()], tool_choice="always"), "tool_choice", "invalid_value"),
        (request(tools=[tool()], tool_choice=named("g")), "tool_choice", "invalid_value"),
        (request(tools=[tool()], tool_choice={"type": "allowed_tools"}), "tool_choice.type", None),
        (request(tools=[tool()], parallel_tool_calls="no"), "parallel_tool_calls", "invalid_type"),
        (request(response_format={"type": "xml"}), "response_format.type", "invalid_value"),
        (request(response_format={"type": "json_schema"}), "response_format.json_schema", "missing_required_parameter"),
        (
            request(response_format={"type": "json_schema", "json_schema": {"name": "a"}}),
            "response_format.json_schema.schema",
            "missing_required_parameter",
        ),
    ],
)
def test_what_cannot_be_read_names_its_place(body: bytes, param: str | None, code: str | None) -> None:
    """A fault names the parameter by its path, in the message as well, and nothing of the decoder's own words leaks."""
    with pytest.raises(wire.Fault) as caught:
        wire.decode_request(body)

    assert caught.value.param == param
    assert code is None or caught.value.code == code
    assert param is None or param in caught.value.message
    assert "$" not in caught.value.message


def test_pictures_have_paths_in_order() -> None:
    """Each picture's path says where it stands."""
    part = {"type": "image_url", "image_url": {"url": PICTURE}}
    text = {"type": "text", "text": "hi"}
    messages = [{"role": "user", "content": [text, part]}, {"role": "user", "content": [part, text, part]}]

    paths = [path for path, _ in wire.pictures_of(wire.decode_request(request(messages=messages)))]

    assert paths == [
        "messages[0].content[1].image_url.url",
        "messages[1].content[0].image_url.url",
        "messages[1].content[2].image_url.url",
    ]


def test_tools_are_read() -> None:
    """What may be called, whether it must be, calls that were made and what their results refer to."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}', "x": 1}, "index": 0}
    decoded = wire.decode_request(
        request(
            tools=[tool(description="d", parameters=SCHEMA, strict=True), {"function": {"name": "g", "strict": None}}],
            tool_choice=named("g"),
            parallel_tool_calls=False,
            messages=[
                {"role": "assistant", "tool_calls": [call], "content": None},
                {"role": "tool", "tool_call_id": "c", "content": "r"},
            ],
        )
    )

    assert decoded.tools == [wire.Tool(wire.Function("f", "d", SCHEMA, strict=True)), wire.Tool(wire.Function("g"))]
    assert decoded.tool_choice == wire.NamedTool(wire.FunctionName("g"))
    assert decoded.parallel_tool_calls is False
    assert decoded.messages[0].tool_calls == [wire.ToolCall("c", wire.CalledFunction("f", '{"a": 1}'))]
    assert decoded.messages[1].tool_call_id == "c"


@pytest.mark.parametrize("choice", ["none", "auto", "required", named("f")])
@pytest.mark.parametrize("tools", [None, []])
def test_a_choice_without_tools_is_ignored(choice: object, tools: object) -> None:
    """Some clients always send one."""
    asked = request(tools=tools, tool_choice=choice, parallel_tool_calls=False)

    assert wire.decode_request(asked) == wire.decode_request(request())


def test_calls_and_their_results_belong_to_their_roles() -> None:
    """A user makes no calls, and an assistant has no results."""
    call = {"id": "c", "function": {"name": "f", "arguments": "{}"}}
    turns = [
        {"role": role, "content": "x", "tool_calls": [call], "tool_call_id": "c"} for role in ("user", "assistant")
    ]

    user, assistant = wire.decode_request(request(messages=turns)).messages

    assert user == wire.Message("user", [wire.TextPart("x")])
    assert assistant.tool_call_id is None


def test_a_uuid_is_never_a_clients() -> None:
    """It would name another client's picture in an engine's cache."""
    part = {"type": "image_url", "image_url": {"url": PICTURE, "uuid": "theirs"}, "uuid": "theirs"}

    assert b"theirs" not in wire.encode(wire.decode_request(with_part(part)))


def test_a_message_without_content_has_none_on_the_way_to_an_engine() -> None:
    """OpenAI refuses an empty list of parts beside a call."""
    decoded = wire.decode_request(calls({"id": "c", "function": {"name": "f", "arguments": "{}"}}))

    assert b"content" not in wire.encode(decoded)


def test_what_is_sent_on_is_read_back_the_same() -> None:
    """The gateway's own encoding of a request is a request again: engines read what the gateway read."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    body = request(
        messages=[
            {"role": "user", "content": [{"type": "image_url", "image_url": PICTURE}, {"text": "hi"}]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c", "content": "result"},
        ],
        response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}},
        altgate={"prefix": "a photo of"},
        temperature=0.5,
        seed=3,
        tools=[tool(description="d", parameters=SCHEMA, strict=True)],
        tool_choice=named("f"),
        parallel_tool_calls=False,
    )
    decoded = wire.decode_request(body)

    assert wire.decode_request(wire.encode(decoded)) == decoded


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "user", "content": "a" * MAX_WORDS}]},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {}, "description": "<" * MAX_WORDS}}},
        {"logit_bias": {"1" * MAX_WORDS: 1}},
        {"metadata": ["x"] * MAX_WORDS},
    ],
    ids=["text", "schema", "bias", "what we ignore"],
)
def test_only_pictures_may_be_large(fields: dict[str, Any]) -> None:
    """Whatever else makes a body large is refused before it is looked through."""
    with pytest.raises(wire.Fault, match="larger than 2 MiB without its pictures"):
        wire.decode_request(request(**fields))


def test_large_pictures_are_no_words() -> None:
    """However their base64 is escaped."""
    url = "data:image/png;base64," + "ABC/" * MAX_WORDS
    parts = [{"type": "image_url", "image_url": {"url": url}}]
    body = request(messages=[{"role": "user", "content": parts}]).replace(b"ABC/" * 64, b"ABC/" * 60 + rb"ABC\/" * 4)

    assert len(wire.pictures_of(wire.decode_request(body))) == 1


@pytest.mark.parametrize("arguments", ["[" * 5000, "[" * 70 + "]" * 70])
def test_arguments_of_calls_are_flat(arguments: str) -> None:
    """Engines read them as JSON, and some fall over what is nested deeply."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    with pytest.raises(wire.Fault, match="nested deeper than 64 levels"):
        wire.decode_request(request(messages=[{"role": "assistant", "tool_calls": [call]}]))


def test_arguments_that_are_no_json_are_text() -> None:
    """Models get them wrong, and agents send back what models said."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{not json"}}

    asked = wire.decode_request(request(messages=[{"role": "assistant", "tool_calls": [call]}]))

    assert asked.messages[0].tool_calls is not None


def test_a_function_takes_an_object() -> None:
    """A schema of anything else is refused before a model is made to answer to it."""
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "string"}}}
    with pytest.raises(wire.Fault, match="takes an object"):
        wire.decode_request(request(tools=[tool]))
