"""Which of a hundred thousand hashes differ in a few bits, without comparing all pairs.

A hash of 64 bits is cut into bands, one more than bits may differ: of two such hashes one band at least is equal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

MOST_STEPS = 500
"""How far apart hashes of one band are compared: among thousands that are nearly the same some pairs are not found, but
hardly a picture that is without any."""

Hashes = NDArray[np.uint64]
Indices = NDArray[np.int64]


def partners_by_bands(hashes: Sequence[int], others: Sequence[int], most_bits: int) -> dict[int, int]:
    """Index of a hash -> index of one of the others that differs in at most `most_bits` bits."""
    values = np.array([*hashes, *others], dtype=np.uint64)
    found = np.full(len(hashes), -1, dtype=np.int64)
    for pairs in _pairs(values, most_bits):
        across = pairs[(pairs[:, 0] < len(hashes)) & (pairs[:, 1] >= len(hashes))]
        found[across[:, 0]] = across[:, 1] - len(hashes)
    return {int(index): int(found[index]) for index in np.flatnonzero(found >= 0)}


def earlier_by_bands(hashes: Sequence[int], most_bits: int) -> dict[int, int]:
    """Index of a hash -> index of one before it that differs in at most `most_bits` bits."""
    found = np.full(len(hashes), -1, dtype=np.int64)
    for pairs in _pairs(np.array(hashes, dtype=np.uint64), most_bits):
        found[pairs[:, 1]] = pairs[:, 0]
    return {int(index): int(found[index]) for index in np.flatnonzero(found >= 0)}


def _pairs(values: Hashes, most_bits: int) -> Iterator[Indices]:
    """Of all that are near, the lower index first; some several times."""
    band_bits = 64 // (most_bits + 1)
    for band in range(most_bits + 1):
        yield from _pairs_of_band(_rotated(values, band * band_bits), band_bits, most_bits)


def _pairs_of_band(values: Hashes, band_bits: int, most_bits: int) -> Iterator[Indices]:
    """Pairs, the lower index first, whose highest bits are equal: neighbours, once they are sorted."""
    order = np.argsort(values, kind="stable").astype(np.int64)
    values = values[order]
    first = np.arange(len(values))
    for step in range(1, min(len(values), MOST_STEPS + 1)):
        first = first[first + step < len(values)]
        different = values[first] ^ values[first + step]
        in_band = different >> np.uint64(64 - band_bits) == 0
        first, different = first[in_band], different[in_band]
        if not len(first):
            break
        near = first[_bit_count(different) <= most_bits]
        yield np.sort(np.stack([order[near], order[near + step]], axis=1), axis=1)


def _rotated(values: Hashes, bits: int) -> Hashes:
    if bits == 0:
        return values
    return (values << np.uint64(bits)) | (values >> np.uint64(64 - bits))


def _bit_count(values: Hashes) -> Hashes:
    """Set bits of each, added up in pairs, fours and eights (numpy has a function for it from 2.0 on)."""
    values = values - ((values >> np.uint64(1)) & np.uint64(0x5555555555555555))
    values = (values & np.uint64(0x3333333333333333)) + ((values >> np.uint64(2)) & np.uint64(0x3333333333333333))
    values = (values + (values >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (values * np.uint64(0x0101010101010101)) >> np.uint64(56)
