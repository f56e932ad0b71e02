"""Sample pictures while training: the same prompts and seeds each time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler
from PIL import Image
from torch import Tensor

from pipeline.backends.native.job import SamplePart


@torch.no_grad()
def sample_latents(
    denoiser: Any,
    schedule: Any,
    prompt: Tensor,
    negative: Tensor,
    sample: SamplePart,
    *,
    seed: int,
    shape: tuple[int, int, int],
    device: torch.device,
    between: Callable[[], None],
) -> Tensor:
    """DDIM (Song et al. 2020) with classifier-free guidance; the same picture as diffusers' StableDiffusionPipeline
    draws with a DDIMScheduler and the same seed. `prompt` and `negative` are (positions, width), `shape` (4, h, w)."""
    sampler = DDIMScheduler.from_config(schedule.config, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    sampler.set_timesteps(sample.num_inference_steps, device=device)
    rng = torch.Generator().manual_seed(seed)
    latents = torch.randn((1, *shape), generator=rng).to(device) * sampler.init_noise_sigma
    context = torch.stack([negative, prompt]).to(device)
    for timestep in sampler.timesteps:
        between()
        predicted = denoiser(torch.cat([latents] * 2), timestep, context, return_dict=False)[0].float()
        unguided, guided = predicted.chunk(2)
        guided = unguided + sample.guidance_scale * (guided - unguided)
        latents = sampler.step(guided, timestep, latents, return_dict=False)[0]
    return latents


@torch.no_grad()
def decode_picture(autoencoder: Any, latents: Tensor) -> Image.Image:
    """(1, 4, h, w) scaled latents -> a picture."""
    pixels = autoencoder.decode(latents / autoencoder.config.scaling_factor, return_dict=False)[0].float()
    levels = (pixels[0] / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).cpu().numpy()
    return Image.fromarray((levels * 255).round().astype(np.uint8))
