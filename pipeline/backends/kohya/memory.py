"""What a script of sd-scripts puts on a device, by its own arguments."""

from __future__ import annotations

from dataclasses import replace

from pipeline.backends.kohya.asked import Asked
from pipeline.backends.kohya.rules.reading import is_on, number_of
from pipeline.backends.kohya.scripts import CHECKPOINTS, FLOW
from pipeline.backends.kohya.support import Script
from pipeline.backends.kohya.train_file import CACHES_TEXT
from pipeline.backends.kohya.translation import script_for
from pipeline.memory.load import Load
from pipeline.memory.plain import plain_load
from pipeline.records import Checkpoint, Facts
from pipeline.settings import Settings


def kohya_load(settings: Settings, facts: Facts, checkpoint: Checkpoint) -> Load | None:
    """None where no script trains the model."""
    name = script_for(settings)
    if name is None:
        return None
    asked, load = Script(settings, facts, name).asked(), plain_load(settings, facts, checkpoint)
    in_half = is_on(asked, "full_fp16") or is_on(asked, "full_bf16") or _trains_as_loaded(asked)
    trained_bytes = load.compute_bytes if in_half else load.trained_bytes
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


def _trains_as_loaded(asked: Asked) -> bool:
    """The finetunes of flows train weights in the type that they load them in (flux_train.py, sd3_train.py)."""
    return asked.parser.script in FLOW & CHECKPOINTS


def _weight_bytes(asked: Asked, load: Load) -> float:
    """Of a frozen denoiser: `fp8_base` keeps it in 8 bits (train_network.py)."""
    eight_bits = any(is_on(asked, name) for name in ("fp8_base", "fp8_base_unet", "fp8_scaled"))
    return 1 if eight_bits else load.weight_bytes
