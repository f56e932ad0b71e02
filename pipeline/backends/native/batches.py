"""Which pictures stand in which batch, as a function of its number: batches of one bucket, a new order an epoch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.backends.native.randomness import plain_random


def shown_rows(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """Indices of the rows that an epoch shows: each to train on as often as it says, then as many for regularisation,
    where there are such ones, from the first on."""
    train = [place for place, row in enumerate(rows) if row["split"] == "train" for _ in range(row.get("repeats", 1))]
    reg = list(_of_regularisation(rows))
    return train + [reg[place % len(reg)] for place in range(len(train))] if reg else train


def _of_regularisation(rows: Sequence[Mapping[str, Any]]) -> Iterator[int]:
    for place, row in enumerate(rows):
        if row["split"] == "reg":
            yield from [place] * row.get("repeats", 1)


@dataclass(slots=True)
class BatchOrder:
    """Batch number -> places in an epoch's list, all of one bucket."""

    buckets: Sequence[Hashable]
    """Of each; one that is shown several times, or at several resolutions, has as many places."""
    batch_size: int
    seed: int
    batches_per_epoch: int = field(init=False)
    _epoch: tuple[int, list[list[int]]] = field(default=(-1, []))

    def __post_init__(self) -> None:
        self.batches_per_epoch = sum(-(-count // self.batch_size) for count in Counter(self.buckets).values())

    def batch(self, number: int) -> list[int]:
        """Every place stands once in an epoch; a bucket's last batch is filled from its own beginning."""
        epoch, place = divmod(number, self.batches_per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._order(epoch))
        return self._epoch[1][place]

    def _members(self) -> dict[Hashable, list[int]]:
        members: dict[Hashable, list[int]] = {}
        for index, bucket in enumerate(self.buckets):
            members.setdefault(bucket, []).append(index)
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
