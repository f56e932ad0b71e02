"""A run as its directory tells it: what it was, how far it came, how it ended. Nothing heavy is loaded for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, cast

import yaml

from pipeline.errors import RunError
from pipeline.journal import JournalReader, read_journal
from pipeline.locks import RUN_LOCK, is_held
from pipeline.outcome import FILE_NAME as OUTCOME
from pipeline.outcome import last_text, number, outcome_from
from pipeline.records import Event, Outcome, Status
from pipeline.settings import flatten
from pipeline.sweep.results import SWEEP_FILE, state_of
from pipeline.tracking.state import FILE_NAME as TRACKING

State = Literal["rendered", "running", "finished", "failed", "killed", "pruned"]
STATES: tuple[State, ...] = ("running", "finished", "failed", "killed", "pruned", "rendered")
"""running: a process holds its lock; killed: it does not say how it ended, and none does; rendered: it never began."""
CONFIG, PLAN = "config.yaml", "plan.json"
_FAST = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Run:
    """A run, and how far it came."""

    run_dir: Path
    began: float
    """Seconds since the epoch, of its first start; of one that never began, when it was rendered."""
    state: State
    reason: str
    """Why it has no weights; empty otherwise."""
    settings: Mapping[str, object]
    """Every setting under its dotted name."""
    command: str
    """What was typed; empty where it never began."""
    outcome: Outcome
    """So far."""
    planned_steps: int | None
    """Where the last step tells it."""
    mlflow_run_id: str | None

    @property
    def name(self) -> str:
        return short_name(self.run_dir)

    @property
    def sweep(self) -> str | None:
        """As MLflow's tag has it; None for a run of its own."""
        folder = self.run_dir.parent
        return f"{folder.parent.name}/{folder.name}" if is_sweep(folder) else None

    @property
    def objective(self) -> float | None:
        """What runs are compared by: the held-out loss of the finished weights; None for all others."""
        return self.outcome.heldout_after if self.state == "finished" else None


def is_run(folder: Path) -> bool:
    return (folder / CONFIG).is_file() and (folder / PLAN).is_file()


def is_sweep(folder: Path) -> bool:
    return (folder / SWEEP_FILE).is_file()


def short_name(run_dir: Path) -> str:
    """The shortest that names it: a trial has its sweep's before its number."""
    return f"{run_dir.parent.name}/{run_dir.name}" if is_sweep(run_dir.parent) else run_dir.name


def read_run(run_dir: Path) -> Run:
    """Raises RunError where the directory's files can't be read."""
    run_dir = run_dir.absolute()
    running = is_held(run_dir / RUN_LOCK)
    told = None if running else _told_outcome(run_dir)
    finished = told is not None and told.status == "finished"
    start = _first_start(run_dir)
    events = ([] if start is None else [start]) if finished else read_journal(run_dir)
    state, reason = ("finished", "") if finished else state_of(events)
    return Run(
        run_dir=run_dir,
        began=(run_dir / PLAN).stat().st_mtime if start is None else start.time,
        state="running" if running else _ended(state),
        reason="" if running else reason,
        settings=flat_config(run_dir),
        command=last_text(events, "run", "command") or "",
        outcome=told or outcome_from(events, _status(state), None),
        planned_steps=_planned(events),
        mlflow_run_id=(told.mlflow_run_id if told else None) or tracked_as(run_dir),
    )


def flat_config(run_dir: Path) -> dict[str, object]:
    """Every setting of the run by its dotted name. Raises RunError."""
    path = run_dir / CONFIG
    try:
        nested = yaml.load(path.read_text(encoding="utf-8"), _FAST)  # noqa: S506 - the C form of the safe loader
        return dict(flatten("", dict(nested)))
    except (OSError, yaml.YAMLError, TypeError, ValueError) as error:
        raise RunError(f"{path} can't be read: {error}") from error


def began_of(run_dir: Path) -> float:
    """Seconds since the epoch; see `Run.began`."""
    start = _first_start(run_dir)
    return (run_dir / PLAN).stat().st_mtime if start is None else start.time


def tracked_as(run_dir: Path) -> str | None:
    """Its MLflow run."""
    try:
        told = json.loads((run_dir / TRACKING).read_text(encoding="utf-8")).get("run_id")
    except (OSError, ValueError, AttributeError):
        return None
    return None if told is None else str(told)


def _first_start(run_dir: Path) -> Event | None:
    """Only the beginning of the journal is read."""
    return next((event for event in JournalReader(run_dir).new_events() if event.kind == "run"), None)


def _told_outcome(run_dir: Path) -> Outcome | None:
    """None also for the file of a version that kept other figures: the journal has them all."""
    try:
        told = json.loads((run_dir / OUTCOME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    known = {field.name for field in fields(Outcome)}
    return Outcome(**told) if isinstance(told, dict) and set(told) == known else None


def _ended(state: str) -> State:
    """Without a lock what says it is running was killed."""
    return cast("State", {"waiting": "rendered", "running": "killed"}.get(state, state))


def _status(state: str) -> Status:
    return cast("Status", "killed" if state in ("waiting", "running") else state)


def _planned(events: list[Event]) -> int | None:
    told = last_text(events, "step", "steps")
    return None if told is None or number(float(told)) is None else int(float(told))
