"""What the memory estimate is given: counts of parameters by headers, and each family's shape."""

from __future__ import annotations

import math
from collections import Counter
from itertools import chain
from typing import Any

import pytest
from diffusers import UNet2DConditionModel
from transformers import CLIPTextModel

from pipeline.backends.native import job
from pipeline.backends.native.network import adapt_denoiser, adapt_text_encoder
from pipeline.checkpoint.groups import split
from pipeline.checkpoint.header import Tensor
from pipeline.checkpoint.matrices import denoiser_matrices, encoder_matrices
from pipeline.checkpoint.recognise import recognise
from pipeline.memory.adapters import adapter_parameters
from pipeline.records import Matrix
from pipeline.settings import PROJECT, Network
from tests import given
from tests.header_cases import read

DEMO = PROJECT / "demo" / "model"
RANK, CONV_RANK = 4, 2


# ------------------------------------------------------------------------------------------------ adapters' parameters


@pytest.mark.parametrize(
    "typed",
    [
        "network=lora",
        "network=locon",
        "network=loha",
        "network=lokr",
        "network=lokr network.args.factor=-1",
        "network=lokr +network.args.decompose_both=true network.args.factor=4",
        "network=lokr +network.args.full_matrix=true",
        "network=dora",
        "network=dora +network.args.use_tucker=true",
        "network=loha +network.args.use_tucker=true",
        "network=loha +network.args.weight_decompose=true +network.args.wd_on_out=false",
        "network=dylora network.args.block_size=2",
        "network=glora",
        "network=diag_oft",
        "network=diag_oft +network.args.rescaled=true",
        "network=boft network.rank=8 network.conv_rank=8",
        "network=full",
        "network=ia3",
        "network=ia3 +network.args.train_on_input=true",
        "network=tlora",
    ],
)
def test_an_adapter_is_counted_as_lycoris_builds_it(typed: str) -> None:
    """Every layer of the demo model, and every parameter."""
    network = _network(*typed.split())
    checkpoint = recognise(DEMO)
    unet = UNet2DConditionModel.from_pretrained(DEMO, subfolder="unet")
    encoder = CLIPTextModel.from_pretrained(DEMO, subfolder="text_encoder")
    assert adapter_parameters(checkpoint.matrices, network) == _trained(adapt_denoiser(unet, _part(network)))
    assert adapter_parameters(checkpoint.encoder_matrices, network) == _trained(
        adapt_text_encoder(encoder, _part(network))
    )


@pytest.mark.parametrize(
    ("model", "adapter", "typed", "encoders"),
    [
        ("sdxl_base_full_fp16", "sdxl_lora_kohya", "network=lora network.rank=16", True),
        ("flux1_dev_bfl", "flux1_lora_kohya", "network=lora network.rank=16", False),
        (
            "sdxl_base_full_fp16",
            "sdxl_lokr_lycoris",
            "network=lokr network.rank=10000 network.conv_rank=10000 network.args.factor=4",
            True,
        ),
    ],
)
def test_published_adapters_have_as_many_parameters(model: str, adapter: str, typed: str, encoders: bool) -> None:
    """Files that sd-scripts wrote, against the headers of the models that they are for."""
    told, network = read(adapter).tensors, given.settings(*typed.split()).network
    assert network is not None
    numbers: Counter[bool] = Counter()
    for name, (_, shape) in told.items():
        numbers["lora_unet" in name] += math.prod(shape) if not name.endswith("alpha") else 0
    denoiser, text = _matrices(model)
    assert adapter_parameters(denoiser, network) == numbers[True]
    assert not encoders or adapter_parameters(text, network) == numbers[False]


def _matrices(model: str) -> tuple[tuple[Matrix, ...], tuple[Matrix, ...]]:
    """Of the denoiser and of the encoders in a recorded header."""
    groups = split({name: Tensor(dtype, shape, 0, 0) for name, (dtype, shape) in read(model).tensors.items()})
    denoiser = next(group for group in groups if group.role in ("denoiser", "any"))
    encoders = (encoder_matrices(group.tensors) for group in groups if group.role == "text_encoder")
    return denoiser_matrices(denoiser.tensors), tuple(chain.from_iterable(encoders))


def _network(*typed: str) -> Network:
    with_convolutions = not {"network=lora", "network=tlora"} & {*typed}
    ranks = (f"network.rank={RANK}", f"network.conv_rank={CONV_RANK if with_convolutions else 0}")
    network = given.settings(*ranks, *typed).network
    assert network is not None
    return network


def _part(network: Network) -> job.NetworkPart:
    told = {name: getattr(network, name) for name in ("rank", "alpha", "conv_rank", "conv_alpha", "dropout", "args")}
    return job.NetworkPart(algo=network.algo.value, **told)


def _trained(adapter: Any) -> int:
    return sum(each.numel() for each in adapter.parameters() if each.requires_grad)
