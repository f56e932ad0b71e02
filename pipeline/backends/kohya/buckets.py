"""How many batches sd-scripts makes of the pictures: an epoch is as long as that, and validation comes at its end."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from pipeline.records import Picture

Side = tuple[int, int]
"""(width, height) in pixels."""


def bucket_limits_px(resolution_px: int, step_px: int) -> tuple[int, int]:
    """The shortest and the longest side of a bucket: half and twice the resolution, in whole steps."""
    shortest = max(step_px, resolution_px // 2 // step_px * step_px)
    return shortest, -(-2 * resolution_px // step_px) * step_px


def batches_per_epoch(
    pictures: Sequence[Picture], *, resolution_px: int, step_px: int, batch_size: int, no_upscale: bool = False
) -> int:
    """Every bucket's last batch may be a smaller one (make_buckets, library/train_util.py)."""
    sizes = [(picture.width_px, picture.height_px) for picture in pictures for _ in range(picture.repeats)]
    if no_upscale:
        members = Counter(own_side(*size, resolution_px=resolution_px, step_px=step_px) for size in sizes)
    else:
        sides = bucket_sides(resolution_px, step_px)
        members = Counter(nearest_side(sides, *size) for size in sizes)
    return sum(math.ceil(count / batch_size) for count in members.values())


@lru_cache
def bucket_sides(resolution_px: int, step_px: int) -> tuple[Side, ...]:
    """All sides whose area is at most that of the resolution (make_bucket_resolutions, library/model_util.py)."""
    shortest, longest = bucket_limits_px(resolution_px, step_px)
    area, square = resolution_px * resolution_px, resolution_px // step_px * step_px
    sides = {(square, square)}
    for width in range(shortest, longest + 1, step_px):
        height = min(longest, area // width // step_px * step_px)
        if height >= shortest:
            sides |= {(width, height), (height, width)}
    return tuple(sorted(sides))


def nearest_side(sides: Sequence[Side], width_px: int, height_px: int) -> Side:
    """By the difference of the aspect ratios; the first of equals (select_bucket, library/train_util.py)."""
    if (width_px, height_px) in sides:
        return width_px, height_px
    return min(sides, key=lambda side: abs(side[0] / side[1] - width_px / height_px))


def own_side(width_px: int, height_px: int, *, resolution_px: int, step_px: int) -> Side:
    """With `bucket_no_upscale`: the picture's own size, made smaller where its area is more than that of the
    resolution, by the side that changes its aspect ratio least (select_bucket, library/train_util.py)."""
    area, ratio = resolution_px * resolution_px, width_px / height_px
    if width_px * height_px > area:
        width = _rounded(math.sqrt(area * ratio), step_px)
        height = _rounded(area / math.sqrt(area * ratio), step_px)
        by_width, by_height = (width, int(width / ratio + 0.5)), (int(height * ratio + 0.5), height)
        width_px, height_px = min(by_height, by_width, key=lambda size: _ratio_error(size, ratio, step_px))
    return width_px - width_px % step_px, height_px - height_px % step_px


def _ratio_error(size: Side, ratio: float, step_px: int) -> float:
    width, height = (_rounded(side, step_px) for side in size)
    return abs(width / height - ratio) if height else math.inf


def _rounded(side: float, step_px: int) -> int:
    """To the nearest pixel, then down to a whole step."""
    return int(side + 0.5) // step_px * step_px
