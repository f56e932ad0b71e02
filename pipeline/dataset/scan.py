"""Finds the pictures of a dataset, reads them, and tells all that is wrong with them at once."""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.dataset.holdout import split
from pipeline.dataset.picture import EXTENSIONS, Flaw, Flawed, read_picture
from pipeline.errors import Problem
from pipeline.records import Dataset, Picture
from pipeline.settings import Data

NAMED = 5
"""How many files a message names before it counts the rest."""
MOST_THREADS = 16
CAPTION_ENDINGS = (".txt", ".caption", ".captions", ".cap", ".tags", ".text", ".prompt")
CAPTION_EXTENSION = re.compile(r"\.[^./\\\0][^/\\\0]*")


@dataclass(frozen=True, slots=True)
class _Folder:
    """A folder of pictures, and the setting that names it."""

    key: str
    value: str
    path: Path


def scan(data: Data, *, threads: int) -> tuple[Dataset | None, tuple[Problem, ...]]:
    """The dataset, and all that is wrong with it; None where no picture can be trained on."""
    if not CAPTION_EXTENSION.fullmatch(data.caption_extension):
        return None, (_bad_extension(data),)
    folder = _folder("data.dir", data.dir)
    pictures, problems = _read_folder(folder, data, threads)
    train, heldout = split(pictures, data.heldout_fraction)
    if data.heldout_dir is not None:
        train = tuple(pictures)
        aside = _folder("data.heldout_dir", data.heldout_dir)
        heldout, flaws = _read_folder(aside, data, threads)
        problems = (*problems, *flaws, *_in_both(aside, train, heldout))
    if not train:
        return None, problems
    digest = _digest(
        [("train", folder.path, train), ("heldout", _folder("", data.heldout_dir or data.dir).path, heldout)]
    )
    return Dataset(name=data.name, dir=folder.path, train=train, heldout=tuple(heldout), digest=digest), problems


def _bad_extension(data: Data) -> Problem:
    extension = data.caption_extension
    return Problem(
        "data.caption_extension",
        repr(extension),
        "the ending of a caption's file name begins with a dot, as in .txt",
        f"data.caption_extension=.{extension.strip('./') or 'txt'}",
    )


def _folder(key: str, value: str) -> _Folder:
    path = Path(value)
    with suppress(RuntimeError):  # ~nobody: looked for under that very name
        path = path.expanduser()
    return _Folder(key, value, path.absolute())


# ---------------------------------------------------------------------------------------------------- one folder


def _read_folder(folder: _Folder, data: Data, threads: int) -> tuple[tuple[Picture, ...], tuple[Problem, ...]]:
    """The pictures in order of their paths, and what is wrong with the others."""
    try:
        if not folder.path.is_dir():
            return (), (_no_folder(folder),)
    except OSError as error:
        problem = Problem(folder.key, folder.value, f"can't be looked into: {error.strerror}", f"{folder.key}=FOLDER")
        return (), (problem,)
    closed: list[OSError] = []
    paths = sorted(_walk(folder.path, closed))
    if not paths and not closed:
        return (), (_no_pictures(folder),)
    # what Pillow warns of (odd EXIF, large pictures) is no fault of the dataset, and judged by `read_picture`
    with warnings.catch_warnings(), ThreadPoolExecutor(max_workers=min(max(1, threads), MOST_THREADS)) as pool:
        warnings.simplefilter("ignore")
        read = list(pool.map(lambda path: read_picture(path, data.caption_extension), paths))
    pictures = tuple(found for found in read if isinstance(found, Picture))
    flawed = [found for found in read if isinstance(found, Flawed)]
    return pictures, (*_closed(folder, closed), *_flaws(folder, data, flawed, everything=not pictures))


def _walk(folder: Path, closed: list[OSError]) -> Iterator[Path]:
    """Picture files in the folder and below; hidden ones (also those of macOS, ._cat.png) are left out."""
    for parent, folders, files in os.walk(folder, onerror=closed.append):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if name.lower().endswith(EXTENSIONS) and not name.startswith("."):
                yield Path(parent, name)


def _no_folder(folder: _Folder) -> Problem:
    if folder.path.exists():
        return Problem(folder.key, folder.value, "is not a folder", f"{folder.key}={folder.path.parent}")
    near = next(parent for parent in folder.path.parents if parent.is_dir())
    return Problem(
        folder.key,
        folder.value,
        f"there is no such folder ({near} is there)",
        f"{folder.key}=FOLDER, one with pictures",
    )


def _no_pictures(folder: _Folder) -> Problem:
    kinds = " ".join(extension.removeprefix(".") for extension in EXTENSIONS)
    return Problem(folder.key, folder.value, f"holds no pictures ({kinds})", f"{folder.key}=FOLDER, one with pictures")


def _closed(folder: _Folder, closed: list[OSError]) -> Iterator[Problem]:
    if closed:
        names = _listed([Path(str(error.filename)) for error in closed])
        yield Problem(folder.key, folder.value, f"these folders can't be read: {names}", f"chmod -R u+rX {folder.path}")


# --------------------------------------------------------------------------------------------------------- flaws


def _flaws(folder: _Folder, data: Data, flawed: list[Flawed], *, everything: bool) -> Iterator[Problem]:
    unreadable = [file for file in flawed if file.flaw is Flaw.unreadable]
    if unreadable:
        names = _listed([f"{file.path} ({file.reason})" for file in unreadable])
        reason = f"{_count(unreadable)} can't be read whole: {names}"
        yield Problem(folder.key, folder.value, reason, "replace them, or move them out of the folder")
    bad = [file.path.with_suffix(data.caption_extension) for file in flawed if file.flaw is Flaw.bad_caption]
    if bad:
        reason = f"{len(bad)} of the captions can't be read as UTF-8 text: {_listed(bad)}"
        yield Problem(folder.key, folder.value, reason, "save them as UTF-8")
    without = [file.path for file in flawed if file.flaw is Flaw.no_caption]
    if without:
        yield _no_captions(folder, data, without, everything=everything)


def _no_captions(folder: _Folder, data: Data, without: list[Path], *, everything: bool) -> Problem:
    """Where no picture has a caption, they may be there under another ending."""
    other = _other_extension(without, data) if everything else None
    if other:
        reason = (
            f"no picture has a caption that ends in {data.caption_extension}, but there are files that end in {other}"
        )
        return Problem("data.caption_extension", data.caption_extension, reason, f"data.caption_extension={other}")
    reason = f"{_count(without)} without a caption: {_listed(without)}"
    example = without[0].with_suffix(data.caption_extension)
    return Problem(folder.key, folder.value, reason, f"write what each shows into a file beside it, such as {example}")


def _other_extension(without: list[Path], data: Data) -> str | None:
    """The most frequent ending of text files that stand beside the pictures."""
    stems = {path.with_suffix("") for path in without}
    beside = (file for folder in {path.parent for path in without} for file in folder.iterdir())
    endings = Counter(file.suffix for file in beside if file.suffix and file.with_suffix("") in stems)
    texts = [ending for ending, _ in endings.most_common() if ending in CAPTION_ENDINGS]
    return next((ending for ending in texts if ending != data.caption_extension), None)


def _count(files: Sequence[object]) -> str:
    return "1 picture" if len(files) == 1 else f"{len(files)} pictures"


def _listed(files: Sequence[object]) -> str:
    more = f" ... and {len(files) - NAMED} more" if len(files) > NAMED else ""
    return ", ".join(str(file) for file in files[:NAMED]) + more


def _in_both(aside: _Folder, train: Sequence[Picture], heldout: Sequence[Picture]) -> Iterator[Problem]:
    trained = {picture.digest: picture.path for picture in train}
    twice = [f"{p.path} (also {trained[p.digest]})" for p in heldout if p.digest in trained]
    if twice:
        reason = f"{_count(twice)} held out and trained on as well: {_listed(twice)}"
        yield Problem(aside.key, aside.value, reason, "remove them from one of the two folders")


def _digest(splits: list[tuple[str, Path, Sequence[Picture]]]) -> str:
    rows = sorted(
        (name, picture.path.relative_to(folder).as_posix(), picture.digest, picture.caption)
        for name, folder, pictures in splits
        for picture in pictures
    )
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
