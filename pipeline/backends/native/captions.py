"""What becomes of a caption each time its picture is trained on: dropped or shuffled, by (seed, position)."""

from __future__ import annotations

from pipeline.backends.native.job import TrainPart, can_be_shuffled
from pipeline.backends.native.randomness import plain_random


def caption_at(caption: str, train: TrainPart, *, seed: int, position: int, place: int) -> str:
    """The caption of the sample at `place` in the micro-batch at `position`; empty when it is dropped."""
    rng = plain_random(seed, "caption", position, place)
    if rng.random() < train.caption_dropout:
        return ""
    if not can_be_shuffled(caption, train):
        return caption
    tags = [tag.strip() for tag in caption.split(",")]
    kept, rest = tags[: train.keep_tags], tags[train.keep_tags :]
    rng.shuffle(rest)
    return ", ".join([*kept, *rest])
