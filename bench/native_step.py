"""How much a native training step takes beside the forward and backward pass of the denoiser that it is made of.

    python -m bench.native_step [--steps 8]             a tiny model with random weights
    python -m bench.native_step --full-size             Stable Diffusion 1.5's own sizes with random weights

The full size writes 2.2 GB into the temporary folder, and takes several times as much memory. Both passes go through
the same model with the same adapter and inputs of the same shape, in one process, in turn.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from pipeline.backends.native.job import NativeJob
from pipeline.backends.native.loop import Training, prepare, train_step
from pipeline.backends.native.processes import join_processes
from pipeline.backends.native.stopping import StopSignal
from pipeline.detect import detect
from pipeline.render import render
from pipeline.settings import PROJECT
from pipeline.validate import validate
from pipeline.wording import count
from tests.conftest import build_tiny_model, compose_settings

GOAL = 1.10
WARM_UP_STEPS = 2
"""Not counted: the first steps make the optimizer's state and fill the allocator."""
TINY = ("model=demo", "train.batch_size=4", "network=lora", "network.rank=8")
FULL_SIZE = ("model=sd15", "train.resolution_px=128", "train.batch_size=1", "network=lora", "network.rank=8")
STEADY = ("hardware.precision=fp32", "train.gradient_checkpointing=false", "data=folder", "data.heldout_fraction=0")


@dataclass(frozen=True)
class Times:
    """Seconds of each step, and of each bare pass."""

    step: list[float]
    bare: list[float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full-size", action="store_true", help="Stable Diffusion 1.5's sizes")
    parser.add_argument("--steps", type=int, default=8, help="pairs to measure")
    options = parser.parse_args()
    quieten()
    with TemporaryDirectory(prefix="bench-") as folder:
        training = prepared(Path(folder), full_size=options.full_size, steps=options.steps)
        report(training, measure(training, options.steps))


def quieten() -> None:
    """The table is all that is printed."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()


def prepared(folder: Path, *, full_size: bool, steps: int) -> Training:
    """A training that could begin, made by the stages that any run goes through."""
    model = build_full_size_model(folder) if full_size else build_tiny_model(folder)
    pictures, run_dir = folder / "pictures", folder / "run"
    pictures.mkdir()
    for source in sorted((PROJECT / "demo" / "data" / "train").glob("0[1-8].*")):
        shutil.copy(source, pictures)
    settings = compose_settings(
        *(FULL_SIZE if full_size else TINY),
        *(*STEADY, f"model.path={model}", f"data.dir={pictures}", f"train.max_steps={WARM_UP_STEPS + steps}"),
    )
    job = render(validate(settings, detect(settings, folder)), run_dir)
    native = NativeJob.read(job.files[0])
    return prepare(native, join_processes(native), StopSignal(), None)


def build_full_size_model(folder: Path) -> Path:
    """Stable Diffusion 1.5's three networks with random weights, in diffusers layout and float16; its tokenizer is the
    demo's, whose ids are all within the vocabulary."""
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from demo.train_model import build_tokenizer

    torch.manual_seed(0)
    tokenizer = build_tokenizer(folder / "words")
    eos = int(tokenizer.eos_token_id)
    cross, plain = "CrossAttnDownBlock2D", "DownBlock2D"
    parts = {
        "unet": UNet2DConditionModel(
            sample_size=64, block_out_channels=(320, 640, 1280, 1280), layers_per_block=2, cross_attention_dim=768,
            attention_head_dim=8, down_block_types=(cross, cross, cross, plain),
            up_block_types=("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
        ).half(),
        "vae": AutoencoderKL(
            sample_size=512, block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        ).half(),
        "text_encoder": CLIPTextModel(
            CLIPTextConfig(
                vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
                num_attention_heads=12, max_position_embeddings=77, projection_dim=768,
                bos_token_id=int(tokenizer.bos_token_id), eos_token_id=eos, pad_token_id=eos,
            )
        ).half(),
    }  # fmt: skip
    schedule = PNDMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, skip_prk_steps=True, steps_offset=1
    )
    whole = StableDiffusionPipeline(
        **parts,
        tokenizer=tokenizer,
        scheduler=schedule,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    whole.save_pretrained(folder / "model", safe_serialization=True)
    return folder / "model"


def measure(training: Training, steps: int) -> Times:
    """A step and a bare pass in turn, so that whatever else the machine does falls on both."""
    latents, timesteps, context = bare_inputs(training)

    def bare() -> None:
        with training.autocast():
            predicted = training.denoiser(latents, timesteps, context, return_dict=False)[0].float()
        predicted.pow(2).mean().backward()

    times = Times([], [])
    for step in range(WARM_UP_STEPS + steps):
        pair = seconds(training, lambda: train_step(training, step)), seconds(training, bare)  # noqa: B023
        training.optimizer.zero_grad(set_to_none=True)
        if step >= WARM_UP_STEPS:
            times.step.append(pair[0])
            times.bare.append(pair[1])
    return times


def bare_inputs(training: Training) -> tuple[Tensor, Tensor, Tensor]:
    """Noise of the shape of a batch, timesteps, and the encoded captions."""
    device = training.processes.device
    batch = [training.pictures[index] for index in training.order.batch(0)]
    latents = torch.randn(len(batch), *batch[0].mean.shape, device=device)
    timesteps = torch.full((len(batch),), 500, device=device)
    with torch.no_grad():
        context = training.context([picture.caption for picture in batch]).clone()
    return latents, timesteps, context


def seconds(training: Training, work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    if training.processes.device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - began


def report(training: Training, times: Times) -> None:
    def size(parameters: Iterable[torch.nn.Parameter]) -> str:
        return count(sum(parameter.numel() for parameter in parameters))

    train, adapted = training.job.train, training.trained.parameters()
    step, bare = median(times.step), median(times.bare)
    print(f"denoiser         {size(training.denoiser.parameters())} parameters, adapter {size(adapted)}")
    print(f"inputs           {train.resolution_px} px, batch {train.batch_size}, {training.job.precision}")
    print(f"device           {training.processes.device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"training step    {step * 1000:10.1f} ms   median of {len(times.step)}")
    print(f"bare pass        {bare * 1000:10.1f} ms")
    print(f"ratio            {step / bare:10.3f}      goal: at most {GOAL:.2f} at full size")


if __name__ == "__main__":
    main()
