"""What is said of the dataset and would have no effect, or can't be meant."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.checks.limits import LIMITS
from pipeline.dataset.metadata import NONE
from pipeline.errors import Problem
from pipeline.settings import Data, Layout, Settings


def dataset_problems(settings: Settings) -> Iterator[Problem]:
    """Of all groups that speak of pictures."""
    data = settings.data
    yield from _without_effect(data)
    yield from _concepts(data)
    if data.reg_dir is None and settings.train.prior_loss_weight != 1:
        reason = "weighs regularisation pictures, and there are none"
        yield Problem(
            "train.prior_loss_weight", settings.train.prior_loss_weight, reason, "data.reg_dir=FOLDER, or leave it out"
        )


def _without_effect(data: Data) -> Iterator[Problem]:
    if data.reg_caption is not None and data.reg_dir is None:
        reason = "is the caption of regularisation pictures, and there are none"
        yield Problem("data.reg_caption", data.reg_caption, reason, "data.reg_dir=FOLDER, or leave it out")
    if data.caption_column is not None and data.metadata == NONE:
        reason = "is a column of a file that data.metadata=none leaves unread"
        yield Problem("data.caption_column", data.caption_column, reason, "leave one of them out")
    if data.layout is not Layout.auto and data.concepts:
        reason = "has no effect beside data.concepts, which say how often each folder is shown"
        yield Problem("data.layout", data.layout.value, reason, "leave one of them out")
    for key in ("caption", "reg_caption"):
        if getattr(data, key) is not None and not getattr(data, key).strip():
            yield Problem(f"data.{key}", repr(getattr(data, key)), "is empty", f"data.{key}=null, for none")


def _concepts(data: Data) -> Iterator[Problem]:
    limit = LIMITS["data.repeats"]
    for place, concept in enumerate(data.concepts):
        key = f"data.concepts[{place}]"
        if concept.repeats is not None and not limit.holds(concept.repeats):
            yield Problem(
                f"{key}.repeats", concept.repeats, f"must be {limit}", "data.concepts=[{dir:FOLDER,repeats:1}]"
            )
        if concept.caption is not None and not concept.caption.strip():
            yield Problem(f"{key}.caption", repr(concept.caption), "is empty", "leave it out")
