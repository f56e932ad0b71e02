"""`tracking.json` in the run directory: which MLflow run this is, and how much of the journal it has.

It is written after what it says was sent, so that a kill in between sends a batch twice and never loses one: MLflow
keeps one copy of a metric that comes again with the same name, step and time.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.errors import TrackingError
from pipeline.files import write_text
from pipeline.tracking.description import Description, description_from

FILE_NAME = "tracking.json"


@dataclass(frozen=True, slots=True)
class State:
    """How far the feed of one run has come."""

    uri: str
    """Of the store, without credentials."""
    store_dir: str
    experiment: str
    key: str
    """A random tag of the MLflow run: finds it when the runner died before `run_id` was saved."""
    owner: str
    """The process that feeds; see `pipeline.tracking.owner`."""
    description: Description
    """Of the last start."""
    experiment_id: str | None = None
    run_id: str | None = None
    offset: int = 0
    """Bytes of the journal that MLflow has."""
    closed: bool = False
    """The MLflow run has its final status and artifacts."""


def load_state(run_dir: Path) -> State | None:
    """None when the run has no tracking.json. Raises TrackingError when the file can't be understood."""
    path = run_dir / FILE_NAME
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return State(**{**fields, "description": description_from(fields["description"])})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise TrackingError(
            f"{path} can't be read ({error})\n    try: rm {path}   (a run that goes on then gets a new MLflow run)"
        ) from error


def save_state(run_dir: Path, state: State) -> None:
    """Replaces the file as a whole. Raises OSError."""
    write_text(run_dir / FILE_NAME, json.dumps(asdict(state), indent=1) + "\n")
