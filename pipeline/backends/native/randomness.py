"""All randomness of the training as a function of (seed, purpose, position): nothing depends on what ran before.

That is what lets a run that was killed end with the same weights as one that was not.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from pipeline.backends.native.job import TrainPart


def generator(seed: int, *purpose: object) -> torch.Generator:
    """A CPU generator that depends on its arguments alone."""
    return torch.Generator().manual_seed(_number(seed, *purpose))


def plain_random(seed: int, *purpose: object) -> Random:
    """The same for choices in plain Python."""
    return Random(_number(seed, *purpose))  # noqa: S311 (not for secrets)


def seed_globals(seed: int, *purpose: object) -> None:
    """For layers that draw from torch's global state: dropout."""
    torch.manual_seed(_number(seed, *purpose))


@dataclass(frozen=True, slots=True)
class Draw:
    """What is random in one micro-batch: (batch, ...) each."""

    noise: Tensor
    timesteps: Tensor
    latent_noise: Tensor


def draw_batch(seed: int, position: int, shape: tuple[int, ...], *, num_timesteps: int, train: TrainPart) -> Draw:
    """Noise of `shape` (batch, channels, height, width) for the micro-batch at `position` of the whole run.

    Timesteps are stratified over the batch (one uniform draw in each of its equal parts), which lowers the variance of
    the loss and keeps every timestep equally likely (Kingma et al. 2021, Variational Diffusion Models, appendix I.1).
    """
    rng = generator(seed, "batch", position)
    batch = shape[0]
    noise = torch.randn(shape, generator=rng)
    if train.noise_offset:
        noise += train.noise_offset * torch.randn(batch, shape[1], 1, 1, generator=rng)
    within = (torch.randperm(batch, generator=rng) + torch.rand(batch, generator=rng)) / batch
    return Draw(
        noise=noise,
        timesteps=(within * num_timesteps).long().clamp_(max=num_timesteps - 1),
        latent_noise=torch.randn(shape, generator=rng),
    )


def is_mirrored(seed: int, position: int, place: int) -> bool:
    """Whether the picture at `place` in the micro-batch at `position` is, where pictures are flipped: one in two."""
    return plain_random(seed, "flip", position, place).random() < 0.5


def _number(seed: int, *purpose: object) -> int:
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
