"""What is asked for against what is known of the model: settings with one right value, files beside it, usual sizes."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path

from pipeline.errors import Problem, did_you_mean
from pipeline.families import PartKind
from pipeline.settings import Settings

KIND_WORDS = {PartKind.text_encoder: "text encoder", PartKind.vae: "VAE"}
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)+")
WEIGHTS = (".safetensors", ".sft", ".gguf", ".bin", ".pt", ".ckpt")


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
    known, train = settings.model.known, settings.train
    low, high = known.resolution.min_px, known.resolution.max_px
    further = (("train.more_resolutions_px", side) for side in train.more_resolutions_px)
    for key, asked in (("train.resolution_px", train.resolution_px), *further):
        if not low <= asked <= high:
            side = f"smaller than {low}" if asked < low else f"larger than {high}"
            told = f"{key}={asked} is {side}: {known.title} is known to train with {low} to {high} px"
            yield f"{told}, and {known.resolution.native_px} is its own size"
