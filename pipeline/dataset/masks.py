"""Which mask belongs to which picture, and whether it fits."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.dataset.finding import Progress, find, looks
from pipeline.dataset.flaws import count, listed
from pipeline.dataset.kept import Kept
from pipeline.dataset.picture import Flaw, Flawed, Look
from pipeline.errors import Problem
from pipeline.records import Picture
from pipeline.settings import Data

WITH_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La", "P")
"""Modes of pictures that may be transparent; a palette has a transparent colour or has none."""
OTHER_SHAPE = 0.02
"""By which the aspect ratios of a picture and its mask may differ: sizes are rounded when both are made smaller."""


@dataclass(slots=True)
class Masks:
    """Those of a folder, by the path of their picture from its own folder, without its ending."""

    folder: Path
    by_stem: Mapping[str, str]
    looks: dict[str, Look | Flawed] = field(default_factory=dict)
    blank: list[str] = field(default_factory=list)

    def of(self, picture: Picture, folders: Iterable[Path]) -> Picture | Flawed:
        """The picture with its mask."""
        path = next((self.by_stem[stem] for stem in _stems(picture.path, folders) if stem in self.by_stem), None)
        if path is None:
            return Flawed(picture.path, Flaw.bad_mask, "there is none")
        look = self.looks[path]
        if isinstance(look, Flawed):
            return Flawed(picture.path, Flaw.bad_mask, f"{path}: {look.reason or look.flaw.value}")
        ratio = look.width_px * picture.height_px / (look.height_px * picture.width_px)
        if abs(ratio - 1) > OTHER_SHAPE:
            sizes = f"{look.width_px} x {look.height_px}, the picture {picture.width_px} x {picture.height_px}"
            return Flawed(picture.path, Flaw.bad_mask, f"{path} has another shape: {sizes}")
        if look.blank:
            self.blank.append(path)
        return replace(picture, mask_path=Path(path), mask_digest=look.digest)


def read_masks(data: Data, kept: Kept, *, threads: int, progress: Progress) -> tuple[Masks | None, list[Problem]]:
    """None where no folder is named, or it can't be used."""
    if data.masks_dir is None:
        return None, []
    fix = "data.masks_dir=FOLDER, one with masks"
    folder = Path(os.path.expanduser(data.masks_dir)).absolute()  # noqa: PTH111 - ~nobody stays as it is
    if not os.path.isdir(folder):  # noqa: PTH112 - also where it may not be looked into
        return None, [Problem("data.masks_dir", data.masks_dir, "there is no such folder", fix)]
    files = find(folder)
    if not files.paths:
        return None, [Problem("data.masks_dir", data.masks_dir, "holds no pictures", fix)]
    by_stem = {os.path.splitext(os.path.relpath(path, folder))[0]: path for path in files.paths}  # noqa: PTH122
    found = dict(looks(files.paths, kept, threads=threads, progress=progress))
    return Masks(folder, by_stem, {str(path): look for path, look in found.items()}), []


def of_transparency(picture: Picture, look: Look) -> Picture:
    """The picture as its own mask, where it may be transparent."""
    if look.mode not in WITH_ALPHA:
        return picture
    return replace(picture, mask_path=picture.path, mask_digest=picture.digest)


def mask_problems(data: Data, train: Sequence[Picture]) -> Iterator[Problem]:
    if data.alpha_masks and data.masks_dir is not None:
        reason = f"is a second mask beside data.masks_dir={data.masks_dir}"
        yield Problem("data.alpha_masks", True, reason, "leave one of them out")
    elif data.alpha_masks and train and not any(picture.mask_path for picture in train):
        reason = "no picture has any transparency, so this would have no effect"
        yield Problem("data.alpha_masks", True, reason, "leave data.alpha_masks out, or save the pictures as RGBA")


def masks_among(masks: Masks | None, data: Data, paths: Iterable[str]) -> Iterator[Problem]:
    """Masks that lie where the pictures are looked for: with a caption for all they would be trained on."""
    inside = [] if masks is None else [path for path in paths if path.startswith(f"{masks.folder}{os.sep}")]
    if inside:
        reason = f"{count(inside)} of it lie among those to train on: {listed(inside)}"
        yield Problem("data.masks_dir", data.masks_dir, reason, "move the masks out of data.dir")


def mask_remarks(data: Data, masks: Masks | None, train: Sequence[Picture]) -> Iterator[str]:
    if masks is not None and masks.blank:
        told = "of one colour: all of the picture is learned, or nothing"
        yield f"{len(masks.blank)} of the masks are {told}: {listed(masks.blank)}"
    whole = [picture.path for picture in train if picture.mask_path is None]
    if data.alpha_masks and whole and len(whole) < len(train):
        yield f"{count(whole)} without transparency, of which all is learned: {listed(whole)}"


def _stems(path: Path, folders: Iterable[Path]) -> Iterator[str]:
    """From each of the folders that it lies in, and its name alone."""
    for folder in folders:
        if path.is_relative_to(folder):
            yield str(path.relative_to(folder).with_suffix(""))
    yield path.stem
