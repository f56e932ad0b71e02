"""Which precision a machine can train in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pipeline.errors import Problem
from pipeline.machine.architectures import narrow_without_bf16
from pipeline.records import Choice, Machine
from pipeline.settings import Precision

Chosen = Literal["fp32", "bf16", "fp16"]


def choose_precision(wanted: Precision, machine: Machine) -> tuple[Chosen, Choice | None]:
    """What was asked for; for auto bfloat16 where the device multiplies it in hardware, else float16 where that is
    fast, else float32."""
    if wanted is not Precision.auto:
        return wanted.value, None
    if machine.platform == "cpu":
        chosen: Chosen = "fp32"
        reason = "few CPUs multiply anything narrower in hardware"
    elif machine.bf16:
        chosen, reason = "bf16", f"{machine.device_names[0]} multiplies bfloat16 in hardware"
    else:
        chosen = narrow_without_bf16(machine.architectures)
        slow = "bfloat16" if chosen == "fp16" else "bfloat16 or float16 fast"
        reason = f"{machine.device_names[0]} does not multiply {slow} in hardware"
    return chosen, Choice("hardware.precision", chosen, reason)


def precision_problems(wanted: Precision, machine: Machine) -> Iterator[Problem]:
    """A precision that the device does not have, or would only pretend to have."""
    key, fix = "hardware.precision", "hardware.precision=auto"
    if machine.platform == "cpu" and wanted is Precision.fp16:
        # accelerate takes it, and trains in float32 without a word
        yield Problem(key, wanted.value, "a CPU does not train in float16", fix)
    elif machine.platform == "cpu" and wanted is Precision.bf16:
        yield Problem(key, wanted.value, "bfloat16 can be hundreds of times slower than float32 on a CPU", fix)
    elif wanted is Precision.bf16 and not machine.bf16:
        reason = f"{machine.device_names[0]} does not multiply bfloat16 in hardware"
        yield Problem(key, wanted.value, reason, f"{fix}, or hardware.precision=fp16")
