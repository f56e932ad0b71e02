"""What became of the trials of a sweep, read from its folder: `<sweep>/multirun.yaml` and a run directory a trial.

The folder is the truth, whoever ran the trials: this machine, a cluster, or both one after the other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import yaml

from pipeline.journal import read_journal
from pipeline.outcome import heldout_curve, last_text, outcome_from
from pipeline.records import Event, Outcome, Status

State = Literal["waiting", "running", "finished", "pruned", "failed", "killed"]
QUOTING = re.compile(r"[\\'\"\s]")
SWEEP_FILE = "multirun.yaml"


@dataclass(frozen=True, slots=True)
class Result:
    """A trial, and how far it came."""

    number: int
    run_dir: Path
    overrides: tuple[str, ...]
    """All that it was told, as typed."""
    varied: Mapping[str, str]
    """Of that what not every trial was told: key -> value as typed."""
    command: str
    """What repeats it."""
    state: State
    outcome: Outcome
    """So far."""
    curve: tuple[tuple[int, float], ...]
    """Steps and held-out losses, the first before the training where the trainer measures it."""
    reason: str
    """Why it has no weights; empty otherwise."""

    @property
    def objective(self) -> float | None:
        """What trials are ranked by: the held-out loss of the finished weights; of a trainer that measures none the
        last training loss. None unless it finished."""
        if self.state != "finished":
            return None
        after = self.outcome.heldout_after
        return self.outcome.loss_last if after is None else after


def results_of(sweep_dir: Path) -> list[Result]:
    """The trials that have begun, by number. Empty where there is no sweep."""
    shared = shared_overrides(sweep_dir)
    folders = [path for path in sweep_dir.glob("*/.hydra/overrides.yaml") if path.parent.parent.name.isdecimal()]
    numbered = sorted((path.parent.parent for path in folders), key=lambda path: int(path.name))
    return [result_of(run_dir, shared) for run_dir in numbered]


def ranked(results: Sequence[Result]) -> list[Result]:
    """The best first; those without an objective behind them, the ones that came further before others."""
    return sorted(results, key=lambda r: (r.objective is None, r.objective or 0.0, -r.outcome.steps, r.number))


def sweep_name(sweep_dir: Path) -> str:
    """`2026-11-25/12-00-00_style-ab12`."""
    folder = sweep_dir.absolute()
    return f"{folder.parent.name}/{folder.name}"


def varied_of(overrides: Sequence[str], shared: Sequence[str]) -> dict[str, str]:
    """Of a trial's overrides those that are not typed for all: key -> value. Hydra hands on `lr=1e-4` as 0.0001."""
    typed, given = _values(shared), _values(overrides)
    return {key: value for key, value in given.items() if _meaning(value) != _meaning(typed.get(key))}


def varied_in(run_dir: Path) -> dict[str, str]:
    """The same of a run directory, which may not have begun. Empty where it is no trial of a sweep."""
    sweep_dir = run_dir.absolute().parent
    if not (sweep_dir / SWEEP_FILE).exists():
        return {}
    return varied_of(_read(run_dir / ".hydra" / "overrides.yaml") or (), shared_overrides(sweep_dir))


def axes_of(results: Sequence[Result]) -> list[str]:
    """The keys whose values are not the same in all of these; of a single trial all that it varied."""
    keys = dict.fromkeys(key for result in results for key in result.varied)
    return [key for key in keys if len(results) == 1 or len({result.varied.get(key) for result in results}) > 1]


def shared_overrides(sweep_dir: Path) -> list[str]:
    """What was typed for all trials, and the axes as they were typed."""
    found: Any = _read(sweep_dir / SWEEP_FILE)
    return list(found["hydra"]["overrides"]["task"]) if found else []


def result_of(run_dir: Path, shared: Sequence[str]) -> Result:
    """Of one trial, which has a directory at least. `shared` is what was typed for all."""
    overrides = tuple(_read(run_dir / ".hydra" / "overrides.yaml") or ())
    events = read_journal(run_dir)
    state, reason = state_of(events)
    status = cast("Status", "killed" if state in ("waiting", "running") else state)
    return Result(
        number=int(run_dir.name),
        run_dir=run_dir,
        overrides=overrides,
        varied=varied_of(overrides, shared),
        command=last_text(events, "run", "command") or "",
        state=state,
        outcome=outcome_from(events, status, None),
        curve=tuple(heldout_curve(events)),
        reason=reason,
    )


def state_of(events: Sequence[Event]) -> tuple[State, str]:
    """By the newest start, and why it has no weights. A run that does not say how it ended goes on, or was killed: its
    lock would tell."""
    last = next((event for event in reversed(events) if event.kind in ("run", "end")), None)
    if last is None:
        return "waiting", ""
    if last.kind == "run":
        return "running", ""
    state: Any = last.data.get("status")
    if state == "pruned":
        return state, last_text(events, "prune", "reason") or ""
    if state == "failed":
        return state, _headline(last_text(events, "failure", "message") or str(last.data.get("cause") or ""))
    return state, ""


def failed_text(count: int, reasons: Mapping[int, str], again: str = "") -> str:
    """What is told at the end of a sweep of so many trials: number -> why it has no weights."""
    lines = [f"{len(reasons)} of {count} trials have no weights:"]
    for number, reason in reasons.items():
        first, *more = reason.splitlines() or [""]
        lines += [f"  - trial {number}: {first}", *(f"    {line.strip()}" for line in more)]
    return "\n".join([*lines, *([again] if again else [])])


def _headline(message: str) -> str:
    """Of several problems the first."""
    lines = [line.strip().removeprefix("- ") for line in message.splitlines() if line.strip()]
    several = len(lines) > 1 and lines[0].endswith("with this configuration")
    return next(iter(lines[several:]), "")


def _values(overrides: Sequence[str]) -> dict[str, str]:
    return {key.lstrip("+"): value for key, _, value in (each.partition("=") for each in overrides)}


def _meaning(value: str | None) -> object:
    """Equal for equal values, however they are typed."""
    if value is None:
        return None
    try:
        return float(value)
    except ValueError:
        return QUOTING.sub("", value)


def _read(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
