"""The models in a folder of mixed files: a diffusers folder or a set of shards counts as one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pipeline.checkpoint.bundle import INDEX, SHARD, is_part
from pipeline.errors import UnreadableFile

ENDINGS = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf")


def find_models(path: Path) -> Iterator[Path]:
    """The path itself, or the models under it where it is a folder of them. Raises UnreadableFile if there is none."""
    path = path.expanduser()
    if not path.is_dir() or _is_model(path):
        yield path
        return
    none = True
    for found in _under(path):
        none = False
        yield found
    if none:
        raise UnreadableFile(f"{path} holds no models: no diffusers folder and no {', '.join(ENDINGS)}")


def _under(folder: Path) -> Iterator[Path]:
    """Links to folders are followed, each folder once: model folders are often made of links."""
    seen: set[str] = set()
    for here, folders, files in os.walk(folder, followlinks=True):
        place = Path(here)
        if os.path.realpath(here) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(here))
        models = sorted(name for name in folders if _is_model(place / name))
        folders[:] = sorted(set(folders) - set(models))
        yield from (place / name for name in models)
        yield from (place / name for name in sorted(files) if name.endswith(ENDINGS) and _is_first(place, name))


def _is_model(folder: Path) -> bool:
    try:
        return (folder / INDEX).is_file() or is_part(folder)
    except OSError:
        return False


def _is_first(folder: Path, name: str) -> bool:
    """Of the shards that are there the first speaks for all."""
    match = SHARD.match(name)
    if match is None:
        return True
    earlier = (f"{match['stem']}-{n:05}-of-{match['count']}.safetensors" for n in range(1, int(match["number"])))
    return not any((folder / each).is_file() for each in earlier)
