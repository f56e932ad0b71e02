"""What tensor names and shapes tell: the model family, or what else a file is.

The tests are ordered from the most specific to the most general, since relatives share most of their names. File
names and `modelspec.architecture` decide nothing: merges copy the one, people change the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pipeline.checkpoint.header import Tensor

Tensors = Mapping[str, Tensor]

DENOISER_PREFIXES = ("model.diffusion_model.", "model.model.", "net.")
CLIP_TOKENS = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
OPEN_CLIP = "cond_stage_model.model."
SDXL_TEXT = "conditioner.embedders."

ADAPTER_MARKS = (
    *(".lora_down.", ".lora_up.", ".lora_A.", ".lora_B.", "_lora.down.", "_lora.up.", "_lora1.down."),
    *(".hada_w1_a", ".lokr_w1", ".lokr_w1_a", ".oft_blocks", ".oft_diag", ".on_input", ".lambda_layer", ".dora_scale"),
)
CONTROL_MARKS = ("control_model.", "controlnet_cond_embedding.", "controlnet_down_blocks.", "controlnet_blocks.")
EMBEDDING_NAMES = {"emb_params", "clip_l", "clip_g"}
QUANTISED_DTYPES = ("F4", "F6_", "F8_", "I8", "U8")

TRANSFORMERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("sd3", ("joint_blocks.0.context_block.",)),
    ("sd3", ("transformer_blocks.0.attn.add_q_proj.", "pos_embed.proj.")),
    ("hunyuan", ("txt_in.individual_token_refiner.",)),
    ("flux2", ("double_stream_modulation_img.",)),
    ("chroma", ("distilled_guidance_layer.",)),
    ("flux1", ("double_blocks.0.img_attn.",)),
    ("flux1", ("single_transformer_blocks.0.attn.to_q.",)),
    ("qwen_image", ("txt_norm.", "transformer_blocks.0.attn.add_q_proj.")),
    ("z_image", ("cap_embedder.1.weight", "noise_refiner.0.", "layers.0.attention.", "x_pad_token")),
    ("lumina2", ("cap_embedder.1.weight",)),
    ("lumina2", ("time_caption_embed.",)),
    ("anima", ("llm_adapter.",)),
    ("wan", ("head.modulation", "patch_embedding.")),
)
"""Family, and beginnings of names that must all be there, once the prefix of a whole checkpoint is taken off."""

CHANNEL_VARIANTS = {4: "", 5: "_depth", 8: "_pix2pix", 9: "_inpaint"}
"""By the channels that the UNet takes: the latents, and what some variants are shown beside them."""

COMPONENTS: tuple[tuple[str, str], ...] = (
    ("decoder.conv_in.weight", "a lone VAE"),
    ("first_stage_model.decoder.conv_in.weight", "a lone VAE"),
    ("encoder.block.0.", "a lone T5 text encoder"),
    ("text_model.embeddings.", "a lone CLIP text encoder"),
    (CLIP_TOKENS, "a lone CLIP text encoder"),
    ("model.layers.0.", "a language model"),
)


def other_than_a_base(names: Iterable[str]) -> str | None:
    """'a LoRA' and the like for what trains beside or inside a base model; None for anything else."""
    names = set(names)
    if any(mark in name for name in names for mark in ADAPTER_MARKS):
        return "a LoRA or another adapter"
    if any(name.startswith(CONTROL_MARKS) for name in names):
        return "a ControlNet"
    return "a textual-inversion embedding" if names and names <= EMBEDDING_NAMES else None


def denoiser_of(tensors: Tensors) -> Tensors:
    """The tensors of the denoiser, without the prefix that they have in a whole checkpoint."""
    for prefix in DENOISER_PREFIXES:
        inside = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        if len(inside) > 5:
            return inside
    return tensors


def family_of(tensors: Tensors) -> str | None:
    """The family of a single file's denoiser; None when there is none that is known."""
    denoiser = denoiser_of(tensors)
    for transformer, beginnings in TRANSFORMERS:
        if all(any(name.startswith(beginning) for name in denoiser) for beginning in beginnings):
            return transformer
    first = denoiser.get("input_blocks.0.0.weight") or denoiser.get("conv_in.weight")
    context = context_width(denoiser)
    if first is None or len(first.shape) != 4 or context is None:
        return None
    family = _unet_family(tensors, denoiser, context)
    return None if family is None else family + CHANNEL_VARIANTS.get(first.shape[1], "_of_another_kind")


def context_width(denoiser: Tensors) -> int | None:
    """Width of the text that a UNet attends to."""
    shapes = (tensor.shape for name, tensor in denoiser.items() if name.endswith("attn2.to_k.weight"))
    return next((shape[1] for shape in shapes if len(shape) == 2), None)


def _unet_family(tensors: Tensors, denoiser: Tensors, context: int) -> str | None:
    """A UNet whose CLIP has the width that it attends to is SD1's architecture, at whatever size."""
    extra = denoiser.get("label_emb.0.0.weight") or denoiser.get("add_embedding.linear_1.weight")
    if extra is not None:
        return {2560: "sdxl_refiner", 5632: "kolors"}.get(extra.shape[-1], "sdxl")
    if any(name.startswith(SDXL_TEXT) for name in tensors):
        return "sdxl"
    if any(name.startswith(OPEN_CLIP) for name in tensors):
        return "sd2"
    clip = tensors.get(CLIP_TOKENS)
    if context == 768 or (clip is not None and clip.shape[-1] == context):
        return "sd15"
    return {1024: "sd2", 2048: "sdxl"}.get(context)


def component_of(names: Iterable[str]) -> str:
    """What a file without a denoiser is."""
    names = list(names)
    found = (kind for beginning, kind in COMPONENTS if any(name.startswith(beginning) for name in names))
    return next(found, "of no kind that is known here")


def is_quantised(denoiser: Tensors) -> bool:
    """Weights of 8 bits and less are not plain numbers: they can't be trained, nor adapted without their scales."""
    return any(tensor.dtype.startswith(QUANTISED_DTYPES) and len(tensor.shape) > 1 for tensor in denoiser.values())
