"""Which optimizer the run has: the one that was asked for if it works here, else the first of its chain that does."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipeline.errors import Problem
from pipeline.optimizer.catalog import Option, asked_for, options
from pipeline.optimizer.trial import STEPS, Bench, NotInstalled, Steps, TrialError, remember, take_steps
from pipeline.records import Choice
from pipeline.settings import Fallback, KnownOptimizer, Settings

Trial = Callable[[Option, float], Steps]
"""An optimizer and the run's learning rate -> what its steps did. Raises TrialError where they are no good."""
MOST_BYTES = 1.15
"""Of an 8-bit state, for one byte that is known."""
LEAST_COSINE, NORM_RATIOS = 0.98, (0.9, 1.1)
ONLY_8BIT = {"min_8bit_size", "optim_bits", "is_paged"}
"""Arguments that no 32-bit optimizer takes."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An optimizer that was tried, and why it is not used."""

    option: Option
    reason: str
    install: str = ""
    """What to type where only its package is missing."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The settings with the optimizer that is used."""

    settings: Settings
    choices: tuple[Choice, ...]
    warnings: tuple[str, ...]


def trial_on(bench: Bench) -> Trial:
    """On the device, judged by what is known of the optimizer."""

    def trial(option: Option, lr: float) -> Steps:
        steps = take_steps(option, lr, bench)
        faults = list(faults_of(steps, option, pages=bench.machine.platform != "cpu"))
        if faults:
            raise TrialError("; ".join(faults))
        remember(option, lr, bench, steps)
        return steps

    return trial


def faults_of(steps: Steps, option: Option, *, pages: bool) -> Iterator[str]:
    """What the steps should have done, and did not."""
    before, after = steps.loss_before, steps.loss_after
    if not (math.isfinite(after) and after < before):
        yield f"the loss does not fall: {before:.4g} before, {after:.4g} after {STEPS} steps"
    known = option.known
    if known is None:
        return
    if known.twin is not None:
        yield from _faults_of_8_bits(steps, known, known.twin.rpartition(".")[2])
    if known.paged and pages and not steps.paged:
        yield "its state is not paged"


def _faults_of_8_bits(steps: Steps, known: KnownOptimizer, twin: str) -> Iterator[str]:
    measured, right = steps.state_bytes_per_parameter, known.state_bytes_per_parameter
    if not measured <= MOST_BYTES * right:
        yield f"its state is not in 8 bits: {measured:.2f} bytes a parameter, where {right:.2f} are right"
    if steps.cosine is None or steps.norm_ratio is None:
        yield f"its updates were not compared with those of {twin}"
    elif not (steps.cosine >= LEAST_COSINE and NORM_RATIOS[0] <= steps.norm_ratio <= NORM_RATIOS[1]):
        yield f"its updates are not those of {twin}: cosine {steps.cosine:.4f}, length {steps.norm_ratio:.3f} times"


# ------------------------------------------------------------------------------------------------------------- chain


def choose_optimizer(settings: Settings, trial: Trial, *, trained_parameters: int) -> Chosen | Problem:
    """Goes down the chain to the first that passes; a problem where none does, or none may be taken."""
    failures: list[Failure] = []
    option: Option | None = asked_for(settings.optimizer)
    while option is not None:
        try:
            steps = trial(option, settings.optimizer.lr)
            return _chosen(settings, option, steps, failures, trained_parameters)
        except TrialError as error:
            install = error.install if isinstance(error, NotInstalled) else ""
            failures.append(Failure(option, str(error), install))
        following = _following(settings, option, failures[0].option)
        if isinstance(following, str):
            return _problem(settings, failures, following)
        option = following
    raise AssertionError("a chain ends with a reason")


def steps_down(settings: Settings) -> bool:
    """Whether another may take the place of what was asked for: then a package that is missing ends nothing."""
    asked = asked_for(settings.optimizer)
    return isinstance(_following(settings, asked, asked), Option)


def _following(settings: Settings, failed: Option, asked: Option) -> Option | str:
    """The next of the chain as this run would have it, or why there is none."""
    option = options().get(failed.falls_back_to or "")
    if settings.optimizer.fallback is Fallback.error:
        return "optimizer.fallback=error lets nothing take its place"
    if option is None:
        return "nothing takes its place by itself"
    assert asked.known is not None and option.known is not None, "an unknown class has no chain"
    if _factor(asked.known, option.known) is None:
        return f"the learning rate of {option.name} means something else"
    if option.known.schedulers and settings.train.scheduler not in option.known.schedulers:
        return f"{option.name} needs train.scheduler={option.known.schedulers[0].value}"
    return replace(option, args=_args(asked, option))


def _factor(asked: KnownOptimizer, other: KnownOptimizer) -> float | None:
    """By which the learning rate changes; None where the two can't be compared."""
    if asked.rate is not other.rate:
        return None
    if asked.times_adamws == other.times_adamws:
        return 1.0
    if asked.times_adamws is None or other.times_adamws is None:
        return None
    return other.times_adamws / asked.times_adamws


def _args(asked: Option, option: Option) -> Mapping[str, Any]:
    """Those that were asked for hold in the same family, which has the same arguments."""
    if asked.known is None or option.known is None or asked.known.times_adamws != option.known.times_adamws:
        return option.args
    return {**option.args, **{name: value for name, value in asked.args.items() if name not in ONLY_8BIT}}


# ----------------------------------------------------------------------------------------------------------- telling


def _problem(settings: Settings, failures: list[Failure], why: str) -> Problem:
    """With all that was tried."""
    tried = "; ".join(f"{failure.option.name} does not work here: {failure.reason}" for failure in failures)
    last = failures[-1].option
    fixes = [failure.install for failure in failures if failure.install]
    fixes += ["optimizer.fallback=next"] if settings.optimizer.fallback is Fallback.error else []
    fixes += ["optimizer=adamw"] if last.name != "adamw" else ["python -c 'import torch' shows whether torch works"]
    return Problem("optimizer", failures[0].option.name, f"{tried}; {why}", ", or ".join(fixes))


def _chosen(settings: Settings, option: Option, steps: Steps, failures: list[Failure], trained: int) -> Chosen:
    fused = [] if steps.fused == option.args.get("fused") else [_fused_choice(steps)]
    if fused:
        option = replace(option, args={**option.args, "fused": steps.fused})
    if not failures:
        settings = _with_args(settings, option)
        return Chosen(settings, (Choice("optimizer", option.name, steps_line(steps, option)), *fused), ())
    asked = failures[0].option
    assert asked.known is not None and option.known is not None, "an unknown class has no chain"
    factor = _factor(asked.known, option.known)
    assert factor is not None, "it would not have been tried"
    told = _told(failures, option, trained)
    rate = "" if factor == 1.0 else f"; learning rates x {factor:.3g}"
    choice = Choice("optimizer", option.name, f"{told}{rate}; {steps_line(steps, option)}")
    return Chosen(_with(settings, option, factor), (choice, *fused), (f"optimizer={option.name} {told}{rate}",))


def _fused_choice(steps: Steps) -> Choice:
    return Choice("optimizer.args.fused", steps.fused, "torch has no fused step for these weights here")


def _told(failures: list[Failure], option: Option, trained: int) -> str:
    """Each step down with its reason, and what it costs."""
    chain = [*(failure.option for failure in failures[1:]), option]
    parts = []
    for failure, following in zip(failures, chain, strict=True):
        parts.append(
            f"in place of {failure.option.name}, {_cost(failure.option, following, trained)}: {failure.reason}"
        )
    return "; ".join(parts)


def _cost(failed: Option, following: Option, trained: int) -> str:
    assert failed.known is not None and following.known is not None, "an unknown class has no chain"
    more = following.known.state_bytes_per_parameter - failed.known.state_bytes_per_parameter
    word = "more" if more >= 0 else "less"
    return f"{abs(more):.2f} bytes a parameter {word}, about {abs(more) * trained / 2**20:.0f} MiB here"


def steps_line(steps: Steps, option: Option) -> str:
    """The proof in numbers."""
    fell = (
        f"in {STEPS} steps of {option.class_name} the loss fell from {steps.loss_before:.4g} to {steps.loss_after:.4g}"
    )
    parts = [fell, f"{steps.state_bytes_per_parameter:.2f} bytes of state a parameter"]
    if option.known is not None and option.known.twin and steps.cosine is not None and steps.norm_ratio is not None:
        twin = option.known.twin.rpartition(".")[2]
        parts.append(f"updates as {twin}'s: cosine {steps.cosine:.4f}, length {steps.norm_ratio:.3f} times")
    if option.known is not None and option.known.paged and not steps.paged:
        parts.append("nothing is paged on a CPU")
    return ", ".join(parts)


def _with_args(settings: Settings, option: Option) -> Settings:
    return replace(settings, optimizer=replace(settings.optimizer, args=dict(option.args)))


def _with(settings: Settings, option: Option, factor: float) -> Settings:
    """The settings of the optimizer that is really used."""
    assert option.known is not None, "an unknown class has no chain"
    optimizer = replace(
        settings.optimizer,
        name=option.name,
        target=option.target,
        lr=settings.optimizer.lr * factor,
        args=dict(option.args),
        falls_back_to=option.falls_back_to,
        known=option.known,
    )
    mode = replace(settings.mode, text_encoder_lr=settings.mode.text_encoder_lr * factor)
    return replace(settings, optimizer=optimizer, mode=mode)
