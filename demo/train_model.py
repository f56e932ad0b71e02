"""Trains the demo model from nothing, on pictures drawn by `demo.world`, and writes it in diffusers layout.

    python -m demo.train_model --work /tmp/demo-model [--bf16] [--denoiser-steps 4000] [--export demo/model]

Each part is resumable (a checkpoint in the work folder every hundred steps, written atomically): a tokenizer over the
world's words, a text encoder that learns to name what a caption says, an autoencoder, the denoiser, and the decoder
once more. The architecture is Stable Diffusion 1's, shrunk: the same classes, the same noise schedule, epsilon
prediction. It takes about an hour and a half on one core of a CPU with AMX and --bf16. Take one thread there
(OMP_NUM_THREADS=1): with two, oneDNN's backward pass in bfloat16 was 20 times slower.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import pairwise
from pathlib import Path
from random import Random

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from demo.world import (
    BACKGROUNDS,
    COLOURS,
    COUNTS,
    PLACES,
    ROWS,
    SHAPES,
    SIDE_PX,
    SUPERSAMPLING,
    Scene,
    all_scenes,
    draw,
    held_out,
    outlines,
)

MAX_TOKENS = 32
GUIDANCE = 3.0
TEXT_WIDTH = 128
PICTURES_PER_SCENE = 16
CHECKPOINT_STEPS = 100
FILLER = (
    "a",
    "the",
    "picture",
    "drawing",
    "photo",
    "painting",
    "of",
    "style",
    "with",
    "very",
    "sticker",
    "ink",
    "paper",
)
ATTRIBUTES: dict[str, list[str]] = {
    "count": list(COUNTS),
    "size": ["small", "large"],
    "colour": list(COLOURS),
    "shape": list(SHAPES),
    "place": [*PLACES, *ROWS],
    "background": list(BACKGROUNDS),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--export", type=Path, help="folder for the finished model")
    parser.add_argument("--text-steps", type=int, default=600)
    parser.add_argument("--autoencoder-steps", type=int, default=1800)
    parser.add_argument("--denoiser-steps", type=int, default=4000)
    parser.add_argument("--polish-steps", type=int, default=2300)
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16 (a CPU with AMX)")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)

    def autocast() -> AbstractContextManager[object]:
        return torch.autocast("cpu", torch.bfloat16, enabled=options.bf16)

    tokenizer = build_tokenizer(options.work / "tokenizer")
    text_encoder = train_text_encoder(tokenizer, options.work, options.text_steps)
    autoencoder = train_autoencoder(options.work, options.autoencoder_steps, autocast)
    denoiser = train_denoiser(tokenizer, text_encoder, autoencoder, options.work, options.denoiser_steps, autocast)
    polish_decoder(autoencoder, options.work, options.polish_steps, autocast)
    if options.export:
        export(tokenizer, text_encoder, autoencoder, denoiser, options.export)


# ------------------------------------------------------------------------------------------------------- tokenizer


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    """A CLIP tokenizer whose merges spell the words of the world; any other word falls apart into characters."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = [chr(code) for code in range(33, 127)]
    tokens = letters + [letter + "</w>" for letter in letters]
    merges: list[tuple[str, str]] = []
    for word in _words():
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            merge = next((m for m in merges if m in pairwise(pieces)), (pieces[0], pieces[1]))
            if merge not in merges:
                merges.append(merge)
            pieces = _apply(merge, pieces)
    tokens += list(dict.fromkeys("".join(merge) for merge in merges))
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(dict.fromkeys(tokens))}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(merge) for merge in merges) + "\n")
    return CLIPTokenizer(
        vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"), model_max_length=MAX_TOKENS
    )


def _words() -> list[str]:
    words = {word for scene in all_scenes() for word in scene.caption.split()} | set(FILLER)
    return sorted(words)


def _apply(merge: tuple[str, str], pieces: list[str]) -> list[str]:
    merged: list[str] = []
    i = 0
    while i < len(pieces):
        pair = tuple(pieces[i : i + 2])
        merged.append("".join(pair) if pair == merge else pieces[i])
        i += 2 if pair == merge else 1
    return merged


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Token ids, (captions, MAX_TOKENS), padded as Stable Diffusion does."""
    ids = tokenizer(captions, padding="max_length", truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
    return Tensor(ids.input_ids)


# ---------------------------------------------------------------------------------------------------- text encoder


def train_text_encoder(tokenizer: CLIPTokenizer, work: Path, steps: int) -> CLIPTextModel:
    """Learns to name, at every position behind the caption, each attribute that the caption says."""
    eos = int(tokenizer.eos_token_id)
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=TEXT_WIDTH, intermediate_size=4 * TEXT_WIDTH, num_hidden_layers=3,
            num_attention_heads=2, max_position_embeddings=MAX_TOKENS, projection_dim=TEXT_WIDTH,
            bos_token_id=int(tokenizer.bos_token_id), eos_token_id=eos, pad_token_id=eos,
        )
    )  # fmt: skip
    heads = nn.ModuleDict({name: nn.Linear(TEXT_WIDTH, len(values)) for name, values in ATTRIBUTES.items()})
    trained = nn.ModuleDict({"encoder": encoder, "heads": heads})
    scenes, rng = all_scenes(), Random(1)

    def loss_at(_step: int) -> Tensor:
        batch = rng.choices(scenes, k=64)
        ids = tokenize(tokenizer, [_with_filler(scene.caption, rng) for scene in batch])
        hidden = encoder(ids).last_hidden_state
        behind = (ids == eos).float()
        loss = torch.zeros(())
        for name, values in ATTRIBUTES.items():
            target = torch.tensor([values.index(getattr(scene, name)) for scene in batch])
            each = F.cross_entropy(
                heads[name](hidden).transpose(1, 2), target[:, None].expand(ids.shape), reduction="none"
            )
            loss = loss + (each * behind).sum() / behind.sum()
        return loss

    _train("text_encoder", trained, loss_at, work, steps, peak_lr=1e-3, decay=0.3)
    return encoder.eval().requires_grad_(False)


def _with_filler(caption: str, rng: Random) -> str:
    if rng.random() < 0.5:
        return caption
    return " ".join([*rng.choices(FILLER, k=rng.randint(1, 4)), caption])


# ----------------------------------------------------------------------------------------------------- autoencoder


def train_autoencoder(work: Path, steps: int, autocast: Callable[[], AbstractContextManager[object]]) -> AutoencoderKL:
    """Factor 8, four latent channels; a third of its pictures are doodles in random colours, so that it can also carry
    pictures that the world does not hold."""
    autoencoder = AutoencoderKL(
        block_out_channels=(32, 64, 64, 96), layers_per_block=1, latent_channels=4, norm_num_groups=16,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, sample_size=SIDE_PX,
    )  # fmt: skip
    with torch.no_grad():  # start with little noise on the latents: with much of it nothing is learned for long
        autoencoder.quant_conv.bias[4:] = -5
        autoencoder.quant_conv.weight[4:] *= 0.1
    scenes, rng = all_scenes(), Random(2)

    def loss_at(_step: int) -> Tensor:
        pictures = [draw(rng.choice(scenes), rng) if i % 3 else doodle(rng.choice(scenes), rng) for i in range(18)]
        pixels = to_pixels(pictures)
        with autocast():
            latents = autoencoder.encode(pixels).latent_dist
            drawn = autoencoder.decode(latents.sample()).sample.float()
        kl = 0.5 * (latents.mean.float() ** 2 + latents.var.float() - 1 - latents.logvar.float()).mean()
        return F.mse_loss(drawn, pixels) + 0.1 * F.l1_loss(drawn, pixels) + 2e-5 * kl

    _train("autoencoder", autoencoder, loss_at, work, steps, peak_lr=2e-3, decay=0.4)
    return autoencoder.eval().requires_grad_(False)


def polish_decoder(
    autoencoder: AutoencoderKL, work: Path, steps: int, autocast: Callable[[], AbstractContextManager[object]]
) -> None:
    """Goes on with the decoder alone, so that edges get sharper and the latents, which the denoiser knows, stay."""
    decoder = nn.ModuleDict({"decoder": autoencoder.decoder, "post_quant_conv": autoencoder.post_quant_conv})
    decoder.requires_grad_(True)
    scenes, rng = all_scenes(), Random(5)

    def loss_at(_step: int) -> Tensor:
        pictures = [draw(rng.choice(scenes), rng) if i % 6 else doodle(rng.choice(scenes), rng) for i in range(18)]
        pixels = to_pixels(pictures)
        contrast = F.max_pool2d(pixels, 5, 1, 2) + F.max_pool2d(-pixels, 5, 1, 2)
        weight = 1 + 4 * contrast.mean(dim=1, keepdim=True)  # a small shape is little more than its edges
        with autocast():
            with torch.no_grad():
                latents = autoencoder.encode(pixels).latent_dist.sample()
            drawn = autoencoder.decode(latents).sample.float()
        return (weight * ((drawn - pixels) ** 2 + 0.2 * (drawn - pixels).abs())).mean()

    _train("decoder", decoder, loss_at, work, steps, peak_lr=1e-3, decay=0.6)
    autoencoder.eval().requires_grad_(False)


def doodle(scene: Scene, rng: Random) -> Image.Image:
    """The shapes of a scene in random colours, often outlined, often on stripes."""

    def colour() -> tuple[int, int, int]:
        return rng.randint(0, 255), rng.randint(0, 255), rng.randint(0, 255)

    side = SIDE_PX * SUPERSAMPLING
    picture = Image.new("RGB", (side, side), colour())
    pen = ImageDraw.Draw(picture)
    if rng.random() < 0.6:
        angle = rng.choice((0.0, math.pi / 2, rng.uniform(0, math.pi)))
        period, ink, width = rng.uniform(5, 20) * SUPERSAMPLING, colour(), rng.randint(3, 12)
        for i in range(-40, 40):
            x, y = side / 2 - math.sin(angle) * period * i, side / 2 + math.cos(angle) * period * i
            dx, dy = math.cos(angle) * 2 * side, math.sin(angle) * 2 * side
            pen.line([x - dx, y - dy, x + dx, y + dy], fill=ink, width=width)
    fill, edge, width = colour(), colour(), rng.choice((0, 6, 12, 16))
    for outline in outlines(scene, rng):
        pen.polygon(outline, fill=fill)
        if width:
            pen.line([*outline, *outline[:2]], fill=edge, width=width, joint="curve")
    return picture.resize((SIDE_PX, SIDE_PX), Image.Resampling.BOX)


def to_pixels(pictures: list[Image.Image]) -> Tensor:
    """(pictures, 3, height, width) in [-1, 1]."""
    return torch.from_numpy(np.stack([np.asarray(p) for p in pictures])).permute(0, 3, 1, 2).float() / 127.5 - 1


# -------------------------------------------------------------------------------------------------------- denoiser


def train_denoiser(
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
    autoencoder: AutoencoderKL,
    work: Path,
    steps: int,
    autocast: Callable[[], AbstractContextManager[object]],
) -> UNet2DConditionModel:
    """Epsilon prediction on cached latents; of 20 captions three leave the background out and two are empty. Returns
    the averaged weights."""
    scenes = [scene for scene in all_scenes() if not held_out(scene)]
    latents = encode_world(autoencoder, scenes, work / "latents.safetensors")
    mean, std = latents["mean"], latents["std"]
    scale = 1.0 / float((mean + std * torch.randn(std.shape, generator=torch.Generator().manual_seed(3))).std())
    autoencoder.register_to_config(scaling_factor=round(scale, 5))
    with torch.no_grad():
        hidden = torch.stack(
            [
                text_encoder(tokenize(tokenizer, captions)).last_hidden_state
                for captions in ([s.caption for s in scenes], [s.subject for s in scenes], [""] * len(scenes))
            ]
        )
    denoiser = UNet2DConditionModel(
        sample_size=SIDE_PX // 8, block_out_channels=(128, 192), layers_per_block=1, cross_attention_dim=TEXT_WIDTH,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=8,
    )  # fmt: skip
    denoiser.set_attn_processor(AttnProcessor())  # at 64 latents torch's fused attention is the slower one on a CPU
    schedule = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)

    def loss_at(step: int) -> Tensor:
        rng = torch.Generator().manual_seed(1_000_000 + step)
        scene = torch.randint(len(scenes), (64,), generator=rng)
        variant = torch.randint(PICTURES_PER_SCENE, (64,), generator=rng)
        clean = mean[scene, variant] + std[scene, variant] * torch.randn(64, *mean.shape[2:], generator=rng)
        noise = torch.randn(clean.shape, generator=rng)
        timesteps = ((torch.arange(64) + torch.rand(64, generator=rng)) / 64 * 1000).long()
        said = torch.multinomial(torch.tensor([0.75, 0.15, 0.1]), 64, replacement=True, generator=rng)
        context = hidden[said, scene]
        noisy = schedule.add_noise(clean * scale, noise, timesteps)
        with autocast():
            predicted = denoiser(noisy, timesteps, context).sample
        return F.mse_loss(predicted.float(), noise)

    average = _train("denoiser", denoiser, loss_at, work, steps, peak_lr=7e-4, decay=0.25, average_decay=0.999)
    denoiser.load_state_dict(average)
    return denoiser.eval().requires_grad_(False)


def encode_world(autoencoder: AutoencoderKL, scenes: list[Scene], cache: Path) -> dict[str, Tensor]:
    """Mean and standard deviation of the latents, each (scenes, variants, 4, 8, 8); computed once."""
    if cache.exists():
        return load_file(cache)
    rng = Random(4)
    mean, std = [], []
    with torch.no_grad():
        for scene in scenes:
            latents = autoencoder.encode(to_pixels([draw(scene, rng) for _ in range(PICTURES_PER_SCENE)])).latent_dist
            mean.append(latents.mean)
            std.append(latents.std)
    encoded = {"mean": torch.stack(mean), "std": torch.stack(std)}
    _write(encoded, cache)
    return encoded


# ------------------------------------------------------------------------------------------------------------ loop


def _train(
    name: str,
    module: nn.Module,
    loss_at: Callable[[int], Tensor],
    work: Path,
    steps: int,
    *,
    peak_lr: float,
    decay: float,
    average_decay: float = 0.0,
) -> dict[str, Tensor]:
    """AdamW, short warm-up, constant rate, then linear decay over the last part; resumes; returns the averaged weights.

    The rate depends on the step and the total alone, so a longer total may be asked for before the decay begins.
    """
    optimizer = torch.optim.AdamW(module.parameters(), lr=peak_lr, weight_decay=0.01, betas=(0.9, 0.99))
    average = {key: value.detach().clone() for key, value in module.state_dict().items()}
    start = _resume(work / f"{name}.safetensors", module, optimizer, average)
    module.train()
    losses: list[float] = []
    began = time.monotonic()
    for step in range(start, steps):
        rate = peak_lr * min(1.0, (step + 1) / 100, (steps - step) / (decay * steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = loss_at(step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        keep = min(average_decay, (step + 1) / (step + 10))
        for key, value in module.state_dict().items():
            average[key].lerp_(value, 1 - keep) if value.is_floating_point() else average[key].copy_(value)
        losses.append(float(loss.detach()))
        if (step + 1) % CHECKPOINT_STEPS == 0 or step + 1 == steps:
            per_step = (time.monotonic() - began) / (step + 1 - start)
            print(
                f"{name} {step + 1}/{steps} loss {np.mean(losses[-CHECKPOINT_STEPS:]):.4f} {per_step:.3f} s/step",
                flush=True,
            )
            _save(work / f"{name}.safetensors", step + 1, module, optimizer, average)
    return average


def _save(
    path: Path, step: int, module: nn.Module, optimizer: torch.optim.Optimizer, average: dict[str, Tensor]
) -> None:
    names = [name for name, _ in module.named_parameters()]
    state = {"step": torch.tensor(step)}
    state |= {f"module.{key}": value.contiguous() for key, value in module.state_dict().items()}
    state |= {f"average.{key}": value.contiguous() for key, value in average.items()}
    for i, moments in optimizer.state_dict()["state"].items():
        state |= {f"optimizer.{names[i]}.{key}": value.contiguous() for key, value in moments.items()}
    _write(state, path)


def _resume(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, average: dict[str, Tensor]) -> int:
    if not path.exists():
        return 0
    state = load_file(path)
    module.load_state_dict({key.removeprefix("module."): v for key, v in state.items() if key.startswith("module.")})
    for key in average:
        average[key].copy_(state[f"average.{key}"])
    whole = optimizer.state_dict()
    whole["state"] = {
        i: {key: state[f"optimizer.{name}.{key}"] for key in ("step", "exp_avg", "exp_avg_sq")}
        for i, (name, _) in enumerate(module.named_parameters())
        if f"optimizer.{name}.step" in state
    }
    optimizer.load_state_dict(whole)
    return int(state["step"])


def _write(tensors: dict[str, Tensor], path: Path) -> None:
    unfinished = path.with_suffix(".part")
    save_file({key: value.contiguous() for key, value in tensors.items()}, unfinished)
    unfinished.replace(path)


# ---------------------------------------------------------------------------------------------------------- export


def export(
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
    autoencoder: AutoencoderKL,
    denoiser: UNet2DConditionModel,
    folder: Path,
) -> None:
    """A diffusers folder in float16, without a safety checker."""
    pipeline = StableDiffusionPipeline(
        vae=autoencoder.half(), text_encoder=text_encoder.half(), tokenizer=tokenizer, unet=denoiser.half(),
        scheduler=PNDMScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, skip_prk_steps=True, steps_offset=1,
        ),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder, safe_serialization=True)


def pictures_of(
    parts: StableDiffusionPipeline, prompts: list[str], seed: int, steps: int = 25
) -> Iterator[Image.Image]:
    """One picture a prompt, from consecutive seeds."""
    for begin in range(0, len(prompts), 32):
        batch = prompts[begin : begin + 32]
        noise = [torch.Generator().manual_seed(seed + begin + i) for i in range(len(batch))]
        yield from parts(batch, num_inference_steps=steps, guidance_scale=GUIDANCE, generator=noise).images


if __name__ == "__main__":
    main()
