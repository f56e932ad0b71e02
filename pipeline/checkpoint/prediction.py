"""What a denoiser predicts: the noise (epsilon) or the velocity (v)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pipeline.checkpoint.header import Header
from pipeline.errors import UnreadableFile

Prediction = Literal["epsilon", "v_prediction"]

NAMES: dict[str, Prediction] = {
    "epsilon": "epsilon",
    "eps": "epsilon",
    "v": "v_prediction",
    "v_prediction": "v_prediction",
    "v-prediction": "v_prediction",
}
V_MARKS = {"v_pred", "ztsnr"}
"""Empty tensors by which a merger or trainer marks a model of v-prediction."""
EDM_MARKS = {"edm_mean", "edm_std", "edm_vpred.sigma_max"}


def prediction_of(path: Path, header: Header, *, said_by_scheduler: str | None) -> Prediction:
    """The strongest word counts: a mark among the tensors, the metadata, the scheduler's config; else epsilon, which
    Stable Diffusion 1 is made for. Raises UnreadableFile for a kind that can't be trained."""
    if EDM_MARKS & set(header.tensors):
        raise UnreadableFile(f"{path} is made for EDM noise: only epsilon and v-prediction can be trained")
    if V_MARKS & set(header.tensors):
        return "v_prediction"
    metadata = header.metadata
    said = metadata.get("modelspec.prediction_type") or metadata.get("modelspec.predict_key") or said_by_scheduler
    if said is None:
        return "epsilon"
    if said.lower() not in NAMES:
        raise UnreadableFile(f"{path} predicts {said!r}: only epsilon and v_prediction can be trained")
    return NAMES[said.lower()]
