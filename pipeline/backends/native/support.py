"""What the native backend can't train yet, told before anything starts."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.errors import Problem
from pipeline.records import Checkpoint
from pipeline.settings import Settings

DTYPES = ("fp16", "bf16", "fp32", "fp64")
"""Of stored weights that are plain numbers."""


def native_problems(settings: Settings, checkpoint: Checkpoint) -> Iterator[Problem]:
    """A problem for everything about the base model that this backend has no code for."""
    model = settings.model
    if model.known.native is None:
        reason = f"backend=native can't train {model.known.title} yet: it trains Stable Diffusion 1 only"
        yield Problem("model", model.name, reason, "model=sd15 model.path=PATH of a Stable Diffusion 1")
        return
    if checkpoint.dtype and checkpoint.dtype not in DTYPES:
        reason = f"is stored as {checkpoint.dtype}: training needs the fp16, bf16 or fp32 file that it was made from"
        yield Problem("model.path", model.path, reason, "model.path=PATH of a file that is not quantised")
    for name, given in model.parts.items():
        if given is not None:
            reason = "backend=native takes text encoder and VAE from the model itself, so this would have no effect"
            yield Problem(f"model.parts.{name}", given, reason, f"leave model.parts.{name} out")
