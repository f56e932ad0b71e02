"""What is asked for against what is known of the model: settings with one right value, files beside it, usual rates."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path

from pipeline.errors import Problem, did_you_mean
from pipeline.families import LearningRates, PartKind
from pipeline.settings import Algorithm, Settings

LIKE_LORA = {Algorithm.lora, Algorithm.locon, Algorithm.dora, Algorithm.dylora, Algorithm.tlora}
"""The algorithms whose recipes the bands are made of; alpha / rank means something else, or nothing, to the others."""
KIND_WORDS = {PartKind.text_encoder: "text encoder", PartKind.vae: "VAE"}
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)+")
WEIGHTS = (".safetensors", ".sft", ".gguf", ".bin", ".pt", ".ckpt")
ROUNDING = 1e-9
"""Rates that are the end of a band in decimal may lie beside it in binary."""


def fixed_problems(settings: Settings) -> Iterator[Problem]:
    """A problem for every setting that is not what it must be for the chosen model."""
    values, known = settings.flat(), settings.model.known
    for fixed in known.fixed:
        if fixed.key in values and values[fixed.key] != fixed.value:
            right = f"{fixed.key}={_typed(fixed.value)}"
            yield Problem(fixed.key, _typed(values[fixed.key]), f"{known.title}: {fixed.reason}", right)


def _typed(value: object) -> str:
    if value is None:
        return "null"
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


# ------------------------------------------------------------------------------------------------------------- parts


def parts_problems(settings: Settings, inside: Collection[str]) -> Iterator[Problem]:
    """A problem for every file that the model needs beside itself and that is neither `inside` of it nor given, and for
    every one that is given and can't be one."""
    given = settings.model.parts
    for name, value in given.items():
        if name not in settings.model.known.parts:
            yield _unknown_part(settings, name)
        elif value is not None and not (_is_there(value) or _may_be_hub_id(value)):
            reason = "there is no such file or folder, and it is no hub id (owner/name, owner/name/folder)"
            yield Problem(f"model.parts.{name}", value, reason, _how_to_give(settings, name))
    there = {*inside, *(name for name, value in given.items() if value is not None)}
    yield from (_missing_part(settings, names) for names in _needed(settings) if there.isdisjoint(names))


def _needed(settings: Settings) -> Iterator[list[str]]:
    """The parts, those together of which one is enough."""
    known = settings.model.known
    yield from known.alternatives
    either = {name for names in known.alternatives for name in names}
    yield from ([name] for name in known.parts if name not in either)


def _missing_part(settings: Settings, names: list[str]) -> Problem:
    known, name = settings.model.known, names[0]
    what = KIND_WORDS[known.parts[name].kind] + f" ({' or '.join(names)})"
    reason = f"{known.title} needs its {what}, and {settings.model.path} has none inside"
    fixes = "\n         ".join(_how_to_give(settings, each) for each in names)
    return Problem(f"model.parts.{name}", "null", reason, fixes)


def _how_to_give(settings: Settings, name: str) -> str:
    hub = settings.model.known.parts[name].hub
    return f"model.parts.{name}=FILE, FOLDER or hub id" + (f" ({hub})" if hub else "")


def _unknown_part(settings: Settings, name: str) -> Problem:
    names = sorted(settings.model.known.parts)
    reason = (
        f"{settings.model.known.title} has no part {name}.{did_you_mean(name, names)} There are: {', '.join(names)}"
    )
    return Problem(f"model.parts.{name}", settings.model.parts[name], reason, f"leave model.parts.{name} out")


def _is_there(value: str) -> bool:
    return bool(value) and Path(value).exists()


def _may_be_hub_id(value: str) -> bool:
    """Whether it looks like owner/name or owner/name/what-is-in-it. What begins with a folder that is here is a path,
    and so is a file of weights in a single folder: it has no owner."""
    names = value.split("/")
    if not HUB_ID.fullmatch(value) or Path(names[0]).exists():
        return False
    return len(names) > 2 or not value.endswith(WEIGHTS)


# ------------------------------------------------------------------------------------------------------------ ranges


def family_warnings(settings: Settings) -> Iterator[str]:
    """What is unusual for the model, and is sometimes meant."""
    yield from _resolution_warnings(settings)
    yield from _adapter_rate_warnings(settings)
    yield from _finetune_rate_warnings(settings)


def _resolution_warnings(settings: Settings) -> Iterator[str]:
    known, asked = settings.model.known, settings.train.resolution_px
    low, high = known.resolution.min_px, known.resolution.max_px
    if low <= asked <= high:
        return
    side = f"smaller than {low}" if asked < low else f"larger than {high}"
    told = f"train.resolution_px={asked} is {side}: {known.title} is known to train with {low} to {high} px"
    yield f"{told}, and {known.resolution.native_px} is its own size"


def _adapter_rate_warnings(settings: Settings) -> Iterator[str]:
    """Under Adam an adapter's first steps are in proportion to lr x alpha / rank, so that is what recipes share."""
    network = settings.network
    if network is None or network.algo not in LIKE_LORA or network.args.get("rs_lora"):
        return
    if not _steps_like(settings, "Adam"):
        return
    rates, scale = settings.model.known.learning_rates, network.alpha / network.rank
    strength = settings.optimizer.lr * scale
    if _inside(strength, rates.lora_low, rates.lora_high):
        return
    yield (
        f"optimizer.lr={settings.optimizer.lr:g} x network.alpha={network.alpha:g} / network.rank={network.rank}"
        f" = {strength:.2g} lies outside of what most recipes for {settings.model.known.title} use,"
        f" {rates.lora_low:g} to {rates.lora_high:g}; with this alpha and rank that is an optimizer.lr of"
        f" {rates.lora_low / scale:.2g} to {rates.lora_high / scale:.2g}"
    )


def _finetune_rate_warnings(settings: Settings) -> Iterator[str]:
    rates, lr = settings.model.known.learning_rates, settings.optimizer.lr
    band = _finetune_band(rates)
    if settings.network is not None or band is None or not _steps_like(settings, "Adam", "Adafactor"):
        return
    if not _inside(lr, *band):
        yield (
            f"optimizer.lr={lr:g} lies outside of what most finetunes of {settings.model.known.title} use,"
            f" {band[0]:g} to {band[1]:g}"
        )


def _finetune_band(rates: LearningRates) -> tuple[float, float] | None:
    low, high = rates.finetune_low, rates.finetune_high
    return None if low is None or high is None else (low, high)


def _inside(value: float, low: float, high: float) -> bool:
    return low * (1 - ROUNDING) <= value <= high * (1 + ROUNDING)


def _steps_like(settings: Settings, *kinds: str) -> bool:
    """Whether the optimizer's class is of these kinds. D-Adaptation finds its own rate, whatever it adapts."""
    name = settings.optimizer.target.rpartition(".")[2]
    return any(kind in name for kind in kinds) and not name.startswith("DAdapt")
