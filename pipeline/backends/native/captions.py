"""What becomes of a caption each time its picture is trained on: dropped or shuffled, by (seed, position)."""

from __future__ import annotations

from pipeline.backends.native.job import TrainPart, changes
from pipeline.backends.native.randomness import plain_random


def caption_at(caption: str, train: TrainPart, *, seed: int, position: int, place: int) -> str:
    """The caption of the sample at `place` in the micro-batch at `position`; empty when it is dropped. Each tag is
    dropped by itself, and the others are shuffled then, as sd-scripts does it (process_caption of train_util.py)."""
    rng = plain_random(seed, "caption", position, place)
    if rng.random() < train.caption_dropout:
        return ""
    if not changes(caption, train):
        return caption
    tags = [tag.strip() for tag in caption.split(",")]
    kept, rest = tags[: train.keep_tags], tags[train.keep_tags :]
    if train.tag_dropout:
        rest = [tag for tag in rest if rng.random() >= train.tag_dropout]
    if train.shuffle_tags:
        rng.shuffle(rest)
    return ", ".join([*kept, *rest])
