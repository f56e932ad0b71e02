"""dataset.toml, and the pictures as sd-scripts reads them.

The pictures to train on are named one by one in a metadata file, with the captions that were looked at and checked:
what is held out lies in the same folder, and would be trained on otherwise. The held-out ones are links in a folder of
their own, since only a folder can be a validation set (`validation_split` of 1: none of it is trained on). Where there
are regularisation pictures, or masks of their own, all are such links: sd-scripts takes those from folders only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.backends.kohya.buckets import bucket_limits_px
from pipeline.backends.kohya.train_file import dataset_values
from pipeline.dataset.captions import tags_change
from pipeline.files import write_text
from pipeline.records import Dataset, Picture, Plan
from pipeline.settings import Settings, decided

CAPTIONS = ".txt"
PICTURES = "pictures.jsonl"
TRAIN, REG = "pictures-", "reg-"
"""Beginnings of the names of folders with links; the number of repeats follows."""
AS_THEY_ARE = {
    **{"flip_aug": False, "color_aug": False, "random_crop": False},
    **{"caption_tag_dropout_rate": 0.0, "caption_dropout_every_n_epochs": 0, "token_warmup_step": 0.0},
}
"""What is said for all of train.toml (`backend.args`) is not for the held-out pictures: each measure is of the same."""
FOUND = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
"""Endings by which sd-scripts finds pictures in a folder; it reads them by their content."""


def dataset_table(plan: Plan, folder: Path, heldout: Path | None) -> dict[str, Any]:
    """dataset.toml, of the job's folder."""
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
    train = [{**subset, **dataset_values(settings)} for subset in _subsets(plan, folder)]
    datasets: list[dict[str, Any]] = [{"batch_size": decided(settings.train.batch_size), "subsets": train}]
    if heldout is not None:
        datasets.append(_validation(heldout, settings))
    return {"general": general, "datasets": datasets}


def _subsets(plan: Plan, folder: Path) -> Iterator[dict[str, Any]]:
    """One for each number of repeats."""
    dataset = plan.dataset
    if not takes_links(dataset):
        for name, pictures in _metadata_files(dataset.train).items():
            yield {"metadata_file": str(folder / name), "num_repeats": pictures[0].repeats}
        return
    for name, pictures in _link_folders(dataset).items():
        masks = {"conditioning_data_dir": str(folder / _masks_name(name))} if has_masks_apart(pictures) else {}
        reg = {"is_reg": True} if name.startswith(REG) else {}
        place = {"image_dir": str(folder / name), "caption_extension": CAPTIONS}
        yield {**place, "num_repeats": pictures[0].repeats, **masks, **reg}


def takes_links(dataset: Dataset) -> bool:
    """The pictures to train on are links in folders, and not named one by one."""
    return bool(dataset.regularisation) or has_masks_apart(dataset.train)


def has_masks_apart(pictures: Sequence[Picture]) -> bool:
    return any(picture.mask_path not in (None, picture.path) for picture in pictures)


def _metadata_files(pictures: Sequence[Picture]) -> dict[str, list[Picture]]:
    """File -> what it names: all of one number of repeats."""
    parted = _by_repeats(pictures)
    if len(parted) == 1:
        return {PICTURES: list(pictures)}
    return {f"pictures-{repeats}.jsonl": each for repeats, each in parted.items()}


def _link_folders(dataset: Dataset) -> dict[str, list[Picture]]:
    """Folder -> the links in it."""
    train = {f"{TRAIN}{repeats}": each for repeats, each in _by_repeats(dataset.train).items()}
    return train | {f"{REG}{repeats}": each for repeats, each in _by_repeats(dataset.regularisation).items()}


def _masks_name(name: str) -> str:
    return f"masks-{name}"


def _by_repeats(pictures: Sequence[Picture]) -> dict[int, list[Picture]]:
    parted: dict[int, list[Picture]] = {}
    for picture in pictures:
        parted.setdefault(picture.repeats, []).append(picture)
    return dict(sorted(parted.items()))


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


def metadata_texts(plan: Plan, folder: Path) -> dict[str, str]:
    """pictures.jsonl, with all pictures to train on as sd-scripts finds them, and those that it reads, where they are
    others."""
    if not takes_links(plan.dataset):
        files = _metadata_files(plan.dataset.train)
        return {name: _rows_text(plan, each) for name, each in {PICTURES: plan.dataset.train, **files}.items()}
    linked = [
        replace(picture, path=folder / name / link_name(index, picture))
        for name, pictures in _link_folders(plan.dataset).items()
        for index, picture in enumerate(pictures)
    ]
    return {PICTURES: _rows_text(plan, linked)}


def link_all(plan: Plan, folder: Path) -> None:
    """The links of all pictures to train on and for regularisation, and of their masks."""
    if not takes_links(plan.dataset):
        return
    for name, pictures in _link_folders(plan.dataset).items():
        link_pictures(folder / name, pictures, wildcards=plan.settings.data.wildcards)
        if has_masks_apart(pictures):
            _link_masks(folder / _masks_name(name), pictures)


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
