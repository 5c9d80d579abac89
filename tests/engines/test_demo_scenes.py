"""The demo scenes: what a picture shows and what its caption says are the same thing."""

import itertools
import random

import pytest

from engines.demo.scenes import (
    BACKGROUND_RGB,
    BACKGROUNDS,
    COLOR_RGB,
    NUMBERS,
    PLURALS,
    SHAPES,
    Item,
    Rgb,
    Scene,
    caption,
    draw,
    held_out,
    is_held_out,
    sample,
)

SIDE = 128
LARGE_RED_CIRCLE = Item(shape="circle", color="red", diameter=0.35, x=0.2, y=0.2)
SMALL_BLUE_SQUARE = Item(shape="square", color="blue", diameter=0.18, x=0.75, y=0.25)
SMALL_BLUE_SQUARE_BELOW = Item(shape="square", color="blue", diameter=0.18, x=0.25, y=0.75)


def training_scenes(count: int, seed: int = 0) -> list[Scene]:
    """Draw the first training scenes of a seed."""
    rng = random.Random(seed)
    return [sample(rng) for _ in range(count)]


def distance(one: Rgb, other: Rgb) -> int:
    """Sum the differences of two colours over the channels."""
    return sum(abs(a - b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ((LARGE_RED_CIRCLE,), "a large red circle in the top left corner on a white background"),
        (
            (LARGE_RED_CIRCLE, SMALL_BLUE_SQUARE),
            "a large red circle left of a small blue square on a white background",
        ),
        (
            (LARGE_RED_CIRCLE, SMALL_BLUE_SQUARE_BELOW),
            "a large red circle above a small blue square on a white background",
        ),
        ((SMALL_BLUE_SQUARE, SMALL_BLUE_SQUARE_BELOW), "two small blue squares on a white background"),
    ],
)
def test_caption_is_the_canonical_sentence(items: tuple[Item, ...], said: str) -> None:
    """Each kind of scene has one sentence, with the left or upper item first."""
    assert caption(Scene(items, "white")) == said


def test_caption_and_picture_do_not_depend_on_the_order_of_items() -> None:
    """Scenes that look alike are captioned alike, however their items are listed."""
    for scene in training_scenes(200):
        for items in itertools.permutations(scene.items):
            shuffled = Scene(items, scene.background)
            assert caption(shuffled) == caption(scene)
        assert draw(Scene(scene.items[::-1], scene.background), 32) == draw(scene, 32)


@pytest.mark.parametrize(
    "items",
    [
        (),
        (LARGE_RED_CIRCLE, SMALL_BLUE_SQUARE, SMALL_BLUE_SQUARE_BELOW),
        (LARGE_RED_CIRCLE,) * 5,
    ],
)
def test_a_scene_without_a_sentence_is_refused(items: tuple[Item, ...]) -> None:
    """What the captions cannot say cannot be built."""
    with pytest.raises(ValueError, match="no caption for"):
        Scene(items, "white")


def test_every_word_of_the_grammar_is_used() -> None:
    """All shapes, colours, sizes, counts, relations and backgrounds occur among the training captions."""
    said = {word for scene in training_scenes(5000) for word in caption(scene).split()}
    assert {*SHAPES, *PLURALS.values(), *COLOR_RGB, *NUMBERS.values(), *BACKGROUNDS} <= said
    assert {"small", "large", "above", "left", "right", "corner", "center", "top", "bottom"} <= said


def test_the_same_seed_gives_the_same_scenes() -> None:
    """Training and held-out scenes are reproducible, and differ between seeds."""
    assert training_scenes(50, seed=3) == training_scenes(50, seed=3) != training_scenes(50, seed=4)
    assert held_out(50, seed=3) == held_out(50, seed=3) != held_out(50, seed=4)


def test_more_held_out_scenes_begin_with_the_same_ones() -> None:
    """The n-th held-out scene of a seed does not depend on how many are asked for."""
    assert held_out(100, seed=7)[:10] == held_out(10, seed=7)


def test_no_training_caption_is_held_out() -> None:
    """The two sets share no caption, let alone a scene."""
    trained = training_scenes(5000)
    kept = held_out(1000, seed=0)
    assert not any(is_held_out(scene) for scene in trained)
    assert all(is_held_out(scene) for scene in kept)
    assert {caption(scene) for scene in trained}.isdisjoint(caption(scene) for scene in kept)


def test_different_scenes_have_different_pictures() -> None:
    """No two captions share a picture."""
    scenes = {caption(scene): scene for scene in training_scenes(500)}.values()
    pictures = {draw(scene, SIDE).tobytes() for scene in scenes}
    assert len(pictures) == len(scenes)


@pytest.mark.parametrize("side", [96, 100, 768])
def test_a_picture_has_the_size_asked_for(side: int) -> None:
    """Pictures are square, RGB and exactly as large as asked."""
    picture = draw(Scene((LARGE_RED_CIRCLE,), "gray"), side)
    assert (picture.mode, picture.size) == ("RGB", (side, side))


def test_the_centre_of_an_item_has_its_colour() -> None:
    """Every item is where it says it is, in its own colour, on the background's."""
    for scene in training_scenes(200):
        picture = draw(scene, SIDE)
        assert picture.getpixel((0, 0)) == BACKGROUND_RGB[scene.background]
        for item in scene.items:
            assert picture.getpixel((int(item.x * SIDE), int(item.y * SIDE))) == COLOR_RGB[item.color]


def test_items_stay_inside_the_picture_and_apart() -> None:
    """Nothing is cut off at the edge and nothing overlaps, so everything said can be seen."""
    for scene in training_scenes(1000):
        for item in scene.items:
            assert item.diameter / 2 <= min(item.x, item.y, 1 - item.x, 1 - item.y)
        for one, other in itertools.combinations(scene.items, 2):
            gap = max(abs(one.x - other.x), abs(one.y - other.y))
            assert gap > (one.diameter + other.diameter) / 2


def test_colours_are_well_apart() -> None:
    """No two colours, of items or backgrounds, can be mistaken for each other."""
    palette = [*COLOR_RGB.values(), *BACKGROUND_RGB.values()]
    assert min(distance(one, other) for one, other in itertools.combinations(palette, 2)) > 90
