"""Records as lines of text for people."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

from pipeline.dataset.resolutions import px_words, resolutions_px
from pipeline.length import batch_of, equation
from pipeline.records import Choice, ComparableRate, Dataset, Facts, Job, Machine, Outcome, Plan, PredictedMemory
from pipeline.settings import decided


def machine_summary(machine: Machine) -> str:
    if machine.platform == "cpu":
        return f"cpu, {counted(machine.cpu_cores, 'core')}"
    several = f"{len(machine.device_names)} x " if len(machine.device_names) > 1 else ""
    return f"{machine.platform}, {several}{machine.device_names[0]}"


def facts_summary(facts: Facts) -> str:
    """The machine, the model and the pictures in one line."""
    checkpoint, dataset = facts.checkpoint, facts.dataset
    model = (
        "no model"
        if checkpoint is None
        else f"{checkpoint.path.name} ({checkpoint.family}, {count(checkpoint.parameters)})"
    )
    pictures = "no pictures" if dataset is None else f"{len(dataset.train)} + {len(dataset.heldout)} pictures"
    return " · ".join((machine_summary(facts.machine), model, pictures))


def plan_summary(plan: Plan) -> str:
    train = plan.settings.train
    batch = decided(train.batch_size) * decided(train.accumulation_steps) * plan.num_processes
    return (
        f"{counted(plan.steps, 'step')} of {counted(batch, 'picture')} · {plan.precision} · {plan.settings.mode.name}"
    )


def job_summary(job: Job) -> str:
    return f"{counted(len(job.files), 'file')} in {short_path(job.run_dir / 'job')}"


def machine_lines(machine: Machine) -> list[str]:
    """What `doctor` and `until=detect` print."""
    return _table(
        ("platform", machine.platform),
        ("devices", ", ".join(machine.device_names)),
        ("memory", f"{size(machine.memory_bytes)} free"),
        ("cpu cores", str(machine.cpu_cores)),
        ("bfloat16", "in hardware" if machine.bf16 else "not in hardware"),
        *((("attention", ", ".join(machine.attention)),) if machine.attention else ()),
        ("torch", machine.torch_version or "can't be imported"),
    )


def facts_lines(facts: Facts) -> list[str]:
    """What `until=detect` prints."""
    checkpoint, dataset = facts.checkpoint, facts.dataset
    lines = [*machine_lines(facts.machine), *_table(("disk", f"{size(facts.disk_free_bytes)} free"))]
    if checkpoint is not None:
        lines += _table(
            ("model", short_path(checkpoint.path)),
            ("family", f"{checkpoint.family}, {checkpoint.layout}, predicts {checkpoint.prediction}"),
            ("parameters", f"{count(checkpoint.parameters)}, {size(checkpoint.bytes)} on disk"),
        )
    if dataset is not None:
        lines += _table(
            ("dataset", f"{dataset.name}, {short_path(dataset.dir)}"),
            ("pictures", _pictures_words(dataset)),
            ("captions", f"{sum(bool(picture.caption) for picture in dataset.train)} of {len(dataset.train)}"),
        )
    return [*lines, *(f"  problem: {problem}" for problem in facts.problems)]


def _pictures_words(dataset: Dataset) -> str:
    masked = sum(picture.mask_path is not None for picture in dataset.train)
    words = f"{len(dataset.train)} to train on, {len(dataset.heldout)} held out"
    words += f", {len(dataset.regularisation)} for regularisation" if dataset.regularisation else ""
    return f"{words}; {masked} with a mask" if masked else words


def plan_lines(plan: Plan) -> list[str]:
    """What `until=validate` prints; choices and warnings were told before."""
    train, settings = plan.settings.train, plan.settings
    network = settings.network
    adapter = "none" if network is None else f"{network.algo.value}, rank {network.rank}, alpha {network.alpha:g}"
    return _table(
        ("mode", settings.mode.name),
        ("network", adapter),
        ("optimizer", f"{settings.optimizer.name}, learning rate {settings.optimizer.lr:g}"),
        *((("comparable", rate_words(plan.rate)),) if plan.rate is not None else ()),
        ("length", equation(plan.dataset, train, batch_of(settings), plan.steps)),
        ("steps", f"{plan.steps}, {plan.warmup_steps} of them warm-up, {train.scheduler.value}"),
        ("batch", f"{decided(train.batch_size)} x {decided(train.accumulation_steps)} x {plan.num_processes}"),
        ("resolution", px_words(resolutions_px(train))),
        *((("flips", "each picture is mirrored in half of the draws"),) if train.flip else ()),
        ("precision", plan.precision),
        ("prompts", str(len(plan.sample_prompts))),
        ("fingerprint", plan.fingerprint[:12]),
    )


def rate_words(rate: ComparableRate) -> str:
    """optimizer.lr=0.0001 x network.alpha=8 / network.rank=16 = 5e-05, usual 3e-05 to 0.00025."""
    return f"{rate.made_of} = {rate.value:.3g}, usual {rate.low:g} to {rate.high:g}"


def job_lines(job: Job) -> list[str]:
    """What `until=render` prints: the files, and the command as one line to paste."""
    words = [f"{name}={shlex.quote(value)}" for name, value in job.env.items()]
    command = job.command or " ".join([f"cd {shlex.quote(str(job.cwd))} &&", *words, shlex.join(job.argv)])
    return [*(f"  {short_path(file)}" for file in job.files), "", command]


def outcome_lines(
    outcome: Outcome,
    run_dir: Path,
    *,
    page: str | None,
    ui_command: str | None,
    predicted: PredictedMemory | None = None,
) -> list[str]:
    """The summary of a finished run."""
    rows = [
        ("weights", short_path(run_dir / outcome.weights) if outcome.weights else None),
        ("loss", _change(outcome.loss_first, outcome.loss_last, with_percent=False)),
        ("held-out loss", _change(outcome.heldout_before, outcome.heldout_after, with_percent=True)),
        ("peak memory", memory_words(outcome.peak_memory_bytes, predicted)),
        ("time", duration(outcome.seconds)),
        ("MLflow run", page),
        ("look at it", ui_command),
    ]
    return _table(*((name, value) for name, value in rows if value is not None))


def memory_words(peak_bytes: int | None, predicted: PredictedMemory | None) -> str | None:
    """2.1 GiB, 2.0-2.4 GiB predicted; None where nothing was measured."""
    if peak_bytes is None:
        return None
    if predicted is None:
        return size(peak_bytes)
    low, high = predicted.low_bytes / 2**30, predicted.high_bytes / 2**30
    return f"{peak_bytes / 2**30:.2f} GiB, {low:.2f}-{high:.2f} GiB predicted"


def choice_line(choice: Choice) -> str:
    return f"{choice.key}={_plain(choice.value)}: {choice.reason}"


def short_path(path: Path) -> str:
    """Relative to the current folder where that is shorter."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) and path != here else str(path)


def count(number: int) -> str:
    for unit, factor in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return str(number)


def counted(number: int, noun: str, several: str = "") -> str:
    """`1 picture`, `2 pictures`; `several` where an s does not do."""
    return f"{number} {noun}" if number == 1 else f"{number} {several or f'{noun}s'}"


def size(num_bytes: int) -> str:
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.1f} {unit}"
    return f"{num_bytes} bytes"


def duration(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _change(before: float | None, after: float | None, *, with_percent: bool) -> str | None:
    if before is None or after is None:
        return None if after is None else f"{after:.4f}"
    percent = f" ({(after - before) / before:+.1%})" if with_percent and before else ""
    return f"{before:.4f} -> {after:.4f}{percent}"


def _table(*rows: tuple[str, str]) -> list[str]:
    return [f"  {name:<14}{value}" for name, value in rows]


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, Iterable) and not isinstance(value, str) else str(value)
