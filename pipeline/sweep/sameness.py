"""Whether what a sweep's trials were trained on is still the same: losses of other pictures, or of another base model,
say nothing about those that come."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.checkpoint.recognise import recognise
from pipeline.dataset.captions import tags_change
from pipeline.dataset.scan import scan
from pipeline.errors import UnreadableFile
from pipeline.machine.host import cpu_cores
from pipeline.settings import Settings
from pipeline.sweep.results import Result, results_of

PLAN = "plan.json"
Digests = dict[str, str | None]


def changed_since(sweep_dir: Path, composed: Callable[[Sequence[str]], Settings]) -> str:
    """In words, what is other now than when a trial was trained whose result counts; empty: nothing is. `composed`
    makes the settings of a trial's overrides. What can't be read now is left to the next trial to tell."""
    looked_at: dict[str, Digests] = {}
    for result in results_of(sweep_dir):
        then = _digests_then(result)
        if then is None:
            continue
        settings = composed(result.overrides)
        asked = repr(
            (settings.model, settings.data, tags_change(settings))
        )  # of all trials the same, unless these are what varies
        if asked not in looked_at:
            looked_at[asked] = _digests_here(settings)
        other = [what for what, digest in looked_at[asked].items() if digest is not None and digest != then[what]]
        if other:
            verb = "is another" if len(other) == 1 else "are others"
            return f"{' and '.join(other)} {verb} than when its trial {result.number} was trained"
    return ""


def _digests_then(result: Result) -> Digests | None:
    """None for a trial that has no result, or has lost what it was made of."""
    if result.state not in ("finished", "pruned"):
        return None
    try:
        plan = json.loads((result.run_dir / PLAN).read_text(encoding="utf-8"))
        return {"the base model": plan["checkpoint"]["digest"], "the set of pictures": plan["dataset"]["digest"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _digests_here(settings: Settings) -> Digests:
    try:
        model: str | None = recognise(Path(settings.model.path), insisting=not settings.model.trust_header).digest
    except UnreadableFile:
        model = None
    cache_dir = Path(settings.cache.dir).expanduser()
    pictures, _ = scan(settings.data, threads=cpu_cores(), tags_change=tags_change(settings), cache_dir=cache_dir)
    return {"the base model": model, "the set of pictures": None if pictures is None else pictures.digest}
