"""`outcome.json`, how a run ended, and the figures in it, which come from the run's whole journal: one that went on
after a stop keeps the first loss of its first start."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import cast

from pipeline.errors import Cause
from pipeline.files import write_text
from pipeline.journal import read_journal
from pipeline.records import Event, Outcome, Status

FILE_NAME = "outcome.json"
HELDOUT = "heldout/loss"


def outcome_from(events: Sequence[Event], status: Status, cause: Cause | None) -> Outcome:
    """The figures of a run, made out from its journal."""
    losses = _numbers(events, "step", "loss")
    heldout = heldout_curve(events)
    before = [value for step, value in heldout if step == 0]
    after = [(value, step) for step, value in heldout if step > 0]
    best = min(after, default=(None, None))
    memory = [*_numbers(events, "step", "memory_bytes"), *_numbers(events, "weights", "memory_bytes")]
    steps = _numbers(events, "step", "step")
    return Outcome(
        status=status,
        cause=None if cause is None else cause.value,
        weights=last_text(events, "weights", "path"),
        steps=int(steps[-1]) if steps else 0,
        seconds=round(sum(_seconds_of_each_start(events)), 3),
        loss_first=losses[0] if losses else None,
        loss_last=losses[-1] if losses else None,
        heldout_before=before[0] if before else None,
        heldout_after=after[-1][0] if after else None,
        heldout_best=best[0],
        heldout_best_step=best[1],
        peak_memory_bytes=int(max(memory)) if memory else None,
        mlflow_run_id=None,
    )


def heldout_curve(events: Sequence[Event]) -> list[tuple[int, float]]:
    """Steps and losses of the held-out pictures; not every trainer measures before the first step. A step that was
    gone back to, after a stop, has its newest loss."""
    found = {}
    for event in events:
        if event.kind == "metric":
            values = cast("dict[str, object]", event.data.get("values") or {})
            value = number(values.get(HELDOUT))
            if value is not None:
                found[int(number(event.data.get("step")) or 0)] = value
    return sorted(found.items())


def write_outcome(run_dir: Path, outcome: Outcome) -> None:
    """Whole or not at all."""
    write_text(run_dir / FILE_NAME, json.dumps(asdict(outcome), indent=1) + "\n")


def has_outcome(run_dir: Path) -> bool:
    return (run_dir / FILE_NAME).exists()


def status_of(events: Sequence[Event]) -> Status | None:
    """How the newest start of the run ended; None where it does not say. Asked of the journal, which knows before the
    outcome is written: that waits for MLflow."""
    starts_and_ends = [event for event in events if event.kind in ("run", "end")]
    return cast("Status | None", starts_and_ends[-1].data.get("status")) if starts_and_ends else None


def is_finished(events: Sequence[Event]) -> bool:
    """Whether the newest start of the run ended with its weights."""
    return status_of(events) == "finished"


def last_text(events: Sequence[Event], kind: str, name: str) -> str | None:
    """A field of the newest event of a kind, as text."""
    values = [event.data.get(name) for event in events if event.kind == kind]
    return None if not values or values[-1] is None else str(values[-1])


def number(value: object) -> float | None:
    """Finite numbers only: the journal tells nan and infinity as strings, and an outcome has no place for them."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def recorded(run_dir: Path, status: Status, cause: Cause | None) -> Outcome:
    """The outcome of the run in this directory."""
    return outcome_from(read_journal(run_dir), status, cause)


def _numbers(events: Sequence[Event], kind: str, name: str) -> list[float]:
    found = (number(event.data.get(name)) for event in events if event.kind == kind)
    return [value for value in found if value is not None]


def _seconds_of_each_start(events: Sequence[Event]) -> Iterator[float]:
    """The time between two starts of a run is nobody's."""
    began: float | None = None
    last = 0.0
    for event in events:
        if event.kind == "run":
            if began is not None:
                yield last - began
            began = event.time
        last = event.time
    if began is not None:
        yield last - began
