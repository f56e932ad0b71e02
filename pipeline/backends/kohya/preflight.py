"""In which buckets sd-scripts puts the pictures."""

from __future__ import annotations

from pipeline.backends.kohya.buckets import bucket_sides, nearest_side, own_side
from pipeline.records import Picture, Plan

Side = tuple[int, int]


def kohya_side(plan: Plan, picture: Picture, resolution_px: int) -> Side:
    """What the picture is resized and cropped to."""
    step, size = plan.settings.model.resolution_step_px, (picture.width_px, picture.height_px)
    if plan.settings.backend.args.get("bucket_no_upscale"):
        return own_side(*size, resolution_px=resolution_px, step_px=step)
    return nearest_side(bucket_sides(resolution_px, step), *size)
