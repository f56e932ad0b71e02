"""Under which names what our encoders make is kept: digests of all that decides it. Loads no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from pipeline.backends.native.job import ModelPart, NativeJob
from pipeline.backends.native.layout import (
    HUB_TOKENIZER,
    TOKENIZER_FILES,
    part_config,
    part_files,
    tokenizer_folder,
)
from pipeline.checkpoint.contents import weights_digest
from pipeline.dataset.buckets import Side
from pipeline.dataset.tokens import chunks_of
from pipeline.features.space import Space, key_of

PIXELS = "8 bits of sRGB, upright, on white, Lanczos to cover, cropped to the middle"
"""How pictures become pixels: other words here, and everything is encoded anew."""

MASK_PIXELS = "upright, Lanczos to cover, cropped to the middle, mean of 8 x 8"


def latent_space(job: NativeJob) -> Space:
    """Mean and deviation of the pictures' latents. Raises UnreadableFile."""
    made = {"vae": _digest_of(job.model, "vae"), "pixels": PIXELS, **_device(job)}
    return Space("latents", made)


def text_space(job: NativeJob) -> Space:
    """The captions' embeddings. Raises UnreadableFile."""
    made = {
        "encoder": _digest_of(job.model, "text_encoder"),
        "tokenizer": _tokenizer_digest(job.model),
        "clip_skip": str(job.model.clip_skip),
        "chunks": str(chunks_of(job.model.caption_tokens)),
        **_device(job),
    }
    return Space("text", made)


def mask_space() -> Space:
    """What of a picture is learned, at the size of its latents: no model has a part in it."""
    return Space("masks", {"pixels": MASK_PIXELS})


def mask_key(row: Mapping[str, object], side: Side) -> str:
    return key_of(row["mask_digest"], row["mask_path"] == row["path"], *side)


def latent_key(row: Mapping[str, object], side: Side, *, mirrored: bool = False) -> str:
    """Of a row of the job's pictures, by its bytes and what is cut out of it, and mirrored then."""
    return key_of(row["digest"], *side, *(("mirrored",) if mirrored else ()))


def text_key(caption: str) -> str:
    return key_of(caption)


def _device(job: NativeJob) -> dict[str, str]:
    """On a CPU the number of threads decides the last bits, and a run that is repeated ends with the same ones."""
    device = f"cpu, {job.cpu_threads} threads" if job.device == "cpu" else job.device
    return {"dtype": "fp32", "device": device}


def _digest_of(model: ModelPart, part: str) -> str:
    weights = weights_digest(*part_files(model, part))
    return hashlib.sha256(f"{weights}\0{part_config(model, part)}".encode()).hexdigest()


def _tokenizer_digest(model: ModelPart) -> str:
    folder = tokenizer_folder(model)
    if folder is None:
        return HUB_TOKENIZER
    total = hashlib.sha256()
    for path in (folder / name for name in TOKENIZER_FILES):
        if path.exists():
            total.update(f"{path.name}\0".encode() + path.read_bytes())
    return total.hexdigest()
