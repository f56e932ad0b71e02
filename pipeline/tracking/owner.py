"""Who runs a run: a text that tells one process from every other, also after a reboot or when its number is reused."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import psutil

_GONE = "gone"


def this_owner() -> str:
    """`host:boot_id:pid:start_time` of this process."""
    pid = os.getpid()
    return f"{socket.gethostname()}:{_boot_id()}:{pid}:{_start_time(pid)}"


def is_alive(owner: str) -> bool | None:
    """Whether the owner still runs; None when it is on another host, so that nobody here can tell."""
    host, boot_id, pid, start_time = owner.rsplit(":", 3)
    if host != socket.gethostname():
        return None
    return boot_id == _boot_id() and start_time == _start_time(int(pid))


def _boot_id() -> str:
    file = Path("/proc/sys/kernel/random/boot_id")
    return file.read_text().strip() if file.exists() else str(int(psutil.boot_time()))


def _start_time(pid: int) -> str:
    """In clock ticks since the boot where /proc has it: unlike a time of day it does not move when the clock is set."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return _GONE if fields[0] in "ZX" else fields[19]  # a process that nobody has reaped is dead all the same
    except OSError:
        return _start_time_without_proc(pid)


def _start_time_without_proc(pid: int) -> str:
    try:
        return _GONE if Path("/proc/self/stat").exists() else str(int(psutil.Process(pid).create_time()))
    except psutil.Error:
        return _GONE
