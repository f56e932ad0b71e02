"""Cores and memory of the machine itself, as far as this process may use them (affinity, control groups)."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import psutil

ROOT = Path("/")
SHARE_VARIABLE = "LORA_EASY_MEMORY_SHARE"
"""Set in the environment of trials that run beside others on a CPU: bytes that each may count on."""


def cpu_name(root: Path = ROOT) -> str:
    """The model name of the processor, else its architecture."""
    for line in text_of(root / "proc/cpuinfo").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cpu_cores(root: Path = ROOT) -> int:
    """Cores that this process may use, at least one: a container's share counts, not what the machine has."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shares = [math.ceil(quota / period) for quota, period in _cpu_quotas(root) if quota > 0 and period > 0]
    return max(1, min([affinity, *shares]))


def available_memory_bytes(root: Path = ROOT) -> int:
    """What can be allocated without swapping: of the machine, or of the tightest control group."""
    return max(0, min([psutil.virtual_memory().available, *_memory_left(root)]))


def memory_share_bytes() -> int:
    """What a sweep lets this trial count on; 0 where it has the machine to itself."""
    return _number(os.environ.get(SHARE_VARIABLE, ""))


def memory_limit_bytes(root: Path = ROOT) -> int:
    """Of the tightest control group; 0 for none. Version 1 writes a number beyond all memory for none."""
    names = ("memory.max", "memory.limit_in_bytes")
    found = [_number(text_of(group / name)) for group in _groups(root, "memory") for name in names]
    return min((limit for limit in found if 0 < limit < 2**60), default=0)


def _cpu_quotas(root: Path) -> Iterator[tuple[int, int]]:
    """(quota, period) in microseconds of every control group above this process; a quota of 0 is no limit."""
    for group in _groups(root, "cpu"):
        quota, _, period = text_of(group / "cpu.max").partition(" ")
        yield _number(quota), _number(period)
        yield _number(text_of(group / "cpu.cfs_quota_us")), _number(text_of(group / "cpu.cfs_period_us"))


def _memory_left(root: Path) -> Iterator[int]:
    """Limit less use, of every control group that has a limit; cached files don't count, they are given back."""
    for group in _groups(root, "memory"):
        for limit_file, used_file, cached_name in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit = _number(text_of(group / limit_file))
            if limit:
                yield limit - _number(text_of(group / used_file)) + _stat(group / "memory.stat", cached_name)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's control group and of those around it, in versions 1 and 2."""
    for line in text_of(root / "proc/self/cgroup").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers and controller not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / (controller if controllers else "")
        group = top / path.strip("/")
        yield group
        yield from (parent for parent in group.parents if parent.is_relative_to(top))


def _stat(path: Path, name: str) -> int:
    rows = (line.split() for line in text_of(path).splitlines())
    return next((_number(row[1]) for row in rows if len(row) == 2 and row[0] == name), 0)


def _number(text: str) -> int:
    """0 for 'max' and for what is not there; version 1 writes -1 for no limit."""
    text = text.strip()
    return int(text) if text.isdecimal() else 0


def text_of(path: Path) -> str:
    """Empty where the file is not there: most of these exist on some kernels only."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
