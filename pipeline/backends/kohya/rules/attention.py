"""How a model attends to the parts of a picture and of a caption."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pipeline.backends.kohya.asked import Asked
from pipeline.backends.kohya.rules.reading import is_on
from pipeline.backends.kohya.rules.unread import is_unusable
from pipeline.backends.kohya.rules.wording import problem_of
from pipeline.backends.kohya.scripts import ADAPTERS, FLUX
from pipeline.errors import Problem

SAGE: Mapping[str, object] = {"attn_mode": "sageattn", "use_sage_attn": True}


def attention_without_gradient(asked: Asked) -> Iterator[Problem]:
    """SageAttention is for inference: attn_mode of anima_train_utils.py, NextDiT of lumina_models.py."""
    for name, value in SAGE.items():
        if name in asked.parser.arguments and asked.value(name) == value and not is_unusable(asked, name):
            reason = "SageAttention has no backward pass: it can't train"
            yield problem_of(asked, name, reason, f"leave {asked.key(name)} out")


def chroma_padding(asked: Asked) -> Iterator[Problem]:
    """An assert of flux_train_network.py."""
    if asked.parser.script not in FLUX & ADAPTERS or asked.value("model_type") != "chroma":
        return
    if not is_on(asked, "apply_t5_attn_mask"):
        reason = "Chroma was taught with T5's padding masked, and sd-scripts refuses to train it otherwise"
        yield problem_of(asked, "apply_t5_attn_mask", reason, f"{asked.key('apply_t5_attn_mask')}=true")
