"""What appears in the folder of outputs: samples and states, each told once it is whole."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.backends.kohya.job import KohyaJob
from pipeline.backends.kohya.written import picture_is_whole, state_is_whole, weights_trouble

SAMPLES = "sample"
"""The folder in the folder of outputs."""
_SAMPLE = r"(?:e(?P<epoch>\d{6,})|(?P<step>\d{6,}))_(?P<index>\d{2,})_\d{14}(?:_(?P<seed>-?\d+))?\.png"
_SAVED = r"(?:-step(?P<step>\d{8,})|-(?P<epoch>\d{6,}))?(?P<state>-state)?(?:\.(?:safetensors|ckpt|pt))?"


@dataclass(frozen=True, slots=True)
class Output:
    """Something that was written."""

    kind: Literal["sample", "state", "weights"]
    """`weights`: those of a step or an epoch on the way, not the finished ones."""
    path: Path
    step: int | None
    """By the script's own count; None where the name has an epoch or nothing."""
    index: int = 0
    """Of a sample's prompt."""
    seed: int | None = None


class Outputs:
    """Looks for what is new since the last call, and since the beginning."""

    def __init__(self, job: KohyaJob) -> None:
        self._folder = Path(job.output_dir)
        name = re.escape(job.output_name)
        self._sample = re.compile(rf"{name}_{_SAMPLE}")
        self._saved = re.compile(rf"{name}{_SAVED}")
        self._finished = Path(job.finished)
        self._finished_before = _stamp(self._finished)
        self._known = {path: _stamp(path) for path in self._all()}
        """How each path was when it was told, or at the beginning."""
        self._seen: dict[Path, _Stamp] = {}
        """How each path that was not told yet was at the last look."""

    def new(self, *, nothing_writes: bool = False) -> list[Output]:
        """By time of writing. While something may still write, a path has to look the same twice."""
        found = []
        for path in self._all():
            known = self._known.get(path)
            if known is not None and path.parent != self._folder:  # a sample's name has its time: it is never reused
                continue
            stamp = _stamp(path)
            if stamp == known:
                continue
            is_still = nothing_writes or self._seen.get(path) == stamp
            self._seen[path] = stamp
            output = self._read(path) if is_still else None
            if output is not None:
                self._known[path] = self._seen.pop(path)
                found.append((stamp, output))
        return [output for _, output in sorted(found, key=lambda each: (each[0], str(each[1].path)))]

    def finished_is_new(self) -> bool:
        """Not those of an earlier start."""
        return _stamp(self._finished) not in (self._finished_before, ABSENT)

    def _all(self) -> Iterator[Path]:
        for folder in (self._folder, self._folder / SAMPLES):
            if folder.is_dir():
                yield from folder.iterdir()

    def _read(self, path: Path) -> Output | None:
        """None for what is not whole yet, and for what is none of ours."""
        if path == self._finished:
            return None
        if path.parent.name == SAMPLES and (found := self._sample.fullmatch(path.name)):
            step = 0 if found["epoch"] and not int(found["epoch"]) else _integer(found["step"])  # before the first
            output = Output("sample", path, step, int(found["index"]), _integer(found["seed"]))
            return output if picture_is_whole(path) else None
        found = self._saved.fullmatch(path.name)
        if found is None:
            return None
        step = _integer(found["step"])
        if found["state"]:
            return Output("state", path, step) if state_is_whole(path) else None
        return Output("weights", path, step) if weights_trouble(path) is None else None


def _integer(digits: str | None) -> int | None:
    return None if digits is None else int(digits)


_Stamp = tuple[int, int]
ABSENT: _Stamp = (0, 0)


def _stamp(path: Path) -> _Stamp:
    """Newest change and size; of a folder's files together."""
    try:
        files = [path, *path.iterdir()] if path.is_dir() else [path]
        stats = [file.stat() for file in files]
    except OSError:  # gone in between
        return ABSENT
    return max(stat.st_mtime_ns for stat in stats), sum(stat.st_size for stat in stats)
