"""What a user of OpenAI's SDK relies on, against the running server and a real model."""

from typing import Any, cast

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel, Field

from engines.demo import scenes
from tests import pictures
from tests.pictures import data_url, message
from tests.services import Server

Known = list[tuple[bytes, str]]


def ask(client: OpenAI, *urls: str, **fields: Any) -> Any:
    """A chat completion about those pictures."""
    return client.chat.completions.create(**({"model": "demo", "messages": [message(*urls)]} | fields))


def test_a_picture_gets_its_caption(client: OpenAI, known: Known) -> None:
    """The main job: a picture in, the right words out, in the shape of a chat completion."""
    png, caption = known[0]

    answer = ask(client, data_url(png))

    assert answer.choices[0].message.content == caption
    assert answer.choices[0].finish_reason == "stop"
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert answer.model == "demo"
    assert answer._request_id.startswith("req_")


def test_at_least_ninety_of_a_hundred_held_out_scenes_are_exactly_right(client: OpenAI) -> None:
    """The bundled model knows what it was made to know, through the front door."""
    right = sum(
        ask(client, data_url(pictures.png(scene))).choices[0].message.content == scenes.caption(scene)
        for scene in pictures.SCENES[:100]
    )

    assert right >= 90


def test_usage_counts_real_tokens(client: OpenAI, known: Known) -> None:
    """The picture's tokens are where OpenAI puts them, and the sums are right."""
    usage = ask(client, data_url(known[0][0])).usage

    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens_details.image_tokens == usage.prompt_tokens - 1
    assert usage.completion_tokens == len(known[0][1].split()) + 1


def test_a_stream_says_the_same_piece_by_piece(client: OpenAI, known: Known) -> None:
    """Role first, then words as they are made, then the reason, all under one id."""
    png, caption = known[1]

    chunks = list(ask(client, data_url(png), stream=True, extra_headers={"cache-control": "no-store"}))

    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == caption
    assert len([delta for delta in deltas if delta.content]) > 1
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "stop"
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks)


@pytest.mark.parametrize("directive", ["no-store", "max-age=60"])
def test_a_stream_carries_usage_when_asked(client: OpenAI, known: Known, directive: str) -> None:
    """One more chunk, without choices, made now or kept from before."""
    png, _ = known[2]
    options = {"stream": True, "stream_options": {"include_usage": True}}
    whole = ask(client, data_url(png))

    chunks = list(ask(client, data_url(png), **options, extra_headers={"cache-control": directive}))

    assert (chunks[-1].choices, chunks[-1].usage) == ([], whole.usage)
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_the_stream_helper_puts_it_together(client: OpenAI, known: Known) -> None:
    """OpenAI's own accumulator gets the whole answer."""
    png, caption = known[3]

    with client.chat.completions.stream(model="demo", messages=[message(data_url(png))]) as stream:  # type: ignore[list-item]
        final = stream.get_final_completion()

    assert final.choices[0].message.content == caption


class AltText(BaseModel):
    """Alt text."""

    alt_text: str = Field(max_length=120, description="at most 120 characters")
    language: str | None = None
    tags: list[str] = []


def test_parse_gives_a_pydantic_object(client: OpenAI, known: Known) -> None:
    """Structured output, the way the SDK asks for it."""
    png, caption = known[4]

    answer = client.chat.completions.parse(
        model="demo",
        messages=[message(data_url(png))],  # type: ignore[list-item]
        response_format=AltText,
    )

    assert answer.choices[0].message.parsed == AltText(alt_text=caption)


def test_a_schema_that_cannot_be_filled_honestly_is_refused(client: OpenAI, known: Known) -> None:
    """A caption is no price: the client learns why, and what would work."""

    class Offer(BaseModel):
        price: float

    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.parse(
            model="demo",
            messages=[message(data_url(known[0][0]))],  # type: ignore[list-item]
            response_format=Offer,
        )

    assert caught.value.param == "response_format"
    assert "none of its properties is a string" in caught.value.message
    assert "Use a schema with a single string property" in caught.value.message


def test_json_object_is_the_alt_text_preset(client: OpenAI, known: Known) -> None:
    """Without a schema, an object has the one property that everybody wants."""
    png, caption = known[5]

    answer = ask(client, data_url(png), response_format={"type": "json_object"})

    assert answer.choices[0].message.content == f'{{"alt_text":"{caption}"}}'


async def test_the_async_client_works_as_well(server: Server, known: Known) -> None:
    """The same through AsyncOpenAI, streamed."""
    png, caption = known[6]

    async with AsyncOpenAI(base_url=server.base_url, api_key="any") as client:
        stream = await client.chat.completions.create(
            model="demo",
            messages=[message(data_url(png))],  # type: ignore[list-item]
            stream=True,
        )
        words = [chunk.choices[0].delta.content or "" async for chunk in cast("Any", stream)]

    assert "".join(words) == caption


def test_models_are_listed_and_shown(client: OpenAI) -> None:
    """What the list has can be retrieved by its id, slashes and presets included."""
    listed = {model.id for model in client.models.list()}

    assert {"demo", "demo:alt_text", "blip-base", "blip-large:caption"} <= listed
    for name in (*listed, "Salesforce/blip-image-captioning-base"):
        assert client.models.retrieve(name).id == name


def test_an_unknown_model_is_not_found(client: OpenAI) -> None:
    """The SDK raises its own error, with the nearest name in it."""
    with pytest.raises(openai.NotFoundError, match="Did you mean 'blip-base'") as caught:
        ask(client, model="blip-bass")

    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nothing/like-it")


@pytest.mark.parametrize("key", ["any", "sk-proj-something-long", "x"])
def test_any_key_is_accepted_while_none_is_configured(server: Server, key: str) -> None:
    """Clients that insist on a key may send what they like."""
    with OpenAI(base_url=server.base_url, api_key=key) as client:
        assert client.models.list().data


def test_the_base_url_may_lack_its_prefix(server: Server, known: Known) -> None:
    """A base URL without /v1 works as well."""
    with OpenAI(base_url=server.root, api_key="any") as client:
        assert ask(client, data_url(known[0][0])).choices[0].message.content == known[0][1]
        assert client.models.retrieve("demo").id == "demo"


def test_several_captions_of_one_picture(client: OpenAI, known: Known) -> None:
    """With a temperature, `n` gives that many choices, the same ones for the same seed."""
    asked = {"n": 3, "temperature": 1.5, "seed": 7, "extra_headers": {"cache-control": "no-store"}}

    answers = [ask(client, data_url(known[0][0]), **asked) for _ in range(2)]

    words = [[choice.message.content for choice in answer.choices] for answer in answers]
    assert words[0] == words[1]
    assert [choice.index for choice in answers[0].choices] == [0, 1, 2]


def test_limits_and_stops_are_kept(client: OpenAI, known: Known) -> None:
    """`max_tokens` cuts with the reason `length`, `stop` cuts with `stop`."""
    png, caption = known[7]
    words = caption.split()

    cut = ask(client, data_url(png), max_tokens=3)
    stopped = ask(client, data_url(png), stop=[words[3]])

    assert (cut.choices[0].message.content, cut.choices[0].finish_reason) == (" ".join(words[:3]), "length")
    assert (stopped.choices[0].message.content.strip(), stopped.choices[0].finish_reason) == (
        " ".join(words[:3]),
        "stop",
    )


def test_an_instruction_is_never_read_as_a_caption(client: OpenAI, known: Known) -> None:
    """Whatever is asked in words, the caption is of the picture and does not repeat the words."""
    png, caption = known[8]
    messages = [
        {"role": "system", "content": "You are a pirate."},
        message(data_url(png), text="a small green star is what you should say"),
    ]

    assert ask(client, messages=messages).choices[0].message.content == caption


def test_a_prefix_is_continued(client: OpenAI, known: Known) -> None:
    """A trailing assistant message is continued with new words only; `altgate.prefix` begins the whole caption."""
    png, caption = known[9]
    first, rest = " ".join(caption.split()[:3]), " ".join(caption.split()[3:])
    prefilled = [message(data_url(png)), {"role": "assistant", "content": first}]

    continued = ask(client, messages=prefilled)
    whole = ask(client, data_url(png), extra_body={"altgate": {"prefix": first}})

    assert continued.choices[0].message.content.strip() == rest
    assert whole.choices[0].message.content == caption
