"""Ends a process that may hang inside of a driver."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess


def end_hung(process: subprocess.Popen[bytes]) -> None:
    """With its whole process group, which it must lead. What hangs in a driver may outlive SIGKILL for a while: it is
    not waited for."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=1)
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
