"""What a run trains: an adapter, or the model's own weights; and how it is saved."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.backends.native.job import NativeJob
from pipeline.backends.native.network import adapt_denoiser, adapt_text_encoder, adapter_weights
from pipeline.backends.native.randomness import seed_globals
from pipeline.backends.native.stable_diffusion_1 import TextParts, load_autoencoder, load_text_parts
from pipeline.files import flush_file, flush_folder

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(slots=True)
class Trained:
    """The trained modules by part ("denoiser", "text_encoder"), and the optimizer's groups of their parameters."""

    modules: nn.ModuleDict
    groups: list[dict[str, Any]]

    def parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.groups for parameter in group["params"]]


def make_trainable(job: NativeJob, denoiser: nn.Module, text: TextParts | None) -> Trained:
    """Attaches the adapters or thaws the weights; fresh weights depend on the seed alone. `text` is asked of only where
    it is trained."""
    seed_globals(job.seed, "fresh weights")
    encoder = text.encoder if text is not None and job.optimizer.text_encoder_lr > 0 else None
    if job.network is not None:
        parts = {"denoiser": adapt_denoiser(denoiser, job.network)}
        if encoder is not None:
            parts["text_encoder"] = adapt_text_encoder(encoder, job.network)
    else:
        parts = {"denoiser": denoiser} | ({"text_encoder": encoder} if encoder is not None else {})
    rates = {"denoiser": job.optimizer.lr, "text_encoder": job.optimizer.text_encoder_lr}
    groups = []
    for name, module in parts.items():
        module.requires_grad_(True)
        groups.append({"params": list(module.parameters()), "lr": rates[name]})
    return Trained(nn.ModuleDict(parts), groups)


def save_weights(job: NativeJob, trained: Trained, denoiser: Any, text: TextParts | None) -> Path:
    """An adapter as one safetensors file, a finetuned model as a diffusers folder; whole or not there."""
    folder = Path(job.run_dir) / "weights"
    folder.mkdir(parents=True, exist_ok=True)
    if job.network is not None:
        return _save_adapter(job, trained, folder / f"{job.weights_name}.safetensors")
    return _save_model(job, denoiser, text, folder / job.weights_name)


def _save_adapter(job: NativeJob, trained: Trained, path: Path) -> Path:
    weights: dict[str, Tensor] = {}
    for adapter in trained.modules.values():
        weights |= adapter_weights(adapter, DTYPES[job.save_dtype])
    unfinished = path.with_suffix(".part")
    save_file(weights, unfinished, metadata=job.metadata)
    _sort_header(unfinished)
    flush_file(unfinished)
    unfinished.replace(path)
    return path


def _sort_header(path: Path) -> None:
    """safetensors writes its metadata in an order of chance: sorted, equal runs write equal files. Sorting changes no
    byte count, so that the tensors stay where they are."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        ordered = {"__metadata__": header.pop("__metadata__"), **header}
        text = json.dumps(ordered, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(text) <= length, "the sorted header must fit in the place of the unsorted one"
        file.seek(8)
        file.write(text.ljust(length))


def _save_model(job: NativeJob, denoiser: Any, text: TextParts | None, folder: Path) -> Path:
    from diffusers import PNDMScheduler, StableDiffusionPipeline

    from pipeline.backends.native.stable_diffusion_1 import NOISE_SCHEDULE

    dtype = DTYPES[job.save_dtype]
    text = text or load_text_parts(job.model)
    whole = StableDiffusionPipeline(
        vae=load_autoencoder(job.model).to(dtype),
        text_encoder=text.encoder.to("cpu", dtype),
        tokenizer=text.tokenizer,
        unet=_copy_in(denoiser, dtype),
        scheduler=PNDMScheduler(
            **NOISE_SCHEDULE, skip_prk_steps=True, steps_offset=1, prediction_type=job.model.prediction
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    unfinished = folder.with_name(folder.name + ".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    whole.save_pretrained(unfinished, safe_serialization=True)
    (unfinished / "training.json").write_text(json.dumps(job.metadata, indent=2, sort_keys=True), encoding="utf-8")
    flush_folder(unfinished)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.replace(folder)
    return folder


def _copy_in(denoiser: Any, dtype: torch.dtype) -> Any:
    """The loop is over when this is called: the weights themselves are converted, there may be no room for a copy."""
    return denoiser.to("cpu", dtype)
