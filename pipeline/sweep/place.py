"""Where a sweep lives: a new folder, or that of the same sweep that was killed before its end.

`sweep.json` in the folder says which trials it has, so that the same command finds it again; an flock on `sweep.lock`
says that somebody works on it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import RunError
from pipeline.files import write_text
from pipeline.locks import is_held, lock_if_free
from pipeline.sweep.results import SWEEP_FILE

FILE_NAME = "sweep.json"
LOCK_NAME = "sweep.lock"
DAY = "????-??-??"


@dataclass(frozen=True, slots=True)
class Place:
    """A sweep's folder, which is this process's alone."""

    dir: Path
    fingerprint: str
    goes_on: bool
    """Some of its trials were begun by an earlier start of the same command."""

    @property
    def name(self) -> str:
        """As its trials are tagged: `<date>/<time>_<name>`."""
        return f"{self.dir.parent.name}/{self.dir.name}"

    def run_dir(self, number: int) -> Path:
        return self.dir / str(number)

    def note(self, command: str, *, complete: bool) -> None:
        """What the same command looks for."""
        noted = {"command": command, "fingerprint": self.fingerprint, "complete": complete}
        write_text(self.dir / FILE_NAME, json.dumps(noted, indent=1) + "\n")


def fingerprint_of(what: object) -> str:
    """Of all that says which trials a sweep has."""
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def claimed(
    sweep_dir: Path, fingerprint: str, *, may_go_on: bool, changed: Callable[[Path], str] = lambda _: ""
) -> Iterator[Place]:
    """The folder of the sweep, locked while the context lasts: `sweep_dir`, where Hydra has put its file, or that of
    the same sweep that is not complete. `changed` says why the results in a folder can't be gone on with; empty: they
    can. Raises RunError when another process works on it, or another sweep is there."""
    earlier = next(_unfinished(sweep_dir, fingerprint), None) if may_go_on else None
    if earlier is not None and (why := changed(earlier)):
        sys.stdout.write(f"not going on with {earlier}: {why}. A new sweep begins in {sweep_dir}\n")
        earlier = None
    folder = earlier or sweep_dir
    with _locked(folder):
        noted = _noted(folder)
        if noted and noted.get("fingerprint") != fingerprint:
            raise RunError(
                f"hydra.sweep.dir={folder}: another sweep is there, which has other trials ({noted.get('command')})\n"
                "    try: hydra.sweep.dir=<another folder>"
            )
        if noted and earlier is None and (why := changed(folder)):
            raise RunError(f"hydra.sweep.dir={folder}: {why}\n    try: hydra.sweep.dir=<another folder>")
        if earlier is not None:
            _give_up(sweep_dir)
        yield Place(folder, fingerprint, goes_on=bool(noted))


def _unfinished(sweep_dir: Path, fingerprint: str) -> Iterator[Path]:
    """The newest first, from multirun/<date>/<time>_<name>: other layouts are the user's and stay alone."""
    if not sweep_dir.parent.match(DAY) or (sweep_dir / FILE_NAME).exists():
        return
    files = sorted(sweep_dir.parent.parent.glob(f"{DAY}/*/{FILE_NAME}"), key=lambda file: file.parts[-3:], reverse=True)
    for file in files:
        noted = _noted(file.parent)
        if noted.get("fingerprint") != fingerprint:
            continue
        if noted.get("complete"):  # the same command after a complete sweep means: once more
            return
        if not is_held(file.parent / LOCK_NAME):
            yield file.parent


def _noted(folder: Path) -> dict[str, Any]:
    try:
        noted = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}


def _give_up(sweep_dir: Path) -> None:
    """The folder that Hydra made for this start, where it holds nothing but Hydra's file."""
    if {entry.name for entry in sweep_dir.iterdir()} <= {SWEEP_FILE}:
        shutil.rmtree(sweep_dir)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with lock_if_free(folder / LOCK_NAME) as is_free:
        if not is_free:
            raise RunError(f"{folder} is in use: another process works on this sweep\n    try: wait for it to end")
        yield
