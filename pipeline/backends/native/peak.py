"""The most memory that this process has held."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch

STATUS = Path("/proc/self/status")


def peak_memory_bytes(device: torch.device) -> int:
    """So far, in all phases. Of tensors on the device, without the driver's context; where the device is the CPU, of
    this process as a whole, libraries included."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type == "xpu":
        return int(torch.xpu.max_memory_allocated(device))
    return _resident_peak_bytes()


def _resident_peak_bytes() -> int:
    """On Linux not ru_maxrss: execve(2) keeps it, so a small process that a large one started would have been as large
    as that one. VmHWM of proc_pid_status(5) begins anew with the program, and is in KiB. macOS counts in bytes."""
    if sys.platform == "linux":
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
