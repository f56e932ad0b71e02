"""The report of a sweep, in its folder: which trial was best, and what it looks like.

ranking.json     the trials as data, the best first
grid.png         their last samples, a row a trial
curves.png       their held-out losses by step
importance.png   how much each setting that varied mattered
report.html      all of it on one page that needs no other file and no network
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pipeline.errors import UnreadableFile
from pipeline.files import write_text
from pipeline.locks import RUN_LOCK, lock_if_free
from pipeline.sweep.importance import importance_of
from pipeline.sweep.page import page
from pipeline.sweep.pictures import Picture, curves_of, grid_of
from pipeline.sweep.results import Result, axes_of, ranked, results_of, sweep_name

RANKING = "ranking.json"
GRID = "grid.png"
CURVES = "curves.png"
IMPORTANCE = "importance.png"
PAGE = "report.html"

Draw = Callable[[Sequence[Result], str], Picture]
DRAWN: Mapping[str, Draw] = {CURVES: curves_of, IMPORTANCE: importance_of, GRID: grid_of}
"""In the order of the page."""


@dataclass(frozen=True, slots=True)
class Report:
    """A written report."""

    sweep_dir: Path
    name: str
    """`<parent>/<folder>`, as the trials are tagged in MLflow."""
    results: tuple[Result, ...]
    """The best first."""
    axes: tuple[str, ...]
    """The keys whose values are not the same in all trials."""
    files: tuple[Path, ...]
    left_out: tuple[str, ...]
    """Pictures that there is nothing to draw for, and why."""

    @property
    def best(self) -> Result | None:
        """None while no trial has finished."""
        return best_of(self.results)


def write_report(sweep_dir: Path) -> Report:
    """Writes the files anew, over older ones. Raises UnreadableFile where there is no sweep, OSError for the disk."""
    results = ranked([_living(result) for result in results_of(sweep_dir)])
    if not results:
        raise UnreadableFile(f"{sweep_dir} is not the folder of a sweep: no trial has begun in it")
    name = sweep_name(sweep_dir)
    pictures = [_drawn(draw, results, file) for file, draw in DRAWN.items()]
    for picture in pictures:
        _write_picture(sweep_dir / picture.name, picture)
    write_text(sweep_dir / RANKING, ranking_json(name, results) + "\n")
    write_text(sweep_dir / PAGE, page(name, results, pictures))
    drawn = [picture.name for picture in pictures if picture.png is not None]
    return Report(
        sweep_dir=sweep_dir,
        name=name,
        results=tuple(results),
        axes=tuple(axes_of(results)),
        files=tuple(sweep_dir / file for file in (RANKING, *drawn, PAGE)),
        left_out=tuple(f"no {picture.name}: {picture.note}" for picture in pictures if picture.png is None),
    )


def best_of(results: Sequence[Result]) -> Result | None:
    """Of ranked ones; None while no trial has finished."""
    return results[0] if results and results[0].objective is not None else None


def ranking_json(name: str, results: Sequence[Result]) -> str:
    """One object: the sweep, what varied, and its trials, the best first."""
    trials = [_entry(rank, result) for rank, result in enumerate(results, 1)]
    return json.dumps({"sweep": name, "axes": axes_of(results), "trials": trials}, indent=1)


def _living(result: Result) -> Result:
    """A trial that never said how it ended was killed where nobody holds its lock."""
    lock = result.run_dir / RUN_LOCK
    if result.state != "running" or not lock.exists():
        return result
    with lock_if_free(lock) as is_free:
        return replace(result, state="killed", reason="its process is gone") if is_free else result


def _entry(rank: int, result: Result) -> dict[str, object]:
    """Those without an objective have no rank."""
    figures = asdict(result.outcome)
    del figures["status"]  # `state` knows of those that have not ended
    return {
        "rank": rank if result.objective is not None else None,
        "number": result.number,
        "varied": dict(result.varied),
        "objective": result.objective,
        "state": result.state,
        "reason": result.reason,
        **figures,
        "command": result.command,
        "run_dir": str(result.run_dir),
    }


def _drawn(draw: Draw, results: Sequence[Result], file: str) -> Picture:
    """A sweep of hours does not lose its ranking for want of a library."""
    try:
        return draw(results, file)
    except ImportError as error:
        return Picture(file, None, f"a library can't be imported: {error}")


def _write_picture(path: Path, picture: Picture) -> None:
    """Whole or not at all; an older one goes where there is nothing to draw."""
    if picture.png is None:
        path.unlink(missing_ok=True)
        return
    unfinished = path.with_name(f"{path.name}.part")
    unfinished.write_bytes(picture.png)
    unfinished.replace(path)
