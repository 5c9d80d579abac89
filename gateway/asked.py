"""What an engine is asked: a client's request made plain, bounded and free of what is only ours to know. Pure.

An engine gets the encoding of our own closed types and nothing of the client's JSON, so no field that we do not know
ever reaches one. BLIP's engine reads its own requests and refuses for itself what it cannot do; vLLM and remote servers
follow instructions, so their requests are made as the model's own tokenizer and options need them.
"""

import hmac
from collections.abc import Iterator
from functools import lru_cache

from msgspec.structs import replace

from gateway import wire
from gateway.catalogue import Model
from gateway.errors import InvalidRequest, UnsupportedParameter
from gateway.neutral import Neutraliser
from gateway.prompts import Preset
from gateway.wire import ChatRequest, ImageURL, Message, Part, PicturePart

MAX_TEXT = 512 * 2**10  # bytes of JSON: over a hundred thousand tokens, and looked through in a tenth of a second
AUTO_TOOL_CHOICE = "enable-auto-tool-choice"
SALT = b"altgate cache_salt"


def follows_instructions(model: Model) -> bool:
    """Whether the model's engine speaks the whole of chat completions; BLIP's engine describes, and only that."""
    return model.engine != "blip"


def upstream(request: ChatRequest, model: Model, preset: Preset | None, *, scope: str) -> ChatRequest:
    """What the engine is asked, without its pictures: the preset filled in, nothing that is only ours to know.

    An engine that remembers prompts and pictures keeps those of one scope from the next: how long an answer takes is
    not to tell what another team has asked. Without a scope all share them.

    Raises:
        InvalidRequest: the model cannot do what is asked; `param` names the field.
    """
    _ensure_count(request, model)
    filled = preset.fill(request) if preset else request
    own_schema = request.response_format is not None and request.response_format.type == "json_schema"
    asked = replace(
        filled,
        messages=[_message(message, model) for message in filled.messages],
        model=model.name,
        stream=None,
        stream_options=None,
        response_format=preset.response_format if preset and not own_schema else request.response_format,
        altgate=_prefix(request),
        chat_template_kwargs=_template_arguments(request, model),
    )
    return _instructed(asked, model, scope) if follows_instructions(model) else asked


def with_pictures(asked: ChatRequest, model: Model, pictures: Iterator[tuple[str, str]]) -> ChatRequest:
    """The request with its pictures in it, each with the name of what we made of it and the URL that holds that."""
    messages = [
        replace(message, content=[_inlined(part, model, pictures, asked.cache_salt) for part in message.content])
        for message in asked.messages
    ]
    return replace(asked, messages=messages)


@lru_cache(maxsize=1024)
def _salt(scope: str) -> str:
    """A name for a scope that can be had of nothing else. It is no secret: no client's own is ever passed on."""
    return hmac.digest(SALT, scope.encode(), "sha256").hex()


def _ensure_count(request: ChatRequest, model: Model) -> None:
    pictures = wire.pictures_of(request)
    if len(pictures) > model.max_pictures:
        path, _ = pictures[model.max_pictures]
        count = "one picture" if model.max_pictures == 1 else f"{model.max_pictures} pictures"
        raise InvalidRequest(
            f"The model '{model.name}' takes {count} a request, and this one has {len(pictures)}. "
            "Send a request for each picture.",
            param=path,
            code="invalid_value",
        )


def _prefix(request: ChatRequest) -> wire.AltgateOptions | None:
    prefix = request.altgate.prefix if request.altgate is not None else None
    return wire.AltgateOptions(prefix=prefix) if prefix else None


def _template_arguments(request: ChatRequest, model: Model) -> wire.TemplateArguments | None:
    """The form in which the model is asked, where it has several: the client's, or the usual one."""
    form = request.altgate.form if request.altgate is not None else None
    if form is not None and not model.forms:
        raise UnsupportedParameter(
            f"'altgate.form' is for models that can be asked in several forms, and '{model.name}' has only one. "
            "Leave it out.",
            param="altgate.form",
        )
    if form is not None and form not in model.forms:
        raise InvalidRequest(
            f"Invalid value for 'altgate.form': the forms of '{model.name}' are {', '.join(map(repr, model.forms))}.",
            param="altgate.form",
            code="invalid_value",
        )
    chosen = form or next(iter(model.forms), None)
    return wire.TemplateArguments(chosen) if chosen is not None else None


def _message(message: Message, model: Model) -> Message:
    """A message under a role that every engine knows, without what its pictures were written as."""
    role = "system" if message.role == "developer" else message.role
    return replace(message, role=role, content=[_emptied(part, model) for part in message.content])


def _emptied(part: Part, model: Model) -> Part:
    """The picture's bytes are kept beside the request, once is enough. vLLM has no use for `detail`."""
    if not isinstance(part, PicturePart):
        return part
    return PicturePart(ImageURL("", part.image_url.detail if model.engine != "vllm" else None))


def _instructed(asked: ChatRequest, model: Model, scope: str) -> ChatRequest:
    """The request as an engine takes it that follows instructions: greedy unless a client wants chance."""
    _ensure_servable(asked, model)
    return replace(
        Neutraliser(model.special_tokens).request(asked),
        tool_choice=_named(asked) if model.engine == "vllm" else asked.tool_choice,
        temperature=asked.temperature or 0.0,
        cache_salt=_salt(scope) if scope else None,
        stop=asked.stops or None,
        max_tokens=_positive(asked.max_tokens),
        max_completion_tokens=_positive(asked.max_completion_tokens),
    )


def _named(asked: ChatRequest) -> wire.ToolChoice | None:
    """The only tool that can be meant, by its name: vLLM keeps that one to its schema more surely than "required"."""
    if asked.tool_choice != "required" or not asked.tools or len(asked.tools) > 1:
        return asked.tool_choice
    return wire.NamedTool(wire.FunctionName(asked.tools[0].function.name))


def _positive(limit: int | None) -> int | None:
    return limit if limit is not None and limit > 0 else None


def _ensure_servable(asked: ChatRequest, model: Model) -> None:
    if asked.altgate is not None:
        raise UnsupportedParameter(
            f"'altgate.prefix' is for BLIP models, which continue a text, and '{model.name}' is none. "
            "Ask in a message for what the answer shall begin with.",
            param="altgate.prefix",
        )
    if (asked.n or 1) > 1 and not asked.temperature:
        raise UnsupportedParameter(
            "'n' above 1 needs a 'temperature' above 0, for without one all choices are the same.", param="n"
        )
    if asked.top_logprobs and not asked.logprobs:
        raise InvalidRequest("'top_logprobs' needs 'logprobs' to be true.", param="top_logprobs", code="invalid_value")
    _ensure_tools(asked, model)
    if len(wire.encode([asked.messages, asked.tools])) > MAX_TEXT:
        raise InvalidRequest(
            f"The texts of this request are longer than {MAX_TEXT // 2**10} KiB in all. Shorten them.",
            param="messages",
            code="string_above_max_length",
        )


def _ensure_tools(asked: ChatRequest, model: Model) -> None:
    """vLLM lets a model choose for itself only when it was told how that model writes its calls."""
    chooses = bool(asked.tools) and asked.tool_choice in (None, "auto")
    if chooses and model.engine == "vllm" and model.args.get(AUTO_TOOL_CHOICE) is not True:
        raise UnsupportedParameter(
            f"The engine of '{model.name}' is not set up to let the model choose between words and tools. Force a call "
            'with \'tool_choice\' "required" or {"type": "function", "function": {"name": "..."}}; or its operator '
            f'sets args = {{ {AUTO_TOOL_CHOICE} = true, tool-call-parser = "..." }} for the model.',
            param="tool_choice",
        )


def _inlined(part: Part, model: Model, pictures: Iterator[tuple[str, str]], salt: str | None) -> Part:
    if not isinstance(part, PicturePart):
        return part
    name, url = next(pictures)
    named = "-".join([name, str(model.picture_size), *([salt] if salt else [])])
    return PicturePart(ImageURL(url, part.image_url.detail), named if follows_instructions(model) else None)
