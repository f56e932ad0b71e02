"""Locks on files: they end with the process that holds them, however it dies."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import TrackingError

RUN_LOCK = "run.lock"
"""Held by the runner, and by its trainer, as long as they are at work in a run directory."""
_POLL_SECONDS = 0.1


@contextmanager
def locked(path: Path, *, wait_seconds: float) -> Iterator[None]:
    """Holds an exclusive lock on the file. Raises TrackingError when another process keeps it for `wait_seconds`."""
    deadline = time.monotonic() + wait_seconds
    with path.open("a") as file:
        while not take(file.fileno()):
            if time.monotonic() > deadline:
                raise TrackingError(f"{path} is locked by another process for more than {wait_seconds:g} seconds")
            time.sleep(_POLL_SECONDS)
        yield


@contextmanager
def lock_if_free(path: Path) -> Iterator[bool]:
    """True, and the lock is held, unless another process holds it."""
    with path.open("a") as file:
        yield take(file.fileno())


def is_held(path: Path) -> bool:
    """Whether a process holds the lock now. Asked with a shared lock for a moment; no file is made."""
    try:
        with path.open("rb") as file:
            return not take(file.fileno(), fcntl.LOCK_SH)
    except OSError:
        return False


def take(file: int, kind: int = fcntl.LOCK_EX) -> bool:
    """Whether this process has the lock of the open file now, which it keeps until the file is closed."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
