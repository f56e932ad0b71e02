"""How large the parts of a U-Net's checkpoint are, by the names and shapes in its headers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from pipeline.checkpoint.bundle import Bundle
from pipeline.checkpoint.header import Tensor
from pipeline.families import Level
from pipeline.records import Sizes

LAYER = re.compile(r"(?P<where>.*)transformer_blocks\.\d+\.attn2\.to_q\.weight$")
CONVOLUTION = re.compile(r"(?P<where>.*)(resnets\.\d+\.conv1|\.in_layers\.2)\.weight$")
PLACE = re.compile(r"(?P<way>down|up|input|output)_blocks\.(?P<block>\d+)\.")
SMALLER = re.compile(r"input_blocks\.(\d+)\.0\.op\.weight$")
LARGER = re.compile(r"output_blocks\.(\d+)\.\d+\.conv\.weight$")
DOWN = re.compile(r"down_blocks\.(\d+)\.")
VAE_WIDTHS = ("decoder.conv_norm_out.weight", "decoder.norm_out.weight")
LATENT_PX = 8
"""Side of the square of pixels that one of the latents of every U-Net here stands for."""


def sizes_of(bundle: Bundle) -> Sizes:
    """Of what lies inside; nothing of a denoiser that is no U-Net in one of the two namings."""
    groups = bundle.groups()
    denoiser = next((group for group in groups if group.role == "denoiser"), None)
    vaes = [group.tensors for group in groups if group.role == "vae"]
    widths = (tensors[name].shape[0] for tensors in vaes for name in VAE_WIDTHS if name in tensors)
    return Sizes(levels=() if denoiser is None else levels_of(denoiser.tensors), vae_width=next(widths, 0))


def levels_of(tensors: Mapping[str, Tensor]) -> tuple[Level, ...]:
    """Layers and residual blocks of each resolution, the finest first; empty where no name tells of them."""
    layers = Counter(_found(LAYER, tensors))
    blocks = Counter(_found(CONVOLUTION, tensors))
    return tuple(
        Level(LATENT_PX * 2**depth, width, layers[depth, width], blocks[depth, width])
        for depth, width in sorted({*layers, *blocks})
    )


def _found(kind: re.Pattern[str], tensors: Mapping[str, Tensor]) -> Iterator[tuple[int, int]]:
    """(halvings of the side, width) of each."""
    smaller = [int(match[1]) for name in tensors if (match := SMALLER.search(name))]
    larger = [int(match[1]) for name in tensors if (match := LARGER.search(name))]
    halvings = max((int(match[1]) for name in tensors if (match := DOWN.match(name))), default=len(smaller))
    for name, tensor in tensors.items():
        if kind.match(name):
            yield _depth(name, smaller, larger, halvings), tensor.shape[0]


def _depth(name: str, smaller: Sequence[int], larger: Sequence[int], halvings: int) -> int:
    """A block of the original naming comes after all that halve or double before it."""
    place = PLACE.match(name)
    if place is None:  # in the middle
        return halvings
    block = int(place["block"])
    if place["way"] in ("down", "up"):
        return block if place["way"] == "down" else halvings - block
    if place["way"] == "input":
        return sum(number < block for number in smaller)
    return halvings - sum(number < block for number in larger)
