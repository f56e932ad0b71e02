"""Tries torch's attention kernels and a product on a device, and prints one line of JSON.

    python -P ask_attention.py DEVICE DTYPE

Run in a process of its own, as `ask.py` is. A kernel counts that gives a gradient too: some only draw.

    {"kernels": ["flash", "math"], "right": true}
"""

from __future__ import annotations

import json
import sys
from typing import Any

KERNELS = {"flash": "FLASH_ATTENTION", "efficient": "EFFICIENT_ATTENTION", "onednn": "OVERRIDEABLE", "math": "MATH"}
"""As this project calls them, and as torch does."""
TOLERANCE = 0.05
"""Of a mean of 256 products in 8 bits of precision."""


def main(device: str, dtype_name: str) -> None:
    import torch

    dtype = getattr(torch, dtype_name)
    kernels = [name for name, attribute in KERNELS.items() if _runs(torch, attribute, device, dtype)]
    answer = {"kernels": kernels, "right": _multiplies_right(torch, device, dtype)}
    sys.stdout.write("\n" + json.dumps(answer) + "\n")


def _runs(torch: Any, attribute: str, device: str, dtype: Any) -> bool:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    backend = getattr(SDPBackend, attribute, None)
    if backend is None:
        return False
    query = torch.randn(1, 4, 256, 64, device=device, dtype=dtype, requires_grad=True)
    try:
        with sdpa_kernel([backend]):
            torch.nn.functional.scaled_dot_product_attention(query, query, query).sum().backward()
    except RuntimeError:
        return False
    return bool(torch.isfinite(query.grad).all())


def _multiplies_right(torch: Any, device: str, dtype: Any) -> bool:
    """Against the CPU: a card whose kernels are those of another one can be wrong without a word."""
    torch.manual_seed(0)
    left, right = torch.randn(256, 256), torch.randn(256, 256)
    there = (left.to(device, dtype) @ right.to(device, dtype)).float().cpu()
    return bool((there - left @ right).abs().mean() < TOLERANCE * (left @ right).abs().mean())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
