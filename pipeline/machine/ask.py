"""Asks torch what it can drive and prints the answer as one line of JSON.   python -P ask.py auto|cpu

Run in a process of its own: importing torch takes seconds, and a broken driver can hang or kill whoever asks. Imports
nothing of this project, so that it also runs under an interpreter that does not have it.

    {"torch": "2.13.0+cu130", "platform": "cuda", "builds": {"cuda": "13.0"}, "arch_list": ["sm_75", ...],
     "devices": [{"name": ..., "free_bytes": ..., "bf16": ..., "arch": "sm_89", "total_bytes": ...}]}
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

BUILDS = ("cuda", "hip", "xpu")


def main(wanted: str) -> None:
    import torch

    sys.stdout.write("\n" + json.dumps(answer(torch, wanted)) + "\n")


def answer(torch: Any, wanted: str) -> dict[str, object]:
    """Of any torch since 2.0: what an older one does not have is left out."""
    platform, devices = ("cpu", []) if wanted == "cpu" else _drivable(torch)
    builds = {name: getattr(torch.version, name, None) for name in BUILDS}
    return {
        "torch": str(torch.__version__),
        "platform": platform,
        "devices": devices,
        "builds": {name: str(version) for name, version in builds.items() if version},
        "arch_list": _arch_list(torch, platform),
    }


def _drivable(torch: Any) -> tuple[str, list[dict[str, object]]]:
    """The first platform that has a device. ROCm's torch calls itself cuda; `torch.version.hip` tells them apart."""
    if torch.cuda.is_available():
        platform = "rocm" if torch.version.hip else "cuda"
        return platform, [_cuda_device(torch, index, platform) for index in range(torch.cuda.device_count())]
    if hasattr(torch, "xpu") and torch.xpu.is_available():
        return "xpu", [_xpu_device(torch, index) for index in range(torch.xpu.device_count())]
    return "cpu", []


def _arch_list(torch: Any, platform: str) -> list[str]:
    """Asked only of the platform that works: a question to another one can start its driver."""
    module = {"cuda": "cuda", "rocm": "cuda", "xpu": "xpu"}.get(platform)
    listed = getattr(getattr(torch, module, None), "get_arch_list", list) if module else list
    return [str(arch) for arch in listed()]


def _cuda_device(torch: Any, index: int, platform: str) -> dict[str, object]:
    properties = torch.cuda.get_device_properties(index)
    free_bytes, total_bytes = torch.cuda.mem_get_info(index)
    arch = _gfx(properties) if platform == "rocm" else f"sm_{properties.major}{properties.minor}"
    bf16 = _rocm_bf16(properties) if platform == "rocm" else _cuda_bf16(properties)
    return {
        "name": properties.name,
        "free_bytes": free_bytes,
        "bf16": bf16,
        "arch": arch,
        "total_bytes": total_bytes,
    }


def _gfx(properties: Any) -> str:
    """Without its features: gfx942:sramecc+:xnack-."""
    return str(properties.gcnArchName).partition(":")[0]


def _cuda_bf16(properties: Any) -> bool:
    """`torch.cuda.is_bf16_supported()` says yes on Turing too, where bfloat16 is emulated."""
    return bool(properties.major >= 8)


def _rocm_bf16(properties: Any) -> bool:
    """Matrix units for bfloat16: CDNA (gfx908, gfx90a, gfx94x, gfx95x) and RDNA 3 and later (gfx11, gfx12)."""
    return bool(re.match(r"gfx(908|90a|94|95|1[1-9]\d\d)", properties.gcnArchName))


def _xpu_device(torch: Any, index: int) -> dict[str, object]:
    properties = torch.xpu.get_device_properties(index)
    return {
        "name": properties.name,
        "free_bytes": _xpu_free_bytes(torch, index, properties),
        "bf16": bool(getattr(properties, "has_bfloat16_conversions", False)),
        "arch": "",
        "total_bytes": int(properties.total_memory),
    }


def _xpu_free_bytes(torch: Any, index: int, properties: Any) -> int:
    """Older drivers can't say what is free: the whole memory then."""
    try:
        return int(torch.xpu.mem_get_info(index)[0])
    except (AttributeError, RuntimeError):
        return int(properties.total_memory)


if __name__ == "__main__":
    main(sys.argv[1])
