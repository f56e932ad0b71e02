"""Where to train: in the run's own directory, or in that of an unfinished run that the same command started before.

A run directory is unfinished when its journal has the same fingerprint, it has a whole checkpoint, no finished outcome,
and nobody holds its lock. The lock is an flock on `run.lock`: it ends with the processes that hold it, the runner and
its trainer, however they die.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline import locks, outcome
from pipeline.errors import RunError
from pipeline.journal import FILE_NAME as JOURNAL
from pipeline.journal import read_journal
from pipeline.records import Event, Outcome
from pipeline.settings import Resume

ORPHAN_SECONDS = 60.0
"""How long a trainer whose runner was killed may take to see it and to end."""

LEFT_BY_A_RUN = (
    *(
        JOURNAL,
        outcome.FILE_NAME,
        "tracking.json",
        "config.yaml",
        "plan.json",
        "explain.json",
        "job",
        "checkpoints",
        "samples",
    ),
    *("weights", "logs", "*.log", "*.png", "*.safetensors", "*.part"),
)


@dataclass(frozen=True, slots=True)
class Claim:
    """A run directory that is this process's alone."""

    run_dir: Path
    lock: int
    """The open file that holds the lock."""
    step: int | None
    """The checkpoint's step that the run goes on from; None for a fresh start."""


@contextmanager
def claimed(fingerprint: str, run_dir: Path, resume: Resume, *, say: Callable[[str], None]) -> Iterator[Claim]:
    """The directory to train in, locked while the context lasts. What an older run left in the way of a fresh one is
    moved to `earlier/`. `say` is told of what takes time. Raises RunError when another process trains in `run_dir`."""
    with locked(run_dir, say=say) as lock:
        unfinished = unfinished_run(fingerprint, run_dir, lock, say=say) if resume is Resume.auto else None
        if unfinished is None:
            set_aside(run_dir)
        claim = unfinished or Claim(run_dir, lock, None)
        try:
            (claim.run_dir / outcome.FILE_NAME).unlink(missing_ok=True)
            yield claim
        finally:
            if claim.lock != lock:
                os.close(claim.lock)


@contextmanager
def locked(run_dir: Path, *, say: Callable[[str], None]) -> Iterator[int]:
    """The lock of a run directory. Raises RunError when another process has it."""
    lock = _take_lock(run_dir, say)
    if lock is None:
        raise RunError(
            f"{run_dir} is in use: another run trains there now\n"
            "    try: wait for it to end, or hydra.run.dir=<another directory>"
        )
    try:
        yield lock
    finally:
        os.close(lock)


def unfinished_run(fingerprint: str, run_dir: Path, lock: int, *, say: Callable[[str], None]) -> Claim | None:
    """The run to go on with: the one in `run_dir`, whose lock is held, else the newest of the same outputs folder."""
    if _fingerprint(run_dir) is not None:
        return Claim(run_dir, lock, last_step(run_dir)) if _can_go_on(run_dir, fingerprint) else None
    for earlier in _earlier_runs(run_dir):
        if _fingerprint(earlier) != fingerprint:
            continue
        if outcome.is_finished(read_journal(earlier)):  # the same command after a finished run means: once more
            return None
        taken = _take_lock(earlier, say)
        if taken is not None and _can_go_on(earlier, fingerprint):
            return Claim(earlier, taken, last_step(earlier))
        if taken is not None:
            os.close(taken)
    return None


def done_before(run_dir: Path, fingerprint: str) -> Outcome | None:
    """How the same run ended here, where it needs no more training: with its weights, or because a sweep gave it up.
    One whose runner was killed between the weights and the end has them too."""
    if _fingerprint(run_dir) != fingerprint:
        return None
    events = read_journal(run_dir)
    status = outcome.status_of(events) or ("finished" if _saved_weights(run_dir, events) else None)
    return outcome.outcome_from(events, status, None) if status in ("finished", "pruned") else None


def _saved_weights(run_dir: Path, events: Sequence[Event]) -> bool:
    """By its newest start, and they are there still."""
    last = next((event for event in reversed(events) if event.kind in ("run", "weights")), None)
    return last is not None and last.kind == "weights" and (run_dir / str(last.data.get("path"))).exists()


def set_aside(run_dir: Path) -> Path | None:
    """Moves what an older run left in `run_dir` to `earlier/<n>`, and nothing that is not a run's."""
    if not (run_dir / JOURNAL).exists():
        return None
    numbers = [int(path.name) for path in run_dir.glob("earlier/*") if path.name.isdecimal()]
    earlier = run_dir / "earlier" / str(max(numbers, default=0) + 1)
    earlier.mkdir(parents=True)
    for path in sorted({path for pattern in LEFT_BY_A_RUN for path in run_dir.glob(pattern)}):
        path.rename(earlier / path.name)
    return earlier


def last_step(run_dir: Path) -> int | None:
    """The step of the newest checkpoint."""
    return next((step for step, _ in checkpoints(run_dir)), None)


def checkpoints(run_dir: Path) -> list[tuple[int, Path]]:
    """Step and folder of all that can be gone on from, the newest first: what the journal tells of and is still there,
    and the native trainer's folders, which are whole by their names (one that is being written has another)."""
    told = {
        run_dir / str(event.data.get("path")): int(str(event.data.get("step")))
        for event in read_journal(run_dir)
        if event.kind == "checkpoint"
    }
    for path in run_dir.glob("checkpoints/*"):
        name = re.fullmatch(r"step-(\d+)", path.name)
        if name:
            told[path] = int(name[1])
    return sorted(((step, path) for path, step in told.items() if path.is_dir()), reverse=True)


def _can_go_on(run_dir: Path, fingerprint: str) -> bool:
    """Without a checkpoint there is nothing to go on from, and a fresh journal is the truer one."""
    same = _fingerprint(run_dir) == fingerprint
    return same and not outcome.is_finished(read_journal(run_dir)) and last_step(run_dir) is not None


def _earlier_runs(run_dir: Path) -> Iterator[Path]:
    """Newest first, from outputs/<date>/<time>_<name>: other layouts are the user's, or a sweep's, and stay alone."""
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", run_dir.parent.name):
        return
    journals = run_dir.parent.parent.glob(f"????-??-??/*/{JOURNAL}")
    others = (journal.parent for journal in journals if journal.parent != run_dir)
    yield from sorted(others, key=lambda path: (path.parent.name, path.name), reverse=True)


def _fingerprint(run_dir: Path) -> str | None:
    """Of the newest start; None where there is no journal."""
    run = last_start(run_dir)
    return None if run is None else str(run.data.get("fingerprint"))


def last_start(run_dir: Path) -> Event | None:
    """The newest `run` event of the journal."""
    runs = [event for event in read_journal(run_dir) if event.kind == "run"]
    return runs[-1] if runs else None


def _take_lock(run_dir: Path, say: Callable[[str], None]) -> int | None:
    """None when another process holds it. An orphaned trainer is waited for: it ends by itself."""
    run_dir.mkdir(parents=True, exist_ok=True)
    lock = os.open(run_dir / locks.RUN_LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    if locks.take(lock):
        return lock
    if _is_orphan(run_dir):
        say(f"waiting for the trainer in {run_dir} to end: its runner was killed")
        deadline = time.monotonic() + ORPHAN_SECONDS
        while time.monotonic() < deadline:
            time.sleep(0.2)
            if locks.take(lock):
                return lock
    os.close(lock)
    return None


def _is_orphan(run_dir: Path) -> bool:
    """Whether the runner that wrote the journal is gone, as far as this host can tell."""
    run = last_start(run_dir)
    if run is None or run.data.get("host") != socket.gethostname():
        return False
    try:
        os.kill(int(str(run.data.get("pid"))), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
