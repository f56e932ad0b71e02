"""Lets an optimizer take real steps in a child process, and remembers what came of it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline.machine.hung import end_hung
from pipeline.optimizer.catalog import Option
from pipeline.records import Checkout, Machine
from pipeline.settings import PROJECT, RateMeaning

ATTEMPT = Path(__file__).with_name("attempt.py")
STEPS = 5
SHAPE = (256, 512)
"""More than the 4096 elements below which bitsandbytes keeps 32 bits, and the 100,000 below which it pages nothing."""
ADAMWS_RATE = 1e-3
DRIVERS = ("/proc/driver/nvidia/version", "/sys/module/amdgpu/version", "/sys/module/xe/srcversion")


@dataclass(frozen=True, slots=True)
class Steps:
    """What the optimizer did in its steps; the names are those of attempt.py."""

    loss_before: float
    loss_after: float
    state_bytes_per_parameter: float
    paged: bool
    """Some of its state can leave the device."""
    fused: bool | None
    """None: the arguments don't say."""
    cosine: float | None
    """Between its update of the weights and its twin's; None without a twin."""
    norm_ratio: float | None
    """Length of its update for one of its twin's."""


class TrialError(Exception):
    """It could not take the steps; the text says why."""


class NotInstalled(TrialError):
    """Its package is not there."""

    def __init__(self, package: str, install: str) -> None:
        self.install = install
        """What to type."""
        super().__init__(f"package {package} is not installed ({install})")


@dataclass(frozen=True, slots=True)
class Bench:
    """Where optimizers are tried."""

    machine: Machine
    checkout: Checkout | None
    """Whose interpreter is asked; None: our own."""
    seconds: float
    """Time limit of one trial."""

    @property
    def python(self) -> Path:
        return Path(sys.executable) if self.checkout is None else self.checkout.python

    @property
    def pip(self) -> str:
        """How a package is installed there."""
        return "pip install" if self.checkout is None else f"{self.python} -m pip install"

    @property
    def folder(self) -> Path:
        """Where the trainer is started."""
        return PROJECT if self.checkout is None else self.checkout.root


def take_steps(option: Option, lr: float, bench: Bench) -> Steps:
    """In a process of its own, or remembered. Raises TrialError; NotInstalled where only its package is missing."""
    question = _question(option, lr, bench.machine)
    remembered = _cache_file(option, question, bench)
    known = _recall(remembered)
    if known is not None:
        return known
    try:
        return _parse(_run(question, bench), option.class_name)
    except TrialError as error:
        if str(error).startswith(f"ModuleNotFoundError: No module named '{option.package}'"):
            raise NotInstalled(option.package, f"{bench.pip} {option.distribution}") from error
        raise


def remember(option: Option, lr: float, bench: Bench, steps: Steps) -> None:
    """For steps that were found good: what fails is tried anew each time, so that a mended driver is seen at once."""
    file = _cache_file(option, _question(option, lr, bench.machine), bench)
    if file is None or file.exists():
        return
    unfinished = file.with_suffix(f".{os.getpid()}.part")
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(json.dumps(asdict(steps)))
        unfinished.replace(file)


def _question(option: Option, lr: float, machine: Machine) -> dict[str, Any]:
    return {
        "target": option.target,
        "args": dict(option.args),
        "lr": _rate(option, lr),
        "twin": option.known.twin if option.known else None,
        "device": machine.torch_device,
        "steps": STEPS,
        "shape": SHAPE,
    }


def _rate(option: Option, lr: float) -> float:
    """One at which the loss falls in a few steps; the run's own only where nothing is known of the class."""
    if option.known is None:
        return lr
    if option.known.rate is RateMeaning.multiplier:
        return 1.0
    return ADAMWS_RATE * (option.known.times_adamws or 1.0)


# ----------------------------------------------------------------------------------------------------------- asking


def _run(question: Mapping[str, Any], bench: Bench) -> bytes:
    """In a process group of its own, so that a hung driver's helpers end with it."""
    if not 0 < bench.seconds < threading.TIMEOUT_MAX:
        raise TrialError(f"hardware.probe_seconds={bench.seconds} is no time to wait")
    command = (str(bench.python), str(ATTEMPT), json.dumps(question))
    try:
        process = subprocess.Popen(
            command,
            cwd=bench.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise TrialError(f"{bench.python} can't be started: {error.strerror or error}") from error
    try:
        output, complaint = process.communicate(timeout=bench.seconds)
    except subprocess.TimeoutExpired as error:
        reason = f"{STEPS} steps took more than {bench.seconds:g} s (hardware.probe_seconds)"
        raise TrialError(reason) from error
    finally:
        if process.poll() is None:
            end_hung(process)
    if process.returncode != 0:
        raise TrialError(_ending(process.returncode, complaint))
    return output


def _ending(status: int, complaint: bytes) -> str:
    """A broken kernel may take the whole process with it."""
    if status < 0:
        return f"the process that tried it died of signal {-status}"
    lines = complaint.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"the process that tried it ended with status {status}"


def _parse(output: bytes, class_name: str) -> Steps:
    """The answer is the last line: libraries may have printed before it."""
    lines = output.decode(errors="replace").strip().splitlines()
    last = lines[-1] if lines else ""
    try:
        said = json.loads(last)
        if "error" in said:
            raise TrialError(str(said["error"]))
        return Steps(**said)
    except (ValueError, TypeError) as error:
        raise TrialError(f"what {class_name} did can't be read: {last[:200]!r}") from error


# ------------------------------------------------------------------------------------------------------ remembering
# By all that the answer hangs on: the interpreter, the versions of torch, of the optimizer's package and of the driver,
# the devices, the question and the program that asks it. A package without a version may change unseen: not remembered.


def _cache_file(option: Option, question: Mapping[str, Any], bench: Bench) -> Path | None:
    try:
        version = _version(option, bench.checkout)
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        program = ATTEMPT.read_bytes()
    except (metadata.PackageNotFoundError, RuntimeError):
        return None
    machine = bench.machine
    key = [str(bench.python), machine.torch_version, version, machine.platform, machine.device_names]
    text = json.dumps([*key, platform.release(), _drivers(), question], sort_keys=True, default=str)
    digest = hashlib.sha256(program + text.encode()).hexdigest()[:16]
    return folder / "lora-easy-pipeline" / f"optimizer-{digest}.json"


def _version(option: Option, checkout: Checkout | None) -> str:
    """Raises PackageNotFoundError where there is none."""
    if checkout is None:
        return metadata.version(option.distribution)
    found = [checkout.packages[name] for name in (option.distribution, option.package) if name in checkout.packages]
    if not found:
        raise metadata.PackageNotFoundError(option.distribution)
    return found[0]


def _drivers() -> list[str]:
    found = []
    for name in DRIVERS:
        with contextlib.suppress(OSError):
            found.append(Path(name).read_text())
    return found


def _recall(file: Path | None) -> Steps | None:
    if file is None:
        return None
    try:
        return Steps(**json.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
