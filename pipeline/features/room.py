"""How much the cache takes, what of it goes when that is too much, and whether it is still what was written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UnreadableFile
from pipeline.features.shelf import MADE_NAME, PINS_NAME, SUFFIX, checksum, places_of, raw_bytes
from pipeline.features.space import FOLDER
from pipeline.locks import lock_if_free

PAGES = "pages"
"""Folder, in the cache's, of datasets as pages: files that no run reads while it trains."""


@dataclass(frozen=True, slots=True)
class Kept:
    """One space as it lies on the disk."""

    name: str
    made: dict[str, str]
    features: int
    bytes: int
    used: float
    """When last, in seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Removed:
    """What had to go."""

    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Verified:
    """Whether the features are what was written."""

    features: int
    damaged: tuple[Path, ...]
    """Files that were removed."""


def kept(cache_dir: Path) -> list[Kept]:
    """A row a space, the one that was used last first."""
    rows = [_kept(folder) for folder in _spaces(cache_dir)]
    return sorted(rows, key=lambda row: row.used, reverse=True)


def _kept(folder: Path) -> Kept:
    count = size = 0
    used = 0.0
    for shard in folder.glob(f"*{SUFFIX}"):
        with suppress(OSError, UnreadableFile):
            count += len(places_of(shard))
            size += shard.stat().st_size
            used = max(used, shard.stat().st_mtime)
    return Kept(folder.name, _made(folder), count, size, used)


def _made(folder: Path) -> dict[str, str]:
    try:
        return dict(json.loads((folder / MADE_NAME).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def taken_bytes(cache_dir: Path) -> int:
    """By all spaces and pages; cheap: no file is opened."""
    return sum(size for _, size, _ in _files(cache_dir))


def make_room(cache_dir: Path, max_bytes: float) -> Removed:
    """Removes files until the rest takes at most `max_bytes`, those that were not used for longest first. What a run
    reads at this moment stays, whatever it takes."""
    files = sorted(_files(cache_dir))
    over = sum(size for _, size, _ in files) - max_bytes
    count = freed = 0
    for _, size, file in files:
        if freed >= over:
            break
        if _removed(file):
            count, freed = count + 1, freed + size
    _tidy(cache_dir)
    return Removed(count, freed)


def _removed(file: Path) -> bool:
    """Not while a run reads it."""
    if file.parent.name == PAGES:
        file.unlink(missing_ok=True)
        return True
    with lock_if_free(file.parent / PINS_NAME) as is_free:
        if is_free:
            file.unlink(missing_ok=True)
        return is_free


def _files(cache_dir: Path) -> Iterator[tuple[float, int, Path]]:
    """When each was used last, and its bytes."""
    for file in (*_shards(cache_dir), *(cache_dir / PAGES).glob("*.html")):
        with suppress(OSError):  # another process has removed it
            told = file.stat()
            yield told.st_mtime, told.st_size, file


def _shards(cache_dir: Path) -> Iterator[Path]:
    return (shard for folder in _spaces(cache_dir) for shard in sorted(folder.glob(f"*{SUFFIX}")))


def _tidy(cache_dir: Path) -> None:
    """Also what a writer that was killed has left unfinished."""
    for folder in _spaces(cache_dir):
        with lock_if_free(folder / PINS_NAME) as is_free:
            if not is_free:
                continue
            for unfinished in folder.glob("*.part"):
                unfinished.unlink(missing_ok=True)
            if not any(folder.glob(f"*{SUFFIX}")):
                shutil.rmtree(folder, ignore_errors=True)


def verify(cache_dir: Path) -> Verified:
    """Reads every feature, and removes the files in which one is not what was written: the next run makes it anew."""
    count, damaged = 0, []
    for shard in _shards(cache_dir):
        try:
            places = places_of(shard)
            whole = all(checksum(raw_bytes(place)) == place.check for place in places.values())
            count += len(places)
        except UnreadableFile:
            whole = False
        if not whole:
            shard.unlink(missing_ok=True)
            damaged.append(shard)
    return Verified(count, tuple(damaged))


def _spaces(cache_dir: Path) -> list[Path]:
    return sorted(folder for folder in (cache_dir / FOLDER).glob("*-*") if folder.is_dir())
