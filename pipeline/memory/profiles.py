"""The memory profiles: what a run does without to need less, and the first of them that fits.

A profile never changes how many pictures make an update: it splits them into more passes. So the learning rate stays
right whatever card the run gets.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import yaml

from pipeline.families import Shape
from pipeline.memory.estimate import MemoryEstimate
from pipeline.optimizer.catalog import AUTO as AUTO_OPTIMIZER
from pipeline.optimizer.catalog import behind_auto, in_8_bits, is_in_8_bits, options
from pipeline.records import Choice, Machine
from pipeline.settings import (
    PROJECT,
    CachePlace,
    Checkpointed,
    KohyaCache,
    Memory,
    MemoryProfile,
    Optimizer,
    Settings,
    Train,
    decided,
)

FOLDER = PROJECT / "conf" / "memory"
AUTO = "auto"
"""The option that takes the first that fits."""
UNKNOWN_MEMORY = "low_memory"
"""Where nobody can say what the device has: it costs time, and seldom the run."""
GIB = 2**30

Estimate = Callable[[Settings], MemoryEstimate]
Need = Callable[[Settings], float]
"""Settings -> bytes that they may need."""


@cache
def profiles() -> Mapping[str, MemoryProfile]:
    """Every profile by name, the one that costs the least time first."""
    made = (yaml.safe_load(file.read_text(encoding="utf-8")) for file in sorted(FOLDER.glob("*.yaml")))
    found = {written["name"]: _profile(written["known"]) for written in made if written["known"] is not None}
    return dict(sorted(found.items(), key=lambda pair: pair[1].order))


def _profile(written: Mapping[str, Any]) -> MemoryProfile:
    enums = {
        "gradient_checkpointing": Checkpointed(written["gradient_checkpointing"]),
        "caches": CachePlace(written["caches"]),
    }
    return MemoryProfile(**{**written, **enums})


def first_candidate(settings: Settings, most_blocks: int) -> Settings:
    """What is to be looked at before anything is estimated: all that is null has a value."""
    if settings.memory.name != AUTO:
        return under(settings, settings.memory.name, most_blocks)
    name, first = next(iter(profiles().items()))
    return under(settings, name, most_blocks, whole_updates=first.larger_batches)


@dataclass(frozen=True, slots=True)
class Fitted:
    """Settings of which nothing is left to the memory profile."""

    settings: Settings
    choices: tuple[Choice, ...]


def fit_memory(settings: Settings, machine: Machine, most_blocks: int, estimate: Estimate) -> Fitted:
    """The named profile, or the first that fits into what is free; where none does, the least there is. `most_blocks`
    is how many blocks the trainer can swap of this model."""
    if settings.memory.name != AUTO:
        chosen = under(settings, settings.memory.name, most_blocks)
        return Fitted(chosen, tuple(_choices(settings, chosen, "")))
    if machine.memory_bytes <= 0:
        chosen = under(settings, UNKNOWN_MEMORY, most_blocks)
        return Fitted(chosen, tuple(_choices(settings, chosen, "nothing tells how much memory the device has free")))
    chosen, why = _first_that_fits(settings, machine, most_blocks, estimate)
    return Fitted(chosen, tuple(_choices(settings, chosen, why)))


# ----------------------------------------------------------------------------------------------------- what fits


def _first_that_fits(
    settings: Settings, machine: Machine, most_blocks: int, estimate: Estimate
) -> tuple[Settings, str]:
    """In all its phases; where none does, in training alone: caching and sampling need the same under every profile."""
    whole = [*_tried(settings, machine, most_blocks, lambda each: _whole(estimate(each)))]
    if whole[-1].bytes <= machine.memory_bytes:
        return whole[-1].settings, _why(whole, machine, "")
    training = [*_tried(settings, machine, most_blocks, lambda each: _training(estimate(each)))]
    return training[-1].settings, _why(training, machine, "training ")


def _whole(found: MemoryEstimate) -> float:
    return found.high_bytes


def _training(found: MemoryEstimate) -> float:
    return found.training.high_bytes


@dataclass(frozen=True, slots=True)
class Tried:
    """Settings under a profile, and what they may need."""

    settings: Settings
    bytes: float


def _tried(settings: Settings, machine: Machine, most_blocks: int, need: Need) -> Iterator[Tried]:
    """Profile by profile, until one fits."""
    for candidate in _candidates(settings, machine, most_blocks, need):
        yield Tried(candidate, needed := need(candidate))
        if needed <= machine.memory_bytes:
            return


def _candidates(settings: Settings, machine: Machine, most_blocks: int, need: Need) -> Iterator[Settings]:
    """In the order in which they are tried."""
    for name, profile in profiles().items():
        if profile.larger_batches:
            yield under(settings, name, most_blocks, whole_updates=True)
        yield _with_few_blocks(settings, name, machine, most_blocks, need)


def _with_few_blocks(settings: Settings, name: str, machine: Machine, most_blocks: int, need: Need) -> Settings:
    """No more blocks swapped than are needed: each costs time. More of them never need more memory."""
    profile, plain = profiles()[name], under(settings, name, most_blocks)
    most = most_blocks if profile.more_blocks else min(profile.blocks_to_swap, most_blocks)
    if settings.memory.blocks_to_swap is not None or not most:
        return plain
    swapped = partial(_swapping, plain)
    return swapped(bisect_left(range(most), True, key=lambda blocks: need(swapped(blocks)) <= machine.memory_bytes))


def _swapping(settings: Settings, blocks: int) -> Settings:
    return replace(settings, memory=replace(settings.memory, blocks_to_swap=blocks))


# ------------------------------------------------------------------------------------------- settings of a profile


def under(settings: Settings, name: str, most_blocks: int, *, whole_updates: bool = False) -> Settings:
    """What was not asked for is as the profile has it; what was, stays. Values out of their range are left to the
    checks."""
    known = profiles().get(name) or settings.memory.known
    assert known is not None, "an option of the group memory says what it does"
    asked, train, processes = settings.memory.blocks_to_swap, settings.train, settings.hardware.all_processes
    at_once = train.effective_batch_size if whole_updates else known.batch_size
    size, passes = _split(train, processes, at_once)
    checkpointed = train.gradient_checkpointing
    if checkpointed is None:
        checkpointed = computes_twice(known, settings.model.known.shape)
    blocks = min(known.blocks_to_swap, most_blocks) if asked is None else asked
    return replace(
        settings,
        memory=Memory(name, blocks, known),
        optimizer=_optimizer(settings.optimizer, eight_bits=known.eight_bits),
        train=replace(train, batch_size=size, accumulation_steps=passes, gradient_checkpointing=checkpointed),
    )


def computes_twice(profile: MemoryProfile, shape: Shape) -> bool:
    """Of a denoiser of that shape: a U-Net has several levels, and a transformer one."""
    return profile.gradient_checkpointing is Checkpointed.all or len(shape.levels) == 1


def _split(train: Train, processes: int, at_once: int) -> tuple[int, int]:
    """Pictures a pass, and passes an update, of one process: together an update's share."""
    share = max(1, round(train.effective_batch_size / max(1, processes)))
    size, passes = train.batch_size, train.accumulation_steps
    if size is None and passes is None:
        size = max(each for each in range(1, max(1, min(share, at_once)) + 1) if share % each == 0)
    if size is None:
        size = max(1, round(share / max(1, decided(passes))))
    return size, max(1, round(share / max(1, size))) if passes is None else passes


def _optimizer(optimizer: Optimizer, *, eight_bits: bool) -> Optimizer:
    """optimizer=auto becomes one that has a name. Arguments stay: the two of them do the same to the weights."""
    if optimizer.name != AUTO_OPTIMIZER:
        return optimizer
    name = behind_auto(optimizer)
    small = in_8_bits(name)
    if not eight_bits or small is None or optimizer.target != options()[name].target:
        return replace(optimizer, name=name)
    args = {name: value for name, value in optimizer.args.items() if name in small.args}
    assert small.known is not None
    return replace(optimizer, name=small.name, target=small.target, args=args, falls_back_to=name, known=small.known)


# ---------------------------------------------------------------------------------------------------- a run goes on


def as_it_began(settings: Settings, recorded: Mapping[str, Any]) -> Settings:
    """What memory=auto decided for a run that goes on, typed in: `recorded` is the run's plan.json. Raises KeyError
    and TypeError where that is something else."""
    before, train, memory = recorded["settings"], settings.train, settings.memory
    kept = {
        name: before["train"][name] if getattr(train, name) is None else getattr(train, name)
        for name in ("batch_size", "accumulation_steps", "gradient_checkpointing")
    }
    blocks = before["memory"]["blocks_to_swap"] if memory.blocks_to_swap is None else memory.blocks_to_swap
    name = before["memory"]["name"]
    return replace(
        settings,
        memory=Memory(name, blocks, profiles()[name]),
        optimizer=_as_it_was(settings.optimizer, before["optimizer"]["name"]),
        train=replace(train, **kept),
    )


def _as_it_was(optimizer: Optimizer, name: str) -> Optimizer:
    return _optimizer(optimizer, eight_bits=name in options() and is_in_8_bits(options()[name]))


def left_to_memory(asked: Settings) -> dict[str, object]:
    """Settings that the memory profile decides, as they were asked for: the flat names and their values."""
    values = asked.flat()
    batch = {key: values[key] for key in ("train.batch_size", "train.accumulation_steps")}
    optimizer = {key: value for key, value in values.items() if key.startswith("optimizer.")}
    return {**batch, **(optimizer if asked.optimizer.name == AUTO_OPTIMIZER else {})}


# ------------------------------------------------------------------------------------------------------- telling


def _choices(asked: Settings, chosen: Settings, why: str) -> Iterator[Choice]:
    words = ", ".join(_does(chosen))
    yield Choice("memory", chosen.memory.name, f"{why}; {words}" if why else words)
    yield from _batch_choice(asked, chosen)


def _does(chosen: Settings) -> Iterator[str]:
    """What follows for the run."""
    train, known = chosen.train, chosen.memory.known
    yield f"{train.batch_size} at once"
    yield f"{'gradient checkpointing' if train.gradient_checkpointing else 'no gradient checkpointing'}"
    yield f"optimizer {chosen.optimizer.name}"
    if chosen.memory.blocks_to_swap:
        yield f"{chosen.memory.blocks_to_swap} blocks swapped"
    if known is not None and known.caches is CachePlace.disk and _caches(chosen):
        yield "caches on the disk"


def _caches(chosen: Settings) -> bool:
    kept = (getattr(chosen.backend, name, None) for name in ("cache_latents", "cache_text"))
    return KohyaCache.auto in kept


def _batch_choice(asked: Settings, chosen: Settings) -> Iterator[Choice]:
    if asked.train.batch_size is not None and asked.train.accumulation_steps is not None:
        return
    size, passes = decided(chosen.train.batch_size), decided(chosen.train.accumulation_steps)
    processes = chosen.hardware.all_processes
    several = f" in each of {processes} processes" if processes > 1 else ""
    makes = "1 pass makes" if passes == 1 else f"{passes} passes make"
    yield Choice("train.batch_size", size, f"{makes}{several} an update of {size * passes * processes} pictures")


def _why(tried: Sequence[Tried], machine: Machine, phases: str) -> str:
    """What the profile needs that was taken, and what those before it would."""
    last, free = tried[-1], machine.free_words
    least = "" if last.bytes <= machine.memory_bytes else "the least there is, "
    told = f"{least}{phases}up to {last.bytes / GIB:.1f} GiB by the estimate, of {free}"
    most = {each.settings.memory.name: each.bytes for each in tried}
    others = [f"{name} {needed / GIB:.1f} GiB" for name, needed in most.items() if name != last.settings.memory.name]
    return f"{told}, where {', '.join(others)}" if others else told
