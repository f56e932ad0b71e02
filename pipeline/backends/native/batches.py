"""Which pictures stand in which batch, as a function of its number: aspect-ratio buckets, a new order an epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from pipeline.backends.native.randomness import plain_random

Side = tuple[int, int]
"""(width, height) in pixels."""


def bucket_side(width_px: int, height_px: int, *, resolution_px: int, step_px: int) -> Side:
    """The sides, multiples of `step_px`, that a picture is resized and cropped to: its own aspect ratio as nearly as
    they allow, an area of at most `resolution_px` squared, and no side over twice `resolution_px`."""
    area = resolution_px * resolution_px
    ratio = width_px / height_px
    best = (resolution_px, resolution_px)
    for width in range(step_px, 2 * resolution_px + 1, step_px):
        height = min(2 * resolution_px, area // width // step_px * step_px)
        if height and _distance(width / height, ratio) < _distance(best[0] / best[1], ratio) - 1e-9:
            best = (width, height)
    return best


def _distance(a: float, b: float) -> float:
    return abs(math.log(a / b))


@dataclass(slots=True)
class BatchOrder:
    """Batch number -> indices of pictures, all of one bucket."""

    buckets: list[Side]
    """The bucket of each picture."""
    batch_size: int
    seed: int
    _epoch: tuple[int, list[list[int]]] = field(default=(-1, []))

    @property
    def batches_per_epoch(self) -> int:
        return sum(-(-len(members) // self.batch_size) for members in self._members().values())

    def batch(self, number: int) -> list[int]:
        """Every picture stands once in an epoch; a bucket's last batch is filled from its own beginning."""
        epoch, place = divmod(number, self.batches_per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._order(epoch))
        return self._epoch[1][place]

    def _members(self) -> dict[Side, list[int]]:
        members: dict[Side, list[int]] = {}
        for index, side in enumerate(self.buckets):
            members.setdefault(side, []).append(index)
        return members

    def _order(self, epoch: int) -> list[list[int]]:
        rng = plain_random(self.seed, "order", epoch)
        batches = []
        for members in self._members().values():
            rng.shuffle(members)
            missing = -len(members) % self.batch_size
            filled = members + [members[i % len(members)] for i in range(missing)]
            batches += [filled[i : i + self.batch_size] for i in range(0, len(filled), self.batch_size)]
        rng.shuffle(batches)
        return batches
