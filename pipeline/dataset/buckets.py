"""The sides that pictures are resized and cropped to: their own aspect ratios, the area of the resolution."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from pipeline.records import Picture

Side = tuple[int, int]
"""(width, height) in pixels."""


@lru_cache(maxsize=1 << 16)  # most pictures of a dataset have one of a few sizes
def bucket_side(width_px: int, height_px: int, *, resolution_px: int, step_px: int) -> Side:
    """The sides, multiples of `step_px`, that a picture is resized and cropped to: its own aspect ratio as nearly as
    they allow, an area of at most `resolution_px` squared, and no side over twice `resolution_px`."""
    ratio = width_px / height_px
    best = (resolution_px, resolution_px)
    for side in _sides(resolution_px, step_px):
        if _distance(side[0] / side[1], ratio) < _distance(best[0] / best[1], ratio) - 1e-9:
            best = side
    return best


@lru_cache
def _sides(resolution_px: int, step_px: int) -> tuple[Side, ...]:
    """To each width the greatest height that area and limit leave, and the same turned: a picture that stands has the
    choice of one that lies."""
    area, longest = resolution_px * resolution_px, 2 * resolution_px // step_px * step_px
    widths = range(step_px, longest + 1, step_px)
    made = [(width, height) for width in widths if (height := min(longest, area // width // step_px * step_px))]
    return (*made, *((height, width) for width, height in made))


@dataclass(frozen=True, slots=True)
class Bucket:
    """A side, and what it does to the pictures that are made so."""

    side: Side
    pictures: int
    shown: int
    """How often an epoch shows one of them."""
    cropped: float
    """Share of their area that is cut off, at the mean."""
    worst: Picture
    """Of which most is cut off."""
    worst_cropped: float


def buckets_of(sided: Iterable[tuple[Picture, Side]]) -> list[Bucket]:
    """By the number of their pictures, the fullest first."""
    members: dict[Side, list[Picture]] = {}
    for picture, side in sided:
        members.setdefault(side, []).append(picture)
    return sorted((_bucket(side, each) for side, each in members.items()), key=lambda b: (-b.pictures, b.side))


def _bucket(side: Side, pictures: list[Picture]) -> Bucket:
    cut = [cropped_share(picture.width_px, picture.height_px, side) for picture in pictures]
    worst = max(range(len(pictures)), key=cut.__getitem__)
    shown = sum(picture.repeats for picture in pictures)
    return Bucket(side, len(pictures), shown, sum(cut) / len(cut), pictures[worst], cut[worst])


def cropped_share(width_px: int, height_px: int, side: Side) -> float:
    """Of the area of a picture that is resized to cover `side` and cropped to it."""
    scale = max(side[0] / width_px, side[1] / height_px)
    return max(0.0, 1 - side[0] * side[1] / (width_px * scale * height_px * scale))


def _distance(a: float, b: float) -> float:
    return abs(math.log(a / b))
