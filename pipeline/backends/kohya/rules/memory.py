"""What saves memory: blocks that are swapped, weights of 16 and of 8 bits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pipeline.backends.kohya.asked import Asked
from pipeline.backends.kohya.rules.reading import is_on, number_of
from pipeline.backends.kohya.rules.unread import is_unusable
from pipeline.backends.kohya.rules.wording import problem_of, switched_off
from pipeline.backends.kohya.scripts import ANIMA, CHECKPOINTS, FLOW, FLUX, HUNYUAN, SD3
from pipeline.errors import Problem

BLOCK_LIMITS: Mapping[str, int] = {
    **dict.fromkeys(FLUX, 35),  # flux_models.py: 19 double and 38 single blocks, two of each stay
    **dict.fromkeys(HUNYUAN, 37),  # hunyuan_image_models.py: 20 and 40
    **dict.fromkeys(ANIMA, 26),  # anima_utils.py: 28
    "lumina_train_network.py": 24,  # lumina_models.py: 26
    **dict.fromkeys(SD3, 22),  # sd3_models.py: 24
}
"""Script -> the most that enable_block_swap lets be swapped."""
BLOCK_LIMITS_OF_MODELS: Mapping[str, int] = {"sd35_large": 36}
"""Those with another depth than the script's other models."""


INSTEAD_OF_SWAPPING = ("cpu_offload_checkpointing", "unsloth_offload_checkpointing")
"""Arguments that scripts refuse beside swapped blocks (`Clash` in rules/unread.py)."""


def blocks_limit(model: str, script: str) -> int:
    """The most blocks of a model that a script swaps; 0 where it can't."""
    return BLOCK_LIMITS_OF_MODELS.get(model, BLOCK_LIMITS.get(script, 0)) if script in BLOCK_LIMITS else 0


def swapped_blocks(asked: Asked) -> Iterator[Problem]:
    """More blocks than the model has to give."""
    blocks = number_of(asked.value("blocks_to_swap"))
    limit = blocks_limit(asked.settings.model.name, asked.parser.script)
    if blocks is not None and blocks > limit > 0 and not is_unusable(asked, "blocks_to_swap"):
        reason = f"sd-scripts refuses to swap more than {limit} blocks of this model"
        yield problem_of(asked, "blocks_to_swap", reason, f"{asked.key('blocks_to_swap')}={limit}")


HALVES: Mapping[str, str] = {"full_fp16": "fp16", "full_bf16": "bf16"}
EIGHT_BITS = ("fp8_base", "fp8_base_unet")


def precision(asked: Asked) -> Iterator[Problem]:
    """Weights in half or in 8 bits want the passes in half: asserts of train_network.py and of every finetune."""
    mixed, key = asked.value("mixed_precision"), asked.key("mixed_precision")
    for name, wanted in HALVES.items():
        shadowed = name == "full_bf16" and is_on(asked, "full_fp16")
        if is_on(asked, name) and mixed != wanted and not shadowed and not is_unusable(asked, name):
            reason = f"sd-scripts refuses it with mixed_precision={mixed}"
            yield problem_of(asked, name, reason, f"{key}={wanted}, or {switched_off(asked, name)}")
    for name in EIGHT_BITS:
        if is_on(asked, name) and mixed == "no" and not is_unusable(asked, name):
            reason = "sd-scripts refuses it without mixed precision"
            yield problem_of(asked, name, reason, f"{key}=bf16, or {switched_off(asked, name)}")


def halved_weights(asked: Asked) -> Iterator[Problem]:
    """The finetunes of flows train the weights in the type that they load them in: accelerate raises "Attempting to
    unscale FP16 gradients" (flux_train.py, sd3_train.py, lumina_train.py, anima_train.py)."""
    if asked.parser.script in FLOW & CHECKPOINTS and asked.value("mixed_precision") == "fp16":
        reason = f"{asked.parser.script} would train weights of fp16, and dies of their gradients"
        yield problem_of(asked, "mixed_precision", reason, "hardware.precision=bf16, or fp32")
