"""Finds the pictures of a dataset, looks at them, and tells all that is wrong with them at once."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path

from pipeline.dataset.finding import Files, Progress, find, looks
from pipeline.dataset.flaws import Folder, closed_folders, count, flaws, listed, no_folder, no_pictures
from pipeline.dataset.holdout import split
from pipeline.dataset.kept import Kept
from pipeline.dataset.picture import Flawed, captioned, is_utf8, named
from pipeline.dataset.remarks import Seen, remarks
from pipeline.errors import Problem
from pipeline.records import Dataset, Picture
from pipeline.settings import Data, OnBad

CAPTION_EXTENSION = re.compile(r"\.[^./\\\0][^/\\\0]*")


@dataclass(slots=True)
class _Found:
    """What the folders told so far."""

    seen: Seen = field(default_factory=Seen)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)


def scan(
    data: Data, *, threads: int, cache_dir: Path | None = None, progress: Progress = lambda _done, _all: None
) -> tuple[Dataset | None, tuple[Problem, ...]]:
    """The dataset, and all that is wrong with it; None where no picture can be trained on. What is known of pictures
    is kept in `cache_dir`, if that is given; `progress` is told of every picture."""
    if not CAPTION_EXTENSION.fullmatch(data.caption_extension):
        return None, (_bad_extension(data),)
    found = _Found()
    folder = _folder("data.dir", data.dir, data)
    aside = folder if data.heldout_dir is None else _folder("data.heldout_dir", data.heldout_dir, data)
    with Kept(cache_dir) as kept:
        pictures = _pictures(folder, data.on_bad, found, kept, threads, progress)
        if aside is folder:
            train, heldout = split(pictures, data.heldout_fraction)
        else:
            train, heldout = pictures, _pictures(aside, data.on_bad, found, kept, threads, progress)
            found.problems += _in_both(aside, train, heldout)
    if not train:
        return None, tuple(found.problems)
    kept_in_vain = [kept.trouble] if kept.trouble else []
    dataset = Dataset(
        name=data.name,
        dir=folder.path,
        train=train,
        heldout=heldout,
        digest=_digest(("heldout", aside.path, heldout), ("train", folder.path, train)),
        warnings=(*found.warnings, *remarks(found.seen, train, heldout), *kept_in_vain),
        skipped=tuple(found.skipped),
    )
    return dataset, tuple(found.problems)


def _bad_extension(data: Data) -> Problem:
    extension = data.caption_extension
    return Problem(
        "data.caption_extension",
        repr(extension),
        "the ending of a caption's file name begins with a dot, as in .txt",
        f"data.caption_extension=.{extension.strip('./') or 'txt'}",
    )


def _folder(key: str, value: str, data: Data) -> Folder:
    path = Path(value)
    with suppress(RuntimeError):  # ~nobody: looked for under that very name
        path = path.expanduser()
    return Folder(key, value, path.absolute(), data.caption_extension)


# ---------------------------------------------------------------------------------------------------- one folder


def _pictures(
    folder: Folder, on_bad: OnBad, found: _Found, kept: Kept, threads: int, progress: Progress
) -> tuple[Picture, ...]:
    """In order of their paths; what is wrong with the others is put where it belongs in `found`."""
    files = _files(folder, found)
    pictures, flawed = [], []
    for path, look in looks(files.paths, kept, threads=threads, progress=progress):
        picture = look if isinstance(look, Flawed) else captioned(path, look, folder.caption_extension)
        if isinstance(picture, Flawed):
            flawed.append(picture)
        elif not isinstance(look, Flawed):
            pictures.append(picture)
            found.seen.take(picture, look)
    told = list(flaws(folder, flawed, everything=not pictures))
    if on_bad is OnBad.skip and pictures:
        found.warnings += [f"left out, by data.on_bad=skip: {problem.reason}" for problem in told]
        found.skipped += [(named(each.path), f"{each.flaw.value}: {each.reason}".removesuffix(": ")) for each in flawed]
    else:
        found.problems += told
    return tuple(pictures)


def _files(folder: Folder, found: _Found) -> Files:
    if not is_utf8(str(folder.path)):
        reason = "the folder's path is not UTF-8, and no file that a run writes can hold it"
        found.problems.append(Problem(folder.key, named(folder.value), reason, "rename it"))
        return Files()
    try:
        if not folder.path.is_dir():
            found.problems.append(no_folder(folder))
            return Files()
    except OSError as error:
        reason = f"can't be looked into: {error.strerror}"
        found.problems.append(Problem(folder.key, folder.value, reason, f"{folder.key}=FOLDER"))
        return Files()
    files = find(folder.path)
    if not files.paths and not files.closed:
        found.problems.append(no_pictures(folder))
    found.problems += closed_folders(folder, files.closed)
    if files.links:
        links = listed([named(link) for link in files.links])
        found.warnings.append(f"links to folders are not followed: {links}")
    return files


def _in_both(aside: Folder, train: Sequence[Picture], heldout: Sequence[Picture]) -> Iterator[Problem]:
    trained = {picture.digest: picture.path for picture in train}
    twice = [f"{p.path} (also {trained[p.digest]})" for p in heldout if p.digest in trained]
    if twice:
        reason = f"{count(twice)} held out and trained on as well: {listed(twice)}"
        yield Problem(aside.key, aside.value, reason, "remove them from one of the two folders")


def _digest(*splits: tuple[str, Path, Sequence[Picture]]) -> str:
    """SHA-256 of a list in JSON, which is never held whole; `splits` in the order of their names."""
    digest = hashlib.sha256(b"[")
    between = ""
    for name, folder, pictures in splits:
        start = len(str(folder).rstrip(os.sep)) + 1
        named_within = ((str(picture.path)[start:].replace(os.sep, "/"), picture) for picture in pictures)
        for path, picture in sorted(named_within, key=itemgetter(0)):
            digest.update(f"{between}{json.dumps((name, path, picture.digest, picture.caption))}".encode())
            between = ", "
    digest.update(b"]")
    return digest.hexdigest()
