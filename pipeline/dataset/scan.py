"""Finds the pictures of a dataset, looks at them, and tells all that is wrong with them at once."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from operator import itemgetter
from pathlib import Path

from pipeline.dataset.captions import first_text, static_text
from pipeline.dataset.finding import Files, Progress, find, looks
from pipeline.dataset.flaws import closed_folders, count, flaws, listed, no_folder, no_pictures
from pipeline.dataset.folders import (
    Folder,
    Group,
    by_kohyas_names,
    concept_folders,
    heldout_folder,
    main_folder,
    overlapping,
    reg_folder,
)
from pipeline.dataset.holdout import split_of_folders
from pipeline.dataset.kept import Kept
from pipeline.dataset.masks import Masks, mask_problems, mask_remarks, masks_among, of_transparency, read_masks
from pipeline.dataset.metadata import AUTO, NONE, Captions, read_captions
from pipeline.dataset.picture import Flawed, Look, captioned, is_utf8, named
from pipeline.dataset.remarks import Seen, caption_remarks, remarks
from pipeline.errors import Problem
from pipeline.records import Dataset, Picture
from pipeline.settings import Data, Layout, OnBad

CAPTION_EXTENSION = re.compile(r"\.[^./\\\0][^/\\\0]*")


@dataclass(slots=True)
class _Scan:
    """What is asked, with what, and what the folders told so far."""

    data: Data
    kept: Kept
    threads: int
    progress: Progress
    masks: Masks | None = None
    seen: Seen = field(default_factory=Seen)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)


def scan(
    data: Data,
    *,
    threads: int,
    tags_change: bool = False,
    cache_dir: Path | None = None,
    progress: Progress = lambda _done, _all: None,
) -> tuple[Dataset | None, tuple[Problem, ...]]:
    """The dataset, and all that is wrong with it; None where no picture can be trained on. `tags_change`: parts of
    captions are shuffled or left out. What is known of pictures is kept in `cache_dir`, if that is given; `progress` is
    told of every picture."""
    if not CAPTION_EXTENSION.fullmatch(data.caption_extension):
        return None, (_bad_extension(data),)
    with Kept(cache_dir) as kept:
        found = _Scan(data, kept, threads, progress)
        found.masks, problems = read_masks(data, kept, threads=threads, progress=progress)
        found.problems += problems
        groups, aside, reg = _groups(found)
        folders = _pictures(groups, found)
        if aside:
            train, heldout = _together(folders), _together(_pictures(aside, found))
        else:
            train, heldout = split_of_folders(folders, data.heldout_fraction)
        regularisation = _together(_pictures(reg, found, masked=False))
    found.problems += _in_both("data.heldout_dir", data.heldout_dir, "held out", train, heldout if aside else ())
    found.problems += _in_both("data.reg_dir", data.reg_dir, "for regularisation", (*train, *heldout), regularisation)
    found.problems += mask_problems(data, train)
    found.problems += masks_among(found.masks, data, (path for group in groups for path in group.files.paths))
    found.problems = list(dict.fromkeys(found.problems))  # a file that is named is read for each of the folders
    if not train:
        return None, tuple(found.problems)
    return _dataset(
        found,
        _captioned(train, partial(static_text, data=data, tags_change=tags_change)),
        _captioned(heldout, partial(_judged_by, data=data, tags_change=tags_change)),
        _captioned(regularisation, partial(_of_the_class, data=data)),
        [group.folder.path for group in (*groups, *aside, *reg)],
    )


def _captioned(pictures: Sequence[Picture], made: Callable[[str], str]) -> tuple[Picture, ...]:
    """With the text that is made of their captions; a hundred thousand that stay the same are not copied."""
    texts = ((picture, made(picture.caption)) for picture in pictures)
    return tuple(picture if text == picture.caption else replace(picture, caption=text) for picture, text in texts)


def _judged_by(caption: str, data: Data, tags_change: bool) -> str:
    """Of a held-out picture: always the same words."""
    text = static_text(caption, data, tags_change=tags_change)
    return first_text(text) if data.wildcards else text


def _of_the_class(caption: str, data: Data) -> str:
    """Of a regularisation picture, which shows the class without what is to be learned."""
    return static_text(caption, replace(data, trigger=None, caption_prefix="", caption_suffix=""), tags_change=False)


def _bad_extension(data: Data) -> Problem:
    extension = data.caption_extension
    return Problem(
        "data.caption_extension",
        repr(extension),
        "the ending of a caption's file name begins with a dot, as in .txt",
        f"data.caption_extension=.{extension.strip('./') or 'txt'}",
    )


def _dataset(
    found: _Scan,
    train: tuple[Picture, ...],
    heldout: tuple[Picture, ...],
    regularisation: tuple[Picture, ...],
    folders: Sequence[Path],
) -> tuple[Dataset, tuple[Problem, ...]]:
    data = found.data
    within = (main_folder(data).path, *folders)
    splits = [("heldout", heldout), ("train", train)] + ([("reg", regularisation)] if regularisation else [])
    dataset = Dataset(
        name=data.name,
        dir=within[0],
        train=train,
        heldout=heldout,
        regularisation=regularisation,
        digest=_digest(splits, within),
        warnings=(
            *found.warnings,
            *remarks(found.seen, train, heldout),
            *caption_remarks(found.seen, train, data),
            *mask_remarks(data, found.masks, train),
            *_never_shown(train, regularisation),
            *([found.kept.trouble] if found.kept.trouble else []),
        ),
        skipped=tuple(found.skipped),
    )
    return dataset, tuple(found.problems)


def _never_shown(train: Sequence[Picture], regularisation: Sequence[Picture]) -> Iterator[str]:
    shown, there = (sum(picture.repeats for picture in pictures) for pictures in (train, regularisation))
    if there > shown:
        yield f"only {shown} of {there} regularisation pictures are shown, the first: as many as are trained on"


# -------------------------------------------------------------------------------------------------------- the folders


def _groups(found: _Scan) -> tuple[list[Group], list[Group], list[Group]]:
    """Of what is trained on, held out and for regularisation."""
    data = found.data
    concepts = concept_folders(data)
    found.problems += overlapping(concepts)
    folders = concepts or [main_folder(data)]
    layout = Layout.folder if concepts else data.layout
    train = [group for folder in folders for group in _laid_out(folder, found, layout)]
    aside, reg = heldout_folder(data), reg_folder(data)
    return (
        train,
        [] if aside is None else [_group(aside, found)],
        [] if reg is None else _laid_out(reg, found, _looser(data.layout)),
    )


def _looser(layout: Layout) -> Layout:
    """Of regularisation pictures: what is said of `data.dir` need not be true of them."""
    return Layout.folder if layout is Layout.folder else Layout.auto


def _laid_out(folder: Folder, found: _Scan, layout: Layout) -> list[Group]:
    groups, problems, told = by_kohyas_names(_group(folder, found), layout)
    found.problems += problems
    found.warnings += told
    return groups


def _group(folder: Folder, found: _Scan) -> Group:
    return Group(folder, _files(folder, found))


def _files(folder: Folder, found: _Scan) -> Files:
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
        found.problems.append(Problem(folder.key, folder.value, reason, folder.fix))
        return Files()
    files = find(folder.path)
    if not files.paths and not files.closed:
        found.problems.append(no_pictures(folder))
    found.problems += closed_folders(folder, files.closed)
    if files.links:
        links = listed([named(link) for link in files.links])
        found.warnings.append(f"links to folders are not followed: {links}")
    return files


# ------------------------------------------------------------------------------------------------------- the pictures


def _together(folders: Iterable[Iterable[Picture]]) -> tuple[Picture, ...]:
    return tuple(chain.from_iterable(folders))


def _pictures(groups: Sequence[Group], found: _Scan, *, masked: bool = True) -> list[list[Picture]]:
    """In the order of the groups and of their paths; `found` is told what is wrong with the others."""
    captions = _captions(groups, found)
    answers = looks(
        [path for group in groups for path in group.files.paths],
        found.kept,
        threads=found.threads,
        progress=found.progress,
    )
    pictures = [_of_group(group, answers, captions, found, masked=masked) for group in groups]
    assert next(answers, None) is None, "the last is told of when another one is asked for"
    return pictures


def _captions(groups: Sequence[Group], found: _Scan) -> Captions:
    asked = found.data.metadata
    if asked == NONE or not groups:
        return Captions()
    files = [path for group in groups for path in group.files.metadata]
    captions, problems = read_captions(
        files if asked == AUTO else [str(Path(asked).expanduser().absolute())], found.data.caption_column
    )
    found.problems += problems
    found.warnings += _in_vain(captions, groups, found)
    return captions


def _in_vain(captions: Captions, groups: Sequence[Group], found: _Scan) -> Iterator[str]:
    """Rows that name no picture, and captions beside pictures that a row gives another one."""
    if not captions.files:
        return
    files, paths = listed(captions.files), {path for group in groups for path in group.files.paths}
    nowhere = [path for path in captions.rows if path not in paths]
    if nowhere and found.data.metadata == AUTO:
        yield f"{len(nowhere)} rows of {files} name no picture: {listed([named(path) for path in nowhere])}"
    beside = (os.path.splitext(path)[0] + found.data.caption_extension for path in captions.rows if path in paths)  # noqa: PTH122
    unread = [path for path in beside if os.path.exists(path)]  # noqa: PTH110 - of a hundred thousand
    if unread:
        told = f"captions beside pictures are not read, since {files} has them: {listed(unread)}"
        yield f"{len(unread)} {told}; data.metadata=none reads them"


def _of_group(
    group: Group,
    answers: Iterator[tuple[Path, Look | Flawed]],
    captions: Captions,
    found: _Scan,
    *,
    masked: bool,
) -> list[Picture]:
    pictures, flawed, folder = [], [], group.folder
    bare = 0
    for _, (path, look) in zip(group.files.paths, answers, strict=False):
        picture = _picture(path, look, folder, captions)
        if masked and isinstance(picture, Picture) and isinstance(look, Look):
            picture = _masked(picture, look, folder, found)
        if isinstance(picture, Flawed):
            flawed.append(picture)
        elif isinstance(look, Look):
            pictures.append(picture)
            found.seen.take(picture, look)
            bare += bool(folder.caption) and picture.caption == folder.caption
    if bare:
        whole = "all" if bare == len(pictures) else f"{bare} of {len(pictures)}"
        found.warnings.append(
            f"{whole} pictures of {folder.value} are captioned {folder.caption!r}, for want of their own"
        )
    _tell(folder, pictures, flawed, found)
    return pictures


def _picture(path: Path, look: Look | Flawed, folder: Folder, captions: Captions) -> Picture | Flawed:
    if isinstance(look, Flawed):
        return look
    found = captioned(
        path,
        look,
        caption_extension=folder.caption_extension,
        listed=captions.rows.get(str(path)) if captions.rows else None,
        otherwise=folder.caption,
    )
    return replace(found, repeats=folder.repeats) if isinstance(found, Picture) and folder.repeats != 1 else found


def _masked(picture: Picture, look: Look, folder: Folder, found: _Scan) -> Picture | Flawed:
    if found.masks is not None:
        return found.masks.of(picture, (main_folder(found.data).path, folder.path))
    return of_transparency(picture, look) if found.data.alpha_masks else picture


def _tell(folder: Folder, pictures: Sequence[Picture], flawed: Sequence[Flawed], found: _Scan) -> None:
    told = list(flaws(folder, flawed, everything=not pictures, masks_dir=found.data.masks_dir))
    if found.data.on_bad is OnBad.skip and pictures:
        found.warnings += [f"left out, by data.on_bad=skip: {problem.reason}" for problem in told]
        found.skipped += [(named(each.path), f"{each.flaw.value}: {each.reason}".removesuffix(": ")) for each in flawed]
    else:
        found.problems += told


def _in_both(
    key: str, value: str | None, what: str, train: Sequence[Picture], others: Sequence[Picture]
) -> Iterator[Problem]:
    trained = {picture.digest: picture.path for picture in train} if others else {}
    twice = [f"{p.path} (also {trained[p.digest]})" for p in others if p.digest in trained]
    if twice:
        reason = f"{count(twice)} {what} and trained on as well: {listed(twice)}"
        yield Problem(key, value, reason, "remove them from one of the two folders")


def _digest(splits: Iterable[tuple[str, Sequence[Picture]]], folders: Sequence[Path]) -> str:
    """SHA-256 of a list in JSON, which is never held whole; `splits` in the order of their names."""
    digest = hashlib.sha256(b"[")
    between = ""
    starts = [str(folder).rstrip(os.sep) + os.sep for folder in folders]
    for name, pictures in splits:
        named_within = ((_within(str(picture.path), starts), picture) for picture in pictures)
        for path, picture in sorted(named_within, key=itemgetter(0)):
            row = (name, path, picture.digest, picture.caption, *_further(picture))
            digest.update(f"{between}{json.dumps(row)}".encode())
            between = ", "
    digest.update(b"]")
    return digest.hexdigest()


def _within(path: str, starts: Sequence[str]) -> str:
    """From the first of the folders that it lies in: the dataset is the same elsewhere."""
    start = next((start for start in starts if path.startswith(start)), "")
    return path[len(start) :].replace(os.sep, "/")


def _further(picture: Picture) -> tuple[object, ...]:
    return (picture.repeats, picture.mask_digest) if picture.repeats != 1 or picture.mask_digest else ()
