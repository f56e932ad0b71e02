"""Where a feature lies: a folder for one encoder and all that it is told, and in it a name for what it was given."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

FOLDER = "features"
"""In the cache's folder."""
FORMAT = 1
"""Of the shards; others are not looked at."""
KEY_CHARACTERS = 32
"""Of the digests that are names: 128 bits."""

Kind = Literal["latents", "text", "masks"]


@dataclass(frozen=True, slots=True)
class Space:
    """All features that one encoder made in one way. Equal makings are equal spaces, whoever made them."""

    kind: Kind
    made: Mapping[str, str]
    """All that decides a feature beside what is encoded: the weights' digest, layers, type, device."""

    @property
    def name(self) -> str:
        whole = json.dumps([FORMAT, self.kind, dict(self.made)], sort_keys=True)
        return f"{self.kind}-{_digest(whole)}"

    def folder(self, cache_dir: Path) -> Path:
        return cache_dir / FOLDER / self.name


def key_of(*given: object) -> str:
    """The name of a feature, by what is encoded."""
    return _digest(json.dumps(given, ensure_ascii=False))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()[:KEY_CHARACTERS]
