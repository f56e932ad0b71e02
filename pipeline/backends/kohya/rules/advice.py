"""What is done as it is written, and seldom meant."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.backends.kohya.asked import Asked
from pipeline.backends.kohya.rules.reading import algorithm_of, is_on, number_of
from pipeline.backends.kohya.rules.wording import line_of
from pipeline.backends.kohya.scripts import ADAPTERS, CHECKPOINTS, FLOW, FLUX, HUNYUAN, NOISE, SD3

LOKR_FULL = 10_000


def full_lokr(asked: Asked) -> Iterator[str]:
    """lycoris.modules.lokr trains a full matrix where the rank is no saving, and sets alpha to the rank."""
    dim = number_of(asked.value("network_dim"))
    if algorithm_of(asked)[1] == "lokr" and dim is not None and dim >= LOKR_FULL:
        told = f"{asked.key('network_dim')}={dim:g}: lokr trains its second factor as a full matrix"
        yield f"{told}, and takes no notice of {asked.key('network_alpha')}"


def noise_on_noise(asked: Asked) -> Iterator[str]:
    """sd-scripts does both."""
    if asked.parser.script not in NOISE or not is_on(asked, "noise_offset"):
        return
    line = line_of(asked, "noise_offset")
    if is_on(asked, "zero_terminal_snr"):
        yield f"{line}: with zero terminal SNR a model learns dark and bright pictures as it is; an offset spoils that"
    if is_on(asked, "multires_noise_iterations"):
        yield f"{line}: multires_noise_iterations is meant for the same, and both are added"


def unusual_terminal_snr(asked: Asked) -> Iterator[str]:
    """A schedule that ends otherwise than the one that the model was made with."""
    usual, asked_for = asked.settings.model.known.noise.zero_terminal_snr, is_on(asked, "zero_terminal_snr")
    if asked.parser.script in NOISE and is_on(asked, "v_parameterization") and usual != asked_for:
        has = "has" if usual else "has no"
        told = f"{asked.key('zero_terminal_snr')}={str(asked_for).lower()}: {asked.settings.model.known.title}"
        yield f"{told} {has} zero terminal SNR as far as is known; the wrong one gives grey or washed-out pictures"


def narrow_weights(asked: Asked) -> Iterator[str]:
    """fine_tune.py and sdxl_train.py keep them in fp32; these load the model in the type of the passes, or of its
    file."""
    if asked.parser.script in FLOW & CHECKPOINTS and asked.value("mixed_precision") == "bf16":
        yield (
            f"{asked.parser.script} trains the weights themselves in bf16, where small updates are lost:"
            " hardware.precision=fp32 keeps them, for twice the memory"
        )


def restless_encoders(asked: Asked) -> Iterator[str]:
    """train_network.py puts every text encoder into training mode for gradient_checkpointing, trained or not, and T5
    (byT5 too) then drops a tenth of what it reads, in samples and held-out measures as well."""
    scripts = (SD3 | FLUX | HUNYUAN) & ADAPTERS
    if asked.parser.script not in scripts or is_on(asked, "cache_text_encoder_outputs"):
        return
    if is_on(asked, "gradient_checkpointing"):
        yield (
            "beside train.gradient_checkpointing sd-scripts lets T5 drop a tenth of every caption at random, in samples"
            " and in the held-out loss too: with train.caption_dropout=0 train.shuffle_tags=false they are encoded once"
        )
