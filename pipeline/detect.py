"""Stage one: what is here. Looks at the machine, the base model, the pictures and the disk; changes nothing."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.checkpoint.identify import identify
from pipeline.checkpoint.recognise import recognise
from pipeline.dataset.captions import tags_change
from pipeline.dataset.finding import Progress
from pipeline.dataset.scan import scan
from pipeline.errors import Problem, UnreadableFile
from pipeline.families import Part
from pipeline.machine.elsewhere import machine_elsewhere
from pipeline.machine.probe import probe_machine
from pipeline.records import Checkout, Checkpoint, Facts, Machine
from pipeline.settings import Model, Settings


def detect(settings: Settings, run_dir: Path, *, progress: Progress = lambda _done, _all: None) -> Facts:
    """All that can be found out without training. A user's mistake becomes a problem in the facts, never an error, so
    that `validate` can tell all of them at once. `progress` is told of every picture that was looked at."""
    machine, checkout, machine_problems = LOOKS[settings.backend.name](settings)
    checkpoint, checkpoint_problems = _look_at_model(settings.model)
    part_problems = _look_at_parts(settings.model)
    dataset, dataset_problems = scan(
        settings.data,
        threads=machine.cpu_cores,
        tags_change=tags_change(settings),
        cache_dir=Path(settings.cache.dir).expanduser(),
        progress=progress,
    )
    disk_free_bytes, disk_problems = _look_at_disk(run_dir)
    return Facts(
        machine=machine,
        checkpoint=checkpoint,
        dataset=dataset,
        disk_free_bytes=disk_free_bytes,
        problems=(*machine_problems, *checkpoint_problems, *part_problems, *dataset_problems, *disk_problems),
        checkout=checkout,
    )


def _own_trainer(settings: Settings) -> tuple[Machine, None, tuple[Problem, ...]]:
    hardware = settings.hardware
    if hardware.facts is not None:
        machine, problems = machine_elsewhere(settings, hardware.facts)
    else:
        machine, problems = probe_machine(hardware.name, seconds=hardware.probe_seconds)
    return machine, None, problems


def _checkout(settings: Settings) -> tuple[Machine, Checkout | None, tuple[Problem, ...]]:
    from pipeline.backends.kohya.look import look_for_trainer

    return look_for_trainer(settings)


Look = Callable[[Settings], tuple[Machine, Checkout | None, tuple[Problem, ...]]]
LOOKS: dict[str, Look] = {"native": _own_trainer, "kohya": _checkout}
"""What each backend would train with: our own torch, or a checkout and its interpreter."""


def _look_at_model(model: Model) -> tuple[Checkpoint | None, tuple[Problem, ...]]:
    try:
        return recognise(Path(model.path), insisting=not model.trust_header), ()
    except UnreadableFile as error:
        reason = re.sub(rf"^{re.escape(model.path)}(:? )", "", str(error))  # the value is told with the key
        fix = "model.path=PATH, a diffusers folder or a safetensors file"
        return None, (Problem("model.path", model.path, reason, fix),)


def _look_at_parts(model: Model) -> tuple[Problem, ...]:
    """Files that are given for text encoders and VAE must be these; what is no path is left to `validate`."""
    return tuple(
        problem
        for name, given in model.parts.items()
        if given is not None and Path(given).exists() and name in model.known.parts
        for problem in _look_at_part(f"model.parts.{name}", given, model.known.parts[name])
    )


def _look_at_part(key: str, given: str, wanted: Part) -> Iterator[Problem]:
    fix = f"{key}=PATH of a {wanted.family}" + (f" ({wanted.hub})" if wanted.hub else "")
    try:
        found = identify(Path(given))
    except UnreadableFile as error:
        yield Problem(key, given, str(error), fix)
        return
    if (found.kind, found.family) != (wanted.kind.value, wanted.family):
        name = f"{found.title} ({found.family})" if found.family else found.title
        yield Problem(key, given, f"is {name}, and a {wanted.kind.value} of kind {wanted.family} is wanted", fix)


def _look_at_disk(run_dir: Path) -> tuple[int, tuple[Problem, ...]]:
    """Free bytes where the run directory is or will be."""
    run_dir = run_dir.absolute()
    nearest = next(folder for folder in (run_dir, *run_dir.parents) if _is_seen(folder))
    as_who_we_act = os.access in os.supports_effective_ids
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK, effective_ids=as_who_we_act):
        reason = f"nothing can be written to {nearest}" if nearest.is_dir() else f"{nearest} is not a folder"
        problem = Problem("hydra.run.dir", str(run_dir), reason, "hydra.run.dir=FOLDER, one that you may write to")
        return 0, (problem,)
    return shutil.disk_usage(nearest).free, ()


def _is_seen(path: Path) -> bool:
    """What is in a folder that is closed to us can't be told to exist."""
    try:
        return path.exists()
    except OSError:
        return False
