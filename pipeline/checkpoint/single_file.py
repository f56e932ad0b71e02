"""A whole model in one safetensors file, with the names of the first Stable Diffusion code (LDM)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from pipeline.checkpoint.header import Header, read_header
from pipeline.checkpoint.kinds import (
    CLIP_TOKENS,
    component_of,
    denoiser_of,
    family_of,
    is_quantised,
    other_than_a_base,
)
from pipeline.checkpoint.prediction import prediction_of
from pipeline.errors import UnreadableFile
from pipeline.records import Checkpoint

SHARD = re.compile(r"-\d{5}-of-\d{5}\.safetensors$")
TEXT_LAYER = re.compile(r"cond_stage_model\.transformer\.text_model\.encoder\.layers\.(\d+)\.")
PARTS_OF_SD15: Mapping[str, str] = {CLIP_TOKENS: "text encoder", "first_stage_model.decoder.conv_in.weight": "VAE"}


def read_single_file(path: Path) -> Checkpoint:
    """Raises UnreadableFile for what is no base model."""
    header = read_header(path)
    family = _family(path, header)
    denoiser = denoiser_of(header.tensors)
    if is_quantised(denoiser):
        raise UnreadableFile(f"{path} is quantised to 8 bits or fewer: training needs the fp16, bf16 or fp32 file")
    return Checkpoint(
        path=path,
        layout="single_file",
        family=family,
        prediction=prediction_of(path, header, said_by_scheduler=None),
        parameters=sum(tensor.elements for tensor in denoiser.values()),
        bytes=header.file_bytes,
        digest=header.digest,
        text_layers=len({match[1] for name in header.tensors if (match := TEXT_LAYER.match(name))}),
    )


def _family(path: Path, header: Header) -> str:
    if SHARD.search(path.name):
        raise UnreadableFile(f"{path} is one shard of several: model.path wants the folder that holds them all")
    other = other_than_a_base(header.tensors)
    if other:
        raise UnreadableFile(f"{path} is {other}, not a base model: model.path wants the model that it was made for")
    family = family_of(header.tensors)
    if family is None:
        raise UnreadableFile(
            f"{path} is {component_of(header.tensors)}, not a base model: model.path wants a whole one"
        )
    missing = [part for name, part in PARTS_OF_SD15.items() if name not in header.tensors]
    if family == "sd15" and missing:
        raise UnreadableFile(
            f"{path} is an {family} denoiser without {' and '.join(missing)}: model.path wants a whole model, a single "
            "file or a diffusers folder (the one with model_index.json)"
        )
    return family
