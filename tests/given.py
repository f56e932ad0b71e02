"""What tests begin with: composed settings, tiny pictures, tiny models, facts."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, open_dict
from PIL import Image

from pipeline import settings as schema
from pipeline.composition import made_of
from pipeline.origins import origins_of
from pipeline.records import Checkpoint, Dataset, Facts, Machine, Origin, Picture
from pipeline.settings import PROJECT, Data, Settings

if TYPE_CHECKING:
    from tests.header_cases import Case

Shapes = Mapping[str, tuple[str, tuple[int, ...]]]
BYTES = {"F32": 4, "F16": 2, "I64": 8, "F8_E4M3": 1}

WIDTH, CONTEXT = 8, 16


def config(*overrides: str) -> DictConfig:
    """Composed as run.py composes it, but not resolved."""
    schema.register()
    with initialize_config_dir(version_base="1.3", config_dir=str(PROJECT / "conf")):
        return compose("config", overrides=list(overrides))


def origins(*overrides: str, typed: Sequence[str] | None = None, folder: Path | None = None) -> dict[str, Origin]:
    """Where every setting comes from, by its key. `folder` is that of --config-dir."""
    schema.register()
    searched = [] if folder is None else [f"hydra.searchpath=['file://{folder}']"]
    with initialize_config_dir(version_base="1.3", config_dir=str(PROJECT / "conf")):
        whole = compose("config", overrides=[*searched, *overrides], return_hydra_config=True)
        hydra = whole.hydra
        with open_dict(whole):
            del whole["hydra"]
        made = made_of(whole, hydra, overrides if typed is None else typed)
        return {origin.key: origin for origin in origins_of(made, schema.from_config(whole))}


@cache
def _composed(*overrides: str) -> Settings:
    return schema.from_config(config(*overrides))


def settings(*overrides: str, **values: object) -> Settings:
    """Composed settings, with some values set behind Hydra's back: `train__batch_size=0`."""
    made = copy.deepcopy(_composed(*overrides))
    for name, value in values.items():
        *groups, key = name.split("__")
        owner: Any = made
        for group in groups:
            owner = getattr(owner, group)
        assert hasattr(owner, key), name
        setattr(owner, key, value)
    return made


# ---------------------------------------------------------------------------------------------------------- pictures


def data(folder: Path, **values: Any) -> Data:
    """As conf/data/folder.yaml has it, but that nothing is held out unless asked for."""
    return replace(settings("data=folder", "data.dir=x").data, dir=str(folder), **{"heldout_fraction": 0.0, **values})


def picture(path: Path, caption: str | None = "a cat", *, seed: object = None, size: tuple[int, int] = (6, 4)) -> Path:
    """A picture of noise, unlike any of another seed (its path, unless given), with its caption beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = random.Random(str(path if seed is None else seed)).randbytes(3 * size[0] * size[1])
    Image.frombytes("RGB", size, noise).save(path)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return path


# ------------------------------------------------------------------------------------------------------------ models


def safetensors(path: Path, shapes: Shapes, *, fill: bytes = b"\0", metadata: dict[str, str] | None = None) -> Path:
    """A real file whose weights are all the same byte."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    offset = 0
    for name, (dtype, shape) in shapes.items():
        size = math.prod(shape) * BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    raw = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + fill * offset)
    return path


TEXT_READERS = ("down_blocks.0", "mid_block", "up_blocks.1")
UNET: Shapes = {
    "conv_in.weight": ("F16", (WIDTH, 4, 3, 3)),
    **{
        f"{block}.attentions.0.transformer_blocks.0.attn2.to_k.weight": ("F16", (WIDTH, CONTEXT))
        for block in TEXT_READERS
    },
}
UNET_PARAMETERS = WIDTH * 4 * 9 + 3 * WIDTH * CONTEXT


def sd15_folder(folder: Path, *, unet: Shapes = UNET, fill: bytes = b"\0") -> Path:
    """Stable Diffusion 1's architecture as diffusers lays it out, far too small to draw."""
    parts = {
        "unet": ("diffusion_pytorch_model.safetensors", unet, {"in_channels": 4}),
        "vae": ("diffusion_pytorch_model.safetensors", {"decoder.conv_in.weight": ("F16", (8, 4, 3, 3))}, {}),
        "text_encoder": ("model.safetensors", {"embeddings.weight": ("F16", (9, CONTEXT))}, {"num_hidden_layers": 3}),
    }
    for part, (name, shapes, part_config) in parts.items():
        safetensors(folder / part / name, shapes, fill=fill)
        (folder / part / "config.json").write_text(json.dumps(part_config))
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text('{"prediction_type": "epsilon"}')
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    return folder


def single_file_shapes(context: int = CONTEXT, *, channels: int = 4) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The names of the first Stable Diffusion code, with the tests' small widths."""
    unet = "model.diffusion_model."
    clip = "cond_stage_model.transformer.text_model."
    return {
        f"{unet}input_blocks.0.0.weight": ("F16", (WIDTH, channels, 3, 3)),
        f"{unet}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": ("F16", (WIDTH, context)),
        f"{unet}middle_block.1.transformer_blocks.0.attn2.to_k.weight": ("F16", (WIDTH, context)),
        "first_stage_model.decoder.conv_in.weight": ("F16", (8, 4, 3, 3)),
        f"{clip}embeddings.token_embedding.weight": ("F16", (9, context)),
        f"{clip}encoder.layers.0.mlp.fc1.weight": ("F16", (2, context)),
        f"{clip}encoder.layers.1.mlp.fc1.weight": ("F16", (2, context)),
    }


def diffusers_folder(
    folder: Path, pipeline: str, parts: Mapping[str, Case], *, scheduler: Mapping[str, object] | None = None
) -> Path:
    """A model of the real size as diffusers saves it: each part's header, and a hole for its weights."""
    for name, case in parts.items():
        diffusers_part(folder / name, case)
    if scheduler is not None:
        (folder / "scheduler").mkdir()
        (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    index = {"_class_name": pipeline, **{name: ["library", "Class"] for name in parts}}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def diffusers_part(folder: Path, case: Case, *, variant: str = "") -> Path:
    """One of its folders; the variant is `.fp16` or nothing."""
    from tests import header_cases  # reading them takes a second

    stem = "model" if folder.name.startswith("text_encoder") else "diffusion_pytorch_model"
    header_cases.write(replace(case, file_name=f"{stem}{variant}.safetensors"), folder)
    (folder / "config.json").write_text("{}")
    return folder


def shards(folder: Path, whole: Case, count: int) -> list[Path]:
    """A model in several files, and the list of its tensors beside them."""
    from tests import header_cases

    cases = [header_cases.shard(whole, number, count) for number in range(1, count + 1)]
    weight_map = {name: case.file_name for case in cases for name in case.tensors}
    paths = [header_cases.write(case, folder) for case in cases]
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    return paths


# ------------------------------------------------------------------------------------------------------------- facts

CPU = Machine("cpu", ("A processor",), memory_bytes=8 * 2**30, cpu_cores=4, bf16=False, torch_version="2.13.0+cpu")
CARD = Machine("cuda", ("A card",), memory_bytes=24 * 2**30, cpu_cores=8, bf16=True, torch_version="2.13.0+cu130")
OLD_CARD = Machine("cuda", ("A T4",), memory_bytes=15 * 2**30, cpu_cores=8, bf16=False, torch_version="2.13.0+cu130")

CHECKPOINT = Checkpoint(
    path=Path("model"),
    layout="diffusers",
    family="sd15",
    prediction="epsilon",
    parameters=6_000_000,
    bytes=20_000_000,
    digest="c" * 64,
    text_layers=3,
    title="the demo model",
    models=("demo",),
    parts=("denoiser", "text_encoder", "vae"),
)


def pictures(count: int, *, caption: str = "picture {}") -> tuple[Picture, ...]:
    """Records without files."""
    return tuple(Picture(Path(f"{i}.png"), caption.format(i), 64, 64, f"{i:064}") for i in range(count))


def dataset(train: int = 24, heldout: int = 6) -> Dataset:
    every = pictures(train + heldout)
    return Dataset("demo", Path("data"), every[:train], every[train:], "d" * 64)


def facts(**parts: Any) -> Facts:
    """Of a machine that can train the demo."""
    whole: dict[str, Any] = {"machine": CPU, "checkpoint": CHECKPOINT, "dataset": dataset(), "disk_free_bytes": 10**12}
    return Facts(**(whole | parts))
