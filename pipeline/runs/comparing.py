"""Runs beside each other: exactly the settings that differ, and the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import RunError
from pipeline.runs.naming import run_named, sweep_named
from pipeline.runs.reading import Run, is_run, read_run
from pipeline.sweep.results import ranked, results_of


@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs, and where they part."""

    runs: tuple[Run, ...]
    differing: Mapping[str, tuple[object, ...]]
    """Setting -> its value in each run; `ABSENT` where a run has no such setting."""
    best: Run | None
    """The lowest held-out loss of those that finished; None where two are equal or losses can't be compared."""
    notes: tuple[str, ...] = ()
    """What is worth knowing of them."""


class _Absent:
    """No value: null is one."""

    def __repr__(self) -> str:
        return "-"


ABSENT = _Absent()


MEASURED_WITH = (
    *("data.dir", "data.heldout_dir", "data.heldout_fraction", "data.concepts", "data.masks_dir", "data.alpha_masks"),
    *("model.", "train.resolution_px"),
)
"""Settings of what a held-out loss is measured with: where they differ, losses can't be compared."""


def compared_names(names: Sequence[str], folders: Sequence[Path]) -> Comparison:
    """Runs by their names, or the trials of the one sweep that is named. Raises RunError for other names, and for one
    run alone."""
    sweep = sweep_named(names[0], folders) if len(names) == 1 else None
    if sweep is not None:
        return compared_trials(sweep)
    runs = [read_run(run_named(name, folders)) for name in names]
    if len(runs) == 1:
        one = runs[0].name
        raise RunError(f"{one} alone can't be compared\n    try: python -m pipeline runs compare {one} ANOTHER")
    return compared(runs)


def compared(runs: Sequence[Run]) -> Comparison:
    """In the order in which they are given."""
    differing = _differing(runs)
    others = [key for key in differing if key.startswith(MEASURED_WITH)]
    if others:
        note = f"none is marked as the best: {', '.join(others)} differ, and losses can't be compared across them"
        return Comparison(tuple(runs), differing, None, (note,))
    return Comparison(tuple(runs), differing, _best(runs))


def compared_trials(sweep_dir: Path) -> Comparison:
    """The trials of a sweep, the best first. Raises RunError where there is none yet."""
    results = ranked(results_of(sweep_dir))
    begun = [read_run(result.run_dir) for result in results if is_run(result.run_dir)]
    if not begun:
        raise RunError(f"{sweep_dir} has no trial yet\n    try: again, when the first has begun")
    made = compared(begun)
    missing = len(results) - len(begun)
    notes = (f"{missing} of {len(results)} trials have no configuration",) if missing else ()
    return Comparison(made.runs, made.differing, made.best, (*made.notes, *notes))


def _best(runs: Sequence[Run]) -> Run | None:
    """None of those that are equal."""
    measured = sorted((run for run in runs if run.objective is not None), key=lambda run: run.objective or 0.0)
    alone = len(measured) > 1 and measured[0].objective != measured[1].objective
    return measured[0] if alone else None


def _differing(runs: Sequence[Run]) -> dict[str, tuple[object, ...]]:
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    rows = {key: tuple(run.settings.get(key, ABSENT) for run in runs) for key in keys}
    return {key: row for key, row in rows.items() if any(value != row[0] for value in row)}
