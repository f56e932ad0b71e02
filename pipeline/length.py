"""How long a run is: optimizer updates from the number of pictures, and how many of them are warm-up."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator

from pipeline.dataset.epoch import datasets_at, samples_per_epoch, shown
from pipeline.errors import Problem
from pipeline.records import Choice, Dataset
from pipeline.settings import Settings, Train, decided

LEAST_LOOKS = 10
"""At every picture, whatever the cap: a large dataset is not cut short (docs/profiles.md)."""
MOST_WARMUP = 0.1
"""Of the updates, unless typed: a warm-up that suits a recipe's length would be half of a short run."""


def steps_of(settings: Settings, dataset: Dataset) -> tuple[int, Choice | None]:
    """Optimizer updates, and how they came about; no choice where `train.max_steps` was typed. `train.min_steps` holds
    for what follows from samples a picture only. Those are of a picture at all of its resolutions together, and repeats
    only weigh pictures against each other then: both make an epoch longer, not the run."""
    train, batch = settings.train, batch_of(settings)
    if train.max_steps is not None:
        return train.max_steps, None
    if train.epochs is not None:
        steps = max(1, math.ceil(round(samples_per_epoch(dataset, train) * train.epochs / batch, 9)))
        return steps, _choice(dataset, train, batch, steps, f"train.epochs={train.epochs:g}")
    asked, samples, words = _samples(train, len(dataset.train))
    also = ", and as many for regularisation" if dataset.regularisation else ""
    enough = math.ceil(samples * (2 if also else 1) / batch)
    at_least = f", and at least {train.min_steps} steps" if train.min_steps > enough else ""
    steps = max(train.min_steps, enough)
    why = f"{train.samples_per_image} a picture = {asked}, {words}{also}{at_least}"
    return steps, _choice(dataset, train, batch, steps, why)


def _samples(train: Train, num_pictures: int) -> tuple[int, int, str]:
    """Samples that were asked for, those that it comes to, and the bounds in words."""
    asked = num_pictures * train.samples_per_image
    cap = max(train.samples_cap, LEAST_LOOKS * num_pictures)
    samples = min(max(asked, train.samples_floor), cap)
    return asked, samples, f"within {train.samples_floor}..{cap} = {samples} samples"


def _choice(dataset: Dataset, train: Train, batch: int, steps: int, why: str) -> Choice:
    return Choice("train.max_steps", steps, f"{equation(dataset, train, batch, steps)}; {why}")


def equation(dataset: Dataset, train: Train, batch: int, steps: int) -> str:
    """pictures x repeats x epochs / batch = steps, in numbers that come out; those of several resolutions as a sum."""
    epochs = steps * batch / samples_per_epoch(dataset, train)
    return f"{_epoch_words(dataset, train)} x {_many(epochs, 'epoch')} / batch {batch} = {_many(steps, 'step')}"


def _epoch_words(dataset: Dataset, train: Train) -> str:
    at, repeats = datasets_at(dataset, train), {picture.repeats for picture in dataset.train}
    if len(at) == 1:
        return _at_one(dataset)
    if len(repeats) > 1 or dataset.regularisation:
        return f"({' + '.join(f'{_at_one(each)} at {px} px' for px, each in at.items())})"
    (base_px, base), *more = at.items()
    others = "".join(f" + {len(each.train)} at {px} px" for px, each in more)
    return f"({_many(len(base.train), 'picture')} at {base_px} px{others}) x {_many(repeats.pop(), 'repeat')}"


def _at_one(dataset: Dataset) -> str:
    pictures, repeats = _many(len(dataset.train), "picture"), {picture.repeats for picture in dataset.train}
    words = f"{pictures} x {_many(next(iter(repeats), 1), 'repeat')}"
    if len(repeats) > 1:
        words = f"{shown(dataset.train)} ({pictures} x {min(repeats)} to {max(repeats)} repeats)"
    return f"({words} + {shown(dataset.train)} for regularisation)" if dataset.regularisation else words


def _many(number: float, noun: str) -> str:
    shown = number if isinstance(number, int) else f"{number:.6g}"
    return f"{shown} {noun}" if number == 1 else f"{shown} {noun}s"


def batch_of(settings: Settings) -> int:
    """Pictures of an update, over all passes and processes; asked for when the memory profile is chosen."""
    train = settings.train
    return decided(train.batch_size) * decided(train.accumulation_steps) * settings.hardware.all_processes


def warmup_of(train: Train, steps: int, typed: Collection[str]) -> tuple[int, Choice | None]:
    """Updates of the warm-up: at most a tenth of all, unless more was `typed`."""
    if "train.warmup_steps" in typed and train.warmup_steps is not None:
        return min(train.warmup_steps, steps), None
    asked, most = asked_warmup(train, steps), round(MOST_WARMUP * steps)
    if asked <= most or "train.warmup_fraction" in typed:
        return asked, None
    reason = f"{most} of {steps} steps, not {asked}: at most a tenth, unless it is typed"
    return most, Choice("train.warmup_fraction", MOST_WARMUP, reason)


def asked_warmup(train: Train, steps: int) -> int:
    """Updates of the warm-up as the settings have it."""
    return train.warmup_of(steps)


def length_problems(settings: Settings) -> Iterator[Problem]:
    """Two lengths, or none."""
    train = settings.train
    if train.max_steps is not None and train.epochs is not None:
        reason = f"is a second length beside train.max_steps={train.max_steps}"
        yield Problem("train.epochs", f"{train.epochs:g}", reason, "leave one of them out")
    floor, cap = train.samples_floor, train.samples_cap
    if train.max_steps is None and train.epochs is None and floor > cap:
        reason = f"is more than train.samples_cap={cap}"
        yield Problem("train.samples_floor", floor, reason, f"train.samples_floor={cap}")
