"""The training objective: noise in, prediction out, the weighted mean squared error a sample."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor


def sample_losses(
    denoiser: Any,
    schedule: DDPMScheduler,
    latents: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    context: Tensor,
    *,
    min_snr_gamma: float = 0.0,
    mask: Tensor | None = None,
) -> Tensor:
    """(batch,) float32. `latents` and `noise` are (batch, 4, h, w), `context` (batch, positions, width), `mask`
    (batch, 1, h, w): of 1 where the error counts to 0 where it does not; the mean is over all, as sd-scripts has it
    (apply_masked_loss, library/custom_train_functions.py)."""
    noisy = schedule.add_noise(latents, noise, timesteps)
    velocity = schedule.config.prediction_type == "v_prediction"
    target = schedule.get_velocity(latents, noise, timesteps) if velocity else noise
    predicted = denoiser(noisy, timesteps, context, return_dict=False)[0].float()
    errors = (predicted - target).pow(2)
    losses = (errors if mask is None else errors * mask).mean(dim=(1, 2, 3))
    if min_snr_gamma:
        losses = losses * min_snr_weights(schedule, timesteps, min_snr_gamma)
    return losses


def min_snr_weights(schedule: DDPMScheduler, timesteps: Tensor, gamma: float) -> Tensor:
    """min(SNR, gamma) / SNR, and / (SNR + 1) for velocity (Hang et al. 2023, arXiv 2303.09556, section 3.4)."""
    kept = schedule.alphas_cumprod.to(timesteps.device)[timesteps].float()
    snr = kept / (1 - kept)
    velocity = schedule.config.prediction_type == "v_prediction"
    return snr.clamp(max=gamma) / (snr + 1 if velocity else snr)


@torch.no_grad()
def heldout_timesteps(count: int, num_timesteps: int) -> Tensor:
    """Evenly spaced, the middle of each of `count` equal parts."""
    return ((torch.arange(count) + 0.5) / count * num_timesteps).long()
