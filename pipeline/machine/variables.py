"""Which variables the trainer's environment needs for its devices: only what the user has not set.

A variable of one platform never reaches another. Lists of options are merged with the user's: a string that is set
anew would reset the options that it does not name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipeline.machine.architectures import architecture, is_integrated
from pipeline.records import Answer, Device, Platform, Variable

ALLOCATORS = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
"""In the order in which torch reads them: the first that is set is the one."""
VISIBILITY = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK")
HIDES: Mapping[Platform, tuple[str, ...]] = {
    "cuda": ("CUDA_VISIBLE_DEVICES",),
    "rocm": ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"),
}
"""What can hide every card of a platform, with one of `NOTHING`."""
NOTHING = ("", "-1")
OVERRIDE = "HSA_OVERRIDE_GFX_VERSION"
P2P_DRIVER = (550, 40, 7)
"""From this driver on, GeForce cards of the 40 series can talk to each other, or say that they can't."""


@dataclass(frozen=True, slots=True)
class Situation:
    """All that a variable can depend on."""

    answer: Answer
    devices: tuple[Device, ...]
    """Those that will be used."""
    architectures: tuple[str, ...]
    """Theirs."""
    driver: str
    """Of NVIDIA."""
    wsl: bool
    user: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Rule:
    """A variable that is set to one value where it is needed."""

    platform: Platform
    name: str
    value: str
    reason: str
    needed: Callable[[Situation], bool] = lambda _: True


def _lone_peers(situation: Situation) -> bool:
    """Several cards of the 40 series with a driver that promises what they don't do."""
    old = bool(situation.driver) and version(situation.driver) < P2P_DRIVER
    return old and len(situation.devices) > 1 and any("RTX 40" in device.name for device in situation.devices)


RULES = (
    Rule("cuda", "CUDA_DEVICE_ORDER", "PCI_BUS_ID", "devices are counted as nvidia-smi counts them"),
    *(
        Rule(
            "cuda", name, "1", "this driver promises traffic between cards of the 40 series, and it hangs", _lone_peers
        )
        for name in ("NCCL_P2P_DISABLE", "NCCL_IB_DISABLE")
    ),
    Rule(
        "rocm",
        "TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL",
        "1",
        "torch uses its fast attention on every architecture that has it",
    ),
    Rule(
        "rocm", "MIOPEN_FIND_MODE", "FAST", "the search for convolutions takes minutes and gigabytes; HYBRID searches"
    ),
    Rule("xpu", "ONEAPI_DEVICE_SELECTOR", "level_zero:gpu", "a card is not listed twice"),
    Rule("xpu", "SYCL_CACHE_PERSISTENT", "1", "compiled kernels are kept for the next run"),
    Rule("xpu", "PYTORCH_ENABLE_XPU_FALLBACK", "1", "what the card has no kernel for runs on the CPU, slowly"),
)

NAMES = (*ALLOCATORS, *VISIBILITY, OVERRIDE, *dict.fromkeys(rule.name for rule in RULES))
"""All that this project looks at or sets."""


def variables_for(situation: Situation) -> tuple[Variable, ...]:
    return (
        *(
            Variable(rule.name, rule.value, rule.reason)
            for rule in RULES
            if rule.platform == situation.answer.platform and rule.name not in situation.user and rule.needed(situation)
        ),
        *_allocator(situation),
        *_override(situation),
        *_visible(situation),
    )


# ----------------------------------------------------------------------------------------------------------- allocator


def _allocator(situation: Situation) -> Iterator[Variable]:
    """Segments that grow, for CUDA on Linux; on ROCm they hang the machine, and are taken out of the user's."""
    platform, user = situation.answer.platform, situation.user
    name = next((each for each in ALLOCATORS if each in user and (platform == "rocm" or "HIP" not in each)), None)
    given = user[name] if name else ""
    if platform == "cuda" and not situation.wsl and "expandable_segments" not in given:
        reason = "memory that was freed fits the next batch of another size"
        value = ",".join(option for option in (given.strip(","), "expandable_segments:True") if option)
        yield Variable(name or _allocator_name(situation.answer.torch), value, reason)
    elif platform == "rocm" and name and _expands(given):
        reason = "expandable_segments is taken out: it hangs or crashes the driver of AMD"
        rest = ",".join(option for option in given.split(",") if not _expands(option))
        yield Variable(name, rest or "expandable_segments:False", reason)


def _allocator_name(torch: str) -> str:
    return "PYTORCH_CUDA_ALLOC_CONF" if version(torch) < (2, 9) else "PYTORCH_ALLOC_CONF"


def _expands(options: str) -> bool:
    return re.search(r"expandable_segments\s*:\s*true", options, re.IGNORECASE) is not None


# --------------------------------------------------------------------------------------------------- AMD, and selection


def _override(situation: Situation) -> Iterator[Variable]:
    """Only where the wheel has no kernels for the card, and those of a sibling run on it."""
    value = override_for(situation.architectures, situation.answer)
    if value and OVERRIDE not in situation.user:
        reason = (
            f"torch {situation.answer.torch} has no kernels for {situation.architectures[0]}; a sibling's run on it"
        )
        yield Variable(OVERRIDE, value, reason)


def override_for(names: Sequence[str], answer: Answer) -> str:
    """Empty where it is not needed, does not help, or would speak for another card too."""
    values = {_override_of(name, answer) for name in names}
    if answer.platform != "rocm" or not answer.arch_list or len(values) != 1:
        return ""
    value = values.pop()
    return value if _gfx_of(value) in answer.arch_list else ""


def _override_of(name: str, answer: Answer) -> str:
    row = architecture(name)
    return "" if row is None or name in answer.arch_list else row.override


def _gfx_of(override: str) -> str:
    """10.3.0 is gfx1030."""
    return "gfx" + override.replace(".", "")


MASKS: Mapping[Platform, str] = {"rocm": "HIP_VISIBLE_DEVICES", "xpu": "ZE_AFFINITY_MASK"}


def _visible(situation: Situation) -> Iterator[Variable]:
    """A processor's graphics beside a card is often device 0, and torch would train on it."""
    every, used = situation.answer.devices, situation.devices
    mask = MASKS.get(situation.answer.platform)
    if mask and len(used) < len(every):
        hidden = ", ".join(device.name for device in every if device not in used)
        indices = [str(index) for index, device in enumerate(every) if device in used]
        yield Variable(mask, ",".join(indices), f"{hidden} is part of the processor, and is left out")


def without_integrated(answer: Answer, names: Sequence[str], user: Mapping[str, str]) -> tuple[int, ...]:
    """Places of the devices to use: all, or the cards alone where there are both and the user has not chosen."""
    every = tuple(range(len(answer.devices)))
    cards = tuple(index for index in every if not is_integrated(names[index]))
    chosen = answer.platform not in MASKS or any(name in user for name in VISIBILITY)
    return every if chosen or not cards else cards


def hidden_by(platform: Platform, user: Mapping[str, str]) -> str:
    """The variable by which the user has hidden every card of the platform; empty for none."""
    return next((name for name in HIDES.get(platform, ()) if user.get(name) in NOTHING), "")


def version(text: str) -> tuple[int, ...]:
    """Numbers at the beginning: 2.13.0+cu130 is (2, 13, 0)."""
    found = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in found.group().split(".")) if found else ()
