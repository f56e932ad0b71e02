"""The adapters: LyCORIS modules beside the frozen layers, under the key names that Kohya's tools and diffusers read."""

from __future__ import annotations

import logging
from typing import Any

import torch
from lycoris import LycorisNetwork
from lycoris.modules import tlora
from torch import Tensor, nn

from pipeline.backends.native.heap import little_to_collect
from pipeline.backends.native.job import NetworkPart

# The layers that Kohya's sd-scripts adapts: attention always, the convolutional blocks where they have a rank.
ATTENTION_BLOCKS = ["Transformer2DModel"]
CONVOLUTION_BLOCKS = ["ResnetBlock2D", "Downsample2D", "Upsample2D"]
TEXT_BLOCKS = ["CLIPAttention", "CLIPMLP"]

# Our names of algorithms -> what LyCORIS calls them, and what else it must be told. Low-rank products are added to the
# layer's output (bypass) instead of to its weight: the same sum, without a gradient of the size of the weight.
LYCORIS_NAMES: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("lora", {"bypass_mode": True}),
    "locon": ("locon", {"bypass_mode": True}),
    "dora": ("locon", {"weight_decompose": True, "wd_on_out": True}),
    "diag_oft": ("diag-oft", {}),
}


def adapt_denoiser(denoiser: nn.Module, network: NetworkPart) -> LycorisNetwork:
    """Adapters on the denoiser; the base weights stay as they are."""
    blocks = ATTENTION_BLOCKS + (CONVOLUTION_BLOCKS if network.conv_rank else [])
    return _adapt(denoiser, network, prefix="lora_unet", blocks=blocks)


def adapt_text_encoder(encoder: nn.Module, network: NetworkPart) -> LycorisNetwork:
    """Adapters on the text encoder. Kohya's names have the `text_model` that transformers 5 has left out."""
    prefix = "lora_te" if hasattr(encoder, "text_model") else "lora_te_text_model"
    return _adapt(encoder, network, prefix=prefix, blocks=TEXT_BLOCKS)


def set_timesteps(network: NetworkPart | None, timesteps: Tensor, num_timesteps: int) -> None:
    """T-LoRA trains fewer ranks the noisier the sample is (Soboleva et al. 2025, arXiv 2507.05964); others don't care.

    LyCORIS takes one mask for a batch: that of its noisiest sample.
    """
    if network is None or network.algo != "tlora":
        return
    masks = [tlora.compute_timestep_mask(int(t), num_timesteps, network.rank) for t in timesteps]
    tlora.set_timestep_mask(torch.stack(masks).to(timesteps.device).amin(0))


def clear_timesteps() -> None:
    """All ranks again, for sampling and for the held-out loss."""
    tlora.clear_timestep_mask()


def adapter_weights(adapter: LycorisNetwork, dtype: torch.dtype) -> dict[str, Tensor]:
    """What is saved: every tensor under its Kohya name, on the CPU."""
    return {key: value.detach().to("cpu", dtype).contiguous() for key, value in adapter.state_dict().items()}


def _adapt(module: nn.Module, network: NetworkPart, *, prefix: str, blocks: list[str]) -> LycorisNetwork:
    logging.getLogger("LyCORIS").setLevel(logging.ERROR)
    algorithm, told = LYCORIS_NAMES.get(network.algo, (network.algo, {}))
    # LyCORIS keeps the target layers on the class: every one is set here, so that no earlier network leaves a trace.
    LycorisNetwork.apply_preset(
        {
            "enable_conv": network.conv_rank > 0,
            "target_module": blocks,
            "target_name": [],
            "module_algo_map": {},
            "name_algo_map": {},
            "lora_prefix": prefix,
            "use_fnmatch": False,
            "exclude_name": [],
        }
    )
    with little_to_collect():
        adapter = LycorisNetwork(
            module,
            multiplier=1.0,
            lora_dim=network.rank,
            alpha=network.alpha,
            conv_lora_dim=network.conv_rank,
            conv_alpha=network.conv_alpha,
            dropout=network.dropout,
            network_module=algorithm,
            warn_on_unmatched=False,
            **{**told, **network.args},
        )
    adapter.apply_to()
    adapter.requires_grad_(True)
    return adapter
