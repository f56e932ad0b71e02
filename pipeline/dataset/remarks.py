"""What may be meant, and is more often a mistake: warnings that speak of pictures which can be trained on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.dataset.alike import earlier, partners
from pipeline.dataset.captions import has_alternatives, has_lines, looks_weighted, may_vary, without_weights
from pipeline.dataset.flaws import count, listed
from pipeline.dataset.picture import Look
from pipeline.records import Picture
from pipeline.settings import Data

ODD_RATIO = 4
"""Longer side over the shorter one: what is longer is cropped by most buckets."""

SIGNS = ("\n", "\r", "(", "[", "{", "\\")
"""A caption without any of them has neither weights, nor several lines or alternatives."""


@dataclass(slots=True)
class Seen:
    """What the pictures of all folders look like, beside what a Picture has."""

    alike: dict[str, int] = field(default_factory=dict)
    """Digest -> perceptual hash; blank ones have none."""
    blank: list[str] = field(default_factory=list)
    animated: list[str] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)
    weighted: list[str] = field(default_factory=list)
    """With captions that look as if words of them had weights; as the others, as the file has it."""
    stripped: int = 0
    """Captions that are others without weights."""
    lines: list[str] = field(default_factory=list)
    alternatives: list[str] = field(default_factory=list)

    def take(self, picture: Picture, look: Look) -> None:
        self._take_caption(picture)
        short_px, long_px = sorted((picture.width_px, picture.height_px))
        if look.blank:
            self.blank.append(str(picture.path))
        else:
            self.alike[picture.digest] = look.alike
        if look.animated:
            self.animated.append(str(picture.path))
        if long_px > ODD_RATIO * short_px:
            self.odd.append(f"{picture.path} ({picture.width_px} x {picture.height_px})")

    def _take_caption(self, picture: Picture) -> None:
        caption = picture.caption
        if not any(sign in caption for sign in SIGNS):  # most have none, and there may be a hundred thousand
            return
        name = str(picture.path)
        if looks_weighted(caption):
            self.weighted.append(name)
        self.stripped += without_weights(caption) != caption
        if has_lines(caption):
            self.lines.append(name)
        if has_alternatives(caption):
            self.alternatives.append(name)


def remarks(seen: Seen, train: Sequence[Picture], heldout: Sequence[Picture]) -> Iterator[str]:
    yield from _copies(train)
    yield from _near(seen.alike, train, heldout)
    yield from _series(seen.alike, train)
    if seen.blank:
        yield f"{count(seen.blank)} of one colour only: {listed(seen.blank)}"
    if seen.animated:
        yield f"{count(seen.animated)} with several frames, of which the first is taken: {listed(seen.animated)}"
    if seen.odd:
        yield f"{count(seen.odd)} more than {ODD_RATIO} times as long as wide, and cropped: {listed(seen.odd)}"


def caption_remarks(seen: Seen, train: Sequence[Picture], data: Data) -> Iterator[str]:
    """What captions hold that a setting would read otherwise, and settings that find nothing to do. `train`: with the
    text that is trained on."""
    if seen.weighted and not data.strip_weights:
        told = "with weights or escaped brackets in the caption, which are learned as text"
        yield f"{count(seen.weighted)} {told} (data.strip_weights=true takes them out): {listed(seen.weighted)}"
    if data.strip_weights and not seen.stripped:
        yield "data.strip_weights=true changes nothing: no caption has weights or escaped brackets"
    if data.wildcards:
        if not any(may_vary(picture.caption) for picture in train):
            yield "data.wildcards=true changes nothing: no caption has several lines, or alternatives as in {a|b}"
        return
    draws = "(data.wildcards=true draws one of them each time)"
    if seen.lines:
        told = f"with a caption of several lines, which are read as one {draws}"
        yield f"{count(seen.lines)} {told}: {listed(seen.lines)}"
    if seen.alternatives:
        told = f"with alternatives as in {{a|b}} in the caption, which are learned as text {draws}"
        yield f"{count(seen.alternatives)} {told}: {listed(seen.alternatives)}"
    if has_alternatives(f"{data.caption_prefix} {data.caption_suffix}"):
        yield f"data.caption_prefix or data.caption_suffix has alternatives, which are learned as text {draws}"


def _copies(train: Sequence[Picture]) -> Iterator[str]:
    first: dict[str, Picture] = {}
    again = [(each, first[each.digest]) for each in train if first.setdefault(each.digest, each) is not each]
    if again:
        names = listed([f"{each.path} (of {other.path})" for each, other in again])
        yield f"{count(again)} trained on again as a copy, and so weighing more: {names}"


def _near(alike: Mapping[str, int], train: Sequence[Picture], heldout: Sequence[Picture]) -> Iterator[str]:
    """Across the two: that tells of the held-out loss."""
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


def _series(alike: Mapping[str, int], train: Sequence[Picture]) -> Iterator[str]:
    """Near copies among those to train on: a series, a cut-out, one that was saved twice."""
    seen = list({picture.digest: picture for picture in train if picture.digest in alike}.values())
    found = earlier([alike[picture.digest] for picture in seen])
    names = [f"{seen[one].path} (like {seen[other].path})" for one, other in sorted(found.items())]
    if names:
        told = "looks" if len(names) == 1 else "look"
        yield f"{count(names)} to train on {told} like another one, which so weighs more: {listed(names)}"
