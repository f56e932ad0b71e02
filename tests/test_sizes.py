"""What headers say of the sizes of a model's parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.memory_page import shape_of
from pipeline.checkpoint.bundle import read_bundle
from pipeline.checkpoint.sizes import sizes_of
from pipeline.records import Sizes
from pipeline.settings import PROJECT
from tests import header_cases


def sizes(case: str, folder: Path) -> Sizes:
    return sizes_of(read_bundle(header_cases.write(header_cases.read(case), folder)))


@pytest.mark.parametrize(("case", "model"), [("sd15_full_fp16", "sd15"), ("sdxl_base_full_fp16", "sdxl")])
def test_the_header_of_a_whole_file_shows_the_levels_of_its_family(tmp_path: Path, case: str, model: str) -> None:
    assert list(sizes(case, tmp_path).levels) == shape_of(model).levels


def test_the_header_of_a_folder_shows_levels_of_its_own() -> None:
    levels = sizes_of(read_bundle(PROJECT / "demo" / "model")).levels
    assert [(level.px, level.width, level.layers, level.convolutions) for level in levels] == [
        (8, 128, 3, 3),
        (16, 192, 1, 5),
    ]


def test_the_width_of_the_vae_inside_is_read(tmp_path: Path) -> None:
    assert sizes("sdxl_base_full_fp16", tmp_path).vae_width == 128


def test_a_transformer_shows_no_levels_of_a_unet(tmp_path: Path) -> None:
    assert sizes("flux1_fill_diffusers", tmp_path).levels == ()
