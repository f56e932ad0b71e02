"""What is told of pictures that can't be trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.dataset.folders import Folder
from pipeline.dataset.formats import endings
from pipeline.dataset.picture import Flaw, Flawed, named
from pipeline.errors import Problem

NAMED = 5
"""How many files a message names before it counts the rest."""
CAPTION_ENDINGS = (".txt", ".caption", ".captions", ".cap", ".tags", ".text", ".prompt")
LEFT_OUT = "or leave them out: data.on_bad=skip"


def no_folder(folder: Folder) -> Problem:
    if folder.path.exists():
        return Problem(folder.key, folder.value, "is not a folder", f"{folder.key}={folder.path.parent}")
    near = next(parent for parent in folder.path.parents if parent.is_dir())
    return Problem(
        folder.key,
        folder.value,
        f"there is no such folder ({near} is there)",
        f"{folder.fix}, one with pictures",
    )


def no_pictures(folder: Folder) -> Problem:
    kinds = " ".join(ending.removeprefix(".") for ending in endings())
    return Problem(folder.key, folder.value, f"holds no pictures ({kinds})", f"{folder.fix}, one with pictures")


def closed_folders(folder: Folder, closed: Sequence[OSError]) -> Iterator[Problem]:
    if closed:
        names = listed([named(str(error.filename)) for error in closed])
        yield Problem(folder.key, folder.value, f"these folders can't be read: {names}", f"chmod -R u+rX {folder.path}")


def flaws(
    folder: Folder, flawed: Sequence[Flawed], *, everything: bool, masks_dir: str | None = None
) -> Iterator[Problem]:
    """One problem a kind; `everything`: there is no picture without one."""
    unreadable = [file for file in flawed if file.flaw is Flaw.unreadable]
    if unreadable:
        names = listed([f"{named(file.path)} ({file.reason})" for file in unreadable])
        reason = f"{count(unreadable)} can't be read whole: {names}"
        fix = f"replace them, move them out of the folder, {LEFT_OUT}"
        yield Problem(folder.key, folder.value, reason, fix)
    misnamed = [named(file.path) for file in flawed if file.flaw is Flaw.bad_name]
    if misnamed:
        reason = f"{count(misnamed)} with a name that is not UTF-8: {listed(misnamed)}"
        yield Problem(folder.key, folder.value, reason, f"rename them, {LEFT_OUT}")
    bad = [file.path.with_suffix(folder.caption_extension) for file in flawed if file.flaw is Flaw.bad_caption]
    if bad:
        reason = f"{len(bad)} of the captions can't be read as UTF-8 text: {listed(bad)}"
        yield Problem(folder.key, folder.value, reason, f"save them as UTF-8, {LEFT_OUT}")
    without = [file.path for file in flawed if file.flaw is Flaw.no_caption]
    if without:
        yield _no_captions(folder, without, everything=everything)
    unmasked = [file for file in flawed if file.flaw is Flaw.bad_mask]
    if unmasked:
        names = listed([f"{named(file.path)} ({file.reason})" for file in unmasked])
        fix = f"put a mask of that name into the folder, {LEFT_OUT}"
        yield Problem("data.masks_dir", masks_dir, f"{count(unmasked)} without a mask: {names}", fix)


def _no_captions(folder: Folder, without: list[Path], *, everything: bool) -> Problem:
    """Where no picture has a caption, they may be there under another ending."""
    ending = folder.caption_extension
    other = _other_extension(without, ending) if everything else None
    if other:
        reason = f"no picture has a caption that ends in {ending}, but there are files that end in {other}"
        return Problem("data.caption_extension", ending, reason, f"data.caption_extension={other}")
    reason = f"{count(without)} without a caption: {listed(without)}"
    fix = f"write what each shows into a file beside it, such as {without[0].with_suffix(ending)}"
    fix += f", or one for all into {folder.caption_key}"
    return Problem(folder.key, folder.value, reason, fix if everything else f"{fix}, {LEFT_OUT}")


def _other_extension(without: list[Path], wanted: str) -> str | None:
    """The most frequent ending of text files that stand beside the pictures."""
    stems = {path.with_suffix("") for path in without}
    beside = (file for folder in {path.parent for path in without} for file in folder.iterdir())
    found = Counter(file.suffix for file in beside if file.suffix and file.with_suffix("") in stems)
    texts = [ending for ending, _ in found.most_common() if ending in CAPTION_ENDINGS]
    return next((ending for ending in texts if ending != wanted), None)


def count(files: Sequence[object]) -> str:
    return "1 picture" if len(files) == 1 else f"{len(files)} pictures"


def listed(files: Sequence[object]) -> str:
    more = f" ... and {len(files) - NAMED} more" if len(files) > NAMED else ""
    return ", ".join(str(file) for file in files[:NAMED]) + more
