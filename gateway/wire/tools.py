"""Tools: what a model may call, whether it must, and the calls that it makes."""

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

MAX_TOOLS = 128

JsonObject = dict[str, Any]


class Function(Struct, frozen=True, omit_defaults=True):
    """A function that the model may call; `parameters` is the JSON schema of its arguments."""

    name: str
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


class Tool(Struct, frozen=True):
    """Something that the model may call; functions are the one kind there is."""

    function: Function
    type: Literal["function"] = "function"


class FunctionName(Struct, frozen=True):
    """The name of one function."""

    name: str


class NamedTool(Struct, frozen=True):
    """The one tool that has to be called."""

    function: FunctionName
    type: Literal["function"] = "function"


ToolChoice = Literal["none", "auto", "required"] | NamedTool


class CalledFunction(Struct, frozen=True):
    """A function's name and its arguments, as the text of a JSON object."""

    name: str
    arguments: str


class ToolCall(Struct, frozen=True):
    """One call; `id` is what the message with its result refers to."""

    id: str
    function: CalledFunction
    type: Literal["function"] = "function"


class FunctionDelta(Struct, frozen=True, omit_defaults=True):
    """What a chunk adds to a call's function: its name once, its arguments piece by piece."""

    name: str | UnsetType = UNSET
    arguments: str | UnsetType = UNSET


class ToolCallDelta(Struct, frozen=True, omit_defaults=True):
    """What a chunk adds to one of the calls, which `index` tells apart."""

    index: int
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET
    function: FunctionDelta | UnsetType = UNSET
