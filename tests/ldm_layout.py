"""Writes a Stable Diffusion 1 in diffusers layout as one file in the original layout, at any size."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file
from torch import Tensor

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}


def write_single_file(model: Path, path: Path) -> Path:
    """The layout of v1-5-pruned.safetensors."""
    parts = StableDiffusionPipeline.from_pretrained(str(model), torch_dtype=torch.float32)
    unet, vae = parts.unet, parts.vae
    weights = {f"model.diffusion_model.{_unet_key(k, unet)}": v for k, v in unet.state_dict().items()}
    weights |= {f"first_stage_model.{_vae_key(k, vae)}": _vae_value(k, v) for k, v in vae.state_dict().items()}
    for key, value in parts.text_encoder.state_dict().items():
        weights[f"cond_stage_model.transformer.text_model.{key.removeprefix('text_model.')}"] = value
    save_file({key: value.contiguous() for key, value in weights.items()}, path)
    return path


def _unet_key(key: str, unet: Any) -> str:
    per_level = unet.config.layers_per_block
    fixed = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }
    for ours, theirs in fixed.items():
        if key.startswith(ours + "."):
            return key.replace(ours, theirs, 1)
    if match := re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", key):
        place = {"resnets": 2 * int(match[2]), "attentions": 1}[match[1]]
        return f"middle_block.{place}.{_inner(match[1], match[3])}"
    match = re.match(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", key)
    assert match, key
    way, level, kind, place, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
    if way == "down":
        block = 1 + level * (per_level + 1) + (per_level if kind == "downsamplers" else place)
        part = {"resnets": "0", "attentions": "1", "downsamplers": "0"}[kind]
        inner = rest.replace("conv.", "op.") if kind == "downsamplers" else _inner(kind, rest)
        return f"input_blocks.{block}.{part}.{inner}"
    block = level * (per_level + 1) + (per_level if kind == "upsamplers" else place)
    attended = hasattr(unet.up_blocks[level], "attentions")
    part = {"resnets": "0", "attentions": "1", "upsamplers": "2" if attended else "1"}[kind]
    return f"output_blocks.{block}.{part}.{_inner(kind, rest)}"


def _inner(kind: str, rest: str) -> str:
    if kind != "resnets":
        return rest
    name, tail = rest.split(".", 1)
    return f"{RESNET[name]}.{tail}"


def _vae_key(key: str, vae: Any) -> str:
    levels = len(vae.config.block_out_channels)
    key = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    key = key.replace("mid_block.attentions.0.group_norm", "mid.attn_1.norm")
    for ours, theirs in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")):
        key = key.replace(f"mid_block.attentions.0.{ours}", f"mid.attn_1.{theirs}")
    key = re.sub(r"down_blocks\.(\d)\.resnets\.", r"down.\1.block.", key)
    key = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", key)
    key = re.sub(r"up_blocks\.(\d)\.resnets\.", lambda m: f"up.{levels - 1 - int(m[1])}.block.", key)
    return re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", key)


def _vae_value(key: str, value: Tensor) -> Tensor:
    """The original attention of the autoencoder is made of 1x1 convolutions."""
    is_attention = re.search(r"attentions\.0\.(to_q|to_k|to_v|to_out\.0)\.weight", key)
    return value[:, :, None, None] if is_attention else value
