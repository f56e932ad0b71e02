"""Pictures -> latents and captions -> embeddings: read from the cache, and encoded where it lacks them.

An encoder is loaded only where something is missing, and leaves memory before the loop.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from pipeline.backends.native.batches import shown_rows
from pipeline.backends.native.features import latent_key, latent_space, mask_key, mask_space, text_key, text_space
from pipeline.backends.native.job import NativeJob, TrainPart, changes
from pipeline.backends.native.layout import tokenizer_folder
from pipeline.backends.native.stable_diffusion_1 import TextParts, load_autoencoder, load_text_parts, load_tokenizer
from pipeline.dataset.buckets import Side, bucket_side
from pipeline.dataset.captions import longest_texts
from pipeline.dataset.formats import DAMAGED, short
from pipeline.dataset.pixels import decoded, mask_of
from pipeline.dataset.resolutions import is_trained_at, resolutions_px
from pipeline.dataset.tokens import tokens_read
from pipeline.errors import UnreadableFile
from pipeline.features.shelf import Shelf
from pipeline.wording import counted

BATCH_PIXELS = 1 << 20
"""Pixels that go through the encoder at once on a card: one picture of 1024 px, four of 512 px."""
BATCH_CAPTIONS = 16
TOLD_EVERY_SECONDS = 2.0
WAITING = "waiting for another run that encodes the same"

T = TypeVar("T")
Row = dict[str, Any]
"""Of the job's pictures."""
Split = Literal["train", "heldout"]
SPLITS: tuple[Split, ...] = ("train", "heldout")


@dataclass(frozen=True, slots=True)
class Telling:
    """What is called meanwhile."""

    phase: Callable[[str], None]
    """Says what is done."""
    between: Callable[[], None]
    """The place to stop when the user asks for it."""
    warn: Callable[[str], None]


# ---------------------------------------------------------------------------------------------------------- pictures


@dataclass(frozen=True, slots=True)
class EncodedPicture:
    """One picture as the denoiser sees it. Mean and deviation, each (4, height / 8, width / 8), are of the scaled
    latents' distribution."""

    path: Path
    caption: str
    mean: Tensor
    deviation: Tensor
    mask: Tensor | None = None
    """(1, height / 8, width / 8), from 0 to 1; None: all of it is learned."""
    weight: float = 1.0
    """Of its loss."""

    def latents(self, noise: Tensor) -> Tensor:
        return self.mean + self.deviation * noise


@dataclass(frozen=True, slots=True)
class Cut:
    """A picture as it is cut for one of its resolutions."""

    row: Row
    resolution_px: int
    side: Side

    def key(self, *, mirrored: bool = False) -> str:
        """Of its latents in the cache."""
        return latent_key(self.row, self.side, mirrored=mirrored)

    @property
    def is_masked(self) -> bool:
        return bool(self.row.get("mask_digest"))


class Pictures(Sequence[EncodedPicture]):
    """What is trained or judged by: a picture once for each of its resolutions, and again as often as it is repeated.
    Its latents are read when asked for."""

    def __init__(self, cuts: Sequence[Cut], train: TrainPart, shelf: Shelf, masks: Shelf | None = None) -> None:
        self.buckets = [(cut.resolution_px, cut.side) for cut in cuts]
        """Of each: equal sides of two resolutions are two buckets."""
        self._cuts, self._prior_loss_weight = cuts, train.prior_loss_weight
        self._shelf, self._masks = shelf, masks

    def __len__(self) -> int:
        return len(self._cuts)

    def __getitem__(self, index: Any) -> Any:
        return self.read(index)

    def read(self, index: int, *, mirrored: bool = False) -> EncodedPicture:
        """As it is or its mirror image, which must have been encoded."""
        cut = self._cuts[index]
        mean, deviation = self._shelf.read(cut.key(mirrored=mirrored))
        return EncodedPicture(
            Path(cut.row["path"]),
            cut.row["caption"],
            mean,
            deviation,
            self._mask(cut, mirrored=mirrored),
            self._prior_loss_weight if cut.row["split"] == "reg" else 1.0,
        )

    def _mask(self, cut: Cut, *, mirrored: bool) -> Tensor | None:
        if self._masks is None or not cut.is_masked:
            return None
        mask = self._masks.read(mask_key(cut.row, cut.side))
        return mask.flip(-1) if mirrored else mask


def cuts_of(rows: Sequence[Row], train: TrainPart, split: Split) -> list[Cut]:
    """Those of a split: what an epoch shows at every resolution that it is large enough for, one resolution after the
    other, and what is held out at the base alone, so that its losses can be compared between runs."""
    if split == "heldout":
        held = [row for row in rows if row["split"] == split]
        return [Cut(row, train.resolution_px, side_of(row, train.resolution_px, train)) for row in held]
    return [cut for side_px in resolutions_px(train) for cut in _shown_at(side_px, rows, train)]


def _shown_at(side_px: int, rows: Sequence[Row], train: TrainPart) -> list[Cut]:
    cuts = [
        Cut(row, side_px, side_of(row, side_px, train))
        for row in rows
        if row["split"] != "heldout" and is_trained_at(int(row["width_px"]), int(row["height_px"]), side_px, train)
    ]
    return [cuts[place] for place in shown_rows([cut.row for cut in cuts])]


def side_of(row: Row, resolution_px: int, train: TrainPart) -> Side:
    """What a picture is resized and cropped to."""
    size = int(row["width_px"]), int(row["height_px"])
    return bucket_side(*size, resolution_px=resolution_px, step_px=train.resolution_step_px)


def encode_pictures(job: NativeJob, rows: Sequence[Row], device: torch.device, telling: Telling) -> Shelf:
    """The shelf with the latents of all rows, of mirror images too where pictures are flipped. What was encoded stays
    when the rest is not: a run that was killed goes on from there. Raises UnreadableFile for a picture that can't be
    decoded."""
    shelf = Shelf(Path(job.cache_dir), latent_space(job))
    keyed = {each.cut.key(mirrored=each.mirrored): each for each in wanted_of(rows, job.train)}
    _fill(
        shelf,
        keyed,
        telling,
        counted(len(keyed), "picture"),
        lambda missing: _encode_missing(job, missing, shelf, device, telling),
    )
    return shelf


def encode_masks(job: NativeJob, rows: Sequence[Row], telling: Telling) -> Shelf | None:
    """The shelf with the masks of all rows that have one; None where none has. Raises UnreadableFile."""
    cuts = (cut for split in SPLITS for cut in cuts_of(rows, job.train, split) if cut.is_masked)
    keyed = {mask_key(cut.row, cut.side): cut for cut in cuts}
    if not keyed:
        return None
    shelf = Shelf(Path(job.cache_dir), mask_space())

    def make(missing: dict[str, Cut]) -> None:
        telling.phase(f"reading {counted(len(missing), 'mask')}")
        for key, cut in missing.items():
            telling.between()
            shelf.put(key, read_mask(cut.row, cut.side))

    _fill(shelf, keyed, telling, counted(len(keyed), "mask"), make)
    return shelf


@dataclass(frozen=True, slots=True)
class Wanted:
    """One encoding."""

    cut: Cut
    mirrored: bool


def wanted_of(rows: Sequence[Row], train: TrainPart) -> Iterator[Wanted]:
    for split in SPLITS:
        for cut in cuts_of(rows, train, split):
            yield Wanted(cut, mirrored=False)
            if train.flip and split == "train":
                yield Wanted(cut, mirrored=True)


def _fill(
    shelf: Shelf, keyed: dict[str, T], telling: Telling, what: str, encode: Callable[[dict[str, T]], None]
) -> None:
    """What is missing is encoded, unless another run has made it while this one waited for it."""
    if shelf.missing(keyed):
        with shelf.writing(between=telling.between, waiting=lambda: telling.phase(WAITING)):
            missing = shelf.missing(keyed)
            if missing:
                encode({key: each for key, each in keyed.items() if key in missing})
    else:
        telling.phase(f"encoded already: {what}")
    shelf.use(keyed)


def _encode_missing(
    job: NativeJob, missing: dict[str, Wanted], shelf: Shelf, device: torch.device, telling: Telling
) -> None:
    what = f"encoding {counted(len(missing), 'picture')}"
    telling.phase(what)
    autoencoder = load_autoencoder(job.model).to(device)
    scale = float(autoencoder.config.scaling_factor)
    done, told_at = 0, time.monotonic()
    for keys in _batches(missing, device):
        telling.between()
        pixels = torch.stack([_pixels(missing[key]) for key in keys])
        for key, feature in zip(keys, _encoded(autoencoder, pixels.to(device), scale), strict=True):
            shelf.put(key, feature)
        done += len(keys)
        if time.monotonic() - told_at > TOLD_EVERY_SECONDS:
            telling.phase(f"{what}, {done} done")
            told_at = time.monotonic()


def _batches(missing: dict[str, Wanted], device: torch.device) -> Iterator[list[str]]:
    """Of one side each. On a CPU one by one: what stands in a batch with a picture decides its last bits, and a run
    that was killed must end with the same ones."""
    of_side: dict[Side, list[str]] = {}
    for key, each in missing.items():
        of_side.setdefault(each.cut.side, []).append(key)
    for side, keys in sorted(of_side.items()):
        size = 1 if device.type == "cpu" else max(1, BATCH_PIXELS // (side[0] * side[1]))
        for begin in range(0, len(keys), size):
            yield keys[begin : begin + size]


@torch.no_grad()
def _encoded(autoencoder: Any, pixels: Tensor, scale: float) -> Tensor:
    """(batch, 2, 4, height / 8, width / 8): mean and deviation."""
    latents = autoencoder.encode(pixels).latent_dist
    return torch.stack([latents.mean, latents.std], dim=1).float().cpu() * scale


def _pixels(wanted: Wanted) -> Tensor:
    """A mirror image is encoded by itself: mirrored latents are those of no picture."""
    pixels = read_pixels(wanted.cut.row, wanted.cut.side)
    return pixels.flip(-1) if wanted.mirrored else pixels


def read_pixels(row: Row, side: Side) -> Tensor:
    """(3, height, width) in [-1, 1]: as `pipeline.dataset.pixels` decodes it, resized to cover, cropped to the middle.
    Raises UnreadableFile, also for a picture that is not the one any more that was looked at: under its digest
    another one would be kept."""
    picture = _cut(Path(row["path"]), row["digest"], decoded, side)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 127.5 - 1


def read_mask(row: Row, side: Side) -> Tensor:
    """(1, height / 8, width / 8), from 0 to 1, of what of the picture is learned: cropped as the picture is, each value
    the mean of the pixels that the latent is made from. Raises UnreadableFile as `read_pixels`."""
    read = partial(mask_of, transparency=row["mask_path"] == row["path"])
    mask = _cut(Path(row["mask_path"]), row["mask_digest"], read, side)
    small = mask.resize((side[0] // 8, side[1] // 8), Image.Resampling.BOX)
    return torch.from_numpy(np.array(small)).unsqueeze(0).float() / 255


def _cut(path: Path, digest: str, decode: Callable[[bytes], Image.Image], side: Side) -> Image.Image:
    """Resized to cover the side, and cropped to its middle."""
    try:
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != digest:
            raise UnreadableFile(f"{path} has changed since it was looked at\n    try: the same command again")
        return ImageOps.fit(decode(data), side, method=Image.Resampling.LANCZOS)
    except DAMAGED as error:
        raise UnreadableFile(f"{path} can't be decoded: {short(error)}") from error


# ---------------------------------------------------------------------------------------------------------- captions


class Embeddings:
    """Caption -> embedding (positions, width): from a shelf, where all were encoded before; or, where the encoder is
    trained or captions change from one time to the next, computed when asked."""

    def __init__(self, shelf: Shelf | None, text: TextParts | None) -> None:
        self.text = text
        """None where the shelf has them all."""
        self.shelf = shelf

    def of(self, captions: list[str]) -> Tensor:
        """(captions, positions, width), with gradients where the text encoder is trained."""
        if self.shelf is not None:
            return torch.stack([self.shelf.read(text_key(caption)) for caption in captions])
        assert self.text is not None, "one of the two is there"
        return self.text.encode(self.text.tokens(captions))


def encode_captions(job: NativeJob, captions: Sequence[str], device: torch.device, telling: Telling) -> Embeddings:
    """Of these captions, and of all that is drawn. Raises UnreadableFile."""
    _warn_of_ends(job, captions, telling)
    if job.optimizer.text_encoder_lr or any(changes(caption, job.train) for caption in captions):
        text = load_text_parts(job.model)
        text.encoder.to(device)
        return Embeddings(None, text)
    wanted = ["", *captions, job.sample.negative_prompt, *job.sample.prompts]
    keyed = {text_key(caption): caption for caption in wanted}
    shelf = Shelf(Path(job.cache_dir), text_space(job))
    what = counted(len(keyed), "caption or prompt", "captions and prompts")
    _fill(shelf, keyed, telling, what, lambda missing: _encode_texts(job, missing, shelf, device, telling))
    return Embeddings(shelf, None)


@torch.no_grad()
def _encode_texts(
    job: NativeJob, missing: dict[str, str], shelf: Shelf, device: torch.device, telling: Telling
) -> None:
    telling.phase(f"encoding {counted(len(missing), 'caption')}")
    text = load_text_parts(job.model)
    text.encoder.to(device)
    size = 1 if device.type == "cpu" else BATCH_CAPTIONS  # as of pictures
    keys = list(missing)
    for begin in range(0, len(keys), size):
        telling.between()
        part = keys[begin : begin + size]
        embeddings = text.encode(text.tokens([missing[key] for key in part])).float().cpu()
        for key, embedding in zip(part, embeddings, strict=True):
            shelf.put(key, embedding)


def _warn_of_ends(job: NativeJob, captions: Sequence[str], telling: Telling) -> None:
    if tokenizer_folder(job.model) is not None:  # told before the start
        return
    tokenizer = load_tokenizer(job.model)
    limit = tokens_read(tokenizer.model_max_length, job.model.caption_tokens)
    texts = {text for caption in captions for text in (longest_texts(caption) if job.train.wildcards else [caption])}
    cut = sum(len(tokenizer(text).input_ids) > limit for text in texts)
    if cut:
        telling.warn(f"{cut} captions are longer than {limit} tokens: their ends are not seen")
