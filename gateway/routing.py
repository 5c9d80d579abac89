"""From the name in a request to the model that answers it. Pure: no I/O, no clock."""

import difflib
from collections.abc import Collection, Mapping, Sequence

from msgspec import Struct

from gateway.catalogue import Model
from gateway.errors import ModelNotFound

PRESET_MARK = ":"
LONGEST_SHOWN = 80  # characters of a name in an error


class Route(Struct, frozen=True):
    """The model asked for, and the preset that its name asked for."""

    model: Model
    preset: str | None


def table(models: Sequence[Model]) -> Mapping[str, Model]:
    """Every model under its name and its aliases."""
    return {name: model for model in models for name in (model.name, *model.aliases)}


def choose(name: str, models: Mapping[str, Model], presets: Collection[str]) -> Route:
    """The route of a name: a model's name or alias, or one of these with `:` and a preset behind it.

    Raises:
        ModelNotFound: nothing of that name; the message names the nearest that there is.
    """
    if model := models.get(name):
        return Route(model, None)
    stem, _, preset = name.rpartition(PRESET_MARK)
    if preset in presets and (model := models.get(stem)):
        return Route(model, preset)
    raise ModelNotFound(_unknown(name, [*models, *names_with_presets(models, presets)]), param="model")


def names_with_presets(models: Collection[str], presets: Collection[str]) -> list[str]:
    """Every name that chooses a preset."""
    return [f"{model}{PRESET_MARK}{preset}" for model in models for preset in presets]


def _unknown(name: str, known: Sequence[str]) -> str:
    shown = name if len(name) <= LONGEST_SHOWN else f"{name[:LONGEST_SHOWN]}…"
    lowered = {other.lower(): other for other in known}
    near = difflib.get_close_matches(name[:LONGEST_SHOWN].lower(), lowered, n=1, cutoff=0.5)
    hint = f" Did you mean '{lowered[near[0]]}'?" if near else ""
    fault = f"The model '{shown}' does not exist or you have no access to it."
    return f"{fault}{hint} GET /v1/models lists what can be asked for."
