"""How many parameters are trained, and how many stand by: by the model's header where it was read."""

from __future__ import annotations

from pipeline.families import PartKind
from pipeline.memory.adapters import adapter_parameters
from pipeline.records import Checkpoint
from pipeline.settings import Algorithm, Settings

ENCODERS = {
    **{"clip_l": 123e6, "clip_g": 695e6, "openclip_h": 340e6, "t5xxl": 4.76e9, "byt5": 219e6, "gemma2_2b": 2.61e9},
    **{"qwen3_06b": 0.6e9, "qwen3_4b": 4.02e9, "qwen3_8b": 8.19e9, "qwen25_vl_7b": 8.29e9, "mistral3_24b": 24.0e9},
}
"""Parameters of text encoders by the family that their headers show, counted in those headers."""
VAES = {"sd-4ch": 83.7e6, "flux-16ch": 83.8e6, "flux2": 84.0e6, "qwen_image": 126.9e6, "hunyuan_image21": 405.6e6}
"""Of VAEs, in the same way."""
USUAL_VAE = 84e6
"""Of a family that is not in the table: most are Stable Diffusion's or FLUX's."""

UNNAMED = "text_encoder"
"""What a text encoder inside is called that is none of the known ones, as the demo's."""


def trained_parameters(settings: Settings, checkpoint: Checkpoint) -> int:
    """By the shapes that the header shows; where it shows none (made-up facts, weights in 4 bits) about: the share of
    the denoiser that LoRA's two matrices take at Stable Diffusion 1.5's shapes, for each rank."""
    network = settings.network
    if network is None:
        return checkpoint.parameters
    if checkpoint.matrices:
        return adapter_parameters(checkpoint.matrices, network)
    if network.algo is Algorithm.full:
        return checkpoint.parameters
    return int(checkpoint.parameters * min(1.0, network.rank * 0.0005 + network.conv_rank * 0.0007))


def encoder_parameters(settings: Settings, checkpoint: Checkpoint, *, trainable_only: bool = False) -> float:
    """Of the text encoders: those inside of the model as its header has them, others by their family."""
    known, inside = settings.model.known, _inside(checkpoint)
    names = [name for name, part in known.parts.items() if part.kind is PartKind.text_encoder]
    asked = [name for name in names if not trainable_only or name in known.text.trainable]
    return sum(_parameters(settings, name, inside) for name in asked)


def vae_parameters(settings: Settings, checkpoint: Checkpoint) -> float:
    """Of the VAE inside of the model as its header has it, else by its family."""
    inside = _inside(checkpoint)
    if "vae" in inside and settings.model.parts.get("vae") is None:
        return inside["vae"]
    parts = settings.model.known.parts.values()
    return next((VAES[part.family] for part in parts if part.family in VAES), USUAL_VAE)


def trained_encoder_parameters(settings: Settings, checkpoint: Checkpoint) -> float:
    """The adapter's in the text encoders, or the whole of them; 0 where their learning rate is. Of encoders whose
    header was not read an adapter's share is taken to be that in the denoiser."""
    if settings.mode.text_encoder_lr <= 0:
        return 0.0
    if settings.network is not None and checkpoint.encoder_matrices:
        return adapter_parameters(checkpoint.encoder_matrices, settings.network)
    every = encoder_parameters(settings, checkpoint, trainable_only=True)
    return every * trained_parameters(settings, checkpoint) / max(1, checkpoint.parameters)


def _inside(checkpoint: Checkpoint) -> dict[str, int]:
    return {content.name: content.parameters for content in checkpoint.contents}


def _parameters(settings: Settings, name: str, inside: dict[str, int]) -> float:
    """Of one text encoder; 0 of one that is not needed beside another."""
    known, parts = settings.model.known, settings.model.parts
    family = known.parts[name].family
    if parts.get(name) is None and (family in inside or UNNAMED in inside):
        return inside.get(family) or inside[UNNAMED]
    either = next((names for names in known.alternatives if name in names), [name])
    wanted = [each for each in either if parts.get(each) is not None] or either[:1]
    return ENCODERS.get(family, 0.0) if name in wanted else 0.0
