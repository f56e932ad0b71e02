"""What trains beside or inside a base model: LoRAs and their kin, ControlNets, embeddings, told by their tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pipeline.checkpoint.header import Tensor
from pipeline.checkpoint.lora import lora_of

Named = Mapping[str, Tensor]

CONTROL = (
    *("control_model.", "controlnet_cond_embedding.", "controlnet_down_blocks.", "controlnet_mid_block."),
    *("controlnet_blocks.", "controlnet_x_embedder.", "controlnet_single_blocks.", "input_hint_block."),
    "control_layers.",
)
T2I_ADAPTER = re.compile(r"(adapter\.)?body\.\d+\.(resnets\.\d+\.)?block[12]\.")
EMBEDDED = {"emb_params", "clip_l", "clip_g", "t5xxl", "qwen3_4b"}
WIDTHS = {768: "sd15", 1024: "sd2", 1280: "sdxl", 2048: "sdxl", 4096: "flux1"}
"""Of the text that cross-attention reads, or that an embedding stands in for."""
MOST_ROWS = 2**20
"""Numbers of an embedding: 512 rows of the widest."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """What the file is, with the signs that told it: the first for its kind, the rest for its family."""

    kind: Literal["lora", "controlnet", "embedding"]
    family: str | None
    """Of the base model; None where the tensors can't tell."""
    variant: str
    signs: tuple[str, ...]


def adapter_of(tensors: Named, metadata: Mapping[str, str]) -> Adapter | None:
    """None for what is no adapter."""
    lora = lora_of(tensors, metadata)
    if lora:
        return Adapter("lora", lora.family, lora.algorithm, lora.signs)
    return _controlnet(tensors) or _embedding(tensors)


def _controlnet(tensors: Named) -> Adapter | None:
    if "lora_controlnet" in tensors:
        return Adapter("controlnet", _control_base(tensors), "control-lora", ("has lora_controlnet",))
    sign = next((name for name in tensors if name.startswith(CONTROL)), None)
    if sign:
        return Adapter("controlnet", _control_base(tensors), "controlnet", (f"has {sign}",))
    body = next((name for name in tensors if T2I_ADAPTER.match(name)), None)
    return Adapter("controlnet", None, "t2i-adapter", (f"has {body}",)) if body else None


def _control_base(tensors: Named) -> str | None:
    """FLUX, SD3 or Qwen-Image by their blocks; a UNet's by the width of its text."""
    names = "\n".join(tensors)
    if re.search(r"double_blocks\.|single_transformer_blocks\.|controlnet_single_blocks", names):
        return "flux1"
    if "txt_norm" in names:
        return "qwen_image"
    if "control_noise_refiner." in names:
        return "z_image"
    if re.search(r"joint_blocks\.|transformer_blocks\.\d+\.attn\.add_q_proj", names):
        return "flux1" if "controlnet_x_embedder" in names else "sd3"
    reads = (
        tensor.shape[1]
        for name, tensor in tensors.items()
        if re.search(r"attn2\.to_k\.(weight|down)$", name) and len(tensor.shape) == 2
    )
    return next((WIDTHS[width] for width in reads if width in (768, 1024, 2048)), None)


def _embedding(tensors: Named) -> Adapter | None:
    """A few rows of what a text encoder reads, by name or as the one vector of an unknown name."""
    if not tensors or len(tensors) > 4 or any(len(t.shape) > 2 or t.elements > MOST_ROWS for t in tensors.values()):
        return None
    signs = tuple(f"{name} is {list(tensor.shape)}" for name, tensor in tensors.items())
    if tensors.keys() & {"clip_l", "clip_g"}:
        family = "sdxl" if "clip_g" in tensors else "flux1" if "t5xxl" in tensors else None
        return Adapter("embedding", family, "textual-inversion", (signs[0], *signs))
    named = any(name in EMBEDDED or name.startswith(("string_to_param", "<")) for name in tensors)
    alone = len(tensors) == 1 and "." not in next(iter(tensors))
    widths = {tensor.shape[-1] for tensor in tensors.values() if tensor.shape} & WIDTHS.keys()
    if not widths or not (named or alone):
        return None
    return Adapter("embedding", WIDTHS[min(widths)], "textual-inversion", (signs[0], *signs))
