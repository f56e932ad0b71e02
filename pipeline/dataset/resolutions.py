"""At which sizes each picture is trained: at the base all of them, at every further one those that are large enough."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from pipeline.records import Picture


class Resolutions(Protocol):
    """What of the settings, or of a job, says at which sizes pictures are trained."""

    @property
    def resolution_px(self) -> int: ...

    @property
    def more_resolutions_px(self) -> list[int]: ...


def resolutions_px(train: Resolutions) -> tuple[int, ...]:
    """The base first."""
    return (train.resolution_px, *train.more_resolutions_px)


def largest_px(train: Resolutions) -> int:
    return max(resolutions_px(train))


def pictures_at(pictures: Iterable[Picture], train: Resolutions) -> dict[int, list[Picture]]:
    """Resolution -> the pictures that are trained at it, each of them once an epoch; the base first."""
    every = list(pictures)
    return {
        px: [each for each in every if is_trained_at(each.width_px, each.height_px, px, train)]
        for px in resolutions_px(train)
    }


def is_trained_at(width_px: int, height_px: int, resolution_px: int, train: Resolutions) -> bool:
    """At the base a small picture is enlarged, and warned of: it would be trained nowhere else. At a further resolution
    it is left out."""
    return resolution_px == train.resolution_px or is_large_enough(width_px, height_px, resolution_px)


def is_large_enough(width_px: int, height_px: int, resolution_px: int) -> bool:
    """Its bucket there has no more pixels than the picture, and no side that is much longer: sides of buckets are half
    to twice the resolution, so that a picture of another shape would be enlarged all the same."""
    return width_px * height_px >= resolution_px**2 and min(width_px, height_px) >= resolution_px // 2


def typed_more(sides_px: Iterable[int]) -> str:
    """What to type for these further ones, in quotes for the shell."""
    return f"'train.more_resolutions_px=[{','.join(map(str, sides_px))}]'"


def px_words(sides_px: Iterable[int]) -> str:
    """`512 px`, `512 and 768 px`, `512, 768 and 1024 px`."""
    told = [str(side) for side in sides_px]
    return f"{' and '.join(filter(None, (', '.join(told[:-1]), told[-1])))} px"
