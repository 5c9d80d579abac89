"""Pictures of plain shapes, and the one sentence that describes each of them.

A scene is a single item, two different items side by side or one above the other, or two to four
items that look alike. Lengths are fractions of the picture's side; x runs to the right and y runs down.
"""

import hashlib
import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, get_args

from PIL import Image, ImageDraw

Shape = Literal["circle", "square", "triangle", "star", "cross"]
Color = Literal["red", "orange", "yellow", "green", "blue", "purple", "pink"]
Size = Literal["small", "large"]
Background = Literal["white", "gray", "black", "brown"]
Rgb = tuple[int, int, int]
Point = tuple[float, float]

SHAPES: Final[tuple[Shape, ...]] = get_args(Shape)
BACKGROUNDS: Final[tuple[Background, ...]] = get_args(Background)
COLOR_RGB: Final[dict[Color, Rgb]] = {
    "red": (220, 30, 30),
    "orange": (255, 135, 0),
    "yellow": (255, 225, 30),
    "green": (30, 150, 60),
    "blue": (35, 85, 230),
    "purple": (125, 40, 170),
    "pink": (255, 135, 195),
}
BACKGROUND_RGB: Final[dict[Background, Rgb]] = {
    "white": (255, 255, 255),
    "gray": (150, 150, 150),
    "black": (0, 0, 0),
    "brown": (95, 60, 35),
}
PLURALS: Final[dict[Shape, str]] = {
    "circle": "circles",
    "square": "squares",
    "triangle": "triangles",
    "star": "stars",
    "cross": "crosses",
}
NUMBERS: Final[dict[int, str]] = {2: "two", 3: "three", 4: "four"}
PLACES: Final = (
    ("in the top left corner", "at the top", "in the top right corner"),
    ("on the left", "in the center", "on the right"),
    ("in the bottom left corner", "at the bottom", "in the bottom right corner"),
)

DIAMETERS: Final[dict[Size, tuple[float, float]]] = {"small": (0.18, 0.21), "large": (0.33, 0.36)}
_LARGE_FROM: Final = 0.26
_THIRDS: Final = (0.22, 0.5, 0.78)
_HALVES: Final = (0.26, 0.74)
_MIDDLE: Final = (0.3, 0.7)
_JITTER: Final = 0.03
_SUPERSAMPLING: Final = 4
_HELD_OUT_BELOW: Final = 16


@dataclass(frozen=True, slots=True)
class Look:
    """What an item looks like, apart from its place."""

    size: Size
    color: Color
    shape: Shape

    def __str__(self) -> str:
        """Say it in the singular: "large red circle"."""
        return f"{self.size} {self.color} {self.shape}"

    @property
    def plural(self) -> str:
        """Say it in the plural: "large red circles"."""
        return f"{self.size} {self.color} {PLURALS[self.shape]}"


LOOKS: Final = tuple(itertools.starmap(Look, itertools.product(get_args(Size), COLOR_RGB, SHAPES)))


@dataclass(frozen=True, slots=True)
class Item:
    """One shape: its centre (x, y) and the diameter of the circle around it, in sides of the picture."""

    shape: Shape
    color: Color
    diameter: float
    x: float
    y: float

    @property
    def look(self) -> Look:
        """The item without its place, its diameter read as "small" or "large"."""
        return Look("large" if self.diameter > _LARGE_FROM else "small", self.color, self.shape)


@dataclass(frozen=True, slots=True)
class Scene:
    """One item, two that differ, or two to four that look alike; ValueError for anything else."""

    items: tuple[Item, ...]
    background: Background

    def __post_init__(self) -> None:
        """Refuse what the captions cannot say."""
        match len(self.items), len({item.look for item in self.items}):
            case (1, 1) | (2, 2) | (2 | 3 | 4, 1):
                pass
            case items, looks:
                raise ValueError(f"no caption for {items} items of {looks} looks")


def caption(scene: Scene) -> str:
    """Describe a scene by what can be seen, whatever the order of `scene.items`."""
    return f"{_subject(scene.items)} on a {scene.background} background"


def draw(scene: Scene, size: int) -> Image.Image:
    """Paint a scene as a square RGB picture of `size` x `size` pixels, with smooth edges."""
    side = size * _SUPERSAMPLING
    canvas = Image.new("RGB", (side, side), BACKGROUND_RGB[scene.background])
    pen = ImageDraw.Draw(canvas)
    for item in scene.items:
        corners = [_on_canvas(item, corner, side) for corner in _OUTLINES[item.shape]]
        pen.polygon(corners, fill=COLOR_RGB[item.color])
    return canvas.reduce(_SUPERSAMPLING)


def sample(rng: random.Random) -> Scene:
    """Draw a scene to train on: its caption is never a held-out one."""
    return next(scene for scene in _scenes(rng) if not is_held_out(scene))


def held_out(count: int, seed: int) -> list[Scene]:
    """Name `count` scenes, the same for the same seed, whose captions `sample` never gives."""
    rng = random.Random(seed)  # noqa: S311 - to be repeatable, not secret
    return list(itertools.islice(filter(is_held_out, _scenes(rng)), count))


def is_held_out(scene: Scene) -> bool:
    """Tell whether a scene is kept from training: one caption in sixteen is, chosen by its SHA-256."""
    return hashlib.sha256(caption(scene).encode()).digest()[0] < _HELD_OUT_BELOW


def _subject(items: tuple[Item, ...]) -> str:
    match items:
        case (item,):
            return f"a {item.look} {_place(item)}"
        case (one, other) if one.look != other.look:
            return _relation(one, other)
        case _:
            return f"{NUMBERS[len(items)]} {items[0].look.plural}"


def _place(item: Item) -> str:
    return PLACES[_third(item.y)][_third(item.x)]


def _third(coordinate: float) -> int:
    return min(int(coordinate * 3), 2)


def _relation(one: Item, other: Item) -> str:
    if abs(one.x - other.x) > abs(one.y - other.y):
        left, right = sorted((one, other), key=lambda item: item.x)
        return f"a {left.look} left of a {right.look}"
    upper, lower = sorted((one, other), key=lambda item: item.y)
    return f"a {upper.look} above a {lower.look}"


def _on_canvas(item: Item, corner: Point, side: int) -> Point:
    return side * (item.x + item.diameter * corner[0]), side * (item.y + item.diameter * corner[1])


def _around(corners: int, radii: tuple[float, ...]) -> tuple[Point, ...]:
    """Place corners evenly around the origin, the first at the top, the radii taken in turn."""
    turns = [(2 * math.pi * i / corners, radii[i % len(radii)]) for i in range(corners)]
    return tuple((radius * math.sin(angle), -radius * math.cos(angle)) for angle, radius in turns)


def _plus(reach: float, arm: float) -> tuple[Point, ...]:
    """Outline an upright cross whose arms are `2 * arm` wide and end at distance `reach` from the origin."""
    quarter = ((-arm, -reach), (arm, -reach), (arm, -arm))
    return (
        *quarter,
        *((-y, x) for x, y in quarter),
        *((-x, -y) for x, y in quarter),
        *((y, -x) for x, y in quarter),
    )


_OUTLINES: Final[dict[Shape, tuple[Point, ...]]] = {
    "circle": _around(64, (0.5,)),
    "square": ((-0.4, -0.4), (0.4, -0.4), (0.4, 0.4), (-0.4, 0.4)),
    "triangle": _around(3, (0.5,)),
    "star": _around(10, (0.5, 0.2)),
    "cross": _plus(0.48, 0.15),
}


def _scenes(rng: random.Random) -> Iterator[Scene]:
    while True:
        arrange = rng.choices((_single, _side_by_side, _stacked, _group), weights=(4, 3, 3, 4))[0]
        yield Scene(arrange(rng), rng.choice(BACKGROUNDS))


def _single(rng: random.Random) -> tuple[Item, ...]:
    return (_item(rng, rng.choice(LOOKS), rng.choice(_THIRDS), rng.choice(_THIRDS)),)


def _side_by_side(rng: random.Random) -> tuple[Item, ...]:
    left, right = rng.sample(LOOKS, 2)
    y = rng.uniform(*_MIDDLE)
    return _item(rng, left, _HALVES[0], y), _item(rng, right, _HALVES[1], y)


def _stacked(rng: random.Random) -> tuple[Item, ...]:
    upper, lower = rng.sample(LOOKS, 2)
    x = rng.uniform(*_MIDDLE)
    return _item(rng, upper, x, _HALVES[0]), _item(rng, lower, x, _HALVES[1])


def _group(rng: random.Random) -> tuple[Item, ...]:
    look = rng.choice(LOOKS)
    places = rng.sample(list(itertools.product(_HALVES, _HALVES)), rng.choice(list(NUMBERS)))
    return tuple(_item(rng, look, x, y) for x, y in places)


def _item(rng: random.Random, look: Look, x: float, y: float) -> Item:
    diameter = rng.uniform(*DIAMETERS[look.size])
    return Item(
        shape=look.shape,
        color=look.color,
        diameter=diameter,
        x=x + rng.uniform(-_JITTER, _JITTER),
        y=y + rng.uniform(-_JITTER, _JITTER),
    )
