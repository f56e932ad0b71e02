"""The memory estimate beside what native runs really take on a CPU, as a table.

    python -m bench.cpu_memory                               the demo model, and two larger ones with random weights
    python -m bench.cpu_memory --sd15 FILE --tokenizer DIR   Stable Diffusion 1.5's sizes too; about 14 GB are needed

Every run is whole: it encodes, judges, samples, trains three steps and saves, in a process of its own, whose peak the
kernel tells.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.detect import detect
from pipeline.journal import read_journal
from pipeline.outcome import outcome_from
from pipeline.records import PredictedMemory
from pipeline.render import render
from pipeline.settings import PROJECT
from pipeline.validate import validate
from tests.conftest import compose_settings

WHOLE = (
    *("data=folder", "data.heldout_fraction=0.25", "hardware=cpu", "tracking=off", "train.max_steps=3"),
    *("sample.num_inference_steps=2", "sample.prompts=[one large red circle]"),
)
LORA, FINETUNE = "mode=lora", "mode=finetune"
PLAIN, CHECKPOINTED = "train.gradient_checkpointing=false", "train.gradient_checkpointing=true"
SMALL, MIDDLE = (96, 192, 384), (160, 320, 640, 640)
"""Widths of the denoisers: 40 and 213 million parameters."""


@dataclass(frozen=True)
class Measured:
    """What a run was to take, and took."""

    predicted: PredictedMemory
    peak_bytes: int

    @property
    def error(self) -> float:
        return self.predicted.bytes / self.peak_bytes - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sd15", help="a safetensors file or diffusers folder")
    parser.add_argument("--tokenizer", help="CLIP's, for a single file that stands alone")
    options = parser.parse_args()
    print("| model | run | predicted | range | measured | error |\n| --- | --- | --- | --- | --- | --- |", flush=True)
    with TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        for number, (title, words) in enumerate(cases(folder, options.sd15, options.tokenizer)):
            told = [word.rpartition(".")[2] for word in words if not word.startswith("model")]
            print(row(title, ", ".join(told), measured(folder / str(number), *words)), flush=True)
            shutil.rmtree(folder / str(number))


def cases(folder: Path, sd15: str | None, tokenizer: str | None) -> Iterator[tuple[str, tuple[str, ...]]]:
    for mode, batch in ((LORA, 8), (FINETUNE, 4)):
        yield "demo, 8.6 M", ("model=demo", mode, PLAIN, *shape(64, batch))
    for title, widths in (("small, 40 M", SMALL), ("middle, 213 M", MIDDLE)):
        model = build_model(folder / title[:5], widths)
        for mode, kept, side, batch in (
            (LORA, PLAIN, 256, 2),
            (LORA, CHECKPOINTED, 128, 4),
            (FINETUNE, PLAIN, 128, 4),
            (FINETUNE, CHECKPOINTED, 128, 1),
        ):
            yield title, ("model=demo", f"model.path={model}", mode, kept, *shape(side, batch))
    if sd15 is not None:
        named = ("model=sd15", f"model.path={sd15}", *((f"model.tokenizer={tokenizer}",) if tokenizer else ()))
        for mode, kept, side, batch in (
            (FINETUNE, CHECKPOINTED, 128, 1),
            (LORA, PLAIN, 128, 4),
            (LORA, CHECKPOINTED, 128, 2),
            (LORA, PLAIN, 256, 1),
        ):
            yield "Stable Diffusion 1.5, 860 M", (*named, mode, kept, *shape(side, batch))


def shape(side_px: int, batch: int) -> tuple[str, str, str]:
    """Of one pass, which is an update."""
    return f"train.resolution_px={side_px}", f"train.batch_size={batch}", f"train.effective_batch_size={batch}"


def measured(run_dir: Path, *words: str) -> Measured:
    """One run of our own trainer on four pictures of the demo, one of them held out."""
    pictures = run_dir / "pictures"
    pictures.mkdir(parents=True)
    for source in sorted((PROJECT / "demo" / "data" / "train").glob("0[1-4].*")):
        shutil.copy(source, pictures)
    settings = compose_settings(*WHOLE, f"data.dir={pictures}", *words)
    plan = validate(settings, detect(settings, run_dir))
    job = render(plan, run_dir)
    with (run_dir / "trainer.log").open("wb") as log:
        subprocess.run(job.argv, cwd=job.cwd, env={**os.environ, **job.env}, stdout=log, stderr=log, check=True)
    peak = outcome_from(read_journal(run_dir), "finished", None).peak_memory_bytes
    assert plan.memory is not None and peak is not None
    return Measured(plan.memory, peak)


def row(title: str, told: str, found: Measured) -> str:
    predicted = found.predicted
    low, middle, high, peak = (
        f"{size / 2**30:.2f}" for size in (predicted.low_bytes, predicted.bytes, predicted.high_bytes, found.peak_bytes)
    )
    return f"| {title} | {told} | {middle} GiB | {low}-{high} | {peak} GiB | {100 * found.error:+.0f} % |"


def build_model(folder: Path, widths: tuple[int, ...]) -> Path:
    """Stable Diffusion 1's architecture at other widths with random weights, in float16; the last level does not look
    at the text, as in the real one."""
    import torch
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from demo.train_model import build_tokenizer

    torch.manual_seed(0)
    tokenizer = build_tokenizer(folder / "words")
    eos, levels = int(tokenizer.eos_token_id), len(widths)
    whole = StableDiffusionPipeline(
        unet=UNet2DConditionModel(
            sample_size=32, block_out_channels=widths, layers_per_block=2, cross_attention_dim=256,
            attention_head_dim=8, down_block_types=(*("CrossAttnDownBlock2D",) * (levels - 1), "DownBlock2D"),
            up_block_types=("UpBlock2D", *("CrossAttnUpBlock2D",) * (levels - 1)),
        ).half(),
        vae=AutoencoderKL(
            sample_size=256, block_out_channels=(32, 64, 128, 128), layers_per_block=2, latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        ).half(),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer), hidden_size=256, intermediate_size=1024, num_hidden_layers=6,
                num_attention_heads=4, max_position_embeddings=77, projection_dim=256,
                bos_token_id=int(tokenizer.bos_token_id), eos_token_id=eos, pad_token_id=eos,
            )
        ).half(),
        tokenizer=tokenizer,
        scheduler=PNDMScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, skip_prk_steps=True, steps_offset=1
        ),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    whole.save_pretrained(folder / "model", safe_serialization=True)
    return folder / "model"


if __name__ == "__main__":
    main()
