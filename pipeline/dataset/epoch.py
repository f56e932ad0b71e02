"""What a pass over the dataset shows: pictures as often as they are repeated, at every resolution, and as many for
regularisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pipeline.dataset.resolutions import Resolutions, pictures_at
from pipeline.records import Dataset, Picture


def datasets_at(dataset: Dataset, train: Resolutions) -> dict[int, Dataset]:
    """Resolution -> the dataset of the pictures that are trained at it; the base first."""
    reg = pictures_at(dataset.regularisation, train)
    return {
        px: replace(dataset, train=tuple(pictures), regularisation=tuple(reg[px]))
        for px, pictures in pictures_at(dataset.train, train).items()
    }


def shown(pictures: Sequence[Picture]) -> int:
    """How many there are, one that is repeated as often."""
    return sum(picture.repeats for picture in pictures)


def samples_per_epoch(dataset: Dataset, train: Resolutions) -> int:
    """At all resolutions."""
    return sum(samples_at_one(each) for each in datasets_at(dataset, train).values())


def samples_at_one(dataset: Dataset) -> int:
    """As many for regularisation as to train on, where there are such ones."""
    return shown(dataset.train) * (2 if dataset.regularisation else 1)


def regularising(dataset: Dataset) -> list[Picture]:
    """Of the regularisation pictures those that are shown, with how often: in turn, until there are as many as are
    trained on. As sd-scripts does it (DreamBoothDataset, library/train_util.py): in the first round each as often as
    it says, which may be a few too many."""
    wanted, times = shown(dataset.train), dict.fromkeys(range(len(dataset.regularisation)), 0)
    so_far = 0
    while times and so_far < wanted:
        for place, picture in enumerate(dataset.regularisation):
            more = 1 if times[place] else picture.repeats
            times[place] += more
            so_far += more
            if so_far >= wanted:
                break
    return [replace(dataset.regularisation[place], repeats=each) for place, each in times.items() if each]
