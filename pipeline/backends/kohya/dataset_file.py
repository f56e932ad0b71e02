"""dataset.toml, and the pictures as sd-scripts reads them.

The pictures to train on are named one by one in a metadata file, with the captions that were looked at and checked:
what is held out lies in the same folder, and would be trained on otherwise. Each number of repeats has a file of its
own, and each further resolution is a dataset of its own, of the pictures that are large enough. The held-out ones are
links in a folder of their own, since only a folder can be a validation set (`validation_split` of 1: none of it is
trained on). Where there are regularisation pictures, or masks of their own, all are such links: sd-scripts takes those
from folders only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.backends.kohya.buckets import bucket_limits_px
from pipeline.backends.kohya.train_file import dataset_values
from pipeline.dataset.captions import tags_change
from pipeline.dataset.epoch import datasets_at
from pipeline.files import write_text
from pipeline.records import Dataset, Picture, Plan
from pipeline.settings import Settings, decided

CAPTIONS = ".txt"
PICTURES = "pictures.jsonl"
"""Metadata of all that are trained."""
AS_THEY_ARE = {
    **{"color_aug": False, "random_crop": False},
    **{"caption_tag_dropout_rate": 0.0, "caption_dropout_every_n_epochs": 0, "token_warmup_step": 0.0},
}
"""What is said for all of train.toml (`backend.args`) is not for the held-out pictures: each measure is of the same."""
FOUND = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
"""Endings by which sd-scripts finds pictures in a folder; it reads them by their content."""


@dataclass(frozen=True, slots=True)
class Subset:
    """Pictures of one resolution and one number of repeats."""

    name: str
    """Of its metadata file, without the ending, or of its folder of links."""
    pictures: Sequence[Picture]
    is_reg: bool = False

    @property
    def masks_name(self) -> str:
        """Folder of links to the masks."""
        return f"masks-{self.name}"


def dataset_table(plan: Plan, folder: Path, heldout: Path | None) -> dict[str, Any]:
    """dataset.toml, of the job's folder. What is said for all is of the base."""
    train, step = plan.settings.train, plan.settings.model.resolution_step_px
    general = {
        "resolution": train.resolution_px,
        "enable_bucket": True,
        "bucket_reso_steps": step,
        **_limits(train.resolution_px, step),
    }
    datasets = []
    for side, subsets in _subsets(plan).items():
        own = {} if side == train.resolution_px else {"resolution": side, **_limits(side, step)}
        tables = [_subset_table(plan, folder, subset) | dataset_values(plan.settings) for subset in subsets]
        datasets.append({**own, "batch_size": decided(train.batch_size), "subsets": tables})
    if heldout is not None:
        datasets.append(_validation(heldout, plan.settings))
    return {"general": general, "datasets": datasets}


def _limits(side_px: int, step_px: int) -> dict[str, Any]:
    shortest, longest = bucket_limits_px(side_px, step_px)
    return {"min_bucket_reso": shortest, "max_bucket_reso": longest}


def _subset_table(plan: Plan, folder: Path, subset: Subset) -> dict[str, Any]:
    repeats = subset.pictures[0].repeats
    if not takes_links(plan.dataset):
        return {"metadata_file": str(folder / f"{subset.name}.jsonl"), "num_repeats": repeats}
    masks = {"conditioning_data_dir": str(folder / subset.masks_name)} if has_masks_apart(subset.pictures) else {}
    place = {"image_dir": str(folder / subset.name), "caption_extension": CAPTIONS, "num_repeats": repeats}
    return {**place, **masks, **({"is_reg": True} if subset.is_reg else {})}


def _validation(folder: Path, settings: Settings) -> dict[str, Any]:
    """One picture a batch, so that the mean of the batches is that of the pictures. Without a seed of its own it would
    draw from the random numbers of the training."""
    alpha = {"alpha_mask": True} if settings.data.alpha_masks else {}
    place = {"image_dir": str(folder), "caption_extension": CAPTIONS}
    return {
        "batch_size": 1,
        "validation_split": 1.0,
        "validation_seed": settings.seed,
        "subsets": [{**place, "num_repeats": 1, **alpha, **AS_THEY_ARE}],
    }


# ----------------------------------------------------------------------------------------------------------- subsets


def takes_links(dataset: Dataset) -> bool:
    """The pictures to train on are links in folders, and not named one by one."""
    return bool(dataset.regularisation) or has_masks_apart(dataset.train)


def has_masks_apart(pictures: Sequence[Picture]) -> bool:
    return any(picture.mask_path not in (None, picture.path) for picture in pictures)


def _subsets(plan: Plan) -> dict[int, list[Subset]]:
    """Resolution -> what is trained at it; the base first."""
    base_px = plan.settings.train.resolution_px
    return {
        side: [
            *_parted("pictures" if side == base_px else f"pictures-{side}", each.train),
            *_parted("reg" if side == base_px else f"reg-{side}", each.regularisation, is_reg=True),
        ]
        for side, each in datasets_at(plan.dataset, plan.settings.train).items()
    }


def _parted(name: str, pictures: Sequence[Picture], *, is_reg: bool = False) -> Iterator[Subset]:
    """By the number of repeats."""
    parted: dict[int, list[Picture]] = {}
    for picture in pictures:
        parted.setdefault(picture.repeats, []).append(picture)
    for repeats, each in sorted(parted.items()):
        yield Subset(name if len(parted) == 1 else f"{name}-x{repeats}", each, is_reg)


def metadata_texts(plan: Plan, folder: Path) -> dict[str, str]:
    """pictures.jsonl, with all pictures to train on as sd-scripts finds them, and those files that it reads, where they
    are others."""
    subsets = [subset for those in _subsets(plan).values() for subset in those]
    if not takes_links(plan.dataset):
        texts = {f"{subset.name}.jsonl": _rows_text(plan, subset.pictures) for subset in subsets}
        return {PICTURES: _rows_text(plan, plan.dataset.train), **texts}
    linked = [
        replace(picture, path=folder / subset.name / link_name(index, picture))
        for subset in subsets
        for index, picture in enumerate(subset.pictures)
    ]
    return {PICTURES: _rows_text(plan, linked)}


def link_all(plan: Plan, folder: Path) -> None:
    """The links of all pictures to train on and for regularisation, and of their masks."""
    if not takes_links(plan.dataset):
        return
    for subset in (subset for those in _subsets(plan).values() for subset in those):
        link_pictures(folder / subset.name, subset.pictures, wildcards=plan.settings.data.wildcards)
        if has_masks_apart(subset.pictures):
            _link_masks(folder / subset.masks_name, subset.pictures)


# -------------------------------------------------------------------------------------------------------------- rows


def _rows_text(plan: Plan, pictures: Sequence[Picture]) -> str:
    """A line a picture. Captions of tags go under `tags`: the text is the same, and the finished adapter then says how
    often each tag was there. Lines to draw from are read under `caption` only. `digest` is ours: sd-scripts does not
    look at it."""
    wildcards = plan.settings.data.wildcards
    name = "tags" if tags_change(plan.settings) and not wildcards else "caption"
    return "".join(_line(picture, name, wildcards=wildcards) for picture in pictures)


def _line(picture: Picture, name: str, *, wildcards: bool) -> str:
    row = {
        "image_path": str(picture.path),
        name: as_written(picture.caption, wildcards=wildcards),
        "image_size": [picture.width_px, picture.height_px],
        "digest": picture.digest,
    }
    return json.dumps(row, ensure_ascii=False) + "\n"


def as_written(caption: str, *, wildcards: bool) -> str:
    """sd-scripts reads a caption's first line only, or draws one of them."""
    return "\n".join(map(one_line, caption.split("\n"))) if wildcards else one_line(caption)


def one_line(caption: str) -> str:
    """Of a caption that is read whole."""
    return " ".join(caption.split())


def link_pictures(folder: Path, pictures: Sequence[Picture], *, wildcards: bool = False) -> None:
    """Links to the pictures, numbered so that equal names from several folders do not meet, and their captions."""
    _emptied(folder)
    for index, picture in enumerate(pictures):
        link = folder / link_name(index, picture)
        link.symlink_to(picture.path.absolute())
        write_text(link.with_suffix(CAPTIONS), as_written(picture.caption, wildcards=wildcards) + "\n")


def _link_masks(folder: Path, pictures: Sequence[Picture]) -> None:
    """sd-scripts looks for them by the name of the picture's link, without its ending."""
    _emptied(folder)
    for index, picture in enumerate(pictures):
        if picture.mask_path is not None:
            (folder / link_name(index, replace(picture, path=picture.mask_path))).symlink_to(picture.mask_path)


def link_name(index: int, picture: Picture) -> str:
    suffix = picture.path.suffix.lower()
    return f"{index:05d}{suffix if suffix in FOUND else FOUND[0]}"


def _emptied(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.iterdir():
        stale.unlink()
