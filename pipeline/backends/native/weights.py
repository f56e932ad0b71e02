"""Weights from files into modules, once: a part is never there twice, not as it is stored and in float32 either."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import safe_open
from torch import Tensor

PORTION = 64
"""Tensors read before a file is closed: what was read of a mapped file counts as the process's memory until then."""


def read_float32(files: Iterable[Path], prefix: str = "") -> dict[str, Tensor]:
    """The tensors whose names begin with the prefix, under their whole names. Raises OSError and SafetensorError."""
    weights: dict[str, Tensor] = {}
    for file in files:
        with safe_open(file, framework="pt") as opened:
            names = [name for name in opened.keys() if name.startswith(prefix)]  # noqa: SIM118 (not a dict)
        for begin in range(0, len(names), PORTION):
            weights |= _portion(file, names[begin : begin + PORTION])
    return weights


def _portion(file: Path, names: list[str]) -> dict[str, Tensor]:
    with safe_open(file, framework="pt") as opened:
        return {name: opened.get_tensor(name).to(torch.float32, copy=True) for name in names}


def filled(build: Callable[[], Any], weights: Mapping[str, Tensor]) -> Any:
    """A module that has these very tensors for weights; those that it has no place for are left out. Raises ValueError
    where it wants more, or others."""
    with init_empty_weights():
        module = build()
    try:
        missing, _ = module.load_state_dict(dict(weights), strict=False, assign=True)
    except RuntimeError as error:  # what torch raises for other shapes
        raise ValueError(str(error)) from error
    if missing:
        raise ValueError(f"{len(missing)} of its weights are missing, {missing[0]} among them")
    return module
