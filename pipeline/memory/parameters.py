"""How many parameters are trained."""

from __future__ import annotations

from pipeline.records import Checkpoint
from pipeline.settings import Algorithm, Settings

ENCODERS = {
    **{"clip_l": 123e6, "clip_g": 695e6, "openclip_h": 340e6, "t5xxl": 4.76e9, "byt5": 219e6, "gemma2_2b": 2.61e9},
    **{"qwen3_06b": 0.6e9, "qwen3_4b": 4.02e9, "qwen3_8b": 8.19e9, "qwen25_vl_7b": 8.29e9, "mistral3_24b": 24.0e9},
}
"""Parameters of text encoders by the family that their headers show, counted in those headers."""


def trained_parameters(settings: Settings, checkpoint: Checkpoint) -> int:
    """About: what LoRA's two matrices take at Stable Diffusion 1.5's shapes, a share of the denoiser for each rank."""
    network = settings.network
    if network is None or network.algo is Algorithm.full:
        return checkpoint.parameters
    return int(checkpoint.parameters * min(1.0, network.rank * 0.0005 + network.conv_rank * 0.0007))


def encoder_parameters(settings: Settings, checkpoint: Checkpoint, *, trainable_only: bool = False) -> float:
    """Of the text encoders; where they lie inside, no more than the files have bytes: the demo's is small."""
    known = settings.model.known
    names = [name for name, part in known.parts.items() if part.family in ENCODERS]
    asked = [name for name in names if not trainable_only or name in known.text.trainable]
    total = sum(ENCODERS[known.parts[name].family] for name in asked)
    inside = all(known.parts[name].inside and settings.model.parts.get(name) is None for name in asked)
    return min(total, checkpoint.bytes) if inside else total


def trained_encoder_parameters(settings: Settings, checkpoint: Checkpoint) -> float:
    """The adapter's share in them, or the whole of them; 0 where their learning rate is."""
    if settings.mode.text_encoder_lr <= 0:
        return 0.0
    every = encoder_parameters(settings, checkpoint, trainable_only=True)
    return every * trained_parameters(settings, checkpoint) / max(1, checkpoint.parameters)
