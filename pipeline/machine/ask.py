"""Asks torch what it can drive and prints the answer as one line of JSON.   python -P ask.py auto|cpu

Run in a process of its own: importing torch takes seconds, and a broken driver can hang or kill whoever asks. Imports
nothing of this project, so that it also runs under an interpreter that does not have it.

    {"torch": "2.13.0+cpu", "platform": "cpu", "devices": [{"name": ..., "free_bytes": ..., "bf16": ...}]}
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any


def main(wanted: str) -> None:
    import torch

    platform, devices = ("cpu", []) if wanted == "cpu" else _drivable(torch)
    sys.stdout.write(
        "\n" + json.dumps({"torch": str(torch.__version__), "platform": platform, "devices": devices}) + "\n"
    )


def _drivable(torch: Any) -> tuple[str, list[dict[str, object]]]:
    """The first platform that has a device. ROCm's torch calls itself cuda; `torch.version.hip` tells them apart."""
    if torch.cuda.is_available():
        platform = "rocm" if torch.version.hip else "cuda"
        bf16 = _rocm_bf16 if torch.version.hip else _cuda_bf16
        return platform, [_cuda_device(torch, index, bf16) for index in range(torch.cuda.device_count())]
    if hasattr(torch, "xpu") and torch.xpu.is_available():
        return "xpu", [_xpu_device(torch, index) for index in range(torch.xpu.device_count())]
    return "cpu", []


def _cuda_device(torch: Any, index: int, bf16: Any) -> dict[str, object]:
    properties = torch.cuda.get_device_properties(index)
    free_bytes, _total = torch.cuda.mem_get_info(index)
    return {"name": properties.name, "free_bytes": free_bytes, "bf16": bf16(properties)}


def _cuda_bf16(properties: Any) -> bool:
    """`torch.cuda.is_bf16_supported()` says yes on Turing too, where bfloat16 is emulated."""
    return bool(properties.major >= 8)


def _rocm_bf16(properties: Any) -> bool:
    """Matrix units for bfloat16: CDNA (gfx908, gfx90a, gfx94x, gfx95x) and RDNA 3 and later (gfx11, gfx12)."""
    return bool(re.match(r"gfx(908|90a|94|95|1[1-9])", properties.gcnArchName))


def _xpu_device(torch: Any, index: int) -> dict[str, object]:
    properties = torch.xpu.get_device_properties(index)
    bf16 = bool(getattr(properties, "has_bfloat16_conversions", False))
    return {"name": properties.name, "free_bytes": _xpu_free_bytes(torch, index, properties), "bf16": bf16}


def _xpu_free_bytes(torch: Any, index: int, properties: Any) -> int:
    """Older drivers can't say what is free: the whole memory then."""
    try:
        return int(torch.xpu.mem_get_info(index)[0])
    except (AttributeError, RuntimeError):
        return int(properties.total_memory)


if __name__ == "__main__":
    main(sys.argv[1])
