"""What each trial of several at once gets of the machine: a card of its own, or cores of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.errors import InvalidSettings, Problem
from pipeline.machine.host import SHARE_VARIABLE
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


def slots_for(machines: Mapping[str, Machine], at_once: int | None) -> tuple[list[Slot], str]:
    """Of trials of these backends, by what the trainer of each sees; and what is worth telling. Where one sees other
    devices than another there is one slot, all that there is: no part of the machine suits both. Raises
    InvalidSettings for more at once than there can be."""
    first, *others = machines.values()
    if all((each.platform, each.device_names) == (first.platform, first.device_names) for each in others):
        return slots_of(first, at_once), ""
    seen = ", ".join(f"backend={name} trains on {_devices(machine)}" for name, machine in machines.items())
    if at_once not in (None, 1):
        fix = f"{AT_ONCE}=1, or a sweep for each backend"
        raise InvalidSettings((Problem(AT_ONCE, at_once, f"1 where backends see other devices: {seen}", fix),))
    return [Slot(0)], f"one trial at a time: {seen}"


def _devices(machine: Machine) -> str:
    count = len(machine.device_names)
    return "the CPU" if machine.platform == "cpu" else f"{count} {machine.platform} card{'' if count == 1 else 's'}"


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
    return [_with_cores(number, count, machine) if on_cpu else _with_card(number, machine) for number in range(count)]


def _with_cores(number: int, count: int, machine: Machine) -> Slot:
    """And with a share of the memory that is free before the first begins."""
    if count == 1:
        return Slot(number)
    env = {SHARE_VARIABLE: str(machine.memory_bytes // count)}
    if not hasattr(os, "sched_getaffinity"):
        return Slot(number, env)
    return Slot(number, env, tuple(sorted(os.sched_getaffinity(0))[number::count]))


def _with_card(number: int, machine: Machine) -> Slot:
    """By its name in the variable, where one is set already."""
    mask = MASKS[machine.platform]
    decided = next((each.value for each in machine.variables if each.name == mask), "")
    seen = [name for name in (os.environ.get(mask) or decided).split(",") if name]
    return Slot(number, env={mask: seen[number] if number < len(seen) else str(number)})
