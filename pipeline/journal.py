"""The event journal of a run: `journal.jsonl` in the run directory, one JSON object a line, the truth about the run.

Runner and trainer both append to it, each line in one write. What is shown and what MLflow gets is read from it.

    kind        data
    run         name, command, fingerprint, pid, host: written by the runner at each start (again when it goes on)
    stage       name, seconds, summary, succeeded
    choice      key, value, reason: an automatic choice
    phase       text: what the trainer is busy with before and after the loop ("encoding 24 pictures")
    step        step, steps, loss, lr, steps_per_second, memory_bytes: one optimizer update
    metric      step, values: {name: number}, names as MLflow shows them ("heldout/loss")
    sample      step, index, prompt, seed, path (relative to the run directory)
    checkpoint  step, path
    weights     path: the finished weights; memory_bytes, where the trainer measures it: the peak of all phases
    warning     text
    failure     cause (a value of pipeline.errors.Cause), message, and fix where it knows one: the trainer's own word
                on why it stops
    prune       reason: a sweep asks this trial to stop
    end         status, cause, and the other fields of Outcome
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

from pipeline.records import Event, Kind

FILE_NAME = "journal.jsonl"


class Journal:
    """Appends events; safe to use from several processes at once, since a line is one O_APPEND write."""

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / FILE_NAME
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._end_torn_line()

    def write(self, kind: Kind, **data: object) -> Event:
        event = Event(kind=kind, time=time.time(), data=data)
        fields = {"kind": kind, "time": event.time, **{key: _finite(value) for key, value in data.items()}}
        os.write(self._file, json.dumps(fields, allow_nan=False).encode() + b"\n")
        return event

    def close(self) -> None:
        os.fsync(self._file)
        os.close(self._file)

    def _end_torn_line(self) -> None:
        """A writer that was killed may have left half a line: the next event must not be glued to it."""
        with self.path.open("rb") as existing:
            existing.seek(0, os.SEEK_END)
            if existing.tell() and not _ends_with_newline(existing.fileno(), existing.tell()):
                os.write(self._file, b"\n")


class JournalReader:
    """Reads the events that were appended since the last call."""

    def __init__(self, run_dir: Path, *, offset: int = 0) -> None:
        self.path = run_dir / FILE_NAME
        self.offset = offset

    def new_events(self) -> Iterator[Event]:
        """Whole lines only: the rest of a line that is still being written comes with a later call."""
        if not self.path.exists():
            return
        with self.path.open("rb") as lines:
            lines.seek(self.offset)
            for line in lines:
                if not line.endswith(b"\n"):
                    return
                self.offset += len(line)
                event = _parse(line)
                if event is not None:
                    yield event


def read_journal(run_dir: Path) -> list[Event]:
    """All events of a run; torn lines are left out."""
    return list(JournalReader(run_dir).new_events())


def _parse(line: bytes) -> Event | None:
    try:
        data = json.loads(line)
    except ValueError:
        return None
    return Event(kind=data.pop("kind"), time=data.pop("time"), data=data)


def _finite(value: object) -> object:
    """JSON has no nan and no infinity: they are written as the strings 'nan', 'inf' and '-inf'."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _ends_with_newline(file: int, size: int) -> bool:
    return os.pread(file, 1, size - 1) == b"\n"
