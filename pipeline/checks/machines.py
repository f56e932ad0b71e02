"""Several machines that train together: what each must be told to find the others."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.errors import Problem
from pipeline.records import Choice
from pipeline.settings import Hardware, Settings

USUAL_PORT = 29_500
"""torch's own, and that of conf/hardware."""


def machines_problems(settings: Settings) -> Iterator[Problem]:
    """What would keep them from meeting, or have no effect on one machine alone."""
    hardware = settings.hardware
    if hardware.machine_rank >= hardware.num_machines:
        reason = f"the machines are numbered from 0, and hardware.num_machines={hardware.num_machines}"
        fix = f"hardware.num_machines={hardware.machine_rank + 1}, or hardware.machine_rank=0"
        yield Problem("hardware.machine_rank", hardware.machine_rank, reason, fix)
    yield from _alone(hardware) if hardware.num_machines == 1 else _together(hardware)


def _alone(hardware: Hardware) -> Iterator[Problem]:
    reason = "has no effect with hardware.num_machines=1"
    if hardware.main_address is not None:
        yield Problem("hardware.main_address", hardware.main_address, reason, "leave hardware.main_address out")
    if hardware.main_port != USUAL_PORT:
        yield Problem("hardware.main_port", hardware.main_port, f"{reason}: a free one is taken", "leave it out")


def _together(hardware: Hardware) -> Iterator[Problem]:
    if not hardware.main_address:
        reason = f"hardware.num_machines={hardware.num_machines} needs the address at which the others reach machine 0"
        yield Problem("hardware.main_address", "null", reason, "hardware.main_address=HOST, the same on all")


def machines_choice(settings: Settings) -> Choice | None:
    """What all but the first leave to it."""
    hardware = settings.hardware
    if hardware.machine_rank == 0:
        return None
    reason = f"machine {hardware.machine_rank} of {hardware.num_machines}: machine 0 keeps the record, draws and saves"
    return Choice("tracking", "off", reason)
