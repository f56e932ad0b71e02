"""How a run ended, as MLflow is told it: by the runner, or, where that died, by the run's own files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from pipeline.journal import read_journal
from pipeline.outcome import FILE_NAME, outcome_from
from pipeline.records import Event, Outcome, Status

MLFLOW_STATUS: Mapping[Status, str] = {
    "finished": "FINISHED",
    "failed": "FAILED",
    "killed": "KILLED",
    "pruned": "KILLED",
}


@dataclass(frozen=True, slots=True)
class Close:
    """The end of a run for MLflow."""

    outcome: Outcome
    time: float
    """Seconds since the epoch."""
    reason: str | None = None
    """Why the run was not ended by its own runner; None when it was."""


def close_of_dead_run(run_dir: Path, *, reason: str) -> Close:
    """The end that the run's own files tell: its outcome where it got that far, else killed at its last event."""
    events = read_journal(run_dir)
    time = events[-1].time if events else run_dir.stat().st_mtime
    told = _end_event(events) or _outcome_file(run_dir, since=_last_start(events))
    guessed = outcome_from(events, "killed", None)
    if told is None or told.get("status") not in MLFLOW_STATUS:
        return Close(guessed, time, reason)
    known = {field.name for field in fields(Outcome)}
    figures: dict[str, Any] = {key: _figure(value) for key, value in told.items() if key in known}
    return Close(replace(guessed, **figures), time, reason)


def _end_event(events: list[Event]) -> dict[str, object] | None:
    """Of the last start: a run that went on after its end has an older end event too."""
    for event in reversed(events):
        if event.kind == "end":
            return dict(event.data)
        if event.kind == "run":
            return None
    return None


def _outcome_file(run_dir: Path, *, since: float) -> dict[str, object] | None:
    """None also for a file from before the last start: it tells how an earlier attempt ended."""
    path = run_dir / FILE_NAME
    try:
        if path.stat().st_mtime < since:
            return None
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return dict(told) if isinstance(told, dict) else None


def _last_start(events: list[Event]) -> float:
    return max((event.time for event in events if event.kind == "run"), default=0.0)


def _figure(value: object) -> object:
    """A journal's nan and infinities are strings."""
    return float(value) if value in ("nan", "inf", "-inf") else value
