"""The learning rate as transformers' schedulers move it, for the names that get_scheduler_fix of library/train_util.py
knows them by."""

import ast
import math


def factor_of(args, num_processes=1):
    """The function step -> share of the peak."""
    length = args.max_train_steps * num_processes
    warmup = int(args.lr_warmup_steps * length) if isinstance(args.lr_warmup_steps, float) else args.lr_warmup_steps
    told = {"num_warmup_steps": warmup, "num_training_steps": length, "num_cycles": args.lr_scheduler_num_cycles}
    name = args.lr_scheduler
    if args.lr_scheduler_type or name == "constant":
        if warmup:
            raise ValueError(f"{name} does not require `num_warmup_steps`. Set None or 0.")
        pairs = (each.split("=") for each in args.lr_scheduler_args or ())
        told = {key: ast.literal_eval(value) for key, value in pairs}
        name = args.lr_scheduler_type.rpartition(".")[2] or name
    return lambda step: _factor(_kind(name), step, **told)


def _kind(name):
    kinds = {
        "get_linear_schedule_with_warmup": "linear",
        "get_cosine_schedule_with_warmup": "cosine",
        "get_cosine_with_hard_restarts_schedule_with_warmup": "cosine_with_restarts",
    }
    kind = kinds.get(name, name)
    assert kind in ("constant", "constant_with_warmup", *kinds.values()), f"{name} is not a valid SchedulerType"
    return kind


def _factor(kind, step, num_warmup_steps=0, num_training_steps=0, num_cycles=1):
    if step < num_warmup_steps:
        return step / max(1, num_warmup_steps)
    if kind.startswith("constant"):
        return 1.0
    done = (step - num_warmup_steps) / max(1, num_training_steps - num_warmup_steps)
    if kind == "linear":
        return max(0.0, 1 - done)
    if kind == "cosine":
        return max(0.0, 0.5 * (1 + math.cos(math.pi * done)))
    return 0.0 if done >= 1 else 0.5 * (1 + math.cos(math.pi * (num_cycles * done % 1)))
