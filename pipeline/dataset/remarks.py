"""What may be meant, and is more often a mistake: warnings that speak of pictures which can be trained on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.dataset.alike import partners
from pipeline.dataset.flaws import count, listed
from pipeline.dataset.picture import Look
from pipeline.records import Picture

ODD_RATIO = 4
"""Longer side over the shorter one: what is longer is cropped by most buckets."""


@dataclass(slots=True)
class Seen:
    """What the pictures of all folders look like, beside what a Picture has."""

    alike: dict[str, int] = field(default_factory=dict)
    """Digest -> perceptual hash; blank ones have none."""
    blank: list[str] = field(default_factory=list)
    animated: list[str] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)

    def take(self, picture: Picture, look: Look) -> None:
        short_px, long_px = sorted((picture.width_px, picture.height_px))
        if look.blank:
            self.blank.append(str(picture.path))
        else:
            self.alike[picture.digest] = look.alike
        if look.animated:
            self.animated.append(str(picture.path))
        if long_px > ODD_RATIO * short_px:
            self.odd.append(f"{picture.path} ({picture.width_px} x {picture.height_px})")


def remarks(seen: Seen, train: Sequence[Picture], heldout: Sequence[Picture]) -> Iterator[str]:
    yield from _copies(train)
    yield from _near(seen.alike, train, heldout)
    if seen.blank:
        yield f"{count(seen.blank)} of one colour only: {listed(seen.blank)}"
    if seen.animated:
        yield f"{count(seen.animated)} with several frames, of which the first is taken: {listed(seen.animated)}"
    if seen.odd:
        yield f"{count(seen.odd)} more than {ODD_RATIO} times as long as wide, and cropped: {listed(seen.odd)}"


def _copies(train: Sequence[Picture]) -> Iterator[str]:
    first: dict[str, Picture] = {}
    again = [(each, first[each.digest]) for each in train if first.setdefault(each.digest, each) is not each]
    if again:
        names = listed([f"{each.path} (of {other.path})" for each, other in again])
        yield f"{count(again)} trained on again as a copy, and so weighing more: {names}"


def _near(alike: Mapping[str, int], train: Sequence[Picture], heldout: Sequence[Picture]) -> Iterator[str]:
    """Near copies among the pictures to train on are most often meant: a series, a cut-out."""
    aside = [picture for picture in heldout if picture.digest in alike]
    trained = list({alike[picture.digest]: picture for picture in train if picture.digest in alike}.values())
    if not aside or not trained:
        return
    found = partners([alike[each.digest] for each in aside], [alike[each.digest] for each in trained])
    pairs = [(aside[one], trained[other]) for one, other in found.items()]
    names = [f"{one.path} (like {other.path})" for one, other in pairs if one.digest != other.digest]
    if names:
        told = "held out that look like one trained on, so that the held-out loss tells too little"
        yield f"{count(names)} {told}: {listed(names)}"
