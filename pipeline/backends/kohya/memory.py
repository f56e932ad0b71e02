"""What a script of sd-scripts puts on a device, by its own arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pipeline.backends.kohya.asked import Asked
from pipeline.backends.kohya.rules.memory import INSTEAD_OF_SWAPPING, blocks_limit
from pipeline.backends.kohya.rules.reading import is_on, number_of
from pipeline.backends.kohya.scripts import CHECKPOINTS, FLUX, LUMINA, SD3, SWAPPING
from pipeline.backends.kohya.support import Script
from pipeline.backends.kohya.train_file import CACHES_TEXT, chosen_caches
from pipeline.backends.kohya.translation import script_for
from pipeline.errors import UnreadableFile
from pipeline.memory.host import Kept, Place
from pipeline.memory.load import Load
from pipeline.memory.plain import plain_load
from pipeline.records import Checkpoint, Facts
from pipeline.settings import Settings


def kohya_load(settings: Settings, facts: Facts, checkpoint: Checkpoint) -> Load:
    """By what the script is told in the end."""
    name = script_for(settings)
    assert name is not None, "a model without a script is a problem"
    asked, load = Script(settings, facts, name).asked(), plain_load(settings, facts, checkpoint)
    trained_bytes = _trained_bytes(asked, load, checkpoint)
    return replace(
        load,
        weight_bytes=_weight_bytes(asked, load) if asked.is_lora else trained_bytes,
        trained_bytes=trained_bytes,
        gradient_checkpointing=is_on(asked, "gradient_checkpointing"),
        fused_backward=is_on(asked, "fused_backward_pass"),
        blocks_to_swap=int(number_of(asked.value("blocks_to_swap")) or 0),
        encoders_stay=not is_on(asked, CACHES_TEXT),
        encodes=is_on(asked, "cache_latents"),
        vae_bytes=4 if is_on(asked, "no_half_vae") else load.compute_bytes,
    )


def kohya_kept(settings: Settings, facts: Facts) -> Kept:
    """As the script's caches are chosen; nothing where no script trains the model, or it can't be read: problems say
    so."""
    name = script_for(settings)
    try:
        latents, text = ("off", "off") if name is None else _caches(settings, facts, name)
    except UnreadableFile:
        return Kept("off", "off")
    return Kept(PLACES[latents], PLACES[text], files="beside the pictures")


def _caches(settings: Settings, facts: Facts, name: str) -> tuple[str, str]:
    return chosen_caches(settings, Script(settings, facts, name).parser)


PLACES: Mapping[str, Place] = {"memory": "memory", "disk": "disk", "off": "off"}


def most_blocks(settings: Settings) -> int:
    """Of the denoiser, that the script can swap; 0 where it has no such argument, or something rules that out."""
    name, passed = script_for(settings), settings.backend.args
    if name is None or name not in SWAPPING or any(passed.get(other) for other in INSTEAD_OF_SWAPPING):
        return 0
    return blocks_limit(settings.model.name, name)


def _trained_bytes(asked: Asked, load: Load, checkpoint: Checkpoint) -> int:
    """Of an adapter, and of most finetunes, float32 unless it is asked otherwise. flux_train.py and lumina_train.py
    load in the type of the forward pass and train that; sd3_train.py trains the type that the file stores."""
    script = asked.parser.script
    if is_on(asked, "full_fp16") or is_on(asked, "full_bf16") or script in (FLUX | LUMINA) & CHECKPOINTS:
        return load.compute_bytes
    stored = STORED_BYTES.get(checkpoint.dtype) if script in SD3 & CHECKPOINTS else None
    return stored or load.trained_bytes


STORED_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}


def _weight_bytes(asked: Asked, load: Load) -> float:
    """Of a frozen denoiser: `fp8_base` keeps it in 8 bits, and all else is cast to the type of the forward pass,
    whatever the file stores (train_network.py, and the load_target_model of each of its kin)."""
    eight_bits = any(is_on(asked, name) for name in ("fp8_base", "fp8_base_unet", "fp8_scaled"))
    return 1 if eight_bits else load.weight_bytes
