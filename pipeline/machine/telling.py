"""What was chosen for the devices, as choices that are shown and kept."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.records import Choice, Machine

KERNELS = {
    "flash": "flash",
    "efficient": "memory-efficient",
    "onednn": "oneDNN",
    "math": "plain products",
}


def attention_words(machine: Machine) -> str:
    """Empty where it is not known."""
    return ", ".join(KERNELS[kernel] for kernel in machine.attention)


def device_choices(machine: Machine) -> Iterator[Choice]:
    """Attention, and each variable of the trainer's environment."""
    if machine.attention:
        known = ", ".join(dict.fromkeys(machine.architectures))
        several = len(machine.attention) > 1
        words = f"the first of {attention_words(machine)} that a layer allows" if several else attention_words(machine)
        reason = f"on {known} torch takes {words}"
        yield Choice("attention", "sdpa", reason)
    for variable in machine.variables:
        yield Choice(variable.name, variable.value, variable.reason)
