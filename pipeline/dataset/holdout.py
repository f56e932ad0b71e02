"""Which pictures of a folder are held out when nobody names them."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.records import Picture

FEWEST_PICTURES = 5
"""Fewer than this are all needed for training."""


def split_of_folders(
    folders: Sequence[Sequence[Picture]], fraction: float
) -> tuple[tuple[Picture, ...], tuple[Picture, ...]]:
    """The same of several folders, each of which keeps something to train on: one that would be held out whole is
    trained on whole."""
    pictures = [picture for folder in folders for picture in folder]
    _, heldout = split(pictures, fraction)
    aside = {picture.digest for picture in heldout}
    for folder in folders:
        digests = {picture.digest for picture in folder}
        aside -= digests if digests <= aside else set()
    train = tuple(picture for picture in pictures if picture.digest not in aside)
    return train, tuple(picture for picture in pictures if picture.digest in aside)


def split(pictures: Sequence[Picture], fraction: float) -> tuple[tuple[Picture, ...], tuple[Picture, ...]]:
    """Training and held-out pictures. Chosen by content, so that names and order don't matter; copies stay together,
    and at least one picture is left to train on."""
    if not 0 < fraction <= 1 or len(pictures) < FEWEST_PICTURES:
        return tuple(pictures), ()
    wanted = round(len(pictures) * fraction)
    ranked = sorted(picture.digest for picture in pictures)
    last = ranked[min(max(1, wanted), len(ranked) - 1) - 1]
    train = tuple(picture for picture in pictures if picture.digest > last)
    heldout = tuple(picture for picture in pictures if picture.digest <= last)
    return (train, heldout) if train else (tuple(pictures), ())
