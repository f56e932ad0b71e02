"""Looks at a picture of the world and says what it shows, by rules on its pixels: no model judges a model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from demo.world import BACKGROUNDS, COLOURS, SHAPES, unit_polygon

Mask = NDArray[np.bool_]
TEMPLATE_PX = 48
DIFFERENT = 60.0
"""Of 255, in any channel: less is surely the background."""
MIN_OBJECT_PX = 40
"""Smaller blots are no objects: the smallest star of the world covers about 90 pixels."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Empty strings and 0 where nothing could be made out."""

    count: int
    colour: str
    shape: str
    background: str


def look(picture: Image.Image) -> Seen:
    """The background is the border's median colour; objects are connected areas that differ from it."""
    pixels = np.asarray(picture.convert("RGB")).astype(float)
    border = np.concatenate([pixels[:2].reshape(-1, 3), pixels[-2:].reshape(-1, 3), pixels[:, :2].reshape(-1, 3)])
    background = np.median(border, axis=0)
    difference = np.abs(pixels - background).max(axis=2)
    objects = [area for area in _areas(difference > _edge(difference)) if area.sum() >= MIN_OBJECT_PX]
    if not objects:
        return Seen(0, "", "", _nearest(background, BACKGROUNDS))
    inside = np.any(objects, axis=0)
    strongest = difference >= np.quantile(difference[inside], 0.3)
    colour = np.median(pixels[inside & strongest], axis=0)
    shapes = [_shape(area) for area in objects]
    return Seen(
        count=len(objects),
        colour=_nearest(colour, COLOURS),
        shape=max(set(shapes), key=shapes.count),
        background=_nearest(background, BACKGROUNDS),
    )


def _edge(difference: NDArray[np.float64]) -> float:
    """Half of the object's own contrast: where the edge of something blurred is."""
    contrasts = difference[difference > DIFFERENT]
    return max(DIFFERENT, float(np.quantile(contrasts, 0.8)) / 2) if contrasts.size else DIFFERENT


def _nearest(colour: NDArray[np.float64], palette: dict[str, tuple[int, int, int]]) -> str:
    return min(palette, key=lambda name: float(np.abs(np.array(palette[name]) - colour).sum()))


def _areas(mask: Mask) -> list[Mask]:
    """Connected areas: every pixel takes the highest number among its neighbours until nothing changes."""
    numbers = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        spread = np.pad(numbers, 1)
        neighbours = [spread[:-2, 1:-1], spread[2:, 1:-1], spread[1:-1, :-2], spread[1:-1, 2:], numbers]
        highest = np.where(mask, np.maximum.reduce(neighbours), 0)
        if np.array_equal(highest, numbers):
            return [numbers == number for number in np.unique(numbers) if number]
        numbers = highest


def _shape(area: Mask) -> str:
    """The shape whose outline, in a box of the same size, overlaps best (intersection over union)."""
    ys, xs = np.nonzero(area)
    box = Image.fromarray(area[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1])
    seen = np.asarray(box.convert("L").resize((TEMPLATE_PX, TEMPLATE_PX))) > 127
    return max(SHAPES, key=lambda shape: _overlap(seen, _template(shape)))


@cache
def _template(shape: str) -> Mask:
    outline = np.array(unit_polygon(shape))
    low, high = outline.min(axis=0), outline.max(axis=0)
    scaled = (outline - low) / (high - low) * (TEMPLATE_PX - 1)
    canvas = Image.new("L", (TEMPLATE_PX, TEMPLATE_PX))
    ImageDraw.Draw(canvas).polygon([(float(x), float(y)) for x, y in scaled], fill=255)
    return np.asarray(canvas) > 127


def _overlap(a: Mask, b: Mask) -> float:
    return float((a & b).sum() / (a | b).sum())
