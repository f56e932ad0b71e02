"""Which weights of a model an adapter can train, by their names and shapes.

What is adapted follows sd-scripts (networks/lora.py and its kin) and LyCORIS' presets: of a U-Net the transformers, and
the residual blocks where convolutions are trained; of a transformer every matrix of its blocks. The few matrices before
and after the blocks, which some networks train too, are left out: less than 1 % of what is trained.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from pipeline.checkpoint.header import Tensor
from pipeline.checkpoint.signature import PACKED
from pipeline.records import Matrix

UNET = re.compile(r"(?:^|\.)(?:input_blocks|down_blocks)\.")
TRANSFORMER = re.compile(r"\.transformer_blocks\.\d+\.|\.proj_(?:in|out)\.weight$")
RESIDUAL = re.compile(
    r"_blocks?\..*\.(?:in_layers\.2|out_layers\.3|emb_layers\.1|skip_connection|op|conv"
    r"|conv1|conv2|conv_shortcut|time_emb_proj)\.weight$"
)
"""Of the residual blocks, and the convolutions that go to the next resolution, in both layouts."""
BLOCK = re.compile(r"(?:^|\.)(?:\w*blocks|layers|noise_refiner|context_refiner)\.\d+\.")
BESIDE = re.compile(r"(?:^|\.)(?:distilled_guidance_layer|llm_adapter|txt_in|context_embedder)\.")
"""Parts that have blocks of their own and are not adapted."""
ENCODER_LAYER = re.compile(r"(?:^|\.)(?:layers|resblocks|block)\.\d+\.")
JOINED = "in_proj_weight"
"""OpenCLIP's q, k and v, which every trainer takes apart."""


def denoiser_matrices(tensors: Mapping[str, Tensor]) -> tuple[Matrix, ...]:
    """Grouped by shape; empty where shapes can't be told, as in 4 bits."""
    is_unet = any(UNET.search(name) for name in tensors)
    found = _unet(tensors) if is_unet else _blocks(tensors)
    return _grouped(tensors, found)


def encoder_matrices(tensors: Mapping[str, Tensor]) -> tuple[Matrix, ...]:
    """Of a text encoder: the attention and the MLP of its layers."""
    return _grouped(tensors, ((name, False) for name in tensors if ENCODER_LAYER.search(name)))


def _unet(tensors: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """Names, and whether they are of a residual block."""
    for name in tensors:
        if TRANSFORMER.search(name):
            yield name, False
        elif RESIDUAL.search(name):
            yield name, True


def _blocks(tensors: Iterable[str]) -> Iterator[tuple[str, bool]]:
    return ((name, False) for name in tensors if BLOCK.search(name) and not BESIDE.search(name))


def _grouped(tensors: Mapping[str, Tensor], named: Iterable[tuple[str, bool]]) -> tuple[Matrix, ...]:
    counts: Counter[Matrix] = Counter()
    for name, residual in named:
        tensor = tensors[name]
        if not name.endswith(("weight", JOINED)) or len(tensor.shape) not in (2, 4):
            continue
        if tensor.dtype in PACKED:
            return ()
        biased = f"{name.removesuffix('weight')}bias" in tensors
        outputs, inputs, kernel = (*tensor.shape, 1)[:3]
        times = 3 if name.endswith(JOINED) else 1
        counts[Matrix(inputs, outputs // times, kernel, biased, residual, 1)] += times
    return tuple(
        Matrix(each.inputs, each.outputs, each.kernel, each.biased, each.residual, count)
        for each, count in counts.items()
    )
