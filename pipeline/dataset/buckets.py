"""The sides that pictures are resized and cropped to: their own aspect ratios, the area of the resolution."""

from __future__ import annotations

import math

Side = tuple[int, int]
"""(width, height) in pixels."""


def bucket_side(width_px: int, height_px: int, *, resolution_px: int, step_px: int) -> Side:
    """The sides, multiples of `step_px`, that a picture is resized and cropped to: its own aspect ratio as nearly as
    they allow, an area of at most `resolution_px` squared, and no side over twice `resolution_px`."""
    area = resolution_px * resolution_px
    ratio = width_px / height_px
    best = (resolution_px, resolution_px)
    for width in range(step_px, 2 * resolution_px + 1, step_px):
        height = min(2 * resolution_px, area // width // step_px * step_px)
        if height and _distance(width / height, ratio) < _distance(best[0] / best[1], ratio) - 1e-9:
            best = (width, height)
    return best


def _distance(a: float, b: float) -> float:
    return abs(math.log(a / b))
