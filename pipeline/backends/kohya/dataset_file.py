"""dataset.toml, and the pictures as sd-scripts reads them.

The pictures to train on are named one by one in a metadata file, with the captions that were looked at and checked:
what is held out lies in the same folder, and would be trained on otherwise. The held-out ones are links in a folder of
their own, since only a folder can be a validation set (`validation_split` of 1: none of it is trained on).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.backends.kohya.buckets import bucket_limits_px
from pipeline.backends.kohya.train_file import dataset_values
from pipeline.files import write_text
from pipeline.records import Picture, Plan
from pipeline.settings import decided

CAPTIONS = ".txt"
AS_THEY_ARE = {
    **{"flip_aug": False, "color_aug": False, "random_crop": False},
    **{"caption_tag_dropout_rate": 0.0, "caption_dropout_every_n_epochs": 0, "token_warmup_step": 0.0},
}
"""What is said for all of train.toml (`backend.args`) is not for the held-out pictures: each measure is of the same."""
FOUND = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
"""Endings by which sd-scripts finds pictures in a folder; it reads them by their content."""


def dataset_table(plan: Plan, metadata: Path, heldout: Path | None) -> dict[str, Any]:
    """dataset.toml."""
    settings = plan.settings
    side, step = settings.train.resolution_px, settings.model.resolution_step_px
    shortest, longest = bucket_limits_px(side, step)
    general = {
        "resolution": side,
        "enable_bucket": True,
        "bucket_reso_steps": step,
        "min_bucket_reso": shortest,
        "max_bucket_reso": longest,
    }
    train = {"metadata_file": str(metadata), "num_repeats": 1, **dataset_values(settings)}
    datasets: list[dict[str, Any]] = [{"batch_size": decided(settings.train.batch_size), "subsets": [train]}]
    if heldout is not None:
        datasets.append(_validation(heldout, settings.seed))
    return {"general": general, "datasets": datasets}


def _validation(folder: Path, seed: int) -> dict[str, Any]:
    """One picture a batch, so that the mean of the batches is that of the pictures. Without a seed of its own it would
    draw from the random numbers of the training."""
    return {
        "batch_size": 1,
        "validation_split": 1.0,
        "validation_seed": seed,
        "subsets": [{"image_dir": str(folder), "caption_extension": CAPTIONS, "num_repeats": 1, **AS_THEY_ARE}],
    }


def metadata_text(plan: Plan) -> str:
    """A line a picture. Captions of tags go under `tags`: the text is the same, and the finished adapter then says how
    often each tag was there. `digest` is ours: sd-scripts does not look at it."""
    settings = plan.settings
    of_tags = settings.train.shuffle_tags or settings.train.tag_dropout > 0
    name = "tags" if of_tags and not settings.backend.args.get("enable_wildcard") else "caption"
    return "".join(_line(picture, name) for picture in plan.dataset.train)


def _line(picture: Picture, name: str) -> str:
    row = {
        "image_path": str(picture.path),
        name: one_line(picture.caption),
        "image_size": [picture.width_px, picture.height_px],
        "digest": picture.digest,
    }
    return json.dumps(row, ensure_ascii=False) + "\n"


def one_line(caption: str) -> str:
    """sd-scripts reads a caption's first line only."""
    return " ".join(caption.split())


def link_heldout(folder: Path, pictures: Sequence[Picture]) -> None:
    """Links to the pictures, numbered so that equal names from several folders do not meet, and their captions."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.iterdir():
        stale.unlink()
    for index, picture in enumerate(pictures):
        name = f"{index:05d}"
        suffix = picture.path.suffix.lower()
        (folder / f"{name}{suffix if suffix in FOUND else FOUND[0]}").symlink_to(picture.path.absolute())
        write_text(folder / f"{name}{CAPTIONS}", one_line(picture.caption) + "\n")
