"""From a name to a model."""

import pytest

from gateway import routing
from gateway.catalogue import Model
from gateway.errors import ModelNotFound

DEMO = Model(name="demo", engine="blip", source="x", aliases=("org/demo-1", "gemma:4b"))
OTHER = Model(name="blip-base", engine="blip", source="y")
MODELS = routing.table([DEMO, OTHER])
PRESETS = ("alt_text", "caption")


@pytest.mark.parametrize(
    ("name", "model", "preset"),
    [
        ("demo", DEMO, None),
        ("org/demo-1", DEMO, None),
        ("gemma:4b", DEMO, None),
        ("blip-base", OTHER, None),
        ("demo:alt_text", DEMO, "alt_text"),
        ("gemma:4b:caption", DEMO, "caption"),
        ("org/demo-1:alt_text", DEMO, "alt_text"),
    ],
)
def test_a_name_an_alias_and_a_preset_suffix_choose(name: str, model: Model, preset: str | None) -> None:
    """Names and aliases may have slashes and colons of their own; a preset stands behind the last colon."""
    assert routing.choose(name, MODELS, PRESETS) == routing.Route(model, preset)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("dmeo", "demo"), ("DEMO", "demo"), ("blip-bsae", "blip-base"), ("demo:alttext", "demo:alt_text")],
)
def test_an_unknown_name_is_answered_with_the_nearest(name: str, nearest: str) -> None:
    """A slip of the keyboard gets the name that was meant."""
    with pytest.raises(ModelNotFound) as caught:
        routing.choose(name, MODELS, PRESETS)

    assert f"Did you mean '{nearest}'?" in caught.value.message
    assert (caught.value.status, caught.value.code, caught.value.param) == (404, "model_not_found", "model")


@pytest.mark.parametrize("name", ["", ":", "demo:", ":alt_text", "demo:nothing", "demo:alt_text:caption", "x" * 10**6])
def test_what_is_no_name_is_not_found(name: str) -> None:
    """Odd names are refused like any other, in a sentence that stays short."""
    with pytest.raises(ModelNotFound) as caught:
        routing.choose(name, MODELS, PRESETS)

    assert len(caught.value.message) < 300
