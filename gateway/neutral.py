"""Text that spells a model's special tokens, made plain text again. Pure.

A tokenizer takes `<start_of_image>` in a client's words for a picture that is not there, which is a way into the
conversation's structure and has killed engines. A word joiner behind the first character breaks the spelling: no eye
sees it, no Unicode normalisation takes it away, no template strips it. Since nothing is ever removed, no new spelling
can come together.
"""

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, pairwise

import msgspec
from msgspec.structs import replace

from gateway.wire import ChatRequest, JsonObject, Message, Part, ResponseFormat, TextPart, Tool, ToolCall

WORD_JOINER = "\u2060"

KNOWN = (
    # Gemma
    *("<bos>", "<eos>", "<pad>", "<unk>", "<mask>", "[@BOS@]", "<start_of_turn>", "<end_of_turn>", "<start_of_image>"),
    *("<end_of_image>", "<image_soft_token>", "<start_of_audio>", "<end_of_audio>", "<audio_soft_token>", '<|"|>'),
    # InternVL
    *("<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>"),
    # BLIP-2, LLaVA, CogVLM, Idefics and whatever else grew from OPT, Llama and T5
    *("<s>", "</s>", "<image>", "</image>", "<video>", "<audio>", "<cls>", "<sep>", "<eod>", "<image_placeholder>"),
    *("<fake_token_around_image>", "<global-img>", "<end_of_utterance>", "<slice>", "</slice>", "<im_patch>"),
    *("<im_start>", "<im_end>"),
    # Mistral, GLM, BERT
    *("[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CALLS]"),
    *("[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[ARGS]", "[CALL_ID]"),
    *("[gMASK]", "[sMASK]", "[MASK]", "[CLS]", "[SEP]", "[PAD]", "[UNK]", "[BOS]", "[EOS]"),
)
FAMILIES = (
    r"<\|[\w▁./:@-]{1,64}\|?>",  # Qwen, Llama 3, Phi, GLM, DeepSeek, and Gemma 4's "<|turn>"
    r"<[\w▁./:@-]{1,64}\|>",  # Gemma 4's "<turn|>"
    r"<unused\d{1,8}>",  # Gemma
    r"<(?:loc|seg)\d{1,8}>",  # PaliGemma
    r"<extra_id_\d{1,8}>",  # T5
    r"<row_\d{1,8}_col_\d{1,8}>",  # Idefics
)


class Neutraliser:
    """Breaks the known spellings and a model's own `special_tokens`. Texts without any come back as they are."""

    def __init__(self, special_tokens: Sequence[str] = ()) -> None:
        self._spelling, self._firsts = _spelling(tuple(special_tokens))

    def request(self, asked: ChatRequest) -> ChatRequest:
        """The request with every text that reaches a prompt made plain.

        A schema of `response_format` stays: it rules what is written, and is not read.
        """
        return replace(
            asked,
            messages=[self._message(message) for message in asked.messages],
            tools=[self._tool(tool) for tool in asked.tools] if asked.tools else None,
            response_format=self._format(asked.response_format) if asked.response_format else None,
        )

    def text(self, given: str) -> str:
        """One text made plain."""
        return _broken(given, self._starts(given))

    def side_by_side(self, given: Sequence[str]) -> list[str]:
        """Texts made plain that a template may set side by side, trimmed or not, so that a spelling spans several."""
        texts = [self.text(each) for each in given]
        if len(texts) <= 1:
            return texts
        trimmed = [each.strip() for each in texts]
        ends = list(accumulate(map(len, trimmed)))
        starts: list[list[int]] = [[] for _ in texts]
        for start in self._starts("".join(trimmed)):
            at = bisect_right(ends, start)
            indent = len(texts[at]) - len(texts[at].lstrip())
            starts[at].append(indent + start - (ends[at] - len(trimmed[at])))
        return [_broken(each, inside) for each, inside in zip(texts, starts, strict=True)]

    def json(self, given: str) -> str:
        """A JSON text made plain, in which a spelling may also be written with escapes."""
        unescaped = _ESCAPE.sub(_unescaped, given)
        plain = self.text(unescaped)
        return given if plain == unescaped else plain

    def _starts(self, given: str) -> list[int]:
        """Where spellings begin, also such as normalisation to NFKC would bring about."""
        if given.isascii() and not any(first in given for first in self._firsts):
            return []
        if unicodedata.is_normalized("NFKC", given):
            return [found.start() for found in self._spelling.finditer(given)]
        normal = [unicodedata.normalize("NFKC", character) for character in given]
        ends = list(accumulate(map(len, normal)))
        return sorted({bisect_right(ends, found.start()) for found in self._spelling.finditer("".join(normal))})

    def _message(self, message: Message) -> Message:
        return replace(
            message,
            content=self._content(message.content),
            name=self._optional(message.name),
            tool_calls=[self._call(call) for call in message.tool_calls] if message.tool_calls else None,
            tool_call_id=self._optional(message.tool_call_id),
        )

    def _content(self, parts: list[Part]) -> list[Part]:
        texts = iter(self.side_by_side([part.text for part in parts if isinstance(part, TextPart)]))
        return [TextPart(next(texts)) if isinstance(part, TextPart) else part for part in parts]

    def _call(self, call: ToolCall) -> ToolCall:
        name, arguments = self.text(call.function.name), self.json(call.function.arguments)
        return replace(call, id=self.text(call.id), function=replace(call.function, name=name, arguments=arguments))

    def _tool(self, tool: Tool) -> Tool:
        function = tool.function
        parameters = self._object(function.parameters) if function.parameters else function.parameters
        described = replace(function, description=self._optional(function.description), parameters=parameters)
        return replace(tool, function=described)

    def _object(self, given: JsonObject) -> JsonObject:
        return msgspec.json.decode(self.text(msgspec.json.encode(given).decode()), type=JsonObject)

    def _format(self, given: ResponseFormat) -> ResponseFormat:
        if given.json_schema is None:
            return given
        description = self._optional(given.json_schema.description)
        return replace(given, json_schema=replace(given.json_schema, description=description))

    def _optional(self, given: str | None) -> str | None:
        return None if given is None else self.text(given)


@lru_cache(maxsize=256)
def _spelling(own: tuple[str, ...]) -> tuple[re.Pattern[str], frozenset[str]]:
    """Matches the first character of every spelling, also of those that overlap; and all these characters."""
    rests: dict[str, list[str]] = {"<": [family[1:] for family in FAMILIES]}
    normal = [unicodedata.normalize("NFKC", token) for token in (*KNOWN, *own)]
    in_json = [msgspec.json.encode(token).decode()[1:-1] for token in normal]
    for token in dict.fromkeys([*normal, *in_json]):
        rests.setdefault(token[0], []).append(re.escape(token[1:]))
    pattern = re.compile("|".join(f"{re.escape(first)}(?={'|'.join(rest)})" for first, rest in rests.items()))
    return pattern, frozenset(rests)


def _broken(given: str, starts: Sequence[int]) -> str:
    """The text with a word joiner behind each of the characters at `starts`."""
    if not starts:
        return given
    cuts = [0, *(start + 1 for start in starts), len(given)]
    return WORD_JOINER.join(given[begin:end] for begin, end in pairwise(cuts))


_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|(.))", re.DOTALL)


def _unescaped(found: re.Match[str]) -> str:
    """The character in its plainest form in JSON; one that cannot be seen stays as it was written."""
    character = chr(int(found[1], 16)) if found[1] else found[2]
    if character in ('"', "\\"):
        return "\\" + character
    return character if character == "/" or (found[1] and character.isprintable()) else found[0]
