"""What is drawn before, while and after the training."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.records import Choice, Dataset
from pipeline.settings import Settings

MOST_PROMPTS = 4


def choose_prompts(settings: Settings, dataset: Dataset) -> tuple[tuple[str, ...], Choice | None]:
    """The asked-for prompts, the dataset's own, or captions of held-out (else of training) pictures, evenly spread."""
    if settings.sample.prompts is not None:
        return tuple(settings.sample.prompts), None
    if settings.data.prompts is not None:
        return _chosen(settings.data.prompts, f"the prompts of data={settings.data.name}")
    pictures, whose = (dataset.heldout, "held-out") if dataset.heldout else (dataset.train, "training")
    captions = list(dict.fromkeys(picture.caption for picture in pictures))
    return _chosen(
        _spread(captions), f"captions of {whose} pictures, since neither sample.prompts nor data.prompts is set"
    )


def _chosen(prompts: Sequence[str], reason: str) -> tuple[tuple[str, ...], Choice]:
    return tuple(prompts), Choice("sample.prompts", list(prompts), reason)


def _spread(captions: list[str]) -> list[str]:
    count = min(MOST_PROMPTS, len(captions))
    return [captions[i * len(captions) // count] for i in range(count)]
