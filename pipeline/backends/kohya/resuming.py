"""Going on from a state of sd-scripts, so that exactly what is left is trained, at the learning rates that are left.

Left alone, a script that goes on from a state counts on its own: the LoRA scripts forget whole epochs, and with
accumulation skip too many (train_network.py, around epoch_to_start); the finetune scripts begin at 0. Either would
train too much or too little. So the count is given: `max_train_steps` is what is left, counted on from
`initial_step`, the place in the epoch, which `skip_until_initial_step` makes the data loader skip. Then the curve of
the learning rate would be bent to that number; its own length is given by a scheduler that takes it as an argument.
What the optimizer and the scheduler had come to is in the state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LENGTHS = {
    "linear": "get_linear_schedule_with_warmup",
    "cosine": "get_cosine_schedule_with_warmup",
    "cosine_with_restarts": "get_cosine_with_hard_restarts_schedule_with_warmup",
}
"""Schedulers whose curve depends on the number of steps, by the functions of transformers that sd-scripts makes them
with (get_scheduler_fix, library/train_util.py). constant and constant_with_warmup do not."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """A start that goes on."""

    state: Path
    step: int
    """Updates that are done."""
    steps: int
    """Of the whole run."""
    counted_from: int
    """What the script's own count begins at."""
    skips: bool
    """The script can be told where to begin, and skips the pictures that this epoch has had."""
    num_processes: int

    @property
    def last_counted(self) -> int:
        """What the script's own count ends at."""
        return self.counted_from + self.steps - self.step

    def changed(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """train.toml of this start."""
        changed = {**values, "resume": str(self.state), "max_train_steps": self.last_counted}
        if self.skips:
            changed |= {"initial_step": self.counted_from, "skip_until_initial_step": True}
            comment = f"goes on from step {self.step} of {self.steps}"
            changed["training_comment"] = values.get("training_comment", comment)
        if "sample_at_first" in changed:
            changed["sample_at_first"] = False
        every = changed.get("sample_every_n_steps")
        if every is not None:  # counted anew, so that the last step is drawn
            wanted = self.last_counted if every == self.steps else every
            changed["sample_every_n_steps"] = nearest_divisor(self.last_counted, wanted)
        return self._with_curve(changed)

    def _with_curve(self, values: dict[str, Any]) -> dict[str, Any]:
        function = LENGTHS.get(values["lr_scheduler"])
        if function is None or "lr_scheduler_type" in values:
            return values
        told = {"num_warmup_steps": values["lr_warmup_steps"], "num_training_steps": self.steps * self.num_processes}
        if "lr_scheduler_num_cycles" in values:
            told["num_cycles"] = values["lr_scheduler_num_cycles"]
        del values["lr_scheduler"]
        values.pop("lr_scheduler_num_cycles", None)
        return values | {
            "lr_warmup_steps": 0,
            "lr_scheduler_type": f"transformers.optimization.{function}",
            "lr_scheduler_args": [f"{name}={value}" for name, value in told.items()],
        }


def goes_on_from(
    state: Path,
    step: int,
    *,
    steps: int,
    updates_per_epoch: int,
    accumulation_steps: int,
    skips: bool,
    num_processes: int,
) -> Resumed:
    """With accumulation the scripts' own arithmetic mixes updates and batches: there the epoch is begun anew."""
    place = step % updates_per_epoch if skips and accumulation_steps == 1 else 0
    return Resumed(state, step, steps, place, skips, num_processes)


def nearest_divisor(total: int, wanted: float) -> int:
    """Of a count of steps or epochs: what is done every so many is done at the last one too. Seldom rather than more
    than twice as often as wanted."""
    divisors = [number for number in range(1, total + 1) if total % number == 0]
    return min((n for n in divisors if 2 * n >= wanted), key=lambda n: abs(n - wanted), default=total)
