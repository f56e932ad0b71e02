"""Freed memory goes back to the system."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

MMAP_THRESHOLD = -3
"""M_MMAP_THRESHOLD of malloc.h."""
OWN_PAGES_BYTES = 2**20


def keep_nothing() -> None:
    """Blocks of 1 MiB and more get pages of their own, which leave with them. glibc begins at 128 KiB, but goes up to
    32 MiB as larger ones come, and keeps the gaps. New pages take the processor's time: beside about 5 s for 25 steps
    of the demo model 2.6 s at 128 KiB, 0.5 s at 1 MiB and none at 4 MiB, which kept a fifth more in gaps."""
    option = _glibc("mallopt")
    if option is not None:
        option(MMAP_THRESHOLD, OWN_PAGES_BYTES)


def give_back() -> None:
    """Freed memory below that: hundreds of MB once a model has been read and a picture encoded."""
    gc.collect()
    trim = _glibc("malloc_trim")
    if trim is not None:
        trim(0)


@contextmanager
def little_to_collect() -> Iterator[None]:
    """LyCORIS has Python look for unreachable objects after each layer that T-LoRA begins for: what was there before is
    not looked at then, which is a third of a second a layer."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _glibc(name: str) -> Any:
    """None with another system's allocator, which is left alone."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
