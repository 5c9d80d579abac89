"""How an answer is put together: whole, replayed as a stream, restamped piece by piece. Pure."""

from collections.abc import Iterator

import msgspec
from msgspec import UNSET, Struct, UnsetType

from gateway import wire
from gateway.errors import EngineFault
from gateway.wire import ChatCompletion, Choice, Chunk, ChunkChoice, Delta, Usage


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
        refusal = message.refusal if message.refusal is not None else UNSET
        yield _chunk(head, ChunkChoice(index=choice.index, delta=Delta(role="assistant", content="")))
        yield _chunk(head, ChunkChoice(index=choice.index, delta=Delta(content=message.content, refusal=refusal)))
        yield _chunk(head, ChunkChoice(index=choice.index, delta=Delta(), finish_reason=choice.finish_reason))
    if head.include_usage:
        yield usage_chunk(head, usage)


def usage_chunk(head: Head, usage: Usage) -> Chunk:
    """The last chunk of a stream whose client asked for the usage."""
    return _stamped(head, [], usage)


def restamped(head: Head, chunk: Chunk) -> Chunk:
    """An engine's chunk under our own name, id and time."""
    return _stamped(head, chunk.choices, None if head.include_usage else UNSET)


def unwrapped(choice: Choice, field: str) -> Choice:
    """The words of a preset's object, for a client that asked for text. What is no such object stays as it is."""
    content = choice.message.content
    try:
        words = msgspec.json.decode(content or "", type=dict[str, object]).get(field)
    except msgspec.DecodeError:
        words = None
    text = words if isinstance(words, str) else content
    return msgspec.structs.replace(choice, message=wire.AssistantMessage(content=text))


class Gathered:
    """Puts the pieces of a stream together again, so that a streamed answer can be kept."""

    def __init__(self) -> None:
        self._contents: dict[int, list[str]] = {}
        self._refusals: dict[int, str] = {}
        self._reasons: dict[int, wire.FinishReason] = {}
        self._usage: Usage | None = None

    def add(self, chunk: Chunk) -> None:
        """One more piece."""
        for choice in chunk.choices:
            words = self._contents.setdefault(choice.index, [])
            if isinstance(choice.delta.content, str):
                words.append(choice.delta.content)
            if isinstance(choice.delta.refusal, str):
                self._refusals[choice.index] = self._refusals.get(choice.index, "") + choice.delta.refusal
            if choice.finish_reason is not None:
                self._reasons[choice.index] = choice.finish_reason
        if isinstance(chunk.usage, Usage):
            self._usage = chunk.usage

    def result(self) -> tuple[list[Choice], Usage]:
        """The whole answer.

        Raises:
            EngineFault: the stream ended without saying why, or what it cost.
        """
        if self._usage is None or not self._reasons or self._reasons.keys() != self._contents.keys():
            raise EngineFault("The engine ended its stream without an end. Try again.")
        choices = [
            Choice(
                index=index,
                message=wire.AssistantMessage(content="".join(words), refusal=self._refusals.get(index)),
                finish_reason=self._reasons[index],
            )
            for index, words in sorted(self._contents.items())
        ]
        return choices, self._usage


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
