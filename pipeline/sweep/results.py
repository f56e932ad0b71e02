"""What became of the trials of a sweep, read from its folder: `<sweep>/multirun.yaml` and a run directory a trial.

The folder is the truth, whoever ran the trials: this machine, a cluster, or both one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import yaml

from pipeline.journal import read_journal
from pipeline.outcome import heldout_curve, last_text, outcome_from
from pipeline.records import Event, Outcome, Status

State = Literal["waiting", "running", "finished", "pruned", "failed", "killed"]
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
    return [_result(run_dir, shared) for run_dir in numbered]


def ranked(results: Sequence[Result]) -> list[Result]:
    """The best first; those without an objective behind them, the ones that came further before others."""
    return sorted(results, key=lambda r: (r.objective is None, r.objective or 0.0, -r.outcome.steps, r.number))


def varied_of(overrides: Sequence[str], shared: Sequence[str]) -> dict[str, str]:
    """Of a trial's overrides those that are not typed for all: key -> value."""
    own = [each for each in overrides if each not in shared]
    return {key.lstrip("+"): value for key, _, value in (each.partition("=") for each in own)}


def shared_overrides(sweep_dir: Path) -> list[str]:
    """What was typed for all trials, and the axes as they were typed."""
    found: Any = _read(sweep_dir / SWEEP_FILE)
    return list(found["hydra"]["overrides"]["task"]) if found else []


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
        return state, (last_text(events, "failure", "message") or str(last.data.get("cause") or "")).partition("\n")[0]
    return state, ""


def _result(run_dir: Path, shared: Sequence[str]) -> Result:
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


def _read(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
