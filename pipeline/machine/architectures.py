"""What is known of the cards' architectures: tables only, no card is asked.

Compute capabilities of NVIDIA (sm_89), the targets of AMD's compiler (gfx1100), and names of Intel's families. Sources:
the build lists of pytorch's wheels, the attention tables of torch (sdp_utils.cpp) and of ROCm's aotriton (util.cc).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

NarrowWithoutBf16 = Literal["fp16", "fp32"]
WHEELS_INDEX = "https://download.pytorch.org/whl/"
PER_ARCH_INDEX = "https://repo.amd.com/rocm/whl-multi-arch/"


@dataclass(frozen=True, slots=True)
class Architecture:
    """A row of the table."""

    pattern: str
    """Of the whole name."""
    attention: tuple[str, ...]
    """Kernels of torch's attention that can train; `math` keeps the whole matrix of scores in memory."""
    wheel: str
    """What to install: an index of pytorch's wheels, or nothing where no wheel is known."""
    older: bool = False
    """Dropped from torch 2.15: that is the first which is too new."""
    integrated: bool = False
    """Part of a processor, with a share of its memory."""
    override: str = ""
    """HSA_OVERRIDE_GFX_VERSION, where the wheel has no kernels for it."""
    without_bf16: NarrowWithoutBf16 = "fp16"
    """What multiplies well where bfloat16 does not."""


FLASH = ("flash", "efficient", "math")
EFFICIENT = ("efficient", "math")
MATH = ("math",)
ONEDNN = ("onednn", "math")

ARCHITECTURES = (
    Architecture(r"sm_[1-4]\d", MATH, "", without_bf16="fp32"),
    Architecture(r"sm_[56]\d", EFFICIENT, "cu126", older=True, without_bf16="fp32"),
    Architecture(r"sm_7[0-4]", EFFICIENT, "cu126", older=True),
    Architecture(r"sm_7[5-9]", EFFICIENT, "cu130"),
    Architecture(r"sm_([89]\d|1[0-2]\d)", FLASH, "cu130"),
    Architecture(r"gfx90[068]", MATH, "rocm7.2"),
    Architecture(r"gfx(90a|942|950)", FLASH, "rocm7.2"),
    Architecture(r"gfx90[29c]", MATH, "", integrated=True),
    Architecture(r"gfx101\d", MATH, ""),
    Architecture(r"gfx1030", MATH, "rocm7.2"),
    Architecture(r"gfx103[124]", MATH, "rocm7.2", override="10.3.0"),
    Architecture(r"gfx103[3567]", MATH, "rocm7.2", integrated=True, override="10.3.0"),
    Architecture(r"gfx1100", FLASH, "rocm7.2"),
    Architecture(r"gfx110[12]", FLASH, "rocm7.2", override="11.0.0"),
    Architecture(r"gfx1103", FLASH, "rocm7.2", integrated=True, override="11.0.0"),
    Architecture(r"gfx1151", FLASH, "rocm7.2", integrated=True, override="11.0.0"),
    Architecture(r"gfx1150", FLASH, "rocm7.2", integrated=True),
    Architecture(r"gfx115[23]", FLASH, PER_ARCH_INDEX, integrated=True),
    Architecture(r"gfx120[01]", FLASH, "rocm7.2"),
    Architecture(r"alchemist", ONEDNN, "xpu"),
    Architecture(r"battlemage|ponte_vecchio", ("flash", *ONEDNN), "xpu"),
    Architecture(r"core_ultra", ONEDNN, "xpu", integrated=True),
)

INTEL_DEVICES = (
    (0x5690, 0x56BF, "alchemist"),
    (0xE200, 0xE21F, "battlemage"),
    (0x0BD0, 0x0BDB, "ponte_vecchio"),
    (0x7D40, 0x7DFF, "core_ultra"),  # Meteor Lake and Arrow Lake
    (0x6420, 0x64BF, "core_ultra"),  # Lunar Lake
    (0xB080, 0xB0BF, "core_ultra"),  # Panther Lake
)
"""First and last PCI device, and the family. Every other graphics of Intel is too old for torch."""

INTEL_NAMES = (
    (r"Arc.*\bA\d{3}M?\b", "alchemist"),
    (r"Flex", "alchemist"),
    (r"Arc.*\bB3[79]0\b", "core_ultra"),  # of Panther Lake
    (r"Arc.*\bB\d{2,3}\b", "battlemage"),
    (r"Data Center GPU Max", "ponte_vecchio"),
    (r"Graphics|Arc.*\b1[34]0[VT]\b", "core_ultra"),
)
"""Beginnings of what torch calls them, the special ones first."""


def architecture(name: str) -> Architecture | None:
    """None for one that is newer than this table, or not known at all."""
    return next((row for row in ARCHITECTURES if re.fullmatch(row.pattern, name)), None)


def is_integrated(name: str) -> bool:
    row = architecture(name)
    return row is not None and row.integrated


def attention_kernels(names: Iterable[str]) -> tuple[str, ...]:
    """What all of them have; nothing where one is not known."""
    rows = [architecture(name) for name in names]
    known = [row for row in rows if row is not None]
    if not rows or len(known) < len(rows):
        return ()
    return tuple(kernel for kernel in known[0].attention if all(kernel in row.attention for row in known))


def narrow_without_bf16(names: Iterable[str]) -> NarrowWithoutBf16:
    """float16 only where all are known to multiply it faster than float32."""
    rows = [architecture(name) for name in names]
    good = [row for row in rows if row is not None and row.without_bf16 == "fp16"]
    return "fp16" if rows and len(good) == len(rows) else "fp32"


def intel_family(device: int) -> str:
    return next((family for first, last, family in INTEL_DEVICES if first <= device <= last), "")


def intel_family_named(name: str) -> str:
    return next((family for pattern, family in INTEL_NAMES if re.search(pattern, name)), "")


def gfx_name(version: int) -> str:
    """From the decimal number of the kernel's topology: 90010 is gfx90a, 110000 is gfx1100."""
    return f"gfx{version // 10_000}{version // 100 % 100:x}{version % 100:x}"


# ------------------------------------------------------------------------------------------------------------- wheels

NEEDS_DRIVER = {13: 580, 12: 525}
"""The first driver of NVIDIA on Linux that a CUDA version runs with."""


def install_command(arch: str, platform: str, driver: str = "") -> str:
    """What to type for a torch that has kernels for the card and runs with its driver; empty where there is none."""
    row = architecture(arch)
    if row is None:
        return pip(DEFAULT_WHEELS.get(platform, "cpu"))
    if row.wheel == PER_ARCH_INDEX:
        return f'pip install "torch[device-{arch}]" --index-url {PER_ARCH_INDEX}'
    if row.wheel == "cu130" and 0 < major(driver) < NEEDS_DRIVER[13]:
        return pip("cu128", "2.12") if re.fullmatch(r"sm_1\d\d", arch) else pip("cu126", "2.15")
    return pip(row.wheel, "2.15" if row.older else "") if row.wheel else ""


DEFAULT_WHEELS = {"cuda": "cu130", "rocm": "rocm7.2", "xpu": "xpu"}


def pip(index: str, below: str = "") -> str:
    wanted = f'"torch<{below}"' if below else "torch"
    return f"pip install {wanted} --index-url {WHEELS_INDEX}{index}"


def major(version: str) -> int:
    """0 for what is no version."""
    found = re.match(r"\d+", version)
    return int(found.group()) if found else 0
