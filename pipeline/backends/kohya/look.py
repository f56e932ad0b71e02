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
from pipeline.machine.architectures import WHEELS_INDEX
from pipeline.machine.cards import Found, find_cards
from pipeline.machine.elsewhere import machine_elsewhere
from pipeline.machine.facts import facts_here, machine_from
from pipeline.machine.probe import probe_machine
from pipeline.machine.variables import NAMES, version
from pipeline.optimizer.catalog import packages_of
from pipeline.records import Checkout, Machine
from pipeline.settings import KohyaBackend, PlatformName, Settings, Until


def look_for_trainer(settings: Settings) -> tuple[Machine, Checkout | None, tuple[Problem, ...]]:
    """The machine that would train, and the checkout; None where none was named or it can't be made out. Without one
    the machine is what our own torch can drive: enough to render."""
    backend: KohyaBackend = settings.backend
    root = None if backend.root is None else expanded(Path(backend.root))
    if settings.hardware.facts is not None:
        machine, problems = machine_elsewhere(settings, settings.hardware.facts)
        return machine, None, (*(root_problems(root) if root else ()), *problems)
    python = _interpreter(backend, root)
    if root is None or python is None:
        missing = _missing(settings, root)
        machine, problems = probe_machine(settings.hardware.name, seconds=settings.hardware.probe_seconds)
        return machine, None, (*missing, *problems)
    checkout, problems = look_at_checkout(
        root, python, seconds=settings.hardware.probe_seconds, modules=("lycoris", *packages_of(settings.optimizer))
    )
    if checkout is None:
        machine, _ = probe_machine(PlatformName.cpu, seconds=settings.hardware.probe_seconds)
        return machine, None, problems
    machine, mismatches = _machine(settings.hardware.name, checkout)
    return machine, checkout, (*problems, *mismatches, *_hijack_problems(machine, checkout))


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


def _machine(wanted: PlatformName, checkout: Checkout) -> tuple[Machine, tuple[Problem, ...]]:
    """A card that is there, but not wanted, is left alone. Without any torch nothing is said of the machine: that it
    is missing is told already."""
    assert checkout.answer is not None, "a checkout that was looked at has one"
    found = Found() if wanted is PlatformName.cpu else find_cards(names=NAMES)
    machine, problems = machine_from(facts_here(found, checkout.answer), wanted, python=str(checkout.python))
    return machine, problems if checkout.torch_version else ()


def _hijack_problems(machine: Machine, checkout: Checkout) -> Iterator[Problem]:
    """`library/ipex` reads torch's version as a number, 2.10 as 2.1, and then breaks torch half-way."""
    if machine.platform == "xpu" and version(checkout.torch_version) >= (2, 10):
        reason = f"sd-scripts trains on Intel's cards with torch 2.6 to 2.9; here is {checkout.torch_version}"
        install = f'{checkout.python} -m pip install "torch<2.10" --index-url {WHEELS_INDEX}xpu'
        yield Problem("backend.python", str(checkout.python), reason, f"{install}; or hardware=cpu")
