"""How an answer is put together: whole, replayed as a stream, restamped piece by piece. Pure."""

import json
import re
from collections.abc import Iterator, Sequence

import msgspec
from msgspec import UNSET, Struct, UnsetType

from gateway.errors import EngineFault
from gateway.wire import (
    AssistantMessage,
    CalledFunction,
    ChatCompletion,
    Choice,
    Chunk,
    ChunkChoice,
    Delta,
    FinishReason,
    FunctionDelta,
    Logprobs,
    ToolCall,
    ToolCallDelta,
    Usage,
)


class Head(Struct, frozen=True, kw_only=True):
    """What every piece of an answer says of itself; `model` is the name that the client used."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    include_usage: bool


def whole(head: Head, choices: list[Choice], usage: Usage) -> ChatCompletion:
    """The answer in one piece."""
    return ChatCompletion(
        id=head.id,
        created=head.created,
        model=head.model,
        system_fingerprint=head.system_fingerprint,
        choices=choices,
        usage=usage,
    )


def replayed(head: Head, choices: list[Choice], usage: Usage) -> Iterator[Chunk]:
    """A whole answer as a stream: role, words and end of each choice, then the usage when it was asked for."""
    for choice in choices:
        message = choice.message
        opening = Delta(role="assistant", content="" if message.content is not None else None)
        yield _chunk(head, ChunkChoice(index=choice.index, delta=opening))
        yield _chunk(head, ChunkChoice(index=choice.index, delta=_all_at_once(message), logprobs=choice.logprobs))
        yield _chunk(head, ChunkChoice(index=choice.index, delta=Delta(), finish_reason=choice.finish_reason))
    if head.include_usage:
        yield usage_chunk(head, usage)


def _all_at_once(message: AssistantMessage) -> Delta:
    calls = [
        ToolCallDelta(at, call.id, call.type, FunctionDelta(call.function.name, call.function.arguments))
        for at, call in enumerate(message.tool_calls or [])
    ]
    return Delta(
        content=message.content if message.content is not None else UNSET,
        refusal=message.refusal if message.refusal is not None else UNSET,
        tool_calls=calls or UNSET,
    )


def usage_chunk(head: Head, usage: Usage) -> Chunk:
    """The last chunk of a stream whose client asked for the usage."""
    return _stamped(head, [], usage)


def restamped(head: Head, chunk: Chunk) -> Chunk:
    """An engine's chunk under our own name, id and time."""
    return _stamped(head, chunk.choices, None if head.include_usage else UNSET)


def unwrapped(choice: Choice, field: str) -> Choice:
    """The words of a preset's object, for a client that asked for text. What is no such object stays as it is."""
    content = choice.message.content
    if content is None or choice.message.tool_calls:
        return choice
    try:
        words = msgspec.json.decode(content, type=dict[str, object]).get(field)
    except msgspec.DecodeError:
        words = _beginning(content, field) if choice.finish_reason == "length" else None
    text = words if isinstance(words, str) else content
    return msgspec.structs.replace(choice, message=AssistantMessage(content=text))


def _beginning(content: str, field: str) -> str | None:
    """What there is of a string property in an object that was cut off; None when it is no such object."""
    if not content.lstrip().startswith("{"):
        return None
    whole_characters = r'(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*'
    found = re.match(rf'\s*{{\s*"{re.escape(field)}"\s*:\s*("{whole_characters})', content)
    words = json.loads(f'{found[1]}"') if found is not None else ""
    return str(words).encode(errors="ignore").decode()  # the first of two escapes that make one character is none


class Gathered:
    """Puts the pieces of a stream together again, so that a streamed answer can be kept."""

    def __init__(self) -> None:
        self._growing: dict[int, _Growing] = {}
        self._usage = Usage(0, 0, 0)

    def add(self, chunk: Chunk) -> None:
        """One more piece."""
        for choice in chunk.choices:
            self._growing.setdefault(choice.index, _Growing()).add(choice)
        if isinstance(chunk.usage, Usage):
            self._usage = chunk.usage

    def close(self, head: Head) -> Chunk | None:
        """Adds the ends that an engine owes whose stream is over, and gives them back; None when it owes none."""
        owed = [
            ChunkChoice(index=index, delta=Delta(), finish_reason="tool_calls" if growing.calls else "stop")
            for index, growing in sorted(self._growing.items())
            if growing.reason is None
        ]
        if not owed:
            return None
        chunk = _stamped(head, owed, None if head.include_usage else UNSET)
        self.add(chunk)
        return chunk

    def result(self) -> tuple[list[Choice], Usage]:
        """The whole answer; a stream that does not say what it cost is counted as zero tokens.

        Raises:
            EngineFault: there was none, or not all of it has an end.
        """
        choices = [growing.choice(index) for index, growing in sorted(self._growing.items())]
        if not choices:
            raise _endless()
        return choices, self._usage


class _Growing:
    """One of the answers of a stream, as far as it has come."""

    def __init__(self) -> None:
        self.reason: FinishReason | None = None
        self.calls: dict[int, _GrowingCall] = {}
        self._words: list[str] = []
        self._refusal: list[str] = []
        self._logprobs: list[Logprobs] = []

    def add(self, choice: ChunkChoice) -> None:
        delta = choice.delta
        self._words += [delta.content] if delta.content else []
        self._refusal += [delta.refusal] if isinstance(delta.refusal, str) else []
        for call in delta.tool_calls or []:
            self.calls.setdefault(call.index, _GrowingCall()).add(call)
        self._logprobs += [choice.logprobs] if choice.logprobs is not None else []
        self.reason = choice.finish_reason or self.reason

    def choice(self, index: int) -> Choice:
        if self.reason is None:
            raise _endless()
        calls = [call.whole() for _, call in sorted(self.calls.items())]
        refusal = "".join(self._refusal) if self._refusal else None
        speechless = not self._words and (calls or refusal is not None)
        message = AssistantMessage(
            content=None if speechless else "".join(self._words), refusal=refusal, tool_calls=calls or UNSET
        )
        return Choice(index=index, message=message, logprobs=_joined(self._logprobs), finish_reason=self.reason)


class _GrowingCall:
    """One of the calls of a streamed answer, as far as it has come."""

    def __init__(self) -> None:
        self._id = self._name = ""
        self._arguments: list[str] = []

    def add(self, delta: ToolCallDelta) -> None:
        function = delta.function or FunctionDelta()
        self._id = self._id or delta.id or ""
        self._name = self._name or function.name or ""
        self._arguments += [function.arguments] if function.arguments else []

    def whole(self) -> ToolCall:
        return ToolCall(self._id, CalledFunction(self._name, "".join(self._arguments)))


def _joined(pieces: Sequence[Logprobs]) -> Logprobs | None:
    """The tokens of all chunks in a row; None where no chunk had any."""
    if not pieces:
        return None
    content = [token for piece in pieces for token in piece.content or []]
    refusal = [token for piece in pieces for token in piece.refusal or []]
    return Logprobs(content or None, refusal or None)


def _endless() -> EngineFault:
    return EngineFault("The engine ended its stream without an end. Try again.")


def _chunk(head: Head, choice: ChunkChoice) -> Chunk:
    return _stamped(head, [choice], None if head.include_usage else UNSET)


def _stamped(head: Head, choices: list[ChunkChoice], usage: Usage | UnsetType | None) -> Chunk:
    return Chunk(
        id=head.id,
        created=head.created,
        model=head.model,
        system_fingerprint=head.system_fingerprint,
        choices=choices,
        usage=usage,
    )
