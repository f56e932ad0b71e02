"""What our own trainer puts on a device."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipeline.backends.native.job import changes
from pipeline.dataset.captions import kept_tags
from pipeline.memory.host import Kept, Place
from pipeline.memory.load import Load
from pipeline.memory.plain import plain_load
from pipeline.records import Checkpoint, Facts
from pipeline.settings import Settings

HELDOUT_BATCH = 8
"""Times that a held-out picture goes through the denoiser at once."""


def native_load(settings: Settings, facts: Facts, checkpoint: Checkpoint) -> Load:
    """The text encoder is gone where captions and encoder stay as they are (encoding.py, encode_captions). Encoders and
    VAE work in float32: they are loaded so."""
    judged = facts.dataset is not None and bool(facts.dataset.heldout)
    return replace(
        plain_load(settings, facts, checkpoint),
        encoders_stay=_encoder_stays(settings, facts),
        encoder_bytes=4,
        vae_bytes=4,
        heldout_batch=HELDOUT_BATCH if judged else 0,
    )


def native_kept(settings: Settings, facts: Facts) -> Kept:
    """In the cache, of which little is in memory: pictures always, captions where neither they nor their encoder
    change."""
    text: Place = "off" if _encoder_stays(settings, facts) else "disk"
    return Kept("disk", text, latent_copies=2, files="in cache.dir")


def _encoder_stays(settings: Settings, facts: Facts) -> bool:
    """As encoding.py, encode_captions, does it."""
    pictures = () if facts.dataset is None else (*facts.dataset.train, *facts.dataset.heldout)
    train = settings.train
    asked = _Asked(train.shuffle_tags, train.tag_dropout, kept_tags(settings), settings.data.wildcards)
    changing = any(changes(picture.caption, asked) for picture in pictures)
    return changing or settings.mode.text_encoder_lr > 0


@dataclass(frozen=True, slots=True)
class _Asked:
    """As the job says it."""

    shuffle_tags: bool
    tag_dropout: float
    keep_tags: int
    wildcards: bool
