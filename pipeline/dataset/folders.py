"""The folders that pictures are taken from, and what is said of the pictures in each."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.dataset.finding import Files
from pipeline.dataset.picture import is_utf8, named
from pipeline.errors import Problem
from pipeline.settings import Data, Layout

NAMED_AS_KOHYAS = re.compile(r"(\d+)_(.+)")
"""<repeats>_<class>, as the folders are called that sd-scripts takes without a dataset's file."""

MOST_REPEATS = 1000
"""That a folder's name can mean: 2024_summer has a year."""


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of pictures, and the setting that names it."""

    key: str
    value: str
    path: Path
    caption_extension: str
    repeats: int = 1
    """How often an epoch shows each of its pictures."""
    caption: str = ""
    """Of pictures that have none of their own; empty: there is none."""
    caption_key: str = "data.caption"
    """The setting that gives them one."""

    @property
    def fix(self) -> str:
        return "data.concepts=[{dir:FOLDER},...]" if "[" in self.key else f"{self.key}=FOLDER"


@dataclass(slots=True)
class Group:
    """A folder and what was found there."""

    folder: Folder
    files: Files = field(default_factory=Files)


def main_folder(data: Data) -> Folder:
    return _folder("data.dir", data.dir, data, repeats=data.repeats, caption=data.caption or "")


def heldout_folder(data: Data) -> Folder | None:
    if data.heldout_dir is None:
        return None
    return _folder("data.heldout_dir", data.heldout_dir, data, caption=data.caption or "")


def reg_folder(data: Data) -> Folder | None:
    if data.reg_dir is None:
        return None
    folder = _folder("data.reg_dir", data.reg_dir, data, caption=data.reg_caption or "")
    return replace(folder, caption_key="data.reg_caption")


def concept_folders(data: Data) -> list[Folder]:
    """In their order."""
    folders = []
    for place, concept in enumerate(data.concepts):
        value = str(_expanded(data.dir) / _expanded(concept.dir))
        repeats = data.repeats if concept.repeats is None else concept.repeats
        caption = concept.caption if concept.caption is not None else data.caption
        folder = _folder(f"data.concepts[{place}].dir", value, data, repeats=repeats, caption=caption or "")
        folders.append(replace(folder, value=concept.dir, caption_key=f"data.concepts[{place}].caption"))
    return folders


def _folder(key: str, value: str, data: Data, *, repeats: int = 1, caption: str = "") -> Folder:
    return Folder(key, value, _expanded(value).absolute(), data.caption_extension, repeats, caption.strip())


def _expanded(value: str) -> Path:
    path = Path(value)
    with suppress(RuntimeError):  # ~nobody: looked for under that very name
        path = path.expanduser()
    return path


# ------------------------------------------------------------------------------------------------- Kohya's folders


def by_kohyas_names(group: Group, layout: Layout) -> tuple[list[Group], list[Problem], list[str]]:
    """The group as one for each folder <repeats>_<name> directly below, whose name is the caption of pictures that have
    none; problems, and what is worth knowing. The group itself where they are no such folders."""
    parted, others = _parted(group)
    if layout is Layout.folder or (layout is Layout.auto and not parted):
        return [group], [], []
    too_many = [each.folder.path.name for each in parted if each.folder.repeats > MOST_REPEATS]
    if layout is Layout.auto and too_many:
        told = f"the numbers that folders of {group.folder.path} begin with have no effect, since {too_many[0]} can't"
        return [group], [], [f"{told} mean so many repeats"]
    if parted and not others:
        return parted, list(_odd_repeats(parted)), [_told(group.folder.key, parted)]
    if layout is Layout.auto:
        told = f"some folders of {group.folder.path} are named like 10_cat, as Kohya's, and not all pictures lie in"
        return [group], [], [f"{told} one: their numbers have no effect. data.layout=kohya says what is missing"]
    examples = ", ".join(named(path) for path in others[:3])
    reason = f"{len(others)} pictures lie in no folder named like 10_cat: {examples}" if others else "has none"
    problem = Problem("data.layout", layout.value, reason, "move them into one, such as 10_cat, or data.layout=folder")
    return [group], [problem] if others or group.files.paths else [], []


def _parted(group: Group) -> tuple[list[Group], list[str]]:
    """By the folder directly below; and the paths that lie in none of that kind of name."""
    start = len(str(group.folder.path).rstrip(os.sep)) + 1
    inside: dict[str, list[str]] = {}
    others = []
    for path in group.files.paths:
        top, separator, _ = path[start:].partition(os.sep)
        if separator and NAMED_AS_KOHYAS.fullmatch(top):
            inside.setdefault(top, []).append(path)
        else:
            others.append(path)
    groups = [Group(_of_kohya(group.folder, top), Files(paths=paths)) for top, paths in inside.items()]
    if groups:  # what was found beside pictures is told once
        groups[0].files = replace(group.files, paths=groups[0].files.paths)
    return groups, others


def _of_kohya(folder: Folder, name: str) -> Folder:
    matched = NAMED_AS_KOHYAS.fullmatch(name)
    assert matched is not None, "only such folders are parted"
    return replace(
        folder,
        value=os.path.join(folder.value, name),  # noqa: PTH118 - as it was typed
        path=folder.path / name,
        repeats=int(matched[1]),
        caption=matched[2].strip(),
    )


def _odd_repeats(parted: Sequence[Group]) -> Iterator[Problem]:
    for group in parted:
        if not 1 <= group.folder.repeats <= MOST_REPEATS:
            reason = f"says that its pictures are shown {group.folder.repeats} times, and at most {MOST_REPEATS} are"
            yield Problem(group.folder.key, group.folder.value, reason, "rename it: 1_name, or move it elsewhere")


def _told(key: str, parted: Sequence[Group]) -> str:
    shown = ", ".join(f"{group.folder.path.name} ({len(group.files.paths)})" for group in parted[:5])
    more = f" and {len(parted) - 5} more" if len(parted) > 5 else ""
    return (
        f"{key} is laid out as Kohya's: {shown}{more}. The numbers say how often an epoch shows each picture;"
        " data.layout=folder shows each once"
    )


def overlapping(folders: Sequence[Folder]) -> Iterator[Problem]:
    """A concept inside of another: its pictures would be shown as both."""
    for place, folder in enumerate(folders):
        others = [*folders[:place], *folders[place + 1 :]]
        inside = next((each for each in others if _holds(each.path, folder.path)), None)
        if inside is not None and is_utf8(str(inside.path)):
            reason = "is the folder of another concept" if inside.path == folder.path else f"lies in {inside.value}"
            yield Problem(folder.key, folder.value, f"{reason}, of which it would be shown too", folder.fix)


def _holds(folder: Path, path: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())
