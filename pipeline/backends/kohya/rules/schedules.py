"""How the learning rate runs over the steps, and how many there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pipeline.backends.kohya.asked import Asked
from pipeline.backends.kohya.rules.reading import is_changed, is_on, is_schedule_free, optimizer_of, pairs_of
from pipeline.backends.kohya.rules.wording import line_of, problem_of, switched_off
from pipeline.errors import Problem, did_you_mean

SCHEDULERS = (
    *("constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"),
    *("inverse_sqrt", "cosine_with_min_lr", "warmup_stable_decay", "piecewise_constant"),
)
"""SchedulerType of transformers 4.54.1 (and one of diffusers), less those that get_scheduler_fix of train_util.py calls
with arguments that they don't take: reduce_lr_on_plateau and cosine_warmup_with_min_lr."""
STEADY = ("constant", "constant_with_warmup")
READ_BY_SCHEDULER: Mapping[str, tuple[str, ...]] = {
    "lr_decay_steps": ("warmup_stable_decay",),
    "lr_scheduler_num_cycles": ("cosine_with_restarts", "cosine_with_min_lr", "warmup_stable_decay"),
    "lr_scheduler_power": ("polynomial",),
    "lr_scheduler_timescale": ("inverse_sqrt",),
    "lr_scheduler_min_lr_ratio": ("cosine_with_min_lr", "warmup_stable_decay"),
}
SCHEDULER_NEEDS: Mapping[str, tuple[str, str]] = {
    "cosine_with_min_lr": ("lr_scheduler_min_lr_ratio", "min_lr"),
    "piecewise_constant": ("", "step_rules"),
}
"""Name -> the argument, or the one of lr_scheduler_args, that it raises without."""


def scheduler_names(asked: Asked) -> Iterator[Problem]:
    """The parser has no choices for it, so that a wrong name dies when the models are loaded."""
    name, key = str(asked.value("lr_scheduler")), asked.key("lr_scheduler")
    if is_on(asked, "lr_scheduler_type") or is_schedule_free(asked) or name in SCHEDULERS:
        return
    if not name.startswith("adafactor"):
        known = f"it knows {', '.join(SCHEDULERS)}"
        reason = f"sd-scripts dies of it: {known}.{did_you_mean(name, list(SCHEDULERS))}"
        yield problem_of(asked, "lr_scheduler", reason, f"{key}=cosine")
    elif ":" not in name or optimizer_of(asked).lower() != "adafactor":
        reason = "it is the schedule of the optimizer Adafactor, and is written adafactor:RATE"
        yield problem_of(asked, "lr_scheduler", reason, f"{key}=constant_with_warmup")


def scheduler_arguments(asked: Asked) -> Iterator[Problem]:
    """Numbers that the chosen schedule does not read, and those that it can't do without."""
    scheduler = str(asked.value("lr_scheduler"))
    unused = is_on(asked, "lr_scheduler_type") or is_schedule_free(asked)
    for name, readers in READ_BY_SCHEDULER.items():
        # a setting of ours has a figure for every schedule; what was passed through was meant
        typed = asked.key(name).startswith("backend.args.")
        if typed and is_changed(asked, name) and (unused or scheduler not in readers):
            yield problem_of(
                asked, name, f"only the scheduler {' or '.join(readers)} reads it", switched_off(asked, name)
            )
    if unused or scheduler not in SCHEDULER_NEEDS:
        return
    argument, written = SCHEDULER_NEEDS[scheduler]
    if asked.value(argument) is None and written not in pairs_of(asked.value("lr_scheduler_args")):
        fix = f"backend.args.{argument}=0.1" if argument else f'backend.args.lr_scheduler_args=["{written}=..."]'
        yield problem_of(asked, "lr_scheduler", f"it raises without {argument or written}", fix)


def warm_up(asked: Asked) -> Iterator[Problem]:
    """Steps of warm-up that the schedule has no room for."""
    reason = _against_warm_up(asked)
    if is_on(asked, "lr_warmup_steps") and reason:
        yield problem_of(asked, "lr_warmup_steps", reason, switched_off(asked, "lr_warmup_steps"))


def _against_warm_up(asked: Asked) -> str:
    """get_scheduler_fix of train_util.py."""
    scheduler = str(asked.value("lr_scheduler"))
    if is_schedule_free(asked):
        return (
            f"{optimizer_of(asked)} is schedule-free: sd-scripts gives it no warm-up (its own is an optimizer argument)"
        )
    if is_on(asked, "lr_scheduler_type"):
        return f"sd-scripts dies of a warm-up beside {line_of(asked, 'lr_scheduler_type')}"
    if scheduler == "constant" or scheduler.startswith("adafactor"):
        return f"sd-scripts dies of a warm-up with the scheduler {scheduler} (there is constant_with_warmup)"
    return "the scheduler piecewise_constant has no warm-up" if scheduler == "piecewise_constant" else ""


def unused_schedules(asked: Asked) -> Iterator[Problem]:
    """A curve of the learning rate that nothing follows."""
    named = "lr_scheduler_type" if is_on(asked, "lr_scheduler_type") else ""
    if is_schedule_free(asked):
        reason = f"{optimizer_of(asked)} is schedule-free: sd-scripts gives it no scheduler"
        if named:
            yield problem_of(asked, named, reason, switched_off(asked, named))
    elif named:
        reason = f"sd-scripts does not look at it beside {line_of(asked, named)}"
    else:
        return
    if str(asked.value("lr_scheduler")) not in STEADY:
        yield problem_of(asked, "lr_scheduler", reason, switched_off(asked, "lr_scheduler"))


def epochs(asked: Asked) -> Iterator[Problem]:
    """Every script computes its steps anew from the epochs."""
    if is_on(asked, "max_train_epochs"):
        reason = "it overrides the number of steps, which the warm-up, checkpoints and samples were planned by"
        yield problem_of(asked, "max_train_epochs", reason, "train.epochs=...")
