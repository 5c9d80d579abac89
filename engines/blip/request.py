"""A chat request as BLIP can serve it: which picture, how the caption begins, how tokens are chosen. Pure.

BLIP follows no instructions: what system and user messages say is not fed to it, for it would only repeat it. What it
can do is continue a text, so a caption is unconditional unless the request gives it a beginning: a trailing assistant
message (the answer holds the new words) or `altgate.prefix` (the answer holds the whole caption).
"""

from dataclasses import dataclass
from typing import Final

from engines.blip.job import Sampling
from engines.structured import CAPTION_OBJECT, Filling, plan
from gateway.wire import ChatRequest, Fault, TextPart, pictures_of

DEFAULT_LIMIT: Final = 50
MAX_BEGINNING: Final = 4000
NO_PICTURE: Final = "This model describes pictures: send one as an image_url part."


@dataclass(frozen=True)
class Beginning:
    """What the caption continues; `echoed` when the answer repeats it."""

    text: str = ""
    echoed: bool = False

    @property
    def param(self) -> str:
        """The field that it came in."""
        return "altgate.prefix" if self.echoed else "messages"


@dataclass(frozen=True)
class Wanted:
    """A request that asks for a caption. `path` is the JSON path of its picture's `url`, for faults."""

    path: str
    url: str
    beginning: Beginning
    limit: int
    sampling: Sampling
    choices: int
    stops: tuple[str, ...]
    filling: Filling | None


def has_picture(request: ChatRequest) -> bool:
    """Whether there is anything to caption; without it, the answer is `NO_PICTURE`, whatever else is asked."""
    return bool(pictures_of(request))


def read(request: ChatRequest, *, max_choices: int) -> Wanted:
    """What a request with a picture asks for.

    Raises:
        Fault: it asks for what BLIP cannot do; `param` names the field and the message the remedy.
    """
    _refuse_unsupported(request)
    path, url = _picture(request)
    return Wanted(
        path=path,
        url=url,
        beginning=_beginning(request),
        limit=request.token_limit or DEFAULT_LIMIT,
        sampling=_sampling(request),
        choices=_choices(request, max_choices),
        stops=tuple(request.stops),
        filling=_filling(request),
    )


def _picture(request: ChatRequest) -> tuple[str, str]:
    (path, part), *others = pictures_of(request)
    if others:
        raise Fault(
            f"'{others[0][0]}' is one picture too many: this model describes one picture per request, and got "
            f"{len(others) + 1}. Send a request for each.",
            param=others[0][0],
            code="invalid_value",
        )
    return path, part.image_url.url


def _beginning(request: ChatRequest) -> Beginning:
    prefix = ((request.altgate and request.altgate.prefix) or "").strip()
    last = request.messages[-1]
    prefill = "".join(part.text for part in last.content if isinstance(part, TextPart)).strip()
    if last.role != "assistant" or not prefill:
        return _bounded(Beginning(prefix, echoed=True))
    if prefix:
        raise Fault(
            "'altgate.prefix' and a trailing assistant message both say how the caption begins. Send one of them.",
            param="altgate.prefix",
            code="invalid_value",
        )
    return _bounded(Beginning(prefill))


def _bounded(beginning: Beginning) -> Beginning:
    """Refuses what is too long to be looked at; whether the model has room for it is counted in tokens, later."""
    if len(beginning.text) <= MAX_BEGINNING:
        return beginning
    raise Fault(
        f"The caption's beginning has more than {MAX_BEGINNING} characters. Shorten it.",
        param=beginning.param,
        code="string_above_max_length",
    )


def _sampling(request: ChatRequest) -> Sampling:
    top_p = 1.0 if request.top_p is None else request.top_p
    return Sampling(request.temperature or 0.0, top_p, request.seed)


def _choices(request: ChatRequest, most: int) -> int:
    count = request.n or 1
    if count > most:
        raise Fault(
            f"Invalid value for 'n': this model makes at most {most} choices at once.", param="n", code="invalid_value"
        )
    if count > 1 and not request.temperature:
        raise _unsupported("n", "'n' above 1 needs a 'temperature' above 0, for without one all choices are the same")
    return count


def _filling(request: ChatRequest) -> Filling | None:
    wanted = request.response_format
    if wanted is None or wanted.type == "text":
        return None
    return plan(wanted.json_schema.schema) if wanted.json_schema else CAPTION_OBJECT


def _refuse_unsupported(request: ChatRequest) -> None:
    for name, refused, remedy in (
        ("frequency_penalty", request.frequency_penalty, "Remove it or set it to 0"),
        ("presence_penalty", request.presence_penalty, "Remove it or set it to 0"),
        ("logit_bias", request.logit_bias, "Remove it"),
        ("logprobs", request.logprobs, "Remove it or set it to false"),
        ("top_logprobs", request.top_logprobs, "Remove it or set it to 0"),
    ):
        if refused:
            raise _unsupported(name, f"'{name}' is not supported by this model. {remedy}")
    if request.tools and request.tool_choice not in (None, "auto", "none"):
        raise _unsupported(
            "tool_choice",
            "This model cannot call tools. Remove 'tools', or set 'tool_choice' to 'none'",
        )


def _unsupported(param: str, sentence: str) -> Fault:
    return Fault(f"{sentence}.", param=param, code="unsupported_parameter")
