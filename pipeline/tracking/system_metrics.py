"""Samples the machine beside a training and writes it into the journal, under the names of MLflow's system metrics tab.

A thread of our own, not MLflow's: the samples go through the journal like everything else, so none are lost while the
server is down.
"""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path

import psutil

from pipeline.journal import Journal, JournalReader

SAMPLE_SECONDS = 10.0
PREFIX = "system/"
_FIRST_CPU_SECONDS = 0.1
_NVIDIA_SECONDS = 5.0
_NVIDIA_FIELDS = ("utilization.gpu", "memory.used", "memory.total", "power.draw")
_MIB_IN_MB = 2**20 / 1e6

Metrics = dict[str, float]


class Sampler(threading.Thread):
    """Writes a `metric` event at once and then every `interval_seconds`, until `stop`."""

    def __init__(self, run_dir: Path, *, interval_seconds: float = SAMPLE_SECONDS) -> None:
        super().__init__(name="system-metrics", daemon=True)
        self._run_dir = run_dir
        self._interval_seconds = interval_seconds
        self._stopped = threading.Event()

    def run(self) -> None:
        journal = Journal(self._run_dir)
        received, sent = _network_megabytes()
        psutil.cpu_percent()  # the use of the processor is measured from call to call
        self._stopped.wait(_FIRST_CPU_SECONDS)
        for step in count(_next_step(self._run_dir)):
            values = sample(self._run_dir)
            now_received, now_sent = _network_megabytes()
            values["network_receive_megabytes"] = now_received - received
            values["network_transmit_megabytes"] = now_sent - sent
            journal.write(
                "metric", step=step, values={PREFIX + name: round(value, 1) for name, value in values.items()}
            )
            if self._stopped.wait(self._interval_seconds):
                break
        journal.close()

    def stop(self) -> None:
        """Returns when the last event is written."""
        self._stopped.set()
        if self.is_alive():
            self.join()


def sample(run_dir: Path) -> Metrics:
    """The machine's use now; of the disk that `run_dir` is on."""
    memory, disk = psutil.virtual_memory(), psutil.disk_usage(str(run_dir))
    values: Metrics = {
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_megabytes": memory.used / 1e6,
        "system_memory_usage_percentage": memory.percent,
        "disk_usage_percentage": disk.percent,
        "disk_usage_megabytes": disk.used / 1e6,
        "disk_available_megabytes": disk.free / 1e6,
    }
    for read in GPU_READERS:
        values |= read()
    return values


def nvidia_metrics() -> Metrics:
    """Of each NVIDIA GPU, as its own tool tells; nothing where there is none."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return {}
    query = [tool, f"--query-gpu={','.join(_NVIDIA_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, check=True, timeout=_NVIDIA_SECONDS).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    values: Metrics = {}
    for index, line in enumerate(told.strip().splitlines()):
        use, used_mib, total_mib, watts = (_number(cell) for cell in line.split(","))
        values |= _gpu(index, use, used_mib * _MIB_IN_MB, total_mib * _MIB_IN_MB)
        values |= _known({f"gpu_{index}_power_usage_watts": watts})
    return values


def amd_metrics(cards: Path = Path("/sys/class/drm")) -> Metrics:
    """Of each AMD GPU, as the kernel tells; nothing where there is none."""
    values: Metrics = {}
    busy_files = sorted(cards.glob("card*/device/gpu_busy_percent"))
    for index, busy in enumerate(busy_files):
        used, total = (_read(busy.with_name(f"mem_info_vram_{part}")) / 1e6 for part in ("used", "total"))
        values |= _gpu(index, _read(busy), used, total)
    return values


GPU_READERS: tuple[Callable[[], Metrics], ...] = (nvidia_metrics, amd_metrics)


def _gpu(index: int, use: float, used_megabytes: float, total_megabytes: float) -> Metrics:
    return _known(
        {
            f"gpu_{index}_utilization_percentage": use,
            f"gpu_{index}_memory_usage_megabytes": used_megabytes,
            f"gpu_{index}_memory_usage_percentage": used_megabytes / total_megabytes * 100
            if total_megabytes
            else _UNKNOWN,
        }
    )


_UNKNOWN = float("nan")


def _known(values: Metrics) -> Metrics:
    return {name: value for name, value in values.items() if value == value}  # nan is not itself


def _number(cell: str) -> float:
    """nan for what a device does not tell, which the tool writes as [N/A]."""
    try:
        return float(cell)
    except ValueError:
        return _UNKNOWN


def _read(file: Path) -> float:
    try:
        return _number(file.read_text())
    except OSError:
        return _UNKNOWN


def _network_megabytes() -> tuple[float, float]:
    counters = psutil.net_io_counters()
    return counters.bytes_recv / 1e6, counters.bytes_sent / 1e6


def _next_step(run_dir: Path) -> int:
    """A run that goes on counts on from its last sample."""
    steps = [
        event.data["step"]
        for event in JournalReader(run_dir).new_events()
        if event.kind == "metric" and any(name.startswith(PREFIX) for name in _names(event.data.get("values")))
    ]
    return max((step for step in steps if isinstance(step, int)), default=-1) + 1


def _names(values: object) -> list[str]:
    return list(values) if isinstance(values, dict) else []
