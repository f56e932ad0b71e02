"""What a run needs of the computer's own memory beside a card, and of the disk.

Counted, and held against no published figure: what the encoders made of pictures and captions, blocks that are
swapped, and the model on its way to the card. What torch and its libraries take is a judgement.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from pipeline.dataset.resolutions import resolutions_px
from pipeline.dataset.tokens import tokens_read
from pipeline.families import PartKind
from pipeline.memory.estimate import Term
from pipeline.memory.load import Load
from pipeline.memory.parameters import trained_parameters
from pipeline.records import Checkpoint, Choice, Dataset, Machine
from pipeline.settings import Settings

GIB = 2**30
LIBRARIES_BYTES = 2 * GIB
"""torch, the driver's libraries and the trainer's own, on the side of the computer."""
CACHED_BYTES = 4
"""Of a number that an encoder made: sd-scripts writes float32, our own trainer keeps it."""
LATENT_NUMBERS: Mapping[str, float] = {
    **{"sd-4ch": 4 / 64, "flux-16ch": 16 / 64, "qwen_image": 16 / 64, "flux2": 32 / 64, "hunyuan_image21": 64 / 1024},
}
"""For each pixel: channels, over the square of the side that one of a VAE's latents stands for (the headers'
`encoder.conv_out` and number of levels)."""
TEXT_WIDTHS: Mapping[str, int] = {
    **{"clip_l": 768, "clip_g": 1280, "openclip_h": 1024, "t5xxl": 4096, "byt5": 1472, "gemma2_2b": 2304},
    **{"qwen3_06b": 1024, "qwen3_4b": 2560, "qwen3_8b": 4096, "qwen25_vl_7b": 3584, "mistral3_24b": 5120},
}
"""Numbers a token, by the headers of the text encoders."""

Place = Literal["memory", "disk", "off"]


@dataclass(frozen=True, slots=True)
class Kept:
    """Where a trainer keeps what its encoders made, so that they run once."""

    latents: Place
    text: Place
    latent_copies: int = 1
    """2 where a picture's mean and deviation are kept, to draw from."""
    files: str = ""
    """What holds those on the disk, in words."""


@dataclass(frozen=True, slots=True)
class HostNeed:
    """Bytes."""

    terms: tuple[Term, ...]

    @property
    def bytes(self) -> float:
        return sum(term.bytes for term in self.terms)

    @property
    def largest(self) -> Term:
        return max(self.terms, key=lambda term: term.bytes)


def host_need(settings: Settings, load: Load, checkpoint: Checkpoint, dataset: Dataset, kept: Kept) -> HostNeed:
    """Of one process beside a card."""
    shape = load.shape
    share = min(1.0, load.blocks_to_swap / shape.blocks) if shape.blocks else 0.0
    terms = (
        Term("libraries", LIBRARIES_BYTES, "torch and what it loads"),
        Term("model on its way", _loading_bytes(load, checkpoint), "read here before the device has it"),
        Term("swapped blocks", load.parameters * load.weight_bytes * share, f"{load.blocks_to_swap} blocks"),
        Term("caches", cached_bytes(settings, dataset, kept, "memory"), "what the encoders made"),
    )
    return HostNeed(tuple(term for term in terms if term.bytes > 0))


def _loading_bytes(load: Load, checkpoint: Checkpoint) -> float:
    """One part after the other; a single file is read whole."""
    encoders = load.encoder_parameters * load.encoder_bytes
    denoiser = checkpoint.bytes if checkpoint.layout == "single_file" else load.parameters * load.weight_bytes
    return max(encoders, denoiser)


def cached_bytes(settings: Settings, dataset: Dataset, kept: Kept, place: Place) -> float:
    """Of latents and text that are kept at that place, at most: a small picture is not trained at every resolution.
    What waits in memory is sd-scripts' own, which has each resolution as a dataset with texts of its own."""
    trained = {*dataset.train, *dataset.regularisation}
    pictures = {*trained, *dataset.heldout}
    latents = _latent_numbers(settings, len(trained), len(pictures)) * kept.latent_copies
    texts = len(pictures) + (len(trained) * len(settings.train.more_resolutions_px) if place == "memory" else 0)
    text = texts * _text_numbers(settings)
    return ((latents if kept.latents == place else 0) + (text if kept.text == place else 0)) * CACHED_BYTES


def _latent_numbers(settings: Settings, trained: int, pictures: int) -> float:
    """All pictures at the base; those that are trained at each other resolution too, and mirrored where they are
    flipped."""
    families = [part.family for part in settings.model.known.parts.values() if part.kind is PartKind.vae]
    each = max((LATENT_NUMBERS[family] for family in families if family in LATENT_NUMBERS), default=1 / 4)
    base, *more = (side**2 * each for side in resolutions_px(settings.train))
    return base * pictures + sum(more) * trained + (sum((base, *more)) * trained if settings.train.flip else 0)


def _text_numbers(settings: Settings) -> float:
    known = settings.model.known
    encoders = [part.family for part in known.parts.values() if part.kind is PartKind.text_encoder]
    tokens = tokens_read(known.text.token_limit, settings.train.caption_tokens)
    return tokens * sum(TEXT_WIDTHS.get(family, 0) for family in encoders)


# ------------------------------------------------------------------------------------------------------------ telling


def host_choice(need: HostNeed, machine: Machine) -> Choice:
    """The estimate in a line."""
    largest = need.largest
    reason = (
        f"about, of the computer's own memory (largest: {largest.name} {largest.bytes / GIB:.1f} GiB), "
        f"of {machine.host_memory_bytes / GIB:.1f} GiB free"
    )
    return Choice("memory.host", f"{need.bytes / GIB:.1f} GiB", reason)


HELPS: Mapping[str, str] = {
    "caches": "backend.cache_latents=disk backend.cache_text=disk",
    "model on its way": "backend.args.lowram=true",
    "swapped blocks": "fewer memory.blocks_to_swap",
}
"""Of backend=kohya: our own trainer has no such settings yet."""


def host_warnings(need: HostNeed, machine: Machine, backend: str) -> Iterator[str]:
    """Linux ends the largest process when memory runs out, without a word of torch's."""
    if not 0 < machine.host_memory_bytes < need.bytes:
        return
    largest = f"{need.largest.name} {need.largest.bytes / GIB:.1f} GiB"
    helps = HELPS.get(need.largest.name) if backend == "kohya" else None
    yield (
        f"memory: about {need.bytes / GIB:.1f} GiB of the computer's own memory are needed (largest: {largest}), and "
        f"{machine.host_memory_bytes / GIB:.1f} GiB are free" + (f"; try {helps}" if helps else "")
    )


# --------------------------------------------------------------------------------------------------------------- disk


@dataclass(frozen=True, slots=True)
class DiskNeed:
    """Bytes in the run directory, and of caches beside the pictures."""

    weights: float
    checkpoints: float
    caches: float

    @property
    def run_bytes(self) -> float:
        return self.weights + self.checkpoints


def disk_need(
    settings: Settings, checkpoint: Checkpoint, dataset: Dataset | None, kept: Kept, *, weights_with_checkpoints: bool
) -> DiskNeed:
    """Weights, and checkpoints of a float32 weight and the optimizer's state for each trained parameter; a new one is
    written before the oldest is removed. `weights_with_checkpoints`: each has the weights of its step beside it, and
    there is a last one at the end."""
    trained = trained_parameters(settings, checkpoint)
    weights = checkpoint.bytes if settings.network is None else 4 * trained
    one = (4 + settings.optimizer.known.state_bytes_per_parameter) * trained
    count = settings.train.keep_checkpoints + 1
    checkpoints = (weights + one) * (count + 1) if weights_with_checkpoints else one * count
    caches = 0.0 if dataset is None else cached_bytes(settings, dataset, kept, "disk")
    return DiskNeed(weights, checkpoints, caches)


def disk_choice(need: DiskNeed, free_bytes: int, kept: Kept) -> Choice:
    """The estimate in a line."""
    parts = f"weights {_size(need.weights)}, checkpoints {_size(need.checkpoints)}"
    beside = f"; caches of {_size(need.caches)} {kept.files}" if need.caches else ""
    return Choice("disk", _size(need.run_bytes), f"about ({parts}), of {_size(free_bytes)} free{beside}")


def _size(count: float) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB / 10 else f"{count / 2**20:.0f} MiB"
