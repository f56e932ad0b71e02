"""Looks at a picture of the world and says what it shows, by rules on its pixels: no model judges a model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from demo.world import BACKGROUNDS, COLOURS, SHAPES, unit_polygon

Mask = NDArray[np.bool_]
TEMPLATE_PX = 48
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
    objects = [area for area in _areas(difference > 60) if area.sum() >= MIN_OBJECT_PX]
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


def _nearest(colour: NDArray[np.float64], palette: dict[str, tuple[int, int, int]]) -> str:
    return min(palette, key=lambda name: float(np.abs(np.array(palette[name]) - colour).sum()))


def _areas(mask: Mask) -> list[Mask]:
    """Connected areas, by flooding from each pixel that no area has yet."""
    canvas = Image.fromarray(mask.astype(np.uint8))
    areas = []
    while (found := np.argwhere(np.asarray(canvas) == 1)).size:
        y, x = found[0]
        ImageDraw.floodfill(canvas, (int(x), int(y)), 2)
        flooded = np.asarray(canvas) == 2
        areas.append(flooded)
        canvas = Image.fromarray(np.where(flooded, 0, np.asarray(canvas)).astype(np.uint8))
    return areas


def _shape(area: Mask) -> str:
    """The shape whose outline, in a box of the same size, overlaps best (intersection over union)."""
    ys, xs = np.nonzero(area)
    box = Image.fromarray(area[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1])
    seen = np.asarray(box.convert("L").resize((TEMPLATE_PX, TEMPLATE_PX))) > 127
    return max(SHAPES, key=lambda shape: _overlap(seen, _template(shape)))


def _template(shape: str) -> Mask:
    outline = np.array(unit_polygon(shape))
    low, high = outline.min(axis=0), outline.max(axis=0)
    scaled = (outline - low) / (high - low) * (TEMPLATE_PX - 1)
    canvas = Image.new("L", (TEMPLATE_PX, TEMPLATE_PX))
    ImageDraw.Draw(canvas).polygon([(float(x), float(y)) for x, y in scaled], fill=255)
    return np.asarray(canvas) > 127


def _overlap(a: Mask, b: Mask) -> float:
    return float((a & b).sum() / (a | b).sum())
