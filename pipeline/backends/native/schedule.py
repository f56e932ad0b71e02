"""Optimizers by import path, and learning-rate schedules as a function of the step."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from pipeline.backends.native.job import OptimizerPart, TrainPart
from pipeline.errors import RunError


def build_optimizer(part: OptimizerPart, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Raises RunError for arguments that the class does not take."""
    module, _, name = part.target.rpartition(".")
    kind = getattr(importlib.import_module(module), name)
    try:
        optimizer: torch.optim.Optimizer = kind(groups, lr=part.lr, **part.args)
    except (TypeError, ValueError) as error:
        raise RunError(f"optimizer.args={part.args}: {part.target} does not take them: {error}") from error
    for group in optimizer.param_groups:
        group["peak_lr"] = group["lr"]
    _switch(optimizer, "train")
    return optimizer


@contextmanager
def as_meant(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """The weights that a schedule-free optimizer means to be used: the average of those that it trains. Afterwards the
    trained ones are back to the last bit, which its own way back would not do. Others train what they mean."""
    if not switches(optimizer):
        yield
        return
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    trained = [weight.detach().to("cpu", copy=True) for weight in weights]
    settle(optimizer)
    try:
        yield
    finally:
        _switch(optimizer, "train")
        with torch.no_grad():
            for weight, value in zip(weights, trained, strict=True):
                weight.copy_(value)


def settle(optimizer: torch.optim.Optimizer) -> None:
    """Leaves the weights as they are meant to be used, for good."""
    _switch(optimizer, "eval")


def switches(optimizer: torch.optim.Optimizer) -> bool:
    return all(callable(getattr(optimizer, name, None)) for name in ("train", "eval"))


def _switch(optimizer: Any, to: str) -> None:
    if switches(optimizer):
        getattr(optimizer, to)()


def set_learning_rate(optimizer: torch.optim.Optimizer, train: TrainPart, step: int) -> float:
    """Sets every group's rate for the update number `step` (from 0); returns the first group's."""
    factor = lr_factor(train, step)
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
    rate: float = optimizer.param_groups[0]["lr"]
    return rate


def lr_factor(train: TrainPart, step: int) -> float:
    """Share of the peak rate at the update number `step`: a linear warm-up, then the scheduler's curve."""
    if step < train.warmup_steps:
        return (step + 1) / train.warmup_steps
    progress = (step - train.warmup_steps) / max(1, train.steps - train.warmup_steps)
    match train.scheduler:
        case "constant":
            return 1.0
        case "linear":
            return 1.0 - progress
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * progress))
        case "cosine_restarts":
            return 0.5 * (1 + math.cos(math.pi * (progress * train.scheduler_cycles % 1.0)))
    raise RunError(f"train.scheduler={train.scheduler} is not a schedule of the native trainer")
