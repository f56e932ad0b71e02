"""Checkpoints: `checkpoints/step-000050/`, whole or not there, safetensors and JSON only."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, load_file, save_file
from torch import Tensor, nn

from pipeline.files import flush_folder

UNFINISHED = ".part"
FILES = ("state.json", "trained.safetensors", "optimizer.safetensors")
PATH_SEPARATOR = "/"
GROUPS = "groups"
"""Stands before the values of the optimizer's groups; a weight's stand under its number."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint that was read."""

    step: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    """State of the gradient scaler; empty where there was none."""

    def put_into(self, trained: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        with torch.no_grad():
            for name, parameter in trained.named_parameters():
                parameter.copy_(self.weights[name])
        optimizer.load_state_dict(self.optimizer)
        _keep_types(optimizer, self.optimizer)


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """The checkpoints of one run directory; those of another fingerprint are not seen."""

    folder: Path
    fingerprint: str
    keep: int

    def save(self, step: int, trained: nn.Module, optimizer: torch.optim.Optimizer, scaler: dict[str, Any]) -> Path:
        """Written beside, flushed, renamed; then the oldest ones go."""
        final = self.folder / f"step-{step:06d}"
        unfinished = final.with_name(final.name + UNFINISHED)
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        tensors, rest = _split(optimizer.state_dict())
        weights = dict(trained.named_parameters())
        save_file({key: _plain(value) for key, value in weights.items()}, unfinished / "trained.safetensors")
        save_file(_apart(tensors), unfinished / "optimizer.safetensors")
        state = {"step": step, "fingerprint": self.fingerprint, "optimizer": rest, "scaler": scaler}
        (unfinished / "state.json").write_text(json.dumps(state), encoding="utf-8")
        flush_folder(unfinished)
        shutil.rmtree(final, ignore_errors=True)
        unfinished.replace(final)
        self._remove_old()
        return final

    def read_last(self, device: torch.device) -> Saved | None:
        """The newest checkpoint; None where there is none."""
        found = self._found()
        if not found:
            return None
        state, weights, tensors = (found[-1] / name for name in FILES)
        read = (load_file(path, device=str(device)) for path in (weights, tensors))
        return _saved(state.read_bytes(), *read)

    def last_files(self) -> tuple[bytes, ...]:
        """The newest checkpoint as it lies there, to be sent; nothing where there is none."""
        found = self._found()
        return tuple((found[-1] / name).read_bytes() for name in FILES) if found else ()

    def _found(self) -> list[Path]:
        whole = [path for path in sorted(self.folder.glob("step-*")) if not path.name.endswith(UNFINISHED)]
        return [path for path in whole if self._is_ours(path)]

    def _is_ours(self, path: Path) -> bool:
        state = path / "state.json"
        return state.exists() and json.loads(state.read_text(encoding="utf-8"))["fingerprint"] == self.fingerprint

    def _remove_old(self) -> None:
        for path in self._found()[: -self.keep]:
            doomed = path.with_name(path.name + UNFINISHED)
            path.replace(doomed)
            shutil.rmtree(doomed)


def saved_from(files: Sequence[bytes]) -> Saved | None:
    """What `last_files` gave, maybe on another machine."""
    if not files:
        return None
    state, weights, tensors = files
    return _saved(state, load(weights), load(tensors))


def _saved(state: bytes, weights: dict[str, Tensor], tensors: dict[str, Tensor]) -> Saved:
    said = json.loads(state)
    return Saved(int(said["step"]), weights, _join(tensors, said["optimizer"]), said["scaler"])


def _split(state: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state as named tensors and the plain values around them; bitsandbytes nests its own, and others
    have tensors in their groups too."""
    leaves = [*_leaves((), state["state"]), *_leaves((GROUPS,), dict(enumerate(state["param_groups"])))]
    tensors = {PATH_SEPARATOR.join(path): value for path, value in leaves if isinstance(value, Tensor)}
    values = {PATH_SEPARATOR.join(path): value for path, value in leaves if not isinstance(value, Tensor)}
    return tensors, {"values": values}


def _leaves(path: tuple[str, ...], value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not isinstance(value, dict) or (path and not value):
        yield path, value
        return
    for key, item in value.items():
        yield from _leaves((*path, str(key)), item)


def _join(tensors: dict[str, Tensor], rest: dict[str, Any]) -> dict[str, Any]:
    """JSON has made lists of the tuples, such as the version that an optimizer compares with its own."""
    nested: dict[str, Any] = {}
    for key, value in {**tensors, **rest["values"]}.items():
        *names, last = key.split(PATH_SEPARATOR)
        place = nested
        for name in names:
            place = place.setdefault(name, {})
        place[last] = tuple(value) if isinstance(value, list) and last != "params" else value
    groups = nested.pop(GROUPS)
    state = {int(index): values for index, values in nested.items()}
    return {"state": state, "param_groups": [groups[str(index)] for index in range(len(groups))]}


def _keep_types(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """torch casts a state to the type of its weights: what an optimizer keeps narrower would round no more."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for index, values in saved["state"].items():
        state = optimizer.state[weights[index]]
        for name, value in values.items():
            if isinstance(value, Tensor) and isinstance(state.get(name), Tensor):
                state[name] = state[name].to(value.dtype)


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """bitsandbytes has one table of its 8-bit steps for all weights, and safetensors takes no tensor twice."""
    made: dict[str, Tensor] = {}
    seen: set[int] = set()
    for key, value in tensors.items():
        plain = _plain(value)
        place = plain.untyped_storage().data_ptr()
        made[key] = plain.clone() if place in seen else plain
        seen.add(place)
    return made
