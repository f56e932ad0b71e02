"""What a denoiser predicts: the noise (epsilon), the velocity (v_prediction) or a flow; and how sure that is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pipeline.checkpoint.header import Tensor, can_be_read
from pipeline.records import Predicted

Sure = Literal["certain", "likely", "assumed"]

NAMES: dict[str, Predicted] = {
    "epsilon": "epsilon",
    "eps": "epsilon",
    "v": "v_prediction",
    "vpred": "v_prediction",
    "v_pred": "v_prediction",
    "v_prediction": "v_prediction",
    "v-prediction": "v_prediction",
    "flow": "flow",
    "flow_prediction": "flow",
}
METADATA = ("modelspec.prediction_type", "modelspec.predict_key")
"""sd-scripts writes the first, ComfyUI's saver the second."""
EDM = ("edm_mean", "edm_std")
EDM_V = "edm_vpred.sigma_max"
MARKS = ("v_pred", "ztsnr")
"""Empty tensors by which mergers and trainers mark v-prediction, and a zero terminal signal-to-noise ratio."""
PROBES = (
    "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias",
    "output_blocks.11.1.transformer_blocks.0.norm1.bias",
    "up_blocks.3.attentions.2.transformer_blocks.0.norm1.bias",
)
"""320 numbers that spread wider in Stable Diffusion 2's v models than in its others."""
SPREAD_OF_V = 0.09
"""ComfyUI, comfy/supported_models.py, SD20.model_type: a standard deviation above this is a v model's."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a model predicts, and who says so."""

    prediction: Predicted | None
    """None: nothing can tell."""
    sure: Sure
    reason: str
    zero_terminal_snr: bool = False
    refused: str | None = None
    """Why it can't be trained at all."""
    variant: str | None = None
    """The model that is known by these marks."""


def prediction_of(
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    *,
    scheduler: str | None,
    predicts: str | None,
    read: Callable[[Tensor], tuple[float, ...]],
) -> Said:
    """The strongest word counts: marks among the tensors, the metadata, the scheduler's config (None where there is
    none), the numbers of one small tensor, and what the family does."""
    if predicts == "flow":
        return Said("flow", "certain", "all models of this family are flows")
    words = (_by_edm(tensors), _by_marks(tensors), _by_metadata(metadata), _by_scheduler(scheduler))
    found = [said for said in words if said]
    if found:
        return _told_against(found[0], found[1:])
    if predicts is None:
        return _by_numbers(tensors, read)
    return Said(NAMES[predicts], "assumed", "nothing in the file says otherwise, and its family does")


def _by_edm(tensors: Mapping[str, Tensor]) -> Said | None:
    refused = "it is made for EDM noise, which can't be trained here"
    marks = [mark for mark in EDM if mark in tensors]
    if marks:
        return Said(None, "certain", f"has {' and '.join(marks)}", refused=refused, variant="playground-2.5")
    if EDM_V in tensors:
        return Said("v_prediction", "certain", f"has {EDM_V}", refused=refused, variant="cosxl")
    return None


def _told_against(said: Said, others: Sequence[Said]) -> Said:
    """With the weaker words that speak against it."""
    against = [other.reason for other in others if other.prediction != said.prediction]
    if said.refused or not against:
        return said
    return replace(said, reason=f"{said.reason}, though {' and '.join(against)}")


def _by_marks(tensors: Mapping[str, Tensor]) -> Said | None:
    marks = [mark for mark in MARKS if mark in tensors]
    if not marks:
        return None
    reason = f"has the tensor{'s' if len(marks) > 1 else ''} {' and '.join(marks)}"
    return Said("v_prediction", "certain", reason, zero_terminal_snr="ztsnr" in marks)


def _by_metadata(metadata: Mapping[str, str]) -> Said | None:
    for key in METADATA:
        told = metadata.get(key, "").strip().lower()
        if told in NAMES:
            return Said(NAMES[told], "likely", f"{key} is {told}")
    return None


def _by_scheduler(scheduler: str | None) -> Said | None:
    if scheduler is None:
        return None
    told = NAMES.get(scheduler.lower())
    if told is None:
        refused = f"it predicts {scheduler!r}, and only epsilon, v_prediction and flow can be trained"
        return Said(None, "certain", f"scheduler_config.json says {scheduler!r}", refused=refused)
    return Said(told, "certain", f"scheduler_config.json says {scheduler}")


def _by_numbers(tensors: Mapping[str, Tensor], read: Callable[[Tensor], tuple[float, ...]]) -> Said:
    probe = next((tensors[name] for name in PROBES if name in tensors), None)
    numbers = read(probe) if probe is not None and can_be_read(probe) else ()
    spread = statistics.pstdev(numbers) if len(numbers) > 1 and all(map(math.isfinite, numbers)) else 0.0
    if not spread:
        return Said(None, "assumed", "nothing in the file tells epsilon from v_prediction")
    reason = f"the numbers of one small tensor spread by {spread:.3f}: v models' by more than {SPREAD_OF_V}"
    return Said("v_prediction" if spread > SPREAD_OF_V else "epsilon", "likely", reason)
