"""Lets an optimizer take real steps on the device, and prints what came of it as one line of JSON.

    python attempt.py '{"target": "torch.optim.AdamW", "args": {}, "lr": 0.001, "twin": null, "device": "cpu",
                        "steps": 5, "shape": [256, 512]}'

Run in a process of its own, in the trainer's folder, which may be that of another interpreter: imports nothing of this
project.

    {"loss_before": 52.4, "loss_after": 20.1, "state_bytes_per_parameter": 2.05, "paged": false, "fused": true,
     "cosine": 0.9999, "norm_ratio": 1.001}        `cosine` and `norm_ratio` are null where there is no twin
    {"error": "RuntimeError: ..."}                 it could not be built, or could not take the steps
"""

from __future__ import annotations

import importlib
import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SEED = 20
SPREAD = 0.02
"""Of weights, goal and noise."""


def main(asked: dict[str, Any]) -> None:
    warnings.simplefilter("ignore")  # such as bitsandbytes' that a CPU pages nothing: the answer says it
    try:
        answer = attempt(asked)
    except Exception as error:  # noqa: BLE001  any library may raise anything
        lines = str(error).strip().splitlines()
        answer = {"error": f"{type(error).__name__}: {lines[0] if lines else ''}"}
    sys.stdout.write("\n" + json.dumps(answer) + "\n")


def attempt(asked: dict[str, Any]) -> dict[str, Any]:
    """Steps towards a target; and the same steps of the twin, to compare what the two did to the weights."""
    args, fused = asked["args"], asked["args"].get("fused")
    try:
        taken = steps_of(asked["target"], args, asked)
    except RuntimeError as error:
        if not fused or "fused" not in str(error):
            raise
        fused = False
        taken = steps_of(asked["target"], args | {"fused": False}, asked)
    told = {name: value for name, value in taken.items() if name != "update"}
    cosine, norm_ratio = None, None
    if asked["twin"]:
        twin = steps_of(asked["twin"], args, asked)["update"]
        cosine = float((taken["update"] @ twin) / (taken["update"].norm() * twin.norm()))
        norm_ratio = float(taken["update"].norm() / twin.norm())
    return told | {"fused": fused, "cosine": cosine, "norm_ratio": norm_ratio}


def steps_of(target: str, args: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """Loss before and after, size of the state, and what was added to the weights.

    The gradients are noisy, as they are in a training: in steady ones all optimizers step by the sign, and agree."""
    import torch

    rng = torch.Generator().manual_seed(SEED)
    start, goal = (torch.randn(asked["shape"], generator=rng).mul_(SPREAD).to(asked["device"]) for _ in range(2))
    weight = torch.nn.Parameter(start.clone())
    optimizer = class_of(target)([weight], lr=asked["lr"], **args)
    switch(optimizer, "train")
    for _ in range(asked["steps"]):
        optimizer.zero_grad()
        noise = torch.randn(asked["shape"], generator=rng).mul_(SPREAD).to(asked["device"])
        (0.5 * (weight - goal - noise).square().sum()).backward()
        optimizer.step()
    switch(optimizer, "eval")
    tensors = {tensor.data_ptr(): tensor for tensor in tensors_in(optimizer.state[weight])}
    return {
        "loss_before": distance(start, goal),
        "loss_after": distance(weight.detach(), goal),
        "state_bytes_per_parameter": sum(tensor.untyped_storage().nbytes() for tensor in tensors.values())
        / weight.numel(),
        "paged": any(getattr(tensor, "is_paged", False) for tensor in tensors.values()),
        "update": (weight.detach() - start).double().flatten().cpu(),
    }


def class_of(target: str) -> Any:
    module, _, name = target.rpartition(".")
    return getattr(importlib.import_module(module), name)


def switch(optimizer: Any, to: str) -> None:
    """Schedule-free optimizers train other weights than those that they mean to be used."""
    if callable(getattr(optimizer, to, None)):
        getattr(optimizer, to)()


def tensors_in(state: Any) -> Iterator[Any]:
    """However deep: bitsandbytes and others nest theirs. A number in a tensor is no state of a parameter."""
    if isinstance(state, dict):
        for value in state.values():
            yield from tensors_in(value)
    elif isinstance(state, list | tuple):
        for value in state:
            yield from tensors_in(value)
    elif hasattr(state, "untyped_storage") and state.numel() > 1:
        yield state


def distance(weight: Any, goal: Any) -> float:
    return float(0.5 * (weight.double() - goal.double()).square().sum())


if __name__ == "__main__":
    # As the trainer finds it: beside the current folder's modules, and not beside this file's.
    sys.path[:] = [str(Path.cwd()), *(path for path in sys.path if path != str(Path(__file__).parent))]
    main(json.loads(sys.argv[1]))
