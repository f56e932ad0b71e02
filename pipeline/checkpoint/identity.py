"""What a model file turned out to be, with the evidence for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.checkpoint.prediction import Sure
from pipeline.records import Content, Matrix, Predicted

Kind = Literal["checkpoint", "denoiser", "vae", "text_encoder", "lora", "controlnet", "embedding", "unknown"]
"""A checkpoint is a denoiser with its VAE or a text encoder; a denoiser is a UNet or transformer alone."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a conclusion rests on."""

    about: str
    said: str
    sure: Sure = "certain"

    def __str__(self) -> str:
        """Metadata are told as they are: they may be anybody's."""
        return f"{self.about}: {self.said}" + ("" if self.about == "metadata" else f" ({self.sure})")


@dataclass(frozen=True, slots=True)
class Identity:
    """All that a header says. None where it does not apply or can't be told."""

    path: Path
    kind: Kind
    family: str | None
    title: str
    """In words: 'FLUX.1 dev', 'a LoRA for sdxl'."""
    variant: str | None
    prediction: Predicted | None
    dtype: str | None
    parameters: int
    """Of the denoiser, or of all there is where there is none."""
    layout: Literal["original", "diffusers"] | None
    """Whose names the tensors have."""
    storage: Literal["file", "shards", "folder"]
    parts: tuple[str, ...]
    """denoiser, vae, the text encoders by name, ema."""
    bytes: int
    evidence: tuple[Evidence, ...]
    model: str | None = None
    """The option of the group `model` that fits best."""
    models: tuple[str, ...] = ()
    """All options that the header does not speak against, the best first."""
    prediction_sure: Sure = "assumed"
    zero_terminal_snr: bool = False
    refused: str | None = None
    """Why it can't be a base model to train on, beginning with what it is; None for those that can."""
    incomplete: str | None = None
    """Which files of it are not there."""
    contents: tuple[Content, ...] = ()
    """The parts with their sizes, of what has a denoiser."""
    matrices: tuple[Matrix, ...] = ()
    """Of the denoiser, those that an adapter can train."""
    encoder_matrices: tuple[Matrix, ...] = ()
