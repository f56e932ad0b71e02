"""Runs as tables, lines and JSON."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.errors import RunError
from pipeline.explanation import FILE_NAME as EXPLANATION
from pipeline.runs.comparing import ABSENT, Comparison
from pipeline.runs.listing import Listing
from pipeline.runs.reading import PLAN, Run
from pipeline.tracking.masking import Masker, masked_command, masked_value, without_credentials
from pipeline.tracking.state import State as Tracked
from pipeline.tracking.state import load_state
from pipeline.wording import duration, short_path, size

COLUMNS_OF_RUNS = 4
"""So many runs are compared side by side; of more each has a row."""
WIDEST = 160
GRID = "final_grid.png"
GIVEN_NAME = re.compile(r"\d\d-\d\d-\d\d_(.+-([0-9a-f]{4}))")
"""Of a sweep's folder: its time, its profile and four characters."""


# ------------------------------------------------------------------------------------------------------------- a list


def print_listing(listing: Listing) -> None:
    """A row a run; with trials among them a column of sweeps. Both names are as short as they may be typed."""
    in_sweeps = any(run.sweep for run in listing.runs)
    sweep = ("sweep",) if in_sweeps else ()
    titles = ("run", *sweep, "when", "state", "model", "profile", "mode", "steps", "held-out loss")
    _print_table(titles, [_row(run, in_sweeps=in_sweeps) for run in listing.runs], folded=False)
    if not listing.runs:
        _print_lines(["there are no such runs"])
    _print_lines([f"left out: {text}" for text in listing.unreadable])


def _row(run: Run, *, in_sweeps: bool) -> tuple[str, ...]:
    given = GIVEN_NAME.match(run.name) if run.sweep else None
    return (
        run.name[given.start(1) :] if given else run.name,
        *((_sweep_words(run),) if in_sweeps else ()),
        _when(run.began),
        run.state,
        *(_words(run.settings.get(key)) for key in ("model.name", "profile.name", "mode.name")),
        _steps(run),
        _heldout(run),
    )


def _sweep_words(run: Run) -> str:
    folder = run.run_dir.parent.name
    given = GIVEN_NAME.fullmatch(folder)
    return "" if run.sweep is None else given[2] if given else folder


def _when(began: float) -> str:
    """Without a year that is this one."""
    then, now = time.localtime(began), time.localtime()
    return time.strftime("%m-%d %H:%M" if then.tm_year == now.tm_year else "%Y-%m-%d %H:%M", then)


def _steps(run: Run) -> str:
    cut_short = run.planned_steps is not None and run.outcome.steps < run.planned_steps
    return f"{run.outcome.steps}/{run.planned_steps}" if cut_short else str(run.outcome.steps or "")


def _heldout(run: Run) -> str:
    before, after = run.outcome.heldout_before, run.outcome.heldout_after
    return "" if before is None and after is None else f"{_loss(before) or '?'} -> {_loss(after) or '?'}"


def _loss(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def listing_json(listing: Listing) -> str:
    """One object: the runs, and what could not be read."""
    runs = [_object(run) for run in listing.runs]
    return json.dumps({"runs": runs, "unreadable": listing.unreadable}, indent=1)


def _object(run: Run) -> dict[str, Any]:
    names = {key: run.settings.get(f"{key}.name") for key in ("model", "profile", "mode")}
    return {
        "name": run.name,
        "run_dir": str(run.run_dir),
        "began": run.began,
        "state": run.state,
        "reason": run.reason,
        **names,
        "sweep": run.sweep,
        "planned_steps": run.planned_steps,
        "outcome": asdict(run.outcome),
        "mlflow_run_id": run.mlflow_run_id,
        "command": masked_command(run.command, Masker(os.environ)),
    }


# --------------------------------------------------------------------------------------------------------------- one


def print_run(run: Run) -> None:
    """What it was, what was decided and why, how it ended, and what it left."""
    told = _told(run)
    _print_lines([run.name, *_was(run, told), ""])
    if told["choices"]:
        _print_table(("decided", "value", "why"), [_choice_row(choice) for choice in told["choices"]])
        _print_lines([""])
    _print_lines(["Settings that were given", *_given(run), ""])
    _print_lines(["How it ended", *_ended(run), "", "Files", *_left(run, told)])


def run_json(run: Run) -> str:
    """One object, with every setting and its source."""
    settings = {key: _masked(key, value) for key, value in run.settings.items()}
    told = {"settings": settings, "origins": _origins(run.run_dir), **_told(run)}
    return json.dumps({**_object(run), **told}, indent=1, ensure_ascii=False)


def _told(run: Run) -> dict[str, Any]:
    """Of the plan what is told of it, and the run's files."""
    plan, tracked = _plan(run.run_dir), _tracked(run.run_dir)
    checkpoint, dataset, machine = (plan.get(part) or {} for part in ("checkpoint", "dataset", "machine"))
    files = {name: path for name, path in _files(run) if path.exists()}
    return {
        "checkpoint": {key: checkpoint.get(key) for key in ("path", "title", "digest")},
        "dataset": {
            **{key: dataset.get(key) for key in ("name", "dir", "digest")},
            **{key: len(dataset.get(key) or ()) for key in ("train", "heldout")},
        },
        "machine": {key: machine.get(key) for key in ("platform", "device_names", "cpu_cores", "torch_version")},
        "made_with": plan.get("made_with"),
        "precision": plan.get("precision"),
        "fingerprint": plan.get("fingerprint"),
        "choices": plan.get("choices") or [],
        "warnings": plan.get("warnings") or [],
        "files": {name: str(path) for name, path in files.items()},
        "page": _page(tracked),
    }


def _plan(run_dir: Path) -> dict[str, Any]:
    try:
        plan: dict[str, Any] = json.loads((run_dir / PLAN).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{run_dir / PLAN} can't be read: {error}") from error
    return plan


def _tracked(run_dir: Path) -> Tracked | None:
    """A damaged file is told of where a run goes on; here the rest counts."""
    try:
        return load_state(run_dir)
    except RunError:
        return None


def _page(tracked: Tracked | None) -> str | None:
    from pipeline.tracking.store import page_url, store_at

    if tracked is None or tracked.run_id is None or tracked.experiment_id is None:
        return None
    store = store_at(without_credentials(tracked.uri), tracked.store_dir)
    return page_url(store, tracked.experiment_id, tracked.run_id)


def _was(run: Run, told: Mapping[str, Any]) -> Iterator[str]:
    checkpoint, dataset, machine = told["checkpoint"], told["dataset"], told["machine"]
    yield from _line("command", masked_command(run.command, Masker(os.environ)))
    yield from _line("repeat", f"python -m pipeline runs repeat {run.name}")
    yield from _line("model", f"{checkpoint['title'] or run.settings.get('model.name')}, {checkpoint['path']}")
    yield from _line("", f"digest {_short(checkpoint['digest'])}")
    pictures = f"{dataset['train']} + {dataset['heldout']} pictures"
    yield from _line("dataset", f"{dataset['name']}, {pictures}, {dataset['dir']}")
    yield from _line("", f"digest {_short(dataset['digest'])}")
    devices = ", ".join(machine["device_names"] or ())
    yield from _line("machine", f"{machine['platform']}: {devices}, {machine['cpu_cores']} cores, {told['precision']}")
    yield from _line("made with", _made_with(told))
    for warning in told["warnings"]:
        yield from _line("warning", warning)


def _made_with(told: Mapping[str, Any]) -> str:
    made = told["made_with"]
    if not made:
        return f"torch {told['machine']['torch_version']}"
    commit = f", commit {made['commit'][:12]}{' and changes' if made['dirty'] else ''}" if made["commit"] else ""
    return f"torch {made['packages'].get('torch', '?')}, diffusers {made['packages'].get('diffusers', '?')}{commit}"


def _short(digest: str | None) -> str:
    return digest[:12] if digest else "unknown"


def _choice_row(choice: Mapping[str, Any]) -> tuple[str, ...]:
    return choice["key"], _words(choice["value"]), choice["reason"]


def _given(run: Run) -> Iterator[str]:
    """On the command line or in an experiment."""
    rows = [row for row in _origins(run.run_dir) if str(row["source"]).startswith(("command line", "conf/experiment"))]
    for row in rows:
        yield from _line(str(row["key"]), f"{_words(row['value'])}   ({row['source']})", width=32)
    if not rows:
        yield "  none"


def _origins(run_dir: Path) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = json.loads((run_dir / EXPLANATION).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return rows


def _ended(run: Run) -> Iterator[str]:
    outcome = run.outcome
    cause = f" ({outcome.cause})" if outcome.cause else ""
    yield from _line("state", f"{run.state}{cause}" + (f": {run.reason}" if run.reason else ""))
    for title, value in _figures(run).items():
        yield from _line(title, value)


def _figures(run: Run) -> dict[str, str]:
    """Those that there are, by their names."""
    outcome = run.outcome
    best = outcome.heldout_best
    figures = {
        "steps": _steps(run),
        "time": duration(outcome.seconds) if outcome.seconds else "",
        "loss": f"{_loss(outcome.loss_first)} -> {_loss(outcome.loss_last)}" if outcome.loss_last is not None else "",
        "held-out loss": _heldout(run),
        "its lowest": "" if best is None else f"{_loss(best)} at step {outcome.heldout_best_step}",
        "peak memory": "" if outcome.peak_memory_bytes is None else size(outcome.peak_memory_bytes),
    }
    return {name: value for name, value in figures.items() if value}


def _files(run: Run) -> Iterator[tuple[str, Path]]:
    yield "run", run.run_dir
    if run.outcome.weights:
        yield "weights", run.run_dir / run.outcome.weights
    yield "grid", run.run_dir / GRID
    yield "log", run.run_dir / "trainer.log"


def _left(run: Run, told: Mapping[str, Any]) -> Iterator[str]:
    for name, path in told["files"].items():
        yield from _line(name, short_path(Path(path)))
    yield from _line("MLflow run", told["page"] or run.mlflow_run_id)


# -------------------------------------------------------------------------------------------------------- side by side


def print_comparison(comparison: Comparison) -> None:
    """Runs side by side; of many each has a row."""
    figures = [_figures(run) for run in comparison.runs]
    rows = {key: [_shown(key, value) for value in values] for key, values in comparison.differing.items()}
    rows |= {"state": [run.state for run in comparison.runs]}
    for name in dict.fromkeys(name for each in figures for name in each):
        rows[name] = [each.get(name, "") for each in figures]
    names = [f"{run.name}{' (best)' if run is comparison.best else ''}" for run in comparison.runs]
    if len(names) <= COLUMNS_OF_RUNS:
        _print_table(("", *names), [(key, *values) for key, values in rows.items()])
    else:
        columns = zip(*rows.values(), strict=True)
        _print_table(("run", *rows), [(name, *cells) for name, cells in zip(names, columns, strict=True)])
    alike = [] if comparison.differing else ["their settings are the same"]
    _print_lines([*alike, *comparison.notes])


def comparison_json(comparison: Comparison) -> str:
    """One object: the runs, each with its value of the settings that differ, and which is the best."""
    runs = []
    for index, run in enumerate(comparison.runs):
        values = {key: row[index] for key, row in comparison.differing.items() if row[index] is not ABSENT}
        told = {key: _masked(key, value) for key, value in values.items()}
        runs.append({**_object(run), "differing": told, "best": run is comparison.best})
    return json.dumps({"differing": list(comparison.differing), "runs": runs, "notes": comparison.notes}, indent=1)


def _shown(key: str, value: object) -> str:
    return repr(value) if value is ABSENT else _words(_masked(key, value))


# ------------------------------------------------------------------------------------------------------------- layout


def _masked(key: str, value: object) -> object:
    """What is told is copied into mails and reports: no secrets."""
    return value if value is ABSENT else masked_value(key, value, Masker(os.environ))


def _words(value: object) -> str:
    """As it would be typed."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _line(name: str, value: str | None, *, width: int = 16) -> Iterator[str]:
    if value:
        yield f"  {name:<{width}}{value}"


def _print_lines(lines: Sequence[str]) -> None:
    from rich.console import Console

    console = Console()
    for line in lines:
        style = "bold" if line and not line.startswith(" ") else None
        console.print(line, style=style, highlight=False, markup=False, soft_wrap=True)


def _print_table(titles: Sequence[str], rows: Sequence[Sequence[str]], *, folded: bool = True) -> None:
    """Long cells are folded to the terminal's width; of short ones the lines may be longer."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not rows:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, overflow="fold", no_wrap=not folded or title == titles[0])
    for row in rows:
        table.add_row(*map(Text, row))
    seen = Console()
    width = min(seen.width, WIDEST) if folded and seen.is_terminal else WIDEST
    Console(width=width).print(table)
