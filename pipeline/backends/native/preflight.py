"""What the trainer will find in the cache, and in which buckets it puts the pictures. Loads no torch, makes no file."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

from pipeline.backends.native.features import latent_key, latent_space, text_key, text_space
from pipeline.backends.native.job import NativeJob, changes
from pipeline.backends.native.render import native_job
from pipeline.dataset.buckets import Side, bucket_side
from pipeline.features.shelf import kept_keys
from pipeline.records import Picture, Plan


def native_side(plan: Plan, picture: Picture) -> Side:
    """What the picture is resized and cropped to."""
    return bucket_side(
        picture.width_px,
        picture.height_px,
        resolution_px=plan.settings.train.resolution_px,
        step_px=plan.settings.model.resolution_step_px,
    )


def native_cached(plan: Plan) -> str:
    """How much of what the encoders make is there already. Raises UnreadableFile."""
    job = native_job(plan, Path(), Path())
    wanted, there = _latents(plan, job)
    told = _share(wanted, there, "pictures")
    cache_dir, pictures = (
        Path(job.cache_dir),
        (*plan.dataset.train, *plan.dataset.heldout, *plan.dataset.regularisation),
    )
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
    dataset = plan.dataset
    pictures = (*dataset.train, *dataset.heldout, *dataset.regularisation)
    wanted = {latent_key({"digest": each.digest}, native_side(plan, each)) for each in pictures}
    return wanted, kept_keys(Path(job.cache_dir), latent_space(job))


def _share(wanted: Set[str], there: Set[str], noun: str) -> str:
    return f"{len(wanted & there)} of {len(wanted)} {noun}"
