"""The caches of one run beside its pictures: what they depend on, and their side-cars before and after."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pipeline.backends.kohya.caches import KINDS, Architecture, Stale, announce, clear, record, stale_caches
from pipeline.backends.kohya.scripts import DROPS_CACHED_CAPTIONS, NOISE
from pipeline.checkpoint.header import digest, read_header
from pipeline.dataset.tokens import CAPTION_TOKENS
from pipeline.errors import RunError, UnreadableFile
from pipeline.records import Checkpoint, Picture
from pipeline.settings import Settings

ARCHITECTURES: tuple[tuple[str, Architecture], ...] = (
    *(("sdxl_", "sdxl"), ("fine_tune", "sdxl"), ("sd3_", "sd3"), ("flux_", "flux"), ("lumina_", "lumina")),
    *(("hunyuan_image_", "hunyuan_image"), ("anima_", "anima"), ("", "sd")),
)
"""By the beginning of the script's name. fine_tune.py names its latents as those of SDXL, and would read these."""

REACH_A_CACHE = (
    *("vae", "no_half_vae", "alpha_mask", "resize_interpolation", "bucket_", "full_fp16", "full_bf16"),
    *(
        "t5xxl_",
        "gemma2_",
        "qwen3_",
        "t5_",
        "apply_",
        "system_prompt",
        "fp8_",
        "tokenizer_cache_dir",
    ),
    *("caption_", "weighted_captions", "clip_l_", "clip_g_"),
)
"""Beginnings of the arguments that change what is in a cache. flip_aug is none: a file without mirror images is made
anew by the scripts themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePart:
    """What the caches of a run are made from."""

    architecture: str
    vae: str
    text_encoders: str
    holds: list[str]
    """latents, text: the kinds that are read from the disk."""
    clears: bool
    """Stale ones are deleted when the run starts; else there are none."""


def cache_part(
    settings: Settings, checkpoint: Checkpoint, script: str, precision: str, *, latents: str, text: str
) -> CachePart | None:
    """None where nothing is kept on the disk. Raises UnreadableFile for a part of the model that can't be read."""
    holds = [name for name, where in (("latents", latents), ("text", text)) if where == "disk"]
    if not holds:
        return None
    passed = {name: value for name, value in settings.backend.args.items() if name.startswith(REACH_A_CACHE)}
    told = [precision, settings.model.known.kohya.arguments, passed, settings.model.clip_skip, settings.model.tokenizer]
    if script in DROPS_CACHED_CAPTIONS:  # it keeps the rate in the cache, and goes by it
        told.append(settings.train.caption_dropout)
    if settings.train.caption_tokens > CAPTION_TOKENS[0]:
        told.append(f"{settings.train.caption_tokens} tokens")
    names = sorted(settings.model.parts)
    side = [settings.train.resolution_px, settings.model.resolution_step_px] if script in NOISE else []
    return CachePart(
        architecture=next(name for beginning, name in ARCHITECTURES if script.startswith(beginning)),
        vae=_together([told[:3], side, _part(settings, checkpoint, "vae")]),
        text_encoders=_together([told, [_part(settings, checkpoint, name) for name in names if name != "vae"]]),
        holds=holds,
        clears=settings.backend.stale_cache.value == "clear",
    )


def stale_of(part: CachePart, pictures: Sequence[Picture]) -> tuple[Stale, ...]:
    """Caches that this run would read, and that don't fit it."""
    found = (
        each
        for folder, those in _by_folder(pictures).items()
        for each in stale_caches(those, folder=folder, **_made_from(part))
    )
    return tuple(each for each in found if _holds(each.name) in part.holds)


def begin(part: CachePart, pictures: Sequence[Picture]) -> None:
    """Right before the script starts. Raises RunError for stale caches that came since, or can't be deleted."""
    stale = stale_of(part, pictures)
    if stale and not part.clears:
        raise RunError(f"{stale[0].path} does not fit this run any more ({', '.join(stale[0].reasons)})")
    problems = clear(stale)
    if problems:
        raise RunError(str(problems[0]))
    for folder, those in _by_folder(pictures).items():
        announce(those, folder=folder, **_made_from(part))


def end(part: CachePart, pictures: Sequence[Picture]) -> None:
    """After it ended well."""
    for folder, those in _by_folder(pictures).items():
        record(those, folder=folder, **_made_from(part))


def read_pictures(metadata: Path) -> list[Picture]:
    """Of the file that the script reads them from."""
    rows = [json.loads(line) for line in metadata.read_text(encoding="utf-8").splitlines()]
    return [_picture(row) for row in rows]


def _picture(row: dict[str, Any]) -> Picture:
    width_px, height_px = row["image_size"]
    caption = row.get("caption", row.get("tags", ""))
    return Picture(Path(row["image_path"]), caption, width_px, height_px, row["digest"])


def _made_from(part: CachePart) -> dict[str, Any]:
    architecture = cast("Architecture", part.architecture)
    return {"vae": part.vae, "text_encoders": part.text_encoders, "architecture": architecture}


def _by_folder(pictures: Sequence[Picture]) -> dict[Path, list[Picture]]:
    folders: defaultdict[Path, list[Picture]] = defaultdict(list)
    for picture in pictures:
        folders[picture.path.parent].append(picture)
    return dict(folders)


def _holds(name: str) -> str:
    return next(kind.holds for kind in KINDS if name.endswith(kind.suffix))


def _part(settings: Settings, checkpoint: Checkpoint, name: str) -> str:
    """What a part is, or the whole model where it is inside of that."""
    given = settings.model.parts.get(name)
    if given is None or not Path(given).exists():
        return given or checkpoint.digest
    path = Path(given)
    files = sorted(path.rglob("*.safetensors")) if path.is_dir() else [path]
    return _together([_file(file) for file in files] or [given])


def _file(path: Path) -> str:
    """By header and a sample of the weights; what has no such header by its size and time."""
    try:
        return digest(path, read_header(path))
    except UnreadableFile:
        status = path.stat()
        return f"{path.name} {status.st_size} {status.st_mtime_ns}"


def _together(parts: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
