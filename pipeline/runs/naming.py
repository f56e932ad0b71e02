"""Which runs there are, and which of them is meant: by its directory, by the end of its path, or by its MLflow run."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pipeline.errors import RunError, did_you_mean
from pipeline.runs.reading import began_of, is_run, is_sweep, short_name, tracked_as

SHORTEST_ID = 6
"""Of the beginning of an MLflow run id."""
MOST_TOLD = 8
"""Of the runs that are told where a name fits none or several."""
LIST = "python -m pipeline runs list"


def runs_under(folders: Sequence[Path]) -> list[Path]:
    """The run directories, newest first; nothing inside of a run directory is one."""
    found = {run_dir for folder in folders for run_dir in _walk(folder.absolute(), is_run)}
    return sorted(found, key=lambda run_dir: (began_of(run_dir), run_dir), reverse=True)


def run_named(name: str, folders: Sequence[Path]) -> Path:
    """Raises RunError for a name of none, or of several."""
    if is_run(Path(name)):
        return Path(name).absolute()
    if is_sweep(Path(name)):
        raise RunError(_is_a_sweep(name, Path(name)))
    runs = runs_under(folders)
    found = [run_dir for run_dir in runs if _ends(run_dir, name)] or _tracked(name, runs)
    if len(found) != 1:
        sweeps = [] if found else _sweeps_named(name, folders)
        raise RunError(_is_a_sweep(name, sweeps[0]) if sweeps else _not_one(name, found, runs))
    return found[0]


def sweep_named(name: str, folders: Sequence[Path]) -> Path | None:
    """The folder of a sweep, or None where the name is none's. Raises RunError for a name of several."""
    if is_sweep(Path(name)):
        return Path(name).absolute()
    found = _sweeps_named(name, folders)
    if len(found) > 1:
        raise RunError(f"{name!r} names {len(found)} sweeps:\n{_lines(found)}\n    try: more of the path's end")
    return found[0] if found else None


def sweeps_under(folders: Sequence[Path]) -> list[Path]:
    """Newest first, by the names that they get."""
    found = {sweep for folder in folders for sweep in _walk(folder.absolute(), is_sweep)}
    return sorted(found, key=lambda sweep: (sweep.parent.name, sweep.name), reverse=True)


def _walk(folder: Path, wanted: Callable[[Path], bool]) -> Iterator[Path]:
    """What is wanted is not searched any further: a run has thousands of files, and earlier runs of its own."""
    for path, below, _ in os.walk(folder):
        if wanted(Path(path)):
            yield Path(path)
        if wanted(Path(path)) or is_run(Path(path)):
            below.clear()


def _ends(folder: Path, name: str) -> bool:
    """A bare number names no trial: every sweep has one of that number."""
    wanted = name.strip("/")
    if not wanted or (wanted.isdecimal() and is_sweep(folder.parent)):
        return False
    return re.search(rf"(^|[/_-]){re.escape(wanted)}$", str(folder)) is not None


def _tracked(name: str, runs: Sequence[Path]) -> list[Path]:
    if not re.fullmatch(rf"[0-9a-f]{{{SHORTEST_ID},32}}", name):
        return []
    return [run_dir for run_dir in runs if (tracked_as(run_dir) or "").startswith(name)]


def _sweeps_named(name: str, folders: Sequence[Path]) -> list[Path]:
    return [sweep for sweep in sweeps_under(folders) if _ends(sweep, name)]


def _is_a_sweep(name: str, sweep: Path) -> str:
    trials = sorted((each.name for each in sweep.iterdir() if is_run(each)), key=lambda each: (len(each), each))
    first = f"{sweep.name}/{trials[0]}   (one trial of {len(trials)})   or   " if trials else ""
    return f"{name} is a sweep, and one run is wanted\n    try: {first}python -m pipeline runs compare {sweep.name}"


def _not_one(name: str, found: Sequence[Path], runs: Sequence[Path]) -> str:
    if found:
        return f"{name!r} names {len(found)} runs:\n{_lines(found)}\n    try: one of these paths, or its end"
    if not runs:
        return f"there is no run {name!r}, and no other: outputs and multirun are empty\n    try: the run's directory"
    near = did_you_mean(name, [short_name(run_dir) for run_dir in runs])
    return f"there is no run {name!r}.{near} The newest are:\n{_lines(runs)}\n    try: {LIST}"


def _lines(folders: Sequence[Path]) -> str:
    """The newest of them, as they can be typed."""
    more = [f"    and {len(folders) - MOST_TOLD} more"] if len(folders) > MOST_TOLD else []
    return "\n".join([*(f"    {folder}" for folder in folders[:MOST_TOLD]), *more])
