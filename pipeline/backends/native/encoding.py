"""Pictures -> latents and captions -> embeddings, each once, before the loop; then their encoders may leave memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from pipeline.backends.native.job import TrainPart
from pipeline.backends.native.stable_diffusion_1 import TextParts
from pipeline.dataset.buckets import Side, bucket_side
from pipeline.errors import UnreadableFile


@dataclass(frozen=True, slots=True)
class EncodedPicture:
    """One picture as the denoiser sees it. Mean and deviation, each (4, height / 8, width / 8), are of the scaled
    latents' distribution."""

    path: Path
    caption: str
    bucket: Side
    mean: Tensor
    deviation: Tensor

    def latents(self, noise: Tensor) -> Tensor:
        return self.mean + self.deviation * noise


@torch.no_grad()
def encode_picture(
    autoencoder: object, row: dict[str, object], train: TrainPart, device: torch.device
) -> EncodedPicture:
    """Raises UnreadableFile for a picture that can't be decoded."""
    path = Path(str(row["path"]))
    bucket = bucket_side(
        int(str(row["width_px"])),
        int(str(row["height_px"])),
        resolution_px=train.resolution_px,
        step_px=train.resolution_step_px,
    )
    pixels = read_pixels(path, bucket).to(device)
    latents = autoencoder.encode(pixels[None]).latent_dist  # type: ignore[attr-defined]
    scale = float(autoencoder.config.scaling_factor)  # type: ignore[attr-defined]
    return EncodedPicture(
        path=path,
        caption=str(row["caption"]),
        bucket=bucket,
        mean=latents.mean[0].float().cpu() * scale,
        deviation=latents.std[0].float().cpu() * scale,
    )


def read_pixels(path: Path, side: Side) -> Tensor:
    """(3, height, width) in [-1, 1]: turned as its EXIF says, on white where transparent, resized to cover, cropped."""
    try:
        with Image.open(path) as opened:
            turned = ImageOps.exif_transpose(opened)
            picture = ImageOps.fit(_on_white(turned), side, method=Image.Resampling.LANCZOS)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableFile(f"{path} can't be decoded: {error}") from error
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 127.5 - 1


def _on_white(picture: Image.Image) -> Image.Image:
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    colours = picture.convert("RGBA")
    paper = Image.new("RGBA", colours.size, "white")
    return Image.alpha_composite(paper, colours).convert("RGB")


class Embeddings:
    """Caption -> embedding (positions, width): computed once and kept; or, where the encoder is trained or captions
    change from one time to the next, computed when asked."""

    def __init__(self, text: TextParts, *, keep: bool) -> None:
        self.text: TextParts | None = text
        """None once it has left memory."""
        self._keep = keep
        self._kept: dict[str, Tensor] = {}

    @torch.no_grad()
    def remember(self, captions: list[str]) -> None:
        text = self._encoder()
        for caption in dict.fromkeys(captions):
            if caption not in self._kept:
                self._kept[caption] = text.encode(text.tokens([caption]))[0].float()

    def forget_encoder(self) -> None:
        """Lets the text encoder leave memory; from here on only remembered captions are known."""
        if self._keep:
            self.text = None

    def of(self, captions: list[str]) -> Tensor:
        """(captions, positions, width), with gradients where the text encoder is trained."""
        if self._keep:
            return torch.stack([self._kept[caption] for caption in captions])
        text = self._encoder()
        return text.encode(text.tokens(captions))

    def _encoder(self) -> TextParts:
        assert self.text is not None, "the text encoder has left memory"
        return self.text


def too_long(text: TextParts, captions: list[str]) -> list[str]:
    """Captions of which the encoder sees only the beginning."""
    return [caption for caption in dict.fromkeys(captions) if text.length(caption) > text.tokenizer.model_max_length]


def encode_pictures(
    autoencoder: object,
    rows: list[dict[str, object]],
    train: TrainPart,
    device: torch.device,
    *,
    between: Callable[[], None],
) -> list[EncodedPicture]:
    """Calls `between` before each picture: the place to stop when the user asks for it."""
    encoded = []
    for row in rows:
        between()
        encoded.append(encode_picture(autoencoder, row, train, device))
    return encoded
