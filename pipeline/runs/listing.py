"""The runs in a list: the newest first, or the best."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from pipeline.errors import RunError
from pipeline.runs.naming import runs_under, sweep_named, sweeps_under
from pipeline.runs.reading import Run, State, read_run


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which runs are listed."""

    sweep: str | None = None
    """A sweep's name; None: of all."""
    state: State | None = None
    best: bool = False
    """By the held-out loss, the lowest first; runs that have none are left out."""
    limit: int = 20


@dataclass(frozen=True, slots=True)
class Listing:
    """The runs that are wanted, and what could not be read."""

    runs: tuple[Run, ...]
    unreadable: tuple[str, ...]


def listed(folders: Sequence[Path], wanted: Wanted) -> Listing:
    """Reads no more runs than it takes. Raises RunError for a sweep that is not there."""
    unreadable: list[str] = []
    runs = _read(runs_under(_searched(folders, wanted.sweep)), unreadable)
    chosen: Iterator[Run] = (run for run in runs if wanted.state in (None, run.state))
    if wanted.best:
        measured = [run for run in chosen if run.objective is not None]
        chosen = iter(sorted(measured, key=lambda run: run.objective or 0.0))
    return Listing(tuple(islice(chosen, wanted.limit)), tuple(unreadable))


def _searched(folders: Sequence[Path], sweep: str | None) -> list[Path]:
    if sweep is None:
        return list(folders)
    found = sweep_named(sweep, folders)
    if found is None:
        names = ", ".join(each.name for each in sweeps_under(folders)[:8]) or "none"
        raise RunError(f"there is no sweep {sweep!r}; there are: {names}\n    try: python -m pipeline runs list")
    return [found]


def _read(run_dirs: Sequence[Path], unreadable: list[str]) -> Iterator[Run]:
    """One that is damaged, or is being deleted, keeps no other from being told."""
    for run_dir in run_dirs:
        try:
            yield read_run(run_dir)
        except (RunError, OSError) as error:
            unreadable.append(str(error))
