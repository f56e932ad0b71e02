"""What this backend finds: the checkout that was named, and what its interpreter can drive."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.backends.kohya.checkout import (
    CLONE,
    INSIDE,
    expanded,
    interpreter_in,
    look_at_checkout,
    root_problems,
)
from pipeline.errors import Problem
from pipeline.machine import host
from pipeline.machine.probe import INSTALL, WHEELS, probe_machine
from pipeline.records import Checkout, Machine
from pipeline.settings import KohyaBackend, PlatformName, Settings, Until


def look_for_trainer(settings: Settings) -> tuple[Machine, Checkout | None, tuple[Problem, ...]]:
    """The machine that would train, and the checkout; None where none was named or it can't be made out. Without one
    the machine is what our own torch can drive: enough to render."""
    backend: KohyaBackend = settings.backend
    root = None if backend.root is None else expanded(Path(backend.root))
    python = _interpreter(backend, root)
    if root is None or python is None:
        missing = _missing(settings, root)
        machine, problems = probe_machine(settings.hardware.name, seconds=settings.hardware.probe_seconds)
        return machine, None, (*missing, *problems)
    package = settings.optimizer.target.partition(".")[0]
    checkout, problems = look_at_checkout(
        root, python, seconds=settings.hardware.probe_seconds, modules=("lycoris", package)
    )
    if checkout is None:
        machine, _ = probe_machine(PlatformName.cpu, seconds=settings.hardware.probe_seconds)
        return machine, None, problems
    machine = _machine(settings.hardware.name, checkout)
    return machine, checkout, (*problems, *_platform_problems(settings.hardware.name, machine, checkout))


def _interpreter(backend: KohyaBackend, root: Path | None) -> Path | None:
    if backend.python is not None:
        return Path(backend.python)
    return None if root is None else interpreter_in(root)


def _missing(settings: Settings, root: Path | None) -> Iterator[Problem]:
    """Only what trains needs a checkout and its interpreter; a folder that was named must be one all the same."""
    if root is not None:
        yield from root_problems(root)
    if settings.until is not Until.log:
        return
    if root is None:
        reason = "backend=kohya trains with your own checkout of kohya-ss/sd-scripts, and none is named"
        fix = f"backend.root=FOLDER, or export SD_SCRIPTS_ROOT=FOLDER; to get it: {CLONE}; or until=render"
        yield Problem("backend.root", "null", reason, fix)
    else:
        reason = f"names no interpreter, and {root} has none at {' or '.join(INSIDE[1:])}"
        fix = "backend.python=VENV/bin/python, or export SD_SCRIPTS_PYTHON=FILE; or until=render"
        yield Problem("backend.python", "null", reason, fix)


def _machine(wanted: PlatformName, checkout: Checkout) -> Machine:
    """A card that is there, but not wanted, is left alone."""
    on_cpu = wanted is PlatformName.cpu
    return Machine(
        platform="cpu" if on_cpu else checkout.platform,
        device_names=(host.cpu_name(),) if on_cpu else checkout.device_names,
        memory_bytes=host.available_memory_bytes() if on_cpu else checkout.memory_bytes,
        cpu_cores=host.cpu_cores(),
        bf16=checkout.bf16 and not on_cpu,
        torch_version=checkout.torch_version,
    )


def _platform_problems(wanted: PlatformName, machine: Machine, checkout: Checkout) -> Iterator[Problem]:
    if wanted.value not in ("auto", machine.platform):
        found = (
            "the CPU only" if machine.platform == "cpu" else f"{machine.platform} ({', '.join(machine.device_names)})"
        )
        reason = f"torch {machine.torch_version} of {checkout.python} can't drive it here; it can drive {found}"
        fix = (
            f"hardware=auto, or a torch for {wanted.value} in that environment:"
            f" {checkout.python} -m {INSTALL}{WHEELS.get(wanted.value, 'cpu')}"
        )
        yield Problem("hardware", wanted.value, reason, fix)
