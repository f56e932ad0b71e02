"""What several tests need: a tiny model with random weights, and plans over it and the demo dataset."""

from __future__ import annotations

import atexit
import os
import signal
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

import pytest

from pipeline import settings as settings_module
from pipeline.memory.profiles import first_candidate
from pipeline.records import Checkpoint, Dataset, Machine, Picture, Plan
from pipeline.settings import PROJECT, Settings

settings_module.register()
if (worker := os.environ.get("PYTEST_XDIST_WORKER")) and hasattr(os, "sched_setaffinity"):
    # Each of the processes that share the tests keeps to cores of its own, with all that it starts: two trainings whose
    # threads fight for the same cores take many times as long as one after the other.
    cores, workers = sorted(os.sched_getaffinity(0)), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.sched_setaffinity(0, cores[int(worker.removeprefix("gw")) :: workers] or cores)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background jobs deaf to Ctrl-C, and so would be every process that the tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
if "LORA_EASY_CACHE" not in os.environ:  # else by the process that has started this one
    os.environ["LORA_EASY_CACHE"] = mkdtemp(prefix="lora-easy-cache-")
    atexit.register(rmtree, os.environ["LORA_EASY_CACHE"], ignore_errors=True)
DEMO_DATA = PROJECT / "demo" / "data"


def compose_settings(*overrides: str) -> Settings:
    """The settings that `python run.py OVERRIDES` would have."""
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        return settings_module.from_config(compose("config", overrides=list(overrides)))


def build_tiny_model(folder: Path, *, seed: int = 0) -> Path:
    """A Stable Diffusion 1 of 0.5 M parameters with random weights, in diffusers layout."""
    import torch
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from demo.train_model import build_tokenizer

    torch.manual_seed(seed)
    tokenizer = build_tokenizer(folder / "words")
    eos = int(tokenizer.eos_token_id)
    pipeline = StableDiffusionPipeline(
        tokenizer=tokenizer,
        text_encoder=CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                num_attention_heads=1, max_position_embeddings=32, projection_dim=64,
                bos_token_id=int(tokenizer.bos_token_id), eos_token_id=eos, pad_token_id=eos,
            )
        ),
        vae=AutoencoderKL(
            block_out_channels=(16, 16, 16, 32), layers_per_block=1, latent_channels=4, norm_num_groups=8,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, sample_size=64,
        ),
        unet=UNet2DConditionModel(
            sample_size=8, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=64, norm_num_groups=16,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), attention_head_dim=8,
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        ),
        scheduler=PNDMScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, skip_prk_steps=True, steps_offset=1
        ),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder / "model", safe_serialization=True)
    return folder / "model"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("tiny"))


PlanFor = Callable[..., Plan]


@pytest.fixture
def plan_for(tiny_model: Path) -> PlanFor:
    """A plan of a few steps on the tiny model and the demo dataset; overrides as on the command line."""

    def plan(*overrides: str, steps: int = 4, prompts: tuple[str, ...] = (), model: Path = tiny_model) -> Plan:
        settings = first_candidate(compose_settings(f"model.path={model}", *overrides), 0)
        decides = sorted(override for override in overrides if not override.startswith("hardware."))
        return Plan(
            settings=settings,
            machine=Machine("cpu", ("cpu",), 8 << 30, len(os.sched_getaffinity(0)), False, "2"),
            checkpoint=Checkpoint(
                path=model,
                layout="diffusers" if model.is_dir() else "single_file",
                family="sd15",
                prediction="epsilon",
                parameters=1,
                bytes=1,
                digest="model",
            ),
            dataset=Dataset(
                name="demo",
                dir=DEMO_DATA / "train",
                train=demo_pictures("train"),
                heldout=demo_pictures("heldout"),
                digest="pictures",
            ),
            precision="fp32",
            num_processes=settings.hardware.all_processes,
            steps=steps,
            warmup_steps=1,
            sample_prompts=prompts,
            fingerprint=repr((decides, settings.hardware.all_processes, steps)),
        )

    return plan


def demo_pictures(split: str) -> tuple[Picture, ...]:
    return tuple(
        Picture(path, path.with_suffix(".txt").read_text().strip(), 64, 64, sha256(path.read_bytes()).hexdigest())
        for path in sorted((DEMO_DATA / split).glob("*.png"))
    )
