"""The recorded header of each model that has one, and what the memory estimate takes from it."""

from __future__ import annotations

from functools import cache
from itertools import chain

from pipeline.checkpoint.groups import Group, split
from pipeline.checkpoint.header import Tensor
from pipeline.checkpoint.matrices import denoiser_matrices, encoder_matrices
from pipeline.records import Matrix
from tests.header_cases import read

HEADERS = {
    "anima": "anima",
    "chroma": "chroma1_hd",
    "flux2_dev": "flux2_dev_bfl",
    "flux2_klein": "flux2_klein_4b_bfl",
    "flux_dev": "flux1_dev_bfl",
    "flux_schnell": "flux1_schnell_bfl",
    "hunyuan_image21": "hunyuan_image21",
    "lumina2": "lumina_image2",
    "qwen_image": "qwen_image",
    "sd15": "sd15_full_fp16",
    "sd2": "sd21_768_v",
    "sd3": "sd3_medium",
    "sd35_large": "sd35_large",
    "sd35_medium": "sd35_medium",
    "sdxl": "sdxl_base_full_fp16",
    "z_image": "z_image_comfy",
}
"""The file of `tests/headers` for each option of the group `model`; the others are fine-tunes of one of these."""


@cache
def denoiser(model: str) -> Group:
    return next(group for group in parts(model) if group.role in ("denoiser", "any") and group.parameters > 10**6)


@cache
def parts(model: str) -> tuple[Group, ...]:
    """Of the recorded file."""
    told = read(HEADERS[model]).tensors
    return tuple(split({name: Tensor(dtype, shape, 0, 0) for name, (dtype, shape) in told.items()}))


@cache
def adapted(model: str) -> tuple[Matrix, ...]:
    """Of the denoiser, what an adapter can train."""
    return denoiser_matrices(denoiser(model).tensors)


@cache
def adapted_encoders(model: str) -> tuple[Matrix, ...]:
    """The same of the text encoders that the file brings."""
    encoders = (encoder_matrices(group.tensors) for group in parts(model) if group.role == "text_encoder")
    return tuple(chain.from_iterable(encoders))
