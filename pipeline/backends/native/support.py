"""What the native backend can't train yet, and what of the captions it would not see, told before anything starts."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from pipeline.backends.native.memory import native_kept
from pipeline.checks.captions import cut_captions
from pipeline.checks.optimizers import rate_problems
from pipeline.errors import Problem
from pipeline.features.room import taken_bytes
from pipeline.memory.host import cached_bytes
from pipeline.optimizer.catalog import asked_for
from pipeline.optimizer.choose import steps_down
from pipeline.records import Checkpoint, Facts
from pipeline.settings import Settings
from pipeline.wording import size

DTYPES = ("fp16", "bf16", "fp32", "fp64")
"""Of stored weights that are plain numbers."""


def native_problems(settings: Settings, facts: Facts) -> Iterator[Problem]:
    """A problem for everything that this backend has no code, or no package, for."""
    yield from _optimizer_is_installed(settings)
    yield from rate_problems(settings)
    if settings.hardware.facts is None:
        yield from _cache_has_room(settings, facts)
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


def _cache_has_room(settings: Settings, facts: Facts) -> Iterator[Problem]:
    """What lies there already may be what this run needs."""
    folder = Path(settings.cache.dir).expanduser().absolute()
    nearest = next((each for each in (folder, *folder.parents) if os.path.lexists(each)), folder)
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        reason = f"nothing can be written to {nearest}" if nearest.is_dir() else f"{nearest} is not a folder"
        yield Problem("cache.dir", settings.cache.dir, reason, "cache.dir=FOLDER, one that you may write to")
        return
    needed = _cache_bytes(settings, facts)
    free = shutil.disk_usage(nearest).free + taken_bytes(folder)
    if needed > free:
        reason = (
            f"what the encoders make of the dataset takes about {size(int(needed))}, and {size(free)} are free there"
        )
        yield Problem("cache.dir", settings.cache.dir, reason, "cache.dir=FOLDER on a larger disk")


def _cache_bytes(settings: Settings, facts: Facts) -> float:
    if facts.dataset is None:
        return 0.0
    return cached_bytes(settings, facts.dataset, native_kept(settings, facts), "disk")


# ---------------------------------------------------------------------------------------------------------- warnings


def native_warnings(settings: Settings, facts: Facts) -> Iterator[str]:
    """What may be meant, and is more often a mistake."""
    yield from cut_captions(settings, facts)
    needed = _cache_bytes(settings, facts)
    if needed > settings.cache.max_gib * 2**30:
        yield (
            f"what the encoders make of the dataset takes about {size(int(needed))}, more than"
            f" cache.max_gib={settings.cache.max_gib:g}: it is removed after the training, and made anew for the next"
        )
