"""The features of one space: safetensors files of many features each, which are whole or not there.

The files are all there is: their headers say which features they hold, and a digest of each. Nothing has to be kept in
step with them, several processes may write at once (equal content has an equal name), and one that is killed leaves
what it had finished.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from pipeline.checkpoint.header import Tensor as Span
from pipeline.checkpoint.header import read_header
from pipeline.errors import UnreadableFile
from pipeline.features.space import Space
from pipeline.files import write_bytes, write_text
from pipeline.locks import lock_if_free

if TYPE_CHECKING:
    from torch import Tensor

SUFFIX = ".safetensors"
MADE_NAME = "made.json"
PINS_NAME = "pins.lock"
WRITER_NAME = "writer.lock"
SHARD_BYTES = 16 << 20
SHARD_FEATURES = 256
MEMORY_BYTES = 128 << 20
"""So much of what was read stays in memory: a small dataset whole, a large one not."""
POLL_SECONDS = 0.2
CHECK_CHARACTERS = 16


class Place(NamedTuple):
    """Where a feature lies. There may be a hundred thousand: a tuple is the cheapest record."""

    shard: Path
    span: Span
    check: str
    """Of its bytes."""


class Shelf:
    """A space that is open: what is in it is not removed until it is closed, or the process ends."""

    def __init__(self, cache_dir: Path, space: Space) -> None:
        self.folder = space.folder(cache_dir)
        self._pins = _pinned(self.folder)
        if not (self.folder / MADE_NAME).exists():
            write_text(self.folder / MADE_NAME, json.dumps({"kind": space.kind, **space.made}, indent=1) + "\n")
        self._seen: set[str] = set()
        self._places: dict[str, Place] = {}
        self._waiting: dict[str, Tensor] = {}
        self._memory: OrderedDict[str, Tensor] = OrderedDict()
        self._memory_bytes = 0
        self.refresh()

    def close(self) -> None:
        """What was put is written; what was kept may be removed from now on."""
        self.flush()
        self._pins.close()

    def refresh(self) -> None:
        """Sees what others have written meanwhile. A file that is not whole is none."""
        for shard in self.folder.glob(f"*{SUFFIX}"):
            if shard.name not in self._seen:
                with suppress(UnreadableFile):
                    self._places.update(places_of(shard))
                    self._seen.add(shard.name)

    def missing(self, keys: Iterable[str]) -> set[str]:
        """Those of the keys that nothing is kept under."""
        return {key for key in keys if key not in self._places and key not in self._waiting}

    def use(self, keys: Iterable[str]) -> None:
        """Files that were used last are removed last."""
        for shard in {self._places[key].shard for key in keys if key in self._places}:
            with suppress(OSError):
                os.utime(shard)

    def read(self, key: str) -> Tensor:
        """The feature, as it was put. Raises UnreadableFile for one that was damaged or removed."""
        kept = self._memory.get(key)
        if kept is None:
            kept = self._waiting[key] if key in self._waiting else self._read(key)
            self._remember(key, kept)
        else:
            self._memory.move_to_end(key)
        return kept

    def put(self, key: str, feature: Tensor) -> None:
        """On the disk with the next `flush`, at the latest when a shard is full."""
        self._waiting[key] = feature.detach().cpu().contiguous()
        size = sum(each.nbytes for each in self._waiting.values())
        if size >= SHARD_BYTES or len(self._waiting) >= SHARD_FEATURES:
            self.flush()

    def flush(self) -> None:
        """Writes what was put."""
        if not self._waiting:
            return
        from safetensors.torch import save

        checks = {key: checksum(feature.numpy().tobytes()) for key, feature in self._waiting.items()}
        data = save(self._waiting, metadata=checks)
        shard = self.folder / f"{hashlib.sha256(data).hexdigest()[:32]}{SUFFIX}"
        write_bytes(shard, data)
        self._places.update(places_of(shard))
        self._seen.add(shard.name)
        self._waiting = {}

    @contextmanager
    def writing(self, *, between: Callable[[], None], waiting: Callable[[], None]) -> Iterator[None]:
        """Of several processes that would encode the same, one does: the others wait, and find it then. `waiting` is
        called when it begins to, `between` while it does: the place to stop when the user asks for it."""
        told = False
        while True:
            with lock_if_free(self.folder / WRITER_NAME) as is_free:
                if is_free:
                    self.refresh()
                    try:
                        yield
                    finally:
                        self.flush()
                    return
            if not told:
                waiting()
                told = True
            between()
            time.sleep(POLL_SECONDS)

    def _read(self, key: str) -> Tensor:
        import torch

        place = self._places[key]
        raw = raw_bytes(place)
        if checksum(raw) != place.check:
            raise UnreadableFile(
                f"{place.shard} is damaged: {key} is not what was written\n"
                "    try: python -m pipeline cache verify, which removes it; then the same command again"
            )
        return torch.frombuffer(bytearray(raw), dtype=torch.float32).reshape(place.span.shape)

    def _remember(self, key: str, feature: Tensor) -> None:
        self._memory[key] = feature
        self._memory_bytes += feature.nbytes
        while self._memory_bytes > MEMORY_BYTES:
            self._memory_bytes -= self._memory.popitem(last=False)[1].nbytes


def kept_keys(cache_dir: Path, space: Space) -> set[str]:
    """The features that are there now; nothing is opened for a run, or made."""
    found: set[str] = set()
    for shard in space.folder(cache_dir).glob(f"*{SUFFIX}"):
        with suppress(UnreadableFile):
            found |= set(places_of(shard))
    return found


def places_of(shard: Path) -> dict[str, Place]:
    """The features of a file by their keys. Raises UnreadableFile for a file that is cut short, or no shard."""
    header = read_header(shard)
    return {
        key: Place(shard, span, header.metadata[key])
        for key, span in header.tensors.items()
        if key in header.metadata and span.dtype == "F32"
    }


def raw_bytes(place: Place) -> bytes:
    """Of one feature. Raises UnreadableFile."""
    try:
        with place.shard.open("rb") as file:
            file.seek(place.span.begin)
            return file.read(place.span.bytes)
    except OSError as error:
        raise UnreadableFile(
            f"{place.shard} can't be read: {error.strerror}\n    try: the same command again"
        ) from error


def checksum(raw: bytes) -> str:
    """Of a feature's bytes, as it stands in the shard's header."""
    return hashlib.sha256(raw).hexdigest()[:CHECK_CHARACTERS]


def _pinned(folder: Path) -> IO[str]:
    """A shared lock; waits while what is in the folder is being removed, and begins anew when the folder was too."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / PINS_NAME).open("a")
        fcntl.flock(file, fcntl.LOCK_SH)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), (folder / PINS_NAME).stat()):
                return file
        file.close()
