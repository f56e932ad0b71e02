"""What is drawn before, while and after the training."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.records import Choice, Dataset
from pipeline.settings import Settings

MOST_PROMPTS = 4


def choose_prompts(settings: Settings, dataset: Dataset) -> tuple[tuple[str, ...], Choice | None]:
    """The asked-for prompts, the dataset's own, captions of held-out pictures, or examples that suit the model."""
    if settings.sample.prompts is not None:
        return tuple(settings.sample.prompts), None
    if settings.data.prompts is not None:
        return _chosen(settings.data.prompts, f"the prompts of data={settings.data.name}")
    captions = list(dict.fromkeys(picture.caption for picture in dataset.heldout if picture.caption))
    if captions:
        reason = "captions of held-out pictures, since neither sample.prompts nor data.prompts is set"
        return _chosen(_spread(captions), reason)
    known = settings.model.known
    reason = f"examples for {known.title}: no prompts are set, and no held-out picture has a caption"
    return _chosen(_spread(known.prompts.examples), reason)


def _chosen(prompts: Sequence[str], reason: str) -> tuple[tuple[str, ...], Choice]:
    return tuple(prompts), Choice("sample.prompts", list(prompts), reason)


def _spread(captions: list[str]) -> list[str]:
    count = min(MOST_PROMPTS, len(captions))
    return [captions[i * len(captions) // count] for i in range(count)]
