"""The range of every number in the settings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.errors import Problem
from pipeline.settings import Settings

MANY = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Limit:
    """Inclusive, but for a `low` that is `open`."""

    low: float
    high: float
    typical: float
    """What the message says to type."""
    open: bool = False

    def holds(self, value: float) -> bool:
        """False for nan too, which no comparison holds for."""
        return (self.low < value if self.open else self.low <= value) and value <= self.high

    def __str__(self) -> str:
        return f"more than {self.low:g} and at most {self.high:g}" if self.open else f"{self.low:g} to {self.high:g}"


LIMITS: dict[str, Limit] = {
    "seed": Limit(0, 2**32 - 1, 0),
    "model.clip_skip": Limit(0, 11, 0),
    "model.resolution_step_px": Limit(8, 512, 64),
    "data.heldout_fraction": Limit(0, 0.9, 0.1),
    "mode.text_encoder_lr": Limit(0, 10, 0),
    "network.rank": Limit(1, 4096, 16),
    "network.alpha": Limit(0, 4096, 8, open=True),
    "network.conv_rank": Limit(0, 4096, 8),
    "network.conv_alpha": Limit(0, 4096, 4),
    "network.dropout": Limit(0, 0.9, 0),
    "data.repeats": Limit(1, 10_000, 1),
    "optimizer.lr": Limit(0, 10, 1e-4, open=True),
    "train.max_steps": Limit(1, MANY, 1000),
    "train.epochs": Limit(0, MANY, 10, open=True),
    "train.samples_per_image": Limit(1, MANY, 50),
    "train.samples_floor": Limit(0, MANY, 2000),
    "train.samples_cap": Limit(1, MANY, 8000),
    "train.min_steps": Limit(1, MANY, 400),
    "memory.blocks_to_swap": Limit(0, 100, 8),
    "train.effective_batch_size": Limit(1, MANY, 4),
    "train.batch_size": Limit(1, 4096, 4),
    "train.accumulation_steps": Limit(1, 65_536, 1),
    "train.max_grad_norm": Limit(0, 1e6, 1),
    "train.prior_loss_weight": Limit(0, 100, 1),
    "train.resolution_px": Limit(32, 4096, 512),
    "train.scheduler_cycles": Limit(1, 1000, 1),
    "train.warmup_steps": Limit(0, MANY, 100),
    "train.timestep_shift": Limit(0, 100, 3, open=True),
    "train.warmup_fraction": Limit(0, 0.5, 0.05),
    "train.min_snr_gamma": Limit(0, 1000, 5, open=True),
    "train.noise_offset": Limit(0, 0.5, 0.05),
    "train.caption_dropout": Limit(0, 1, 0.1),
    "train.tag_dropout": Limit(0, 0.9, 0.1),
    "train.keep_tags": Limit(0, 1000, 1),
    "train.caption_tokens": Limit(75, 225, 75),
    "train.checkpoint_every_steps": Limit(1, MANY, 200),
    "train.keep_checkpoints": Limit(1, 10_000, 2),
    "train.heldout_every_steps": Limit(0, MANY, 200),
    "cache.max_gib": Limit(0, 1e6, 50, open=True),
    "sample.every_steps": Limit(0, MANY, 0),
    "sample.num_inference_steps": Limit(1, 1000, 25),
    "sample.guidance_scale": Limit(0, 100, 5),
    "sample.seed": Limit(0, 2**32 - 1, 1000),
    "hardware.num_processes": Limit(1, 1024, 1),
    "hardware.num_machines": Limit(1, 1024, 1),
    "hardware.machine_rank": Limit(0, 1023, 0),
    "hardware.main_port": Limit(1, 65_535, 29_500),
    "hardware.probe_seconds": Limit(1, 3600, 60),
}
"""Every number but the arguments of optimizers and networks; what is null is not judged."""

NULL_MEANS = {
    "train.warmup_steps": "null for train.warmup_fraction of all",
    "train.timestep_shift": "null for none",
    "train.batch_size": "null for as many as the memory profile allows",
    "train.accumulation_steps": "null for as many as train.effective_batch_size needs",
    "memory.blocks_to_swap": "null for what the memory profile says",
    "train.max_steps": "null for pictures x samples_per_image",
    "train.epochs": "null for pictures x samples_per_image",
    "train.min_snr_gamma": "null to weigh every timestep the same",
}


def out_of_range(settings: Settings) -> Iterator[Problem]:
    """A problem for every number outside of its limits."""
    values = settings.flat()
    for key, limit in LIMITS.items():
        value = values.get(key)
        if isinstance(value, int | float) and not limit.holds(value):
            also = f", or {NULL_MEANS[key]}" if key in NULL_MEANS else ""
            yield Problem(key, value, f"must be {limit}{also}", f"{key}={limit.typical:g}")
