from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.settings import PROJECT
from tests import given, header_cases

KEYS = [
    "path",
    "kind",
    "family",
    "variant",
    "prediction",
    "dtype",
    "parameters",
    "layout",
    "parts",
    "evidence",
    "error",
]
MIXED = ("sd15_full_fp16", "flux1_dev_bfl", "sdxl_lora_kohya", "sdxl_vae_alone", "longcat_image_diffusers")


def detect(*arguments: object, columns: int = 200) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline", "detect", *map(str, arguments)]
    env = {**os.environ, "COLUMNS": str(columns)}
    return subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, text=True, timeout=120)


def written(name: str, folder: Path) -> Path:
    return header_cases.write(header_cases.read(name), folder)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of mixed files: models, parts, adapters, a diffusers folder, shards, and two that can't be read."""
    folder = tmp_path_factory.mktemp("zoo")
    for name in MIXED:
        written(name, folder / "files")
    given.sd15_folder(folder / "tiny")
    for number, (name, shape) in enumerate(list(given.UNET.items())[:2], start=1):
        given.safetensors(folder / f"split-{number:05}-of-00002.safetensors", {name: shape})
    (folder / "old.ckpt").write_bytes(b"PK\x03\x04" + b"\0" * 40)
    (folder / "notes.txt").write_text("not a model")
    return folder


def test_a_folder_is_told_as_a_table_with_a_row_a_model(zoo: Path) -> None:
    done = detect(zoo)
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[0][:3] == ["file", "kind", "model"]
    assert len(rows) == 1 + len(MIXED) + 3
    by_file = {row[0]: row[1:] for row in rows}
    assert by_file["tiny"][:4] == ["checkpoint", "demo", "epsilon", "fp16"]
    assert by_file["files/flux1-dev.safetensors"][:4] == ["denoiser", "flux_dev", "flow", "bf16"]
    assert [file for file in by_file if file.startswith("split-")] == ["split-00001-of-00002.safetensors"]


def test_what_can_not_be_read_is_told_on_its_own_and_ends_with_one(zoo: Path) -> None:
    done = detect(zoo)
    assert done.returncode == 1
    assert f"{zoo / 'old.ckpt'} is a ZIP archive" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("columns", [80, 200])
def test_a_table_fits_the_terminal(zoo: Path, columns: int) -> None:
    lines = detect(zoo, columns=columns).stdout.splitlines()
    assert max(map(len, lines)) <= columns


def test_json_is_one_object_a_line_with_the_same_keys(zoo: Path) -> None:
    done = detect("--json", zoo)
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(told) == len(MIXED) + 3
    assert all(list(one) == KEYS for one in told)
    assert [Path(one["path"]).name for one in told if one["error"]] == ["old.ckpt"]


def test_json_tells_what_the_header_says(tmp_path: Path) -> None:
    path = written("flux1_dev_bfl", tmp_path)
    told = json.loads(detect("--json", path).stdout)
    assert told["path"] == str(path)
    assert (told["kind"], told["family"], told["variant"], told["prediction"]) == ("denoiser", "flux1", "dev", "flow")
    assert (told["dtype"], told["layout"], told["parts"], told["error"]) == ("bf16", "original", ["denoiser"], None)
    assert told["parameters"] == 11_901_408_320
    assert any("guidance_in.in_layer.weight is [3072, 256]" in line for line in told["evidence"])


def test_a_single_file_is_told_in_full(tmp_path: Path) -> None:
    done = detect(written("sdxl_base_full_fp16", tmp_path))
    assert done.returncode == 0
    assert "Stable Diffusion XL (base)" in done.stdout
    assert "model=sdxl model.path=" in done.stdout
    assert "or model=illustrious, pony, if you know it is one" in done.stdout


def test_an_unknown_model_is_told_with_what_is_nearest(tmp_path: Path) -> None:
    done = detect(written("longcat_image_diffusers", tmp_path))
    assert done.returncode == 0
    assert "nearest is FLUX.1" in done.stdout
    assert "context_embedder.weight is [3072, 3584], not [3072, 4096]" in done.stdout


def test_several_paths_are_looked_at_in_their_order(tmp_path: Path) -> None:
    paths = [written(name, tmp_path / name) for name in ("z_image_comfy", "anima")]
    told = [json.loads(line) for line in detect("--json", *paths).stdout.splitlines()]
    assert [one["family"] for one in told] == ["z_image", "anima"]


def test_shards_count_as_one_whichever_is_named(tmp_path: Path) -> None:
    case = header_cases.read("flux1_dev_diffusers")
    names = list(case.tensors)
    for number in range(3):
        part = {name: case.tensors[name] for name in names[number::3]}
        shard = header_cases.with_tensors(
            header_cases.like(case, "s", f"dit-{number + 1:05}-of-00003.safetensors"), part
        )
        header_cases.write(shard, tmp_path)
    (told,) = [json.loads(line) for line in detect("--json", tmp_path).stdout.splitlines()]
    assert (told["family"], told["variant"], told["error"]) == ("flux1", "dev", None)
    second = json.loads(detect("--json", tmp_path / "dit-00002-of-00003.safetensors").stdout)
    assert second["parameters"] == told["parameters"]


def test_a_missing_shard_is_told(tmp_path: Path) -> None:
    case = header_cases.read("flux1_dev_diffusers")
    header_cases.write(header_cases.like(case, "s", "dit-00001-of-00002.safetensors"), tmp_path)
    done = detect("--json", tmp_path)
    assert done.returncode == 1
    assert "is one shard of 2, and 1 of them are not beside it" in json.loads(done.stdout)["error"]


def test_a_folder_without_models_is_told(tmp_path: Path) -> None:
    done = detect(tmp_path)
    assert done.returncode == 1
    assert f"{tmp_path} holds no models" in done.stderr


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path)
    given.safetensors(tmp_path / "a.safetensors", given.single_file_shapes())
    (tmp_path / "self.safetensors").symlink_to("self.safetensors")
    done = detect("--json", tmp_path)
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [Path(one["path"]).name for one in told] == ["a.safetensors", "self.safetensors"]
    assert told[1]["error"]


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.safetensors")
    done = detect(tmp_path / "a.safetensors")
    assert done.returncode == 1
    assert "a.safetensors" in done.stderr


def test_what_is_no_base_is_told_without_a_failure(tmp_path: Path) -> None:
    done = detect(written("sdxl_lora_kohya", tmp_path))
    assert done.returncode == 0
    assert "train with  no: is a LoRA for sdxl, not a base model" in done.stdout


def test_a_path_that_is_not_there_does_not_hide_the_others(tmp_path: Path) -> None:
    done = detect("--json", tmp_path / "nowhere", written("anima", tmp_path))
    assert done.returncode == 1
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["kind"] for one in told] == ["unknown", "denoiser"]
    assert "there is no such file" in told[0]["error"]


def test_a_header_with_numbers_that_are_none_is_told(tmp_path: Path) -> None:
    case = header_cases.read("sd21_768_v")
    path = header_cases.write(replace(case, fill=((case.fill[0][0], math.nan),)), tmp_path)
    done = detect("--json", path)
    assert done.returncode == 0, done.stderr
    assert (json.loads(done.stdout)["family"], json.loads(done.stdout)["prediction"]) == ("sd2", None)


def test_a_copied_folder_of_parts_is_one_model(tmp_path: Path) -> None:
    folder = given.sd15_folder(tmp_path / "one")
    shutil.copytree(folder, tmp_path / "two")
    told = [json.loads(line) for line in detect("--json", tmp_path).stdout.splitlines()]
    assert [Path(one["path"]).name for one in told] == ["one", "two"]
