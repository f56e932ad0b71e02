"""Finds out what this interpreter's torch can drive, without importing it here."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import get_args

from pipeline.errors import Problem
from pipeline.machine import host
from pipeline.records import Machine, Platform
from pipeline.settings import PlatformName

ASK = (sys.executable, "-P", str(Path(__file__).with_name("ask.py")))
INSTALL = "pip install torch --index-url https://download.pytorch.org/whl/"
WHEELS = {"cuda": "cu130", "rocm": "rocm7.2", "xpu": "xpu"}
DEVICE_NODES = ("nvidia[0-9]*", "kfd", "dri/renderD*", "dxg")
VISIBILITY = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK")


@dataclass(frozen=True, slots=True)
class Device:
    """A card as torch sees it."""

    name: str
    free_bytes: int
    bf16: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """What torch said of itself; no devices for a CPU."""

    torch: str
    platform: Platform
    devices: tuple[Device, ...]


class NoAnswerError(Exception):
    """Torch could not be asked; the text says why."""


def probe_machine(
    wanted: PlatformName, *, seconds: float, command: Sequence[str] = ASK, dev: Path = Path("/dev")
) -> tuple[Machine, tuple[Problem, ...]]:
    """The machine, and what keeps the wanted platform from being used. Takes `seconds` at the most; never raises."""
    asked = "cpu" if wanted is PlatformName.cpu else "auto"
    remembered = None if _device_nodes(dev) else _cache_file(asked)
    try:
        answer = _recall(remembered) or _ask([*command, asked], seconds)
    except NoAnswerError as error:
        return _cpu_machine(torch_version=""), (_no_torch(wanted, str(error)),)
    _remember(answer, remembered)
    machine = _machine(answer)
    return machine, () if wanted.value in ("auto", machine.platform) else (_not_drivable(wanted, machine),)


def _device_nodes(dev: Path) -> list[Path]:
    return [node for pattern in DEVICE_NODES for node in dev.glob(pattern)]


# ----------------------------------------------------------------------------------------------------------- asking


def _ask(command: Sequence[str], seconds: float) -> Answer:
    """Runs the question in a process group of its own, so that a hung driver's helpers are ended with it."""
    if not 0 < seconds < threading.TIMEOUT_MAX:
        raise NoAnswerError(f"hardware.probe_seconds={seconds} is no time to wait")
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        output, complaint = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise NoAnswerError(f"torch did not answer within {seconds:g} s (hardware.probe_seconds)") from error
    finally:
        if process.poll() is None:
            _kill(process)
    if process.returncode != 0:
        raise NoAnswerError(_last_line(complaint) or f"asking torch ended with status {process.returncode}")
    return _parse(output)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """A process that hangs inside the driver may outlive SIGKILL for a while: it is not waited for."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=1)
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def _parse(output: bytes) -> Answer:
    """The answer is the last line: libraries may have printed before it."""
    try:
        said = json.loads(_last_line(output))
        devices = tuple(Device(str(d["name"]), int(d["free_bytes"]), bool(d["bf16"])) for d in said["devices"])
        platform = said["platform"]
        if platform not in get_args(Platform) or (platform != "cpu" and not devices):
            raise ValueError(platform)
        return Answer(str(said["torch"]), platform, devices)
    except (ValueError, TypeError, KeyError) as error:
        raise NoAnswerError(f"torch's answer can't be read: {_last_line(output)[:200]!r}") from error


def _last_line(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


# ------------------------------------------------------------------------------------------------------ remembering
# Kept only where there is no device node at all: free memory changes from run to run, and a driver that is mended must
# be seen at once. Without a card the answer hangs on the installation alone.


def _cache_file(asked: str) -> Path | None:
    """None where there is no home folder or torch is not installed as a package."""
    try:
        torch_version = metadata.version("torch")
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except (metadata.PackageNotFoundError, RuntimeError):
        return None
    key = [sys.executable, torch_version, asked, {name: os.environ.get(name) for name in VISIBILITY}]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    return folder / "lora-easy-pipeline" / f"probe-{digest}.json"


def _recall(cache_file: Path | None) -> Answer | None:
    if cache_file is None:
        return None
    try:
        return _parse(cache_file.read_bytes())
    except (OSError, NoAnswerError):
        return None


def _remember(answer: Answer, cache_file: Path | None) -> None:
    """A cache that can't be written costs two seconds at the next start, and nothing else."""
    if cache_file is None or answer.platform != "cpu":
        return
    unfinished = cache_file.with_suffix(f".{os.getpid()}.part")
    with contextlib.suppress(OSError):
        cache_file.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(json.dumps(asdict(answer)))
        unfinished.replace(cache_file)


# ---------------------------------------------------------------------------------------------------------- telling


def _machine(answer: Answer) -> Machine:
    if not answer.devices:
        return _cpu_machine(torch_version=answer.torch)
    return Machine(
        platform=answer.platform,
        device_names=tuple(device.name for device in answer.devices),
        memory_bytes=min(device.free_bytes for device in answer.devices),
        cpu_cores=host.cpu_cores(),
        bf16=all(device.bf16 for device in answer.devices),
        torch_version=answer.torch,
    )


def _cpu_machine(*, torch_version: str) -> Machine:
    """bf16 is never claimed for a CPU: without AMX or AVX512-BF16 it is emulated, hundreds of times slower."""
    return Machine(
        platform="cpu",
        device_names=(host.cpu_name(),),
        memory_bytes=host.available_memory_bytes(),
        cpu_cores=host.cpu_cores(),
        bf16=False,
        torch_version=torch_version,
    )


def _not_drivable(wanted: PlatformName, machine: Machine) -> Problem:
    found = f"{machine.platform} ({', '.join(machine.device_names)})" if machine.platform != "cpu" else "the CPU only"
    return Problem(
        "hardware",
        wanted.value,
        f"torch {machine.torch_version} can't drive {wanted.value} here; it can drive {found}",
        f"hardware=auto, or hardware={machine.platform}, or a torch for {wanted.value}: "
        f"{INSTALL}{WHEELS.get(wanted.value, 'cpu')}",
    )


def _no_torch(wanted: PlatformName, reason: str) -> Problem:
    return Problem(
        "hardware",
        wanted.value,
        f"torch can't be asked what it can drive: {reason}",
        f"{Path(sys.executable).name} -c 'import torch' shows it whole; to install it: {INSTALL}"
        f"{WHEELS.get(wanted.value, 'cpu')}",
    )
