"""What each trial of several at once gets of the machine: a card of its own, or cores of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.errors import InvalidSettings, Problem
from pipeline.records import Machine, Platform

MASKS: Mapping[Platform, str] = {
    "cuda": "CUDA_VISIBLE_DEVICES",
    "rocm": "HIP_VISIBLE_DEVICES",
    "xpu": "ZE_AFFINITY_MASK",
}
"""The variable by which a process sees some cards only."""
AT_ONCE = "hydra.launcher.at_once"


@dataclass(frozen=True, slots=True)
class Slot:
    """A part of the machine."""

    number: int
    env: Mapping[str, str] = field(default_factory=dict)
    cores: tuple[int, ...] = ()
    """Empty: all that this process may use."""


def slots_of(machine: Machine, at_once: int | None) -> list[Slot]:
    """One a card, unless fewer are asked for; on a CPU one, unless more are. Raises InvalidSettings for more than there
    are: trials that share a card run out of its memory, and threads that fight for a core take many times as long."""
    on_cpu = machine.platform == "cpu"
    there = machine.cpu_cores if on_cpu else len(machine.device_names)
    count = (1 if on_cpu else there) if at_once is None else at_once
    if not 1 <= count <= there:
        what = f"{there} {'core' if on_cpu else 'card'}{'' if there == 1 else 's'}"
        problem = Problem(AT_ONCE, count, f"from 1 to {there}: this machine has {what}", f"{AT_ONCE}={there}")
        raise InvalidSettings((problem,))
    return [_with_cores(number, count) if on_cpu else _with_card(number, machine) for number in range(count)]


def _with_cores(number: int, count: int) -> Slot:
    if count == 1 or not hasattr(os, "sched_getaffinity"):
        return Slot(number)
    return Slot(number, cores=tuple(sorted(os.sched_getaffinity(0))[number::count]))


def _with_card(number: int, machine: Machine) -> Slot:
    """By its name in the variable, where one is set already."""
    mask = MASKS[machine.platform]
    decided = next((each.value for each in machine.variables if each.name == mask), "")
    seen = [name for name in (os.environ.get(mask) or decided).split(",") if name]
    return Slot(number, env={mask: seen[number] if number < len(seen) else str(number)})
