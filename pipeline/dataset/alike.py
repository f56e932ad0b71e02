"""Which of some pictures look like one of others."""

from __future__ import annotations

from collections.abc import Sequence

MOST_BITS = 4
"""Of 64 that the perceptual hashes of two pictures may differ in: copies that were saved anew, resized or lightened
differ in so many at the most, but for a few; pictures of the same kind in 8 and more (tried on shapes, with phash)."""
FEW_PAIRS = 100_000
"""Compared one by one, in hundredths of a second: to load numpy takes longer."""


def partners(hashes: Sequence[int], others: Sequence[int]) -> dict[int, int]:
    """Index of a hash -> index of one of the others that differs in at most MOST_BITS bits, for those that have one."""
    if len(hashes) * len(others) > FEW_PAIRS:
        from pipeline.dataset.bands import partners_by_bands

        return partners_by_bands(hashes, others, MOST_BITS)
    near = ((one, other) for one in range(len(hashes)) for other in range(len(others)))
    return {one: other for one, other in near if (hashes[one] ^ others[other]).bit_count() <= MOST_BITS}


def earlier(hashes: Sequence[int]) -> dict[int, int]:
    """Index of a hash -> index of one before it that differs in at most MOST_BITS bits, for those that have one."""
    if len(hashes) ** 2 / 2 > FEW_PAIRS:
        from pipeline.dataset.bands import earlier_by_bands

        return earlier_by_bands(hashes, MOST_BITS)
    near = ((one, other) for one in range(len(hashes)) for other in range(one))
    return {one: other for one, other in near if (hashes[one] ^ hashes[other]).bit_count() <= MOST_BITS}
