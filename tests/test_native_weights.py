"""What native training makes, on a tiny model with random weights: every algorithm, and weights that others read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file

from pipeline.settings import PROJECT
from tests.conftest import PlanFor
from tests.ldm_layout import write_single_file
from tests.native_jobs import finish, new_job

pytestmark = pytest.mark.slow
ALGORITHMS = sorted(path.stem for path in (PROJECT / "conf" / "network").glob("*.yaml"))


@pytest.mark.parametrize("network", ALGORITHMS)
def test_every_algorithm_trains(plan_for: PlanFor, tmp_path: Path, network: str) -> None:
    job = new_job(
        plan_for,
        tmp_path / network,
        f"network={network}",
        "train.batch_size=2",
        "train.effective_batch_size=2",
        "data.heldout_dir=null",
    )
    weights = load_file(finish(job))
    assert weights
    assert all(tensor.isfinite().all() for tensor in weights.values())


def test_every_network_of_the_group_is_tried() -> None:
    assert len(ALGORITHMS) >= 12


def test_the_weights_say_what_made_them(plan_for: PlanFor, tmp_path: Path) -> None:
    with safe_open(finish(new_job(plan_for, tmp_path / "said")), framework="pt") as file:
        said = file.metadata()
    assert said["ss_base_model_version"] == "sd_v1"
    assert said["ss_network_module"] == "networks.lora"
    assert said["ss_network_dim"] == "16"
    assert said["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert json.loads(said["lora_easy_pipeline.config"])["network"]["algo"] == "locon"
    assert str(PROJECT) not in json.dumps(said)


def test_diffusers_draws_the_same_picture_from_the_saved_lora(
    plan_for: PlanFor, tmp_path: Path, tiny_model: Path
) -> None:
    import numpy as np
    import torch
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from PIL import Image

    prompt = "one large red circle in the center"
    overrides = ("network.save_dtype=fp32", "optimizer.lr=2e-2", "mode.text_encoder_lr=1e-2")
    job = new_job(plan_for, tmp_path / "drawn", *overrides, steps=8, prompts=(prompt,))
    weights = finish(job)
    ours = np.asarray(Image.open(job.run_dir / "samples" / "step-000008_0.png")).astype(int)
    before = np.asarray(Image.open(job.run_dir / "samples" / "step-000000_0.png")).astype(int)
    parts = StableDiffusionPipeline.from_pretrained(str(tiny_model), torch_dtype=torch.float32)
    parts.scheduler = DDIMScheduler.from_config(parts.scheduler.config, clip_sample=False, set_alpha_to_one=False)
    parts.load_lora_weights(str(weights))
    drawn = parts(
        prompt, num_inference_steps=25, guidance_scale=3.0, height=64, width=64,
        generator=torch.Generator().manual_seed(1000),
    ).images[0]  # fmt: skip
    theirs = np.asarray(drawn).astype(int)
    assert abs(ours - theirs).max() <= 2
    assert abs(before - theirs).max() > 20


def test_a_finetune_saves_a_model_that_loads_back(plan_for: PlanFor, tmp_path: Path, tiny_model: Path) -> None:
    import torch
    from diffusers import StableDiffusionPipeline

    overrides = ("mode=finetune", "optimizer.lr=1e-3", "mode.text_encoder_lr=1e-4", "mode.save_dtype=fp32")
    folder = finish(new_job(plan_for, tmp_path / "finetune", *overrides))
    trained = StableDiffusionPipeline.from_pretrained(str(folder), torch_dtype=torch.float32)
    base = StableDiffusionPipeline.from_pretrained(str(tiny_model), torch_dtype=torch.float32)
    assert not torch.equal(trained.unet.conv_in.weight, base.unet.conv_in.weight)
    assert torch.equal(trained.vae.decoder.conv_in.weight, base.vae.decoder.conv_in.weight)
    changed = zip(trained.text_encoder.parameters(), base.text_encoder.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in changed)
    assert trained("one red circle", num_inference_steps=2, height=64, width=64).images


def test_a_single_file_trains_as_its_diffusers_folder_does(plan_for: PlanFor, tmp_path: Path, tiny_model: Path) -> None:
    single = write_single_file(tiny_model, tmp_path / "single.safetensors")
    tokenizer = f"model.tokenizer={tiny_model / 'tokenizer'}"
    overrides = ("mode.text_encoder_lr=1e-4", tokenizer)
    folder = load_file(finish(new_job(plan_for, tmp_path / "folder", *overrides)))
    other = new_job(plan_for, tmp_path / "file", *overrides, "data.heldout_fraction=0.0", model=single)
    from_file = load_file(finish(other))
    # The single file has no config: the autoencoder's scale is Stable Diffusion 1's, as is the tiny model's.
    assert folder.keys() == from_file.keys()
    assert all(folder[key].equal(from_file[key]) for key in folder)
