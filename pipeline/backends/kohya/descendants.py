"""The processes under this one: how much memory they use, and their end."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys
import time

import psutil

GRACE_SECONDS = 5.0
"""After SIGTERM. sd-scripts has nothing to save, so that it only has to let go of the device."""
KILL_SECONDS = 10.0
"""For the system to take away what was killed."""
LOOK_SECONDS = 0.05
PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """On Linux, what a dead child leaves behind becomes a child of this process, in whatever group it is."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_all(command: subprocess.Popen[bytes], *, politely: bool) -> None:
    """Returns when nothing is left of the command and of all that it started."""
    if politely:
        _signal_all("terminate")
        _wait_until_gone(command, GRACE_SECONDS)
    deadline = time.monotonic() + KILL_SECONDS
    while _living() and time.monotonic() < deadline:
        _signal_all("kill")  # again: something may have been started meanwhile
        _wait_until_gone(command, LOOK_SECONDS)
    command.wait()


def resident_bytes() -> int:
    """Of the largest of the processes below."""
    sizes = []
    for process in _living():
        with contextlib.suppress(psutil.Error):
            sizes.append(int(process.memory_info().rss))
    return max(sizes, default=0)


def _wait_until_gone(command: subprocess.Popen[bytes], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while (command.poll() is None or _living()) and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)


def _signal_all(name: str) -> None:
    for process in _living():
        with contextlib.suppress(psutil.Error):
            getattr(process, name)()


def _living() -> list[psutil.Process]:
    """Children of children too, and the rest of this process's group where it leads one."""
    found = {process.pid: process for process in psutil.Process().children(recursive=True)}
    if os.getpgrp() == os.getpid():
        found |= {process.pid: process for process in psutil.process_iter() if _is_of_own_group(process.pid)}
    return [process for process in found.values() if _is_alive(process)]


def _is_of_own_group(pid: int) -> bool:
    try:
        return pid != os.getpid() and os.getpgid(pid) == os.getpgrp()
    except OSError:
        return False


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
