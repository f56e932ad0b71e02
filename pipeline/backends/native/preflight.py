"""What the trainer will find in the cache, and in which buckets it puts the pictures. Loads no torch, makes no file."""

from __future__ import annotations

from collections.abc import Iterator, Set
from pathlib import Path

from pipeline.backends.native.features import latent_key, latent_space, text_key, text_space
from pipeline.backends.native.job import NativeJob, changes
from pipeline.backends.native.render import native_job
from pipeline.dataset.buckets import Side, bucket_side
from pipeline.dataset.epoch import datasets_at, regularising
from pipeline.features.shelf import kept_keys
from pipeline.records import Picture, Plan


def native_side(plan: Plan, picture: Picture, resolution_px: int) -> Side:
    """What the picture is resized and cropped to."""
    step = plan.settings.model.resolution_step_px
    return bucket_side(picture.width_px, picture.height_px, resolution_px=resolution_px, step_px=step)


def native_cached(plan: Plan) -> str:
    """How much of what the encoders make is there already. Raises UnreadableFile."""
    job = native_job(plan, Path(), Path())
    wanted, there = _latents(plan, job)
    once = not (plan.settings.train.more_resolutions_px or plan.settings.train.flip)
    told = _share(wanted, there, "pictures" if once else "pictures, in all sizes and mirrored where they are,")
    dataset, cache_dir = plan.dataset, Path(job.cache_dir)
    pictures = (*dataset.train, *dataset.heldout, *dataset.regularisation)
    captions = [picture.caption for picture in pictures]
    if job.optimizer.text_encoder_lr or any(changes(caption, job.train) for caption in captions):
        return f"{told} are encoded already; captions are encoded at each step"
    texts = {text_key(each) for each in ("", *captions, job.sample.negative_prompt, *job.sample.prompts)}
    return (
        f"{told} and {_share(texts, kept_keys(cache_dir, text_space(job)), 'captions and prompts')} are encoded already"
    )


def native_left(plan: Plan) -> int:
    """Pictures that are not encoded yet. Raises UnreadableFile."""
    wanted, there = _latents(plan, native_job(plan, Path(), Path()))
    return len(wanted - there)


def _latents(plan: Plan, job: NativeJob) -> tuple[set[str], Set[str]]:
    """Those that the run needs, and those that are there."""
    return {*_latent_keys(plan)}, kept_keys(Path(job.cache_dir), latent_space(job))


def _latent_keys(plan: Plan) -> Iterator[str]:
    """As encoding.py, encode_pictures, makes them."""
    train = plan.settings.train
    at = datasets_at(plan.dataset, train)
    cuts = [(each, px) for px, those in at.items() for each in (*those.train, *regularising(those))]
    for each, px in (*cuts, *((each, train.resolution_px) for each in plan.dataset.heldout)):
        yield latent_key({"digest": each.digest}, native_side(plan, each, px))
    for each, px in cuts if train.flip else ():
        yield latent_key({"digest": each.digest}, native_side(plan, each, px), mirrored=True)


def _share(wanted: Set[str], there: Set[str], noun: str) -> str:
    return f"{len(wanted & there)} of {len(wanted)} {noun}"
