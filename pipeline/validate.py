"""Stage two: settings and facts become a plan that can run, or everything that keeps them from it."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.checks.captions import caption_problems
from pipeline.checks.claims import (
    contradiction,
    header_problems,
    is_refuted,
    model_choice,
    prediction_choice,
    prediction_problems,
    predicts,
)
from pipeline.checks.datasets import dataset_problems
from pipeline.checks.families import family_warnings, fixed_problems, parts_problems
from pipeline.checks.limits import out_of_range
from pipeline.checks.machines import machines_choice, machines_problems
from pipeline.checks.networks import network_problems
from pipeline.checks.optimizers import removed_arguments
from pipeline.checks.rates import comparable_rate, rate_warnings
from pipeline.checks.recipes import recipe_warnings
from pipeline.checks.resolutions import resolution_problems, resolution_warnings
from pipeline.dataset.captions import kept_tags
from pipeline.dataset.epoch import samples_per_epoch
from pipeline.dataset.flaws import count, listed
from pipeline.dataset.prompts import choose_prompts
from pipeline.errors import InvalidSettings, Problem
from pipeline.families import PartKind
from pipeline.length import batch_of, length_problems, steps_of, warmup_of
from pipeline.machine.precision import choose_precision, precision_problems
from pipeline.machine.telling import device_choices
from pipeline.memory.estimate import MemoryEstimate, estimate
from pipeline.memory.fit import cannot_fit, memory_choice, memory_problem, memory_warnings
from pipeline.memory.host import DiskNeed, Kept, disk_choice, disk_need, host_choice, host_need, host_warnings
from pipeline.memory.load import Load
from pipeline.memory.parameters import trained_parameters
from pipeline.memory.profiles import AUTO, first_candidate, fit_memory, left_to_memory
from pipeline.optimizer.choose import Chosen, Trial, choose_optimizer
from pipeline.optimizer.trial import Bench
from pipeline.profiles.catalog import kin_choice
from pipeline.records import Checkpoint, Choice, Dataset, Facts, Plan
from pipeline.settings import PlatformName, Prediction, RateMeaning, Settings, Until, decided
from pipeline.wording import counted

Check = Callable[[Settings, Facts], Iterator[Problem]]


@dataclass(frozen=True, slots=True)
class Backend:
    """What a backend has to say of settings and facts."""

    problems: Check
    """What it can't do."""
    load: Callable[[Settings, Facts, Checkpoint], Load]
    """What it puts on a device; asked of settings that have no problems."""
    kept: Callable[[Settings, Facts], Kept]
    """Where it keeps what its encoders made."""
    most_blocks: Callable[[Settings], int] = lambda _settings: 0
    """How many blocks of the denoiser it can leave in the computer's memory while the others work."""
    choices: Callable[[Plan, Facts], Iterator[Choice]] = lambda _plan, _facts: iter(())
    warnings: Callable[[Settings, Facts], Iterator[str]] = lambda _settings, _facts: iter(())
    weights_with_checkpoints: bool = False
    """Beside every checkpoint it saves the weights of that step, and a last checkpoint at the end."""
    trains_here: Callable[[Facts], bool] = lambda _facts: True
    """False for a job that is only rendered: whose interpreter will train is not known."""


def _native() -> Backend:
    from pipeline.backends.native.memory import native_kept, native_load
    from pipeline.backends.native.support import native_problems, native_warnings

    return Backend(native_problems, native_load, native_kept, warnings=native_warnings)


def _kohya() -> Backend:
    from pipeline.backends.kohya.memory import kohya_kept, kohya_load, most_blocks
    from pipeline.backends.kohya.support import kohya_choices, kohya_problems, kohya_warnings

    return Backend(
        kohya_problems,
        kohya_load,
        kohya_kept,
        most_blocks,
        kohya_choices,
        kohya_warnings,
        weights_with_checkpoints=True,
        trains_here=lambda facts: facts.checkout is not None,
    )


BACKENDS: dict[str, Callable[[], Backend]] = {"native": _native, "kohya": _kohya}
"""Loaded when asked for: a run has one."""

GIB = 2**30


def validate(
    settings: Settings,
    facts: Facts,
    trial_on: Callable[[Bench], Trial] | None = None,
    *,
    typed: Collection[str] = (),
) -> Plan:
    """The plan, with every automatic choice made; the warm-up that the user `typed` is not cut. Raises InvalidSettings
    with all problems at once; the optimizer is tried when there are no others, or taken on trust where there is no
    `trial_on`."""
    most_blocks = BACKENDS[settings.backend.name]().most_blocks(settings)
    _raise_any([*facts.problems, *_problems(first_candidate(settings, most_blocks), facts)])
    checkpoint, dataset = facts.checkpoint, facts.dataset
    assert checkpoint is not None and dataset is not None, "a part that is missing has a problem that says why"
    fitted = fit_memory(settings, facts.machine, most_blocks, lambda each: _estimate(each, facts, checkpoint))
    _raise_any(list(_problems(fitted.settings, facts)))
    _raise_any(list(_memory_problems(settings, fitted.settings, facts, checkpoint)))
    chosen = Chosen(fitted.settings, (), ())
    if trial_on is not None:
        chosen = _chosen(settings, fitted.settings, facts, checkpoint, trial_on)
    chosen = replace(chosen, choices=(*fitted.choices, *chosen.choices))
    return _plan(settings, chosen, facts, checkpoint, dataset, typed)


def _problems(settings: Settings, facts: Facts) -> Iterator[Problem]:
    return (problem for check in CHECKS for problem in check(settings, facts))


def _raise_any(problems: list[Problem]) -> None:
    if problems:
        raise InvalidSettings(tuple(problems))


def _chosen(
    asked: Settings, settings: Settings, facts: Facts, checkpoint: Checkpoint, trial_on: Callable[[Bench], Trial]
) -> Chosen:
    """Tried where the trainer is: neither the device of another machine nor a checkout of one is here."""
    here = settings.hardware.facts is None and BACKENDS[settings.backend.name]().trains_here(facts)
    if not here:
        untried = Choice("optimizer", settings.optimizer.name, "not tried: what would train with it is not here")
        return Chosen(settings, (untried,), ())
    bench = Bench(facts.machine, facts.checkout, settings.hardware.probe_seconds)
    return _tried(asked, settings, facts, checkpoint, trial_on(bench))


def _tried(asked: Settings, settings: Settings, facts: Facts, checkpoint: Checkpoint, trial: Trial) -> Chosen:
    """What takes the place of the optimizer that was asked for must go with the other settings too."""
    chosen = choose_optimizer(settings, trial, trained_parameters=trained_parameters(settings, checkpoint))
    if isinstance(chosen, Problem):
        raise InvalidSettings((chosen,))
    if chosen.settings.optimizer.target != settings.optimizer.target:
        _raise_any(list(_problems(chosen.settings, facts)))
        _raise_any(list(_memory_problems(asked, chosen.settings, facts, checkpoint)))
    return chosen


# ------------------------------------------------------------------------------------------------------------ checks


def _numbers_in_range(settings: Settings, _: Facts) -> Iterator[Problem]:
    yield from out_of_range(settings)


def _mode_has_its_network(settings: Settings, _: Facts) -> Iterator[Problem]:
    if settings.mode.name == "lora" and settings.network is None:
        yield Problem("network", "null", "mode=lora trains an adapter and needs to know which", "network=auto")
    if settings.mode.name == "finetune" and settings.network is not None:
        yield Problem("network", settings.network.algo.value, "mode=finetune trains no adapter", "mode=lora")


def _network_fits_algorithm(settings: Settings, _: Facts) -> Iterator[Problem]:
    if settings.network is not None:
        yield from network_problems(settings.network)


def _optimizer_is_a_class(settings: Settings, _: Facts) -> Iterator[Problem]:
    target = settings.optimizer.target
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", target):
        reason = "is not the import path of a class, such as torch.optim.AdamW"
        yield Problem("optimizer.target", target, reason, "optimizer=adamw")


def _arguments_have_values(settings: Settings, _: Facts) -> Iterator[Problem]:
    """A job file has no null, and to most constructors it means nothing."""
    for key, value in settings.flat().items():
        if key.startswith("optimizer.args.") and value is None:
            yield Problem(key, "null", "is no value that can be passed on", f"~{key}")


def _arguments_still_exist(settings: Settings, _: Facts) -> Iterator[Problem]:
    yield from removed_arguments(settings)


def _captions_are_made_of_text(settings: Settings, _: Facts) -> Iterator[Problem]:
    yield from caption_problems(settings)


def _sides_fit_the_model(settings: Settings, _: Facts) -> Iterator[Problem]:
    side, step = settings.train.resolution_px, settings.model.resolution_step_px
    if step < 8 or side < 32:  # told by the ranges
        return
    if step % 8:
        reason = "must be a multiple of 8: a latent stands for 8 pixels"
        yield Problem("model.resolution_step_px", step, reason, f"model.resolution_step_px={step // 8 * 8}")
    elif side % step:
        reason = f"must be a multiple of model.resolution_step_px={step}"
        yield Problem(
            "train.resolution_px", side, reason, f"train.resolution_px={max(step, round(side / step) * step)}"
        )


def _further_sides_fit(settings: Settings, facts: Facts) -> Iterator[Problem]:
    yield from resolution_problems(settings, facts.dataset)


def _blocks_can_be_swapped(settings: Settings, _: Facts) -> Iterator[Problem]:
    """More of them than there are is told by the trainer's own rules."""
    asked = settings.memory.blocks_to_swap
    if asked and not BACKENDS[settings.backend.name]().most_blocks(settings):
        reason = f"backend={settings.backend.name} swaps no blocks of {settings.model.known.title} in this mode"
        yield Problem("memory.blocks_to_swap", asked, reason, "leave memory.blocks_to_swap out")


def _dataset_is_said_once(settings: Settings, _: Facts) -> Iterator[Problem]:
    yield from dataset_problems(settings)


def _length_is_one(settings: Settings, _: Facts) -> Iterator[Problem]:
    yield from length_problems(settings)


def _model_is_what_it_shows(settings: Settings, facts: Facts) -> Iterator[Problem]:
    if facts.checkpoint is not None:
        yield from header_problems(settings, facts.checkpoint)
        yield from prediction_problems(settings, facts.checkpoint)


def _settings_suit_the_model(settings: Settings, _: Facts) -> Iterator[Problem]:
    yield from fixed_problems(settings)


def _model_has_its_parts(settings: Settings, facts: Facts) -> Iterator[Problem]:
    """A text encoder of a size of its own counts as the one that is wanted: the demo model has such a one."""
    if facts.checkpoint is None or is_refuted(settings, facts.checkpoint):
        return
    inside, known = set(facts.checkpoint.parts), settings.model.known.parts
    if "text_encoder" in inside:
        inside |= {name for name, part in known.items() if part.kind is PartKind.text_encoder}
    for problem in parts_problems(settings, inside):
        because = [reason for reason in facts.checkpoint.lacking if problem.value == "null"]
        yield replace(problem, reason="; ".join((problem.reason, *because)))


def _backend_can_train_it(settings: Settings, facts: Facts) -> Iterator[Problem]:
    if facts.checkpoint is not None and not is_refuted(settings, facts.checkpoint):
        yield from BACKENDS[settings.backend.name]().problems(settings, facts)


def _clip_skip_leaves_layers(settings: Settings, facts: Facts) -> Iterator[Problem]:
    skipped = settings.model.clip_skip
    if facts.checkpoint is not None and 0 < facts.checkpoint.text_layers <= skipped <= 11:
        layers = facts.checkpoint.text_layers
        reason = f"the text encoder has {layers} layers, and at least one must be left"
        yield Problem("model.clip_skip", skipped, reason, f"model.clip_skip={layers - 1}, or model.clip_skip=0")


def _tokenizer_is_there(settings: Settings, _: Facts) -> Iterator[Problem]:
    named = settings.model.tokenizer
    if named is not None and not any((Path(named) / file).is_file() for file in ("vocab.json", "tokenizer.json")):
        reason = "is no folder with a tokenizer (vocab.json and merges.txt, or tokenizer.json)"
        yield Problem("model.tokenizer", named, reason, "model.tokenizer=FOLDER, or model.tokenizer=null")


def _weights_name_is_a_file_name(settings: Settings, _: Facts) -> Iterator[Problem]:
    name = settings.backend.weights_name
    if not re.fullmatch(r"[^\x00-\x1f/\\.][^\x00-\x1f/\\]{0,199}", name):
        reason = "must be a file name of at most 200 characters, without folders and without a dot in front"
        yield Problem("backend.weights_name", repr(name), reason, "backend.weights_name=my-style")


def _machine_has_precision(settings: Settings, facts: Facts) -> Iterator[Problem]:
    if _machine_is_known(facts):
        yield from precision_problems(settings.hardware.precision, facts.machine)


def _machine_has_devices(settings: Settings, facts: Facts) -> Iterator[Problem]:
    """accelerate would start the processes all the same, each alone, all writing the same files."""
    wanted, machine = settings.hardware.num_processes, facts.machine
    on_cpu = machine.platform == "cpu"
    most = machine.cpu_cores if on_cpu else len(machine.device_names)
    if _machine_is_known(facts) and most < wanted <= 1024:
        reason = f"there are {most} {'CPU cores' if on_cpu else f'{machine.platform} devices'}"
        yield Problem("hardware.num_processes", wanted, reason, f"hardware.num_processes={most}")


def _machines_can_meet(settings: Settings, _: Facts) -> Iterator[Problem]:
    yield from machines_problems(settings)


def _machine_is_known(facts: Facts) -> bool:
    """Else the facts show the CPU in place of what was asked for, and its limits would mislead."""
    return not any(problem.key in ("hardware", "hardware.facts") for problem in facts.problems)


def _run_can_be_measured(settings: Settings, facts: Facts) -> Iterator[Problem]:
    if not settings.preflight.measure:
        return
    if settings.until is not Until.validate and not settings.explain:
        reason = "is asked of until=validate, and would have no effect here"
        yield Problem("preflight.measure", True, reason, "until=validate, or leave preflight.measure out")
    here = settings.hardware.facts is None and BACKENDS[settings.backend.name]().trains_here(facts)
    if not here or settings.hardware.num_machines > 1:
        reason = "what will train is not here" if not here else "several machines can't be measured by one"
        yield Problem("preflight.measure", True, reason, "leave preflight.measure out")


def _disk_suffices(settings: Settings, facts: Facts) -> Iterator[Problem]:
    if facts.checkpoint is None or any(problem.key == "hydra.run.dir" for problem in facts.problems):
        return
    needed = _disk_need(settings, facts, facts.checkpoint).run_bytes
    if needed > facts.disk_free_bytes:
        reason = (
            f"{facts.disk_free_bytes / GIB:.1f} GiB are free there, and the weights and "
            f"{settings.train.keep_checkpoints + 1} checkpoints take about {needed / GIB:.1f} GiB"
        )
        fix = "hydra.run.dir=FOLDER on a larger disk, or train.keep_checkpoints=1"
        yield Problem("hydra.run.dir", "the run directory", reason, fix)


def _disk_need(settings: Settings, facts: Facts, checkpoint: Checkpoint) -> DiskNeed:
    backend = BACKENDS[settings.backend.name]()
    kept = backend.kept(settings, facts)
    saves_weights = backend.weights_with_checkpoints
    return disk_need(settings, checkpoint, facts.dataset, kept, weights_with_checkpoints=saves_weights)


CHECKS: tuple[Check, ...] = (
    _numbers_in_range,
    _mode_has_its_network,
    _network_fits_algorithm,
    _optimizer_is_a_class,
    _arguments_have_values,
    _arguments_still_exist,
    _captions_are_made_of_text,
    _sides_fit_the_model,
    _further_sides_fit,
    _blocks_can_be_swapped,
    _dataset_is_said_once,
    _length_is_one,
    _model_is_what_it_shows,
    _settings_suit_the_model,
    _model_has_its_parts,
    _backend_can_train_it,
    _clip_skip_leaves_layers,
    _tokenizer_is_there,
    _weights_name_is_a_file_name,
    _machine_has_precision,
    _machine_has_devices,
    _machines_can_meet,
    _disk_suffices,
    _run_can_be_measured,
)


# ------------------------------------------------------------------------------------------------------------ memory


def _memory_problems(asked: Settings, settings: Settings, facts: Facts, checkpoint: Checkpoint) -> Iterator[Problem]:
    """Asked when nothing else is wrong: numbers out of their ranges would make an estimate of nothing."""
    found = _estimate(settings, facts, checkpoint)
    if not cannot_fit(found, facts.machine):
        return

    def fits(changed: Settings) -> bool:
        again = _estimate(changed, facts, checkpoint)
        return not cannot_fit(again, facts.machine) and not any(_problems(changed, facts))

    most_blocks = BACKENDS[settings.backend.name]().most_blocks(settings)
    yield memory_problem(asked, settings, found, facts.machine, most_blocks, fits)


def _estimate(settings: Settings, facts: Facts, checkpoint: Checkpoint) -> MemoryEstimate:
    return estimate(BACKENDS[settings.backend.name]().load(settings, facts, checkpoint))


# -------------------------------------------------------------------------------------------------------------- plan


def _plan(
    asked: Settings,
    chosen: Chosen,
    facts: Facts,
    checkpoint: Checkpoint,
    dataset: Dataset,
    typed: Collection[str],
) -> Plan:
    settings = chosen.settings
    precision, precision_choice = choose_precision(settings.hardware.precision, facts.machine)
    steps, steps_choice = steps_of(settings, dataset)
    warmup_steps, warmup_choice = warmup_of(settings.train, steps, typed)
    prompts, prompts_choice = choose_prompts(settings, dataset)
    backend = BACKENDS[settings.backend.name]()
    load, kept = backend.load(settings, facts, checkpoint), backend.kept(settings, facts)
    memory, host = estimate(load), host_need(settings, load, checkpoint, dataset, kept)
    beside_a_card = facts.machine.platform != "cpu"
    prediction, predicted = settings.model.prediction, predicts(settings, checkpoint)
    choices = (
        model_choice(settings, checkpoint),
        kin_choice(settings),
        _platform_choice(settings, facts),
        precision_choice,
        machines_choice(settings),
        *device_choices(facts.machine),
        prediction_choice(settings, checkpoint),
        _heldout_choice(settings, dataset),
        steps_choice,
        warmup_choice,
        prompts_choice,
        *chosen.choices,
        memory_choice(memory, facts.machine),
        host_choice(host, facts.machine) if beside_a_card else None,
        disk_choice(_disk_need(settings, facts, checkpoint), facts.disk_free_bytes, kept),
    )
    plan = Plan(
        settings=_of_this_machine(settings),
        machine=facts.machine,
        checkpoint=replace(checkpoint, prediction=predicted if prediction is Prediction.auto else prediction.value),
        dataset=dataset,
        precision=precision,
        num_processes=settings.hardware.all_processes,
        steps=steps,
        warmup_steps=warmup_steps,
        sample_prompts=prompts,
        fingerprint="",
        choices=tuple(choice for choice in choices if choice is not None),
        warnings=(
            *facts.machine.warnings,
            *dataset.warnings,
            *chosen.warnings,
            *_warnings(settings, checkpoint, dataset),
            *memory_warnings(memory, facts.machine),
            *(host_warnings(host, facts.machine, settings.backend.name) if beside_a_card else ()),
            *backend.warnings(settings, facts),
        ),
        checkout=facts.checkout,
        memory=None if memory is None else memory.as_measured(facts.machine.platform),
        rate=comparable_rate(settings),
    )
    own_choices = tuple(backend.choices(plan, facts))
    return replace(plan, fingerprint=fingerprint(plan, asked), choices=(*plan.choices, *own_choices))


def _of_this_machine(settings: Settings) -> Settings:
    """Of several machines only the first keeps a record: one training is one run."""
    if settings.hardware.machine_rank == 0:
        return settings
    return replace(settings, tracking=replace(settings.tracking, enabled=False))


def _platform_choice(settings: Settings, facts: Facts) -> Choice | None:
    if settings.hardware.name is not PlatformName.auto:
        return None
    machine = facts.machine
    drives = "no card" if machine.platform == "cpu" else ", ".join(machine.device_names)
    return Choice("hardware", machine.platform, f"torch {machine.torch_version} can drive {drives} here")


def _heldout_choice(settings: Settings, dataset: Dataset) -> Choice | None:
    if settings.data.heldout_dir is not None or not dataset.heldout:
        return None
    held, total = len(dataset.heldout), len(dataset.heldout) + len(dataset.train)
    reason = f"{held} of {total} pictures are held out, chosen by their content"
    return Choice("data.heldout_fraction", settings.data.heldout_fraction, reason)


def _warnings(settings: Settings, checkpoint: Checkpoint, dataset: Dataset) -> Iterator[str]:
    """What may be meant, and is more often a mistake."""
    train, said = settings.train, settings.model.prediction
    if not dataset.heldout:
        yield "no pictures are held out: nothing will show whether the model learns the style or the pictures by heart"
    yield from _batch_warnings(settings, dataset)
    caption, times = Counter(picture.caption for picture in dataset.train).most_common(1)[0]
    if len(dataset.train) >= 5 and times > 0.8 * len(dataset.train):
        yield f"{times} of {len(dataset.train)} pictures have one caption, {caption[:60]!r}: words will not steer it"
    small = [p.path for p in dataset.train if p.width_px * p.height_px < train.resolution_px**2]
    if small:
        told = f"fewer pixels than train.resolution_px={train.resolution_px} squared, and enlarged"
        yield f"{count(small)} of {told}: {listed(small)}"
    yield from resolution_warnings(settings, dataset)
    if said is not Prediction.auto and checkpoint.prediction and said.value != checkpoint.prediction:
        yield f"model.prediction={said.value}, though the model itself says {checkpoint.prediction}"
    against = contradiction(settings, checkpoint)
    if against:
        yield f"model.trust_header=false: {against}"
    yield from family_warnings(settings)
    yield from rate_warnings(settings)
    yield from recipe_warnings(settings, dataset)


def _batch_warnings(settings: Settings, dataset: Dataset) -> Iterator[str]:
    train, shown = settings.train, samples_per_epoch(dataset, settings.train)
    size, meant = decided(train.batch_size), train.effective_batch_size
    if size > shown:
        yield f"train.batch_size={size} is more than the {counted(shown, 'picture')} of an epoch: batches repeat them"
    real = batch_of(settings)
    if real != meant:
        told = f"{real} pictures make an update, not train.effective_batch_size={meant}"
        rate = settings.optimizer.lr * math.sqrt(real / meant)
        is_rate = settings.optimizer.known.rate is RateMeaning.rate
        yield told + (f"; by the rule of the square root optimizer.lr={rate:.3g} would go with them" if is_rate else "")


# ------------------------------------------------------------------------------------------------------- fingerprint

NOT_IN_THE_WEIGHTS = (
    *(
        "until",
        "explain",
        "resume",
        "cache.",
        "preflight.",
        "tracking.",
        "sample.",
        "data.",
        "profile.",
        "hardware.",
        "memory.",
        "backend.weights_name",
    ),
    *("optimizer.fallback", "optimizer.falls_back_to"),
    *("backend.root", "backend.python", "backend.cache_", "backend.stale_cache"),
    *(
        "model.name",
        "model.kin",
        "model.path",
        "model.prediction",
        "model.trust_header",
        "train.checkpoint_every_steps",
    ),
    *("train.keep_checkpoints", "train.heldout_every_steps", "train.gradient_checkpointing"),
    *("train.max_steps", "train.epochs", "train.min_steps", "train.samples_", "train.warmup_"),
)
"""Beginnings of settings that change no weight, or only by what `fingerprint` adds: model and pictures count by their
content, steps by their number, the machine by what was chosen for it."""


def fingerprint(plan: Plan, asked: Settings) -> str:
    """SHA-256 of all that decides the weights. What memory=auto decided by the memory that was free counts as it was
    asked for: the same command goes on with its run, and with what was decided then."""
    values = plan.settings.flat() | (left_to_memory(asked) if asked.memory.name == AUTO else {})
    settings = {key: value for key, value in values.items() if not key.startswith(NOT_IN_THE_WEIGHTS)}
    decided = {
        "captions": [plan.settings.data.wildcards, kept_tags(plan.settings)],
        "checkout": None if plan.checkout is None else plan.checkout.commit,
        "checkpoint": plan.checkpoint.digest,
        "dataset": plan.dataset.digest,
        "num_processes": plan.num_processes,
        "platform": plan.machine.platform,
        "precision": plan.precision,
        "prediction": plan.checkpoint.prediction,
        "steps": plan.steps,
        "torch": plan.machine.torch_version,
        "warmup_steps": plan.warmup_steps,
    }
    return hashlib.sha256(json.dumps([settings, decided], sort_keys=True, default=str).encode()).hexdigest()
