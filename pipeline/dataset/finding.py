"""Finds the picture files of a folder and looks at them in parallel, in the order of their paths."""

from __future__ import annotations

import os
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from pipeline.dataset.formats import DAMAGED, endings
from pipeline.dataset.kept import Kept, Stamp, stamp_of
from pipeline.dataset.metadata import NAMES
from pipeline.dataset.picture import Flaw, Flawed, Look, check_regular, is_utf8, look_at, why

MOST_THREADS = 16
ASKED_AT_ONCE = 256
"""Files whose rows are looked up together."""

Progress = Callable[[int, int], None]
"""Told how many pictures were looked at, and of how many."""


@dataclass(slots=True)
class Files:
    """What lies in a folder and below."""

    paths: list[str] = field(default_factory=list)
    """Of pictures, by their names."""
    closed: list[OSError] = field(default_factory=list)
    """Folders that can't be looked into."""
    links: list[str] = field(default_factory=list)
    """To folders, which are not followed: they may lead anywhere, and to themselves."""
    metadata: list[str] = field(default_factory=list)
    """Files that hold captions of many pictures."""


def find(folder: Path) -> Files:
    """In the order of their paths' parts; hidden ones (also those of macOS, ._cat.png) are left out. A folder that is
    named like a picture is taken for one, to be told."""
    found, known = Files(), endings()
    for parent, folders, files in os.walk(folder, onerror=found.closed.append):
        seen = [name for name in folders if not name.startswith(".")]
        folders[:] = [name for name in seen if not name.lower().endswith(known)]
        found.links += [path for name in folders if os.path.islink(path := os.path.join(parent, name))]  # noqa: PTH114, PTH118
        for name in (*files, *(set(seen) - set(folders))):
            if name.lower().endswith(known) and not name.startswith("."):
                found.paths.append(os.path.join(parent, name))  # noqa: PTH118 - a hundred thousand Paths take long
        found.metadata += [os.path.join(parent, name) for name in NAMES if name in files]  # noqa: PTH118
    found.paths.sort(key=lambda path: path.replace(os.sep, "\0"))
    return found


def looks(
    paths: Sequence[str], kept: Kept, *, threads: int, progress: Progress
) -> Iterator[tuple[Path, Look | Flawed]]:
    """What each file is, as far as possible from what is kept. Threads do: Pillow decodes, and hashlib digests, without
    the interpreter's lock (two processes were 7 % faster on two cores, and have to be started). At most a few hundred
    results wait to be taken."""
    threads = min(max(1, threads), MOST_THREADS)
    # what Pillow warns of (odd EXIF, large pictures) is no fault of the dataset, and judged by `look_at`
    with warnings.catch_warnings(), ThreadPoolExecutor(max_workers=threads) as pool:
        warnings.simplefilter("ignore")
        for done, (path, stamp, answer) in enumerate(_begun(paths, kept, pool, ahead=4 * threads), start=1):
            look = answer.result() if isinstance(answer, Future) else answer
            if stamp is not None and isinstance(answer, Future) and isinstance(look, Look):
                kept.keep(path, stamp, look)
            yield Path(path), look
            progress(done, len(paths))


Begun = tuple[str, Stamp | None, Look | Flawed | Future[Look | Flawed]]


def _begun(paths: Sequence[str], kept: Kept, pool: ThreadPoolExecutor, *, ahead: int) -> Iterator[Begun]:
    """In the order of the paths, the pool always having `ahead` files to read while there are so many."""
    waiting: deque[Begun] = deque()
    for each in _asked(paths, kept):
        waiting.append(_begin(each, pool))
        reading = isinstance(waiting[0][2], Future)
        if len(waiting) > ahead or not reading:
            yield waiting.popleft()
    yield from waiting


def _begin(each: tuple[str, Stamp | Flawed, Look | None], pool: ThreadPoolExecutor) -> Begun:
    path, stamp, look = each
    if isinstance(stamp, Flawed):
        return path, None, stamp
    return path, stamp, look or pool.submit(look_at, Path(path))


def _asked(paths: Sequence[str], kept: Kept) -> Iterator[tuple[str, Stamp | Flawed, Look | None]]:
    """Each file's stamp, and what is kept of it if that still holds."""
    remaining = iter(paths)
    while some := list(islice(remaining, ASKED_AT_ONCE)):
        stamps = [_stamp(path) for path in some]
        known = kept.known(some, [None if isinstance(stamp, Flawed) else stamp for stamp in stamps])
        yield from ((path, stamp, known.get(path)) for path, stamp in zip(some, stamps, strict=True))


def _stamp(path: str) -> Stamp | Flawed:
    if not is_utf8(path):
        return Flawed(Path(path), Flaw.bad_name)
    try:
        looked_ns = time.time_ns()
        status = os.stat(path)  # noqa: PTH116
        check_regular(status.st_mode)
        return stamp_of(status, looked_ns)
    except DAMAGED as error:
        return Flawed(Path(path), Flaw.unreadable, why(Path(path), error))
