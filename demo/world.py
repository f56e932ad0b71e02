"""The little world that the demo model knows: captions, and the pictures that they describe.

Every picture is 64 x 64 RGB and shows one to three equal shapes of one colour on a flat background; the caption says
all of it. `draw` is the plain rendering that the demo model is trained on; `draw_sticker` renders the same scenes in
a style that the model has never seen, which is what the demo dataset teaches it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

from PIL import Image, ImageDraw

SIDE_PX = 64
SUPERSAMPLING = 4

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 44),
    "green": (40, 160, 60),
    "blue": (38, 80, 215),
    "yellow": (240, 212, 44),
    "purple": (146, 52, 182),
    "orange": (243, 132, 32),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (246, 246, 246),
    "black": (18, 18, 20),
    "gray": (132, 132, 134),
    "pink": (248, 194, 206),
}
SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "star")
PLACES: dict[str, tuple[int, int]] = {
    "in the center": (32, 32),
    "on the left": (19, 32),
    "on the right": (45, 32),
    "at the top": (32, 19),
    "at the bottom": (32, 45),
}
ROWS: dict[str, tuple[int, int]] = {"in a row": (1, 0), "in a column": (0, 1)}
COUNTS: dict[str, int] = {"one": 1, "two": 2, "three": 3}
RADIUS_PX: dict[tuple[str, str], float] = {
    ("one", "small"): 10.0,
    ("one", "large"): 17.0,
    ("two", "small"): 9.0,
    ("two", "large"): 13.5,
    ("three", "small"): 8.5,
}


@dataclass(frozen=True, slots=True)
class Scene:
    """What a picture shows: all of it is said in `caption`."""

    count: str
    size: str
    colour: str
    shape: str
    place: str
    background: str

    @property
    def subject(self) -> str:
        plural = "" if self.count == "one" else "s"
        return f"{self.count} {self.size} {self.colour} {self.shape}{plural} {self.place}"

    @property
    def caption(self) -> str:
        return f"{self.subject} on a {self.background} background"


def all_scenes() -> list[Scene]:
    """Every scene of the world, in a fixed order."""
    return [
        Scene(count, size, colour, shape, place, background)
        for count, size in RADIUS_PX
        for place in (PLACES if count == "one" else ROWS)
        for colour in COLOURS
        for shape in SHAPES
        for background in BACKGROUNDS
    ]


def draw(scene: Scene, rng: Random) -> Image.Image:
    """The plain rendering: flat colours, with a little variation of place, size and colour."""
    canvas = Image.new("RGB", (SIDE_PX * SUPERSAMPLING,) * 2, _jitter_colour(BACKGROUNDS[scene.background], 5, rng))
    pen = ImageDraw.Draw(canvas)
    fill = _jitter_colour(COLOURS[scene.colour], 10, rng)
    for outline in outlines(scene, rng):
        pen.polygon(outline, fill=fill)
    return canvas.resize((SIDE_PX, SIDE_PX), Image.Resampling.BOX)


def draw_sticker(scene: Scene, rng: Random) -> Image.Image:
    """The style of the demo dataset: a sticker with a thick cream border and a shadow, on a two-coloured wall."""
    side = SIDE_PX * SUPERSAMPLING
    canvas = Image.new("RGB", (side, side), _jitter_colour((38, 150, 150), 4, rng))
    pen = ImageDraw.Draw(canvas)
    slope = rng.uniform(8, 12) * SUPERSAMPLING
    pen.polygon([(0, side / 2 + slope), (side, side / 2 - slope), (side, side), (0, side)], fill=(22, 84, 96))
    shapes, border = outlines(scene, rng), 7 * SUPERSAMPLING
    for colour, offset in (((10, 44, 54), 3 * SUPERSAMPLING), ((250, 240, 214), 0)):
        for outline in shapes:
            moved = [(x + offset, y + offset) for x, y in outline]
            pen.polygon(moved, fill=colour)
            pen.line([*moved, *moved[:2]], fill=colour, width=border, joint="curve")
    for outline in shapes:
        pen.polygon(outline, fill=COLOURS[scene.colour])
    return canvas.resize((SIDE_PX, SIDE_PX), Image.Resampling.BOX)


def outlines(scene: Scene, rng: Random) -> list[list[tuple[float, float]]]:
    """The polygons of a scene in supersampled pixels."""
    radius = RADIUS_PX[scene.count, scene.size] * rng.uniform(0.93, 1.07)
    return [
        [((x + radius * dx) * SUPERSAMPLING, (y + radius * dy) * SUPERSAMPLING) for dx, dy in unit_polygon(scene.shape)]
        for x, y in _centres(scene, radius, rng)
    ]


def unit_polygon(shape: str) -> list[tuple[float, float]]:
    """The outline of a shape of radius 1 round the origin; y points down."""
    if shape == "square":
        return [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)]
    corners = {"circle": 40, "triangle": 3, "star": 10}[shape]
    lengths = (1.12, 0.46) if shape == "star" else (1.0, 1.0) if shape == "circle" else (1.16, 1.16)
    return [
        (lengths[i % 2] * math.sin(2 * math.pi * i / corners), -lengths[i % 2] * math.cos(2 * math.pi * i / corners))
        for i in range(corners)
    ]


def held_out(scene: Scene) -> bool:
    """True for the scenes (one in nine) that the demo model never sees while it is trained."""
    digits = [
        list(options).index(value)
        for options, value in (
            (COLOURS, scene.colour),
            (SHAPES, scene.shape),
            (BACKGROUNDS, scene.background),
            (COUNTS, scene.count),
            ([*PLACES, *ROWS], scene.place),
        )
    ]
    return sum(weight * digit for weight, digit in zip((1, 2, 4, 5, 7), digits, strict=True)) % 9 == 0


def _centres(scene: Scene, radius: float, rng: Random) -> list[tuple[float, float]]:
    jitter = (rng.uniform(-2, 2), rng.uniform(-2, 2))
    if scene.count == "one":
        x, y = PLACES[scene.place]
        return [(x + jitter[0], y + jitter[1])]
    number = COUNTS[scene.count]
    step_x, step_y = ROWS[scene.place]
    gap = 2 * radius + (64 - 2 * radius * number) / (number + 1)
    return [
        (32 + jitter[0] * step_y + gap * (i - (number - 1) / 2) * step_x,
         32 + jitter[1] * step_x + gap * (i - (number - 1) / 2) * step_y)
        for i in range(number)
    ]  # fmt: skip


def _jitter_colour(colour: tuple[int, int, int], spread: int, rng: Random) -> tuple[int, int, int]:
    red, green, blue = (min(255, max(0, part + rng.randint(-spread, spread))) for part in colour)
    return red, green, blue
