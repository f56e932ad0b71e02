"""The kohya backend against a real checkout of sd-scripts and its environment: what is rendered is known to the real
parsers, and a full-size Stable Diffusion 1.5 with random weights trains. Minutes, 8 GB of memory and of disk.

    SD_SCRIPTS_ROOT=/path/to/sd-scripts SD_SCRIPTS_PYTHON=/path/to/its/python pytest -m real
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest

from pipeline.backends.kohya.manifest import SCRIPTS, load
from pipeline.backends.kohya.translation import script_for
from pipeline.checkpoint.header import read_header
from pipeline.journal import read_journal
from pipeline.outcome import number
from pipeline.resume import checkpoints
from pipeline.settings import PROJECT
from tests.golden_kohya import CASES, FOLDER, composed

ROOT, PYTHON = os.environ.get("SD_SCRIPTS_ROOT", ""), os.environ.get("SD_SCRIPTS_PYTHON", "")
pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT and PYTHON), reason="SD_SCRIPTS_ROOT and SD_SCRIPTS_PYTHON name no checkout"),
]
TYPES = {"int": int, "float": (int, float), "str": str, "Path": str, "int_or_float": (int, float), None: str}
MINUTES = 60


@pytest.fixture(scope="module")
def real() -> dict[str, dict[str, Any]]:
    """Script -> argument -> what its own parser says of it."""
    asking = [PYTHON, str(PROJECT / "tests" / "real_parsers.py"), *SCRIPTS]
    answer = subprocess.run(asking, cwd=ROOT, capture_output=True, text=True, check=True, timeout=10 * MINUTES)
    found: dict[str, dict[str, Any]] = json.loads(answer.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize(("model", "mode"), CASES)
def test_every_line_is_known_to_the_real_parser(real: dict[str, dict[str, Any]], model: str, mode: str) -> None:
    script = script_for(composed(model, mode))
    assert script is not None
    text = (FOLDER / f"{model}-{mode}.toml").read_text(encoding="utf-8")
    for name, value in tomllib.loads(text.partition("# dataset.toml")[0]).items():
        argument = real[script][name]
        for each in value if argument["nargs"] == "*" else [value]:
            wanted = bool if argument["flag"] else TYPES[argument["type"]]
            assert isinstance(each, wanted), name  # type: ignore[arg-type]
            assert argument["choices"] is None or each in argument["choices"], name


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_was_read_from_the_sources_is_what_the_parser_takes(real: dict[str, dict[str, Any]], script: str) -> None:
    """Of the audited version."""
    assert {*real[script]} - {"help"} == {*load().parsers[script].arguments}


# ----------------------------------------------------------------------------------------------------------- training


@pytest.fixture(scope="module")
def stable_diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder of full size, with random weights and the demo's tokenizer."""
    import torch
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from demo.train_model import build_tokenizer
    from tests.ldm_layout import write_single_file

    folder = tmp_path_factory.mktemp("real")
    torch.manual_seed(0)
    tokenizer = build_tokenizer(folder / "tokenizer")
    tokenizer.model_max_length = 77
    parts = StableDiffusionPipeline(
        tokenizer=tokenizer,
        text_encoder=CLIPTextModel(CLIPTextConfig(hidden_size=768, intermediate_size=3072, projection_dim=768)),
        vae=AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, sample_size=512,
        ),
        unet=UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8),
        scheduler=PNDMScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, skip_prk_steps=True, steps_offset=1
        ),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    parts.save_pretrained(folder / "model", safe_serialization=True)
    return write_single_file(folder / "model", folder / "model.safetensors")


def command(model: Path, run_dir: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "run.py", "backend=kohya", f"model.path={model}", "model=sd15"),
        *(f"data.dir={PROJECT}/demo/data/train", f"data.heldout_dir={PROJECT}/demo/data/heldout"),
        *("train.resolution_px=128", "network=lora", "network.rank=4", "network.alpha=2", "train.max_steps=12"),
        *("train.checkpoint_every_steps=4", "train.heldout_every_steps=6", "sample.num_inference_steps=2"),
        *("sample.prompts=[one large red circle]", "tracking=off", f"hydra.run.dir={run_dir}", *more),
    ]


def steps_told(run_dir: Path) -> list[float]:
    return [number(event.data["step"]) or 0 for event in read_journal(run_dir) if event.kind == "step"]


def test_a_lora_trains_is_killed_and_goes_on(stable_diffusion: Path, tmp_path: Path) -> None:
    """Of 12 steps, killed after the state of the fourth: the other eight are trained, and the metadata are as asked."""
    run_dir = tmp_path / "run"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(command(stable_diffusion, run_dir), cwd=PROJECT, env=environment) as first:
        deadline = time.monotonic() + 30 * MINUTES
        while not checkpoints(run_dir) and first.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(1)
        first.send_signal(signal.SIGKILL)
    before = len(steps_told(run_dir))
    again = subprocess.run(
        command(stable_diffusion, run_dir), cwd=PROJECT, env=environment, timeout=60 * MINUTES, check=False
    )
    assert again.returncode == 0
    told = steps_told(run_dir)
    begun = int(told[before:][0]) - 1
    assert begun % 4 == 0 and begun > 0
    assert told[before:] == list(range(begun + 1, 13))
    outcome = json.loads((run_dir / "outcome.json").read_text(encoding="utf-8"))
    assert (outcome["status"], outcome["steps"]) == ("finished", 12)
    assert outcome["heldout_after"] is not None
    metadata = read_header(Path(outcome["weights"])).metadata
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"]) == ("4", "2.0")
