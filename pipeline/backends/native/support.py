"""What the native backend can't train yet, told before anything starts."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from pipeline.checks.optimizers import rate_problems
from pipeline.errors import Problem
from pipeline.optimizer.catalog import asked_for
from pipeline.optimizer.choose import steps_down
from pipeline.records import Checkpoint, Facts
from pipeline.settings import Settings

DTYPES = ("fp16", "bf16", "fp32", "fp64")
"""Of stored weights that are plain numbers."""


def native_problems(settings: Settings, facts: Facts) -> Iterator[Problem]:
    """A problem for everything that this backend has no code, or no package, for."""
    yield from _optimizer_is_installed(settings)
    yield from rate_problems(settings)
    if facts.checkpoint is not None:
        yield from _model_problems(settings, facts.checkpoint)


def _optimizer_is_installed(settings: Settings) -> Iterator[Problem]:
    """Looks for the package without importing it: torch would take seconds. Where another optimizer may take its place
    the trial says that it is missing."""
    target, option = settings.optimizer.target, asked_for(settings.optimizer)
    package = option.package
    missing = "." in target and package.isidentifier() and find_spec(package) is None
    if missing and not steps_down(settings):
        fix = f"pip install {option.distribution}, or optimizer=adamw"
        yield Problem("optimizer.target", target, f"package {package} is not installed", fix)


def _model_problems(settings: Settings, checkpoint: Checkpoint) -> Iterator[Problem]:
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
