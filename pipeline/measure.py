"""How long a run will take: a few steps of it are trained, in a folder that is gone afterwards, and timed.

What encoders made meanwhile stays in the cache, for the run.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median

from pipeline.dataset.epoch import datasets_at
from pipeline.execute import execute
from pipeline.journal import read_journal
from pipeline.length import batch_of
from pipeline.outcome import HELDOUT
from pipeline.preflight import left_to_encode
from pipeline.records import Dataset, Event, Plan
from pipeline.render import render
from pipeline.wording import counted, duration, memory_words

STEPS = 8
SETTLING_STEPS = 3
"""Slower than the others: libraries choose their algorithms, memory is taken."""
LEAST_SECONDS = 0.05
"""What takes less is not told."""
ENCODING = re.compile(r"encoding (\d+) pictures?")


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds of the parts of a run."""

    steps: int
    """That were trained for it."""
    begin_seconds: float
    """Until the first step, with the looks before it; all pictures were encoded that these steps needed."""
    step_seconds: float
    heldout_seconds: float
    """A look at all held-out pictures."""
    sampling_seconds: float
    """Drawing all samples."""
    end_seconds: float
    """Saving."""
    encoding_seconds: float | None
    """Encoding a picture; None where none was encoded."""
    peak_memory_bytes: int | None


def measured_lines(plan: Plan, run_dir: Path, show: Callable[[Event], None]) -> list[str]:
    """What `preflight.measure` adds to what `until=validate` prints. Raises as `measure` does, and UnreadableFile."""
    found = measure(plan, run_dir, show)
    left, train, sample = left_to_encode(plan), plan.settings.train, plan.settings.sample
    judged, drawn = looks(plan.steps, train.heldout_every_steps), looks(plan.steps, sample.every_steps)
    parts = [
        (found.begin_seconds, f"{duration(found.begin_seconds)} to begin"),
        (left * (found.encoding_seconds or 0), f"{duration(left * (found.encoding_seconds or 0))} to encode the rest"),
        (plan.steps * found.step_seconds, f"{counted(plan.steps, 'step')} of {found.step_seconds:.3g} s"),
        (found.heldout_seconds, f"{judged} x {duration(found.heldout_seconds)} for the held-out loss"),
        (found.sampling_seconds, f"{drawn} x {duration(found.sampling_seconds)} for samples"),
        (found.end_seconds, f"{duration(found.end_seconds)} to save"),
    ]
    told = ", ".join(words for seconds, words in parts if seconds >= LEAST_SECONDS)
    lines = [("time", f"about {duration(foreseen_seconds(plan, found, left))}, by {found.steps} steps here: {told}")]
    memory = memory_words(found.peak_memory_bytes, plan.memory)
    lines += [("peak memory", memory)] if memory else []
    return [f"  {name:<14}{value}" for name, value in lines]


def measure(plan: Plan, run_dir: Path, show: Callable[[Event], None]) -> Measured:
    """Trains a few steps on the disk of `run_dir`. Raises the RunError that the run would end with so early."""
    run_dir = run_dir.absolute()
    nearest = next(folder for folder in (run_dir, *run_dir.parents) if folder.is_dir())
    folder = Path(tempfile.mkdtemp(prefix="measure-", dir=nearest))
    try:
        job, began = render(shortened(plan), folder), time.time()
        ending = execute(job, show=show)
        if ending.error is not None:
            raise ending.error
        return measured(read_journal(folder), began, ending.outcome.peak_memory_bytes)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def shortened(plan: Plan) -> Plan:
    """The first steps of it, with the looks before and after them, on as many pictures as they need."""
    steps, train = min(STEPS, plan.steps), plan.settings.train
    dataset = _first(plan.dataset, steps * batch_of(plan.settings))
    at = [px for px, each in datasets_at(dataset, train).items() if each.train and px != train.resolution_px]
    train = replace(train, more_resolutions_px=at, checkpoint_every_steps=plan.steps + steps, heldout_every_steps=0)
    settings = replace(plan.settings, train=train, sample=replace(plan.settings.sample, every_steps=0))
    return replace(plan, settings=settings, steps=steps, dataset=dataset)


def _first(dataset: Dataset, pictures: int) -> Dataset:
    return replace(dataset, train=dataset.train[:pictures], regularisation=dataset.regularisation[:pictures])


def measured(events: Sequence[Event], began: float, peak_memory_bytes: int | None) -> Measured:
    """From the journal of such a run, which began at that second since the epoch."""
    times = [event.time for event in events if event.kind == "step"]
    apart = [later - earlier for earlier, later in pairwise(times)]
    step_seconds = median(apart[SETTLING_STEPS - 1 :] or apart or [0.0])
    after = [event for event in events if event.time >= times[-1]]
    judged = max((event.time for event in after if _is_heldout(event)), default=times[-1])
    drawn = max((event.time for event in after if event.kind == "sample"), default=judged)
    last = events[-1].time
    return Measured(
        steps=len(times),
        begin_seconds=max(0.0, times[0] - began - step_seconds),
        step_seconds=step_seconds,
        heldout_seconds=judged - times[-1],
        sampling_seconds=drawn - judged,
        end_seconds=last - drawn,
        encoding_seconds=_encoding_seconds(events),
        peak_memory_bytes=peak_memory_bytes,
    )


def _is_heldout(event: Event) -> bool:
    values = event.data.get("values")
    return event.kind == "metric" and isinstance(values, dict) and HELDOUT in values


def _encoding_seconds(events: Sequence[Event]) -> float | None:
    """Of a picture, by the phase that says so and the one that follows it."""
    phases = [(event.time, ENCODING.match(str(event.data.get("text")))) for event in events if event.kind == "phase"]
    begun = next(((time, int(said[1])) for time, said in phases if said), None)
    if begun is None:
        return None
    ended = next((time for time, said in phases if time > begun[0] and not said), begun[0])
    return (ended - begun[0]) / begun[1]


def foreseen_seconds(plan: Plan, found: Measured, left_to_encode: int) -> float:
    """Of the whole run."""
    train, sample = plan.settings.train, plan.settings.sample
    return (
        found.begin_seconds
        + left_to_encode * (found.encoding_seconds or 0.0)
        + plan.steps * found.step_seconds
        + looks(plan.steps, train.heldout_every_steps) * found.heldout_seconds
        + looks(plan.steps, sample.every_steps) * found.sampling_seconds
        + found.end_seconds
    )


def looks(steps: int, every: int) -> int:
    """That follow the first step, the one after the last included."""
    return (steps - 1) // every + 1 if every else 1
