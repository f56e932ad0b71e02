"""What the memory estimate is given: counts of parameters by headers, and each family's shape."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from diffusers import UNet2DConditionModel
from transformers import CLIPTextModel

from docs.memory_page import shape_of
from pipeline.backends.kohya.memory import kohya_load
from pipeline.backends.native import job
from pipeline.backends.native.network import adapt_denoiser, adapt_text_encoder
from pipeline.checkpoint.groups import split
from pipeline.checkpoint.header import Tensor
from pipeline.checkpoint.recognise import recognise
from pipeline.memory.adapters import adapter_parameters
from pipeline.memory.load import Load
from pipeline.memory.parameters import ENCODERS, VAES, encoder_parameters, vae_parameters
from pipeline.settings import PROJECT, Network
from tests import given, golden_kohya
from tests.header_cases import read
from tests.model_headers import HEADERS, adapted, adapted_encoders, denoiser

DEMO = PROJECT / "demo" / "model"
MODELS = PROJECT / "conf" / "model"
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
        ("sdxl", "sdxl_lora_kohya", "network=lora network.rank=16", True),
        ("flux_dev", "flux1_lora_kohya", "network=lora network.rank=16", False),
        (
            "sdxl",
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
    assert adapter_parameters(adapted(model), network) == numbers[True]
    assert not encoders or adapter_parameters(adapted_encoders(model), network) == numbers[False]


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


# -------------------------------------------------------------------------------------------------------------- shapes

LAYER = re.compile(r"(?:^|\.)((?:\w*blocks|layers|noise_refiner|context_refiner)\.\d+)\.")
BESIDE = ("distilled_guidance_layer", "llm_adapter", "txt_in", "context_embedder")
"""Whose layers are few, narrow or only the caption's."""
INPUTS = (
    "img_in.weight",
    "img_in.proj.weight",
    "x_embedder.weight",
    "x_embedder.proj.weight",
    "x_embedder.proj.1.weight",
)


def test_every_model_with_a_shape_of_its_own_has_a_recorded_header() -> None:
    """The demo's own files are its header."""
    written = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in MODELS.glob("*.yaml")}
    shaped = {name for name, model in written.items() if "shape" in model.get("known", {})}
    assert shaped - {"demo"} <= HEADERS.keys()


@pytest.mark.parametrize("model", sorted(HEADERS))
def test_a_shape_has_the_parameters_of_the_recorded_header(model: str) -> None:
    """A table of positions is not trained, and not counted."""
    found = denoiser(model)
    table = found.tensors.get("pos_embed")
    counted = found.parameters - (table.elements if table is not None else 0)
    assert shape_of(model).parameters == pytest.approx(counted, rel=0.02)


@pytest.mark.parametrize("model", sorted(HEADERS))
def test_a_shape_has_the_layers_and_widths_of_the_recorded_header(model: str) -> None:
    shape = shape_of(model)
    layers, convolutions = Counter[int](), Counter[int]()
    for level in shape.levels:
        layers[level.width] += level.layers
        convolutions[level.width] += level.convolutions
    assert (+layers, +convolutions) == _layers(denoiser(model).tensors)


@pytest.mark.parametrize("model", sorted(HEADERS))
def test_so_many_of_the_largest_block_are_all_that_can_be_swapped(model: str) -> None:
    """sd-scripts swaps no blocks of a U-Net."""
    sizes = Counter[str]()
    for name, tensor in denoiser(model).tensors.items():
        found = None if _is_beside(name) or "refiner" in name else LAYER.search(name)
        if found:
            sizes[found[1]] += tensor.elements
    is_unet = len(shape_of(model).levels) > 1
    equal = 0 if is_unet else sum(sizes.values()) / max(sizes.values())
    assert shape_of(model).blocks == pytest.approx(equal, rel=0.12)


def _layers(tensors: Mapping[str, Tensor]) -> tuple[Counter[int], Counter[int]]:
    """By their widths: transformer layers, and residual blocks of a U-Net."""
    if "input_blocks.0.0.weight" in tensors:
        ends = {".attn1.to_q.weight": Counter[int](), ".out_layers.3.weight": Counter[int]()}
        for name, tensor in tensors.items():
            for end, counter in ends.items():
                counter[tensor.shape[0]] += name.endswith(end)
        return +ends[".attn1.to_q.weight"], +ends[".out_layers.3.weight"]
    width = next(tensor.shape[0] for name, tensor in tensors.items() if name.removeprefix("net.") in INPUTS)
    found = {match[1] for name in tensors if not _is_beside(name) and (match := LAYER.search(name))}
    return Counter({width: len(found)}), Counter()


def _is_beside(name: str) -> bool:
    return any(each in name for each in BESIDE)


# ----------------------------------------------------------------------------------------------------- stored types


@pytest.mark.parametrize(
    ("model", "stored", "more", "trained"),
    [
        ("sd35_medium", "fp32", (), 4),
        ("sd35_medium", "fp16", (), 2),
        ("sd35_medium", "fp32", ("+backend.args.full_bf16=true",), 2),
        ("flux_dev", "fp32", (), 2),
        ("lumina2", "fp32", (), 2),
        ("anima", "bf16", (), 4),
        ("sdxl", "fp16", (), 4),
    ],
)
def test_a_finetune_by_sd_scripts_trains_in_the_type_that_its_script_does(
    model: str, stored: str, more: tuple[str, ...], trained: int
) -> None:
    load = _kohya_load(model, "finetune", *more, dtype=stored)
    assert (load.weight_bytes, load.trained_bytes) == (trained, trained)


def test_a_frozen_denoiser_in_8_bits_stands_in_the_type_of_the_forward_pass_unless_asked_otherwise() -> None:
    assert _kohya_load("flux_dev", "lora", dtype="fp8_e4m3").weight_bytes == 2
    assert _kohya_load("flux_dev", "lora", "+backend.args.fp8_base=true", dtype="bf16").weight_bytes == 1


# -------------------------------------------------------------------------------------------- encoders and the VAE


def test_a_part_inside_has_the_size_that_its_header_shows() -> None:
    """The demo's are far smaller than those of its family."""
    settings, checkpoint = given.settings(), recognise(DEMO)
    bare = replace(checkpoint, contents=())
    assert encoder_parameters(settings, checkpoint) < 1e7 < encoder_parameters(settings, bare)
    assert vae_parameters(settings, checkpoint) < 1e7 < vae_parameters(settings, bare)


@pytest.mark.parametrize("family", sorted({**ENCODERS, **VAES}))
def test_a_part_in_a_file_of_its_own_is_counted_as_its_recorded_header(family: str) -> None:
    told = read(PARTS[family]).tensors
    found = split({name: Tensor(dtype, shape, 0, 0) for name, (dtype, shape) in told.items()})
    assert {**ENCODERS, **VAES}[family] == pytest.approx(sum(group.parameters for group in found), rel=0.01)


PARTS = {
    **{"clip_l": "clip_l_alone", "clip_g": "clip_g_alone", "openclip_h": "openclip_h_diffusers"},
    **{"t5xxl": "t5xxl_v11_encoder", "byt5": "byt5_small_glyph", "mistral3_24b": "mistral3_24b"},
    **{name: name for name in ("gemma2_2b", "qwen3_06b", "qwen3_4b", "qwen3_8b", "qwen25_vl_7b")},
    **{"sd-4ch": "sd15_vae_diffusers", "flux-16ch": "flux1_vae_diffusers", "flux2": "flux2_vae_diffusers"},
    **{"qwen_image": "qwen_image_vae", "hunyuan_image21": "hunyuan_image21_vae"},
}


def test_every_family_of_a_models_parts_has_its_size() -> None:
    for path in MODELS.glob("*.yaml"):
        parts = yaml.safe_load(path.read_text(encoding="utf-8")).get("known", {}).get("parts", {}).values()
        assert {part["family"] for part in parts if "family" in part} <= {*ENCODERS, *VAES}


def test_of_parts_of_which_one_is_enough_the_given_one_is_counted(tmp_path: Path) -> None:
    given_part = f"model.parts.qwen3_8b={tmp_path / 'qwen3_8b.safetensors'}"
    settings = given.settings("model=flux2_klein", f"model.path={tmp_path / 'klein.safetensors'}", given_part)
    assert encoder_parameters(settings, replace(recognise(DEMO), contents=())) == ENCODERS["qwen3_8b"]


def _kohya_load(model: str, mode: str, *more: str, dtype: str) -> Load:
    settings = golden_kohya.sized(golden_kohya.composed(model, mode, *more))
    facts = golden_kohya.facts_of(settings)
    assert facts.checkpoint is not None
    load = kohya_load(settings, facts, replace(facts.checkpoint, dtype=dtype))
    assert load is not None
    return load
