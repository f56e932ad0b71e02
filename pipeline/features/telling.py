"""The cache as lines and JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pipeline.features.room import Kept, Removed, Verified
from pipeline.settings import default_of
from pipeline.wording import size

DIGEST_CHARACTERS = 10
SHOWN = ("clip_skip", "chunks", "device")


def limit_gib() -> float:
    """What the configuration says of it."""
    return float(default_of("cache.max_gib"))


def lines(cache_dir: Path, rows: Sequence[Kept]) -> list[str]:
    """A line a space, under what is in all of them."""
    total = sum(row.bytes for row in rows)
    count = sum(row.features for row in rows)
    head = f"{cache_dir}: {count} features, {size(total)} of {limit_gib():g} GiB (cache.max_gib)"
    return [head, *(f"  {_line(row)}" for row in rows)]


def _line(row: Kept) -> str:
    encoder = row.made.get("vae") or row.made.get("encoder") or "?"
    more = ", ".join(f"{name} {row.made[name]}" for name in SHOWN if name in row.made)
    used = time.strftime("%Y-%m-%d %H:%M", time.localtime(row.used)) if row.used else "never"
    kind = row.made.get("kind", "?")
    return f"{kind:<8}{row.features:>7}  {size(row.bytes):>9}  used {used}  by {encoder[:DIGEST_CHARACTERS]} ({more})"


def as_json(cache_dir: Path, rows: Sequence[Kept]) -> str:
    """One object."""
    return json.dumps({"dir": str(cache_dir), "spaces": [asdict(row) for row in rows]}, indent=1)


def removed_line(removed: Removed, left_bytes: int) -> str:
    """What went, and what is left."""
    files = f"{removed.files} file{'' if removed.files == 1 else 's'}"
    return f"{files} removed, {size(removed.bytes)}; {size(left_bytes)} are left"


def verified_lines(verified: Verified) -> list[str]:
    """Damaged files by name."""
    told = f"{verified.features} features are what was written"
    if not verified.damaged:
        return [told]
    return [told, *(f"removed, since it was damaged: {path}" for path in verified.damaged)]
