"""What becomes of a caption each time its picture is trained on: dropped, drawn or shuffled, by (seed, position)."""

from __future__ import annotations

from pipeline.backends.native.job import TrainPart, changes
from pipeline.backends.native.randomness import plain_random
from pipeline.dataset.captions import drawn


def caption_at(caption: str, train: TrainPart, *, seed: int, position: int, place: int) -> str:
    """The caption of the sample at `place` in the micro-batch at `position`; empty when it is dropped. Lines and
    alternatives are drawn first; each tag is dropped by itself, and the others are shuffled then. sd-scripts'
    process_caption (library/train_util.py) shuffles before it drops, which comes to the same."""
    rng = plain_random(seed, "caption", position, place)
    if rng.random() < train.caption_dropout:
        return ""
    if not changes(caption, train):
        return caption
    if train.wildcards:
        caption = drawn(caption, rng.choice)
    if not (train.shuffle_tags or train.tag_dropout):
        return caption
    tags = [tag.strip() for tag in caption.split(",")]
    kept, rest = tags[: train.keep_tags], tags[train.keep_tags :]
    if train.tag_dropout:
        rest = [tag for tag in rest if rng.random() >= train.tag_dropout]
    if train.shuffle_tags:
        rng.shuffle(rest)
    return ", ".join([*kept, *rest])
