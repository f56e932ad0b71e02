"""Whether a run fits its device, and the smallest change after which it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from pipeline.dataset.resolutions import typed_more
from pipeline.errors import Problem
from pipeline.memory.estimate import MemoryEstimate
from pipeline.memory.profiles import AUTO, profiles, under
from pipeline.optimizer.catalog import options
from pipeline.records import Choice, Machine
from pipeline.settings import Settings, decided

GIB = 2**30
SURE = 0.9
"""Of the low end: published measurements are up to 7 % below it (docs/memory.md)."""


@dataclass(frozen=True, slots=True)
class Change:
    """Settings that need less memory, and what to type for them."""

    typed: str
    settings: Settings


def memory_choice(found: MemoryEstimate, machine: Machine) -> Choice:
    """The estimate in a line."""
    largest = found.largest
    reason = (
        f"about, at {found.peak.name} (largest: {largest.name} {largest.bytes / GIB:.1f} GiB), of {machine.free_words}"
    )
    return Choice("memory.peak", range_words(found), reason)


def memory_warnings(found: MemoryEstimate, machine: Machine) -> Iterator[str]:
    """What may end in an out-of-memory error: other programs hold a part, or the estimate's range reaches beyond."""
    free = machine.memory_bytes
    if 0 < free < found.low_bytes:
        yield f"memory: {range_words(found)} are needed, and {free / GIB:.1f} GiB are free"
    elif 0 < free < found.high_bytes:
        yield f"memory: up to {found.high_bytes / GIB:.1f} GiB may be needed, and {free / GIB:.1f} GiB are free"


def cannot_fit(found: MemoryEstimate, machine: Machine) -> bool:
    """Not even in an empty device, and surely: by training alone, the one phase that was held against figures, and
    with room for the estimate's own error. The rest is warned of. A CPU's memory can be swapped: nothing is refused."""
    surely = found.training.low_bytes * SURE
    return machine.platform != "cpu" and 0 < machine.total_memory_bytes < surely


def memory_problem(
    asked: Settings,
    settings: Settings,
    found: MemoryEstimate,
    machine: Machine,
    most_blocks: int,
    fits: Callable[[Settings], bool],
) -> Problem:
    """With the smallest change that fits; `fits` makes the estimate anew. `settings` are those that were `asked` for
    with what the memory profile decided."""
    every = (*_smaller_profiles(asked, most_blocks), *changes(settings))
    change = next((each for each in every if fits(each.settings)), None)
    phase = found.training
    needs = f"{phase.low_bytes / GIB:.1f}-{phase.high_bytes / GIB:.1f} GiB"
    reason = (
        f"the device has {machine.total_memory_bytes / GIB:.1f} GiB; {phase.name} takes {needs}, "
        f"of which {phase.largest.name} {phase.largest.bytes / GIB:.1f} GiB"
    )
    least = f"a smaller model, or a device of {found.high_bytes / GIB:.0f} GiB"
    return Problem("memory", range_words(found), reason, least if change is None else change.typed)


def range_words(found: MemoryEstimate) -> str:
    return f"{found.low_bytes / GIB:.1f}-{found.high_bytes / GIB:.1f} GiB"


def _smaller_profiles(asked: Settings, most_blocks: int) -> Iterator[Change]:
    """Of a profile that was named; memory=auto has tried them all."""
    if asked.memory.name != AUTO:
        names = [*profiles()]
        at = names.index(asked.memory.name) + 1 if asked.memory.name in names else 0
        yield from (Change(f"memory={name}", under(asked, name, most_blocks)) for name in names[at:])


def changes(settings: Settings) -> Iterator[Change]:
    """One at a time, the least felt first; then each on top of those before it."""
    for steps in STEPS:
        yield from steps(settings)
    before = Change("", settings)
    for steps in STEPS:
        every = [Change(f"{before.typed} {step.typed}".strip(), step.settings) for step in steps(before.settings)]
        yield from every
        before = every[-1] if every else before


def _checkpointed(settings: Settings) -> Iterator[Change]:
    if not settings.train.gradient_checkpointing:
        yield Change("train.gradient_checkpointing=true", _with(settings, gradient_checkpointing=True))


def _eight_bits(settings: Settings) -> Iterator[Change]:
    """The same algorithm with its state in 8 bits: the option that falls back to the one that was asked for."""
    for option in options().values():
        known = option.known
        if known is not None and known.twin and not known.paged and option.falls_back_to == settings.optimizer.name:
            optimizer = replace(settings.optimizer, name=option.name, target=option.target, known=known)
            args = {**option.args}
            yield Change(f"optimizer={option.name}", replace(settings, optimizer=replace(optimizer, args=args)))


def _smaller_batches(settings: Settings) -> Iterator[Change]:
    """The number of pictures in an update stays."""
    batch, accumulation = decided(settings.train.batch_size), decided(settings.train.accumulation_steps)
    for less in range(batch - 1, 0, -1):
        if batch % less == 0:
            more = accumulation * batch // less
            typed = f"train.batch_size={less} train.accumulation_steps={more}"
            yield Change(typed, _with(settings, batch_size=less, accumulation_steps=more))


def _lower_resolutions(settings: Settings) -> Iterator[Change]:
    """Without the further ones that are larger, one after the other; then down to what the model can learn from."""
    step, least = max(8, settings.model.resolution_step_px), settings.model.known.resolution.min_px
    base, more = settings.train.resolution_px, settings.train.more_resolutions_px
    larger = sorted((side for side in more if side > base), reverse=True)
    for largest in larger:
        yield _of_resolutions(settings, base, [side for side in more if side < largest])
    for side in range(base - step, least - 1, -step):
        yield _of_resolutions(settings, side, [each for each in more if each < side])


def _of_resolutions(settings: Settings, side: int, more: list[int]) -> Change:
    typed = [f"train.resolution_px={side}"] if side != settings.train.resolution_px else []
    if more != settings.train.more_resolutions_px:
        typed.append(typed_more(more))
    return Change(" ".join(typed), _with(settings, resolution_px=side, more_resolutions_px=more))


def _with(settings: Settings, **values: object) -> Settings:
    return replace(settings, train=replace(settings.train, **values))  # type: ignore[arg-type]


STEPS = (_checkpointed, _eight_bits, _smaller_batches, _lower_resolutions)
