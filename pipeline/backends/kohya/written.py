"""What sd-scripts writes: whether it is whole, and whether an adapter is what was asked for."""

from __future__ import annotations

import ast
import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path

from pipeline.checkpoint.header import read_header
from pipeline.errors import UnreadableFile

PNG_END = b"IEND\xaeB`\x82"
LAST_OF_STATE = "random_states_0.pkl"
"""accelerate writes it last."""


def picture_is_whole(path: Path) -> bool:
    """A PNG ends with a chunk that says so."""
    try:
        with path.open("rb") as file:
            file.seek(-len(PNG_END), 2)
            return file.read() == PNG_END
    except OSError:  # shorter than that, or gone
        return False


def weights_trouble(path: Path) -> str | None:
    """What is wrong with weights, a file or a folder; None for whole ones. A header tells how long its file has to be,
    so that one that is still being written is seen."""
    if not path.exists():
        return f"{path} is not there"
    files = sorted(path.rglob("*.safetensors")) if path.is_dir() else [path]
    if not files:
        return f"{path} has no .safetensors file"
    for file in files:
        if file.suffix == ".safetensors":
            try:
                read_header(file)
            except UnreadableFile as error:
                return str(error)
        elif not zipfile.is_zipfile(file):  # .ckpt, .pt
            return f"{file} is not a whole checkpoint"
    return None


def state_is_whole(folder: Path) -> bool:
    """A folder that a run can go on from."""
    last = folder / LAST_OF_STATE
    try:
        files = [path for path in folder.iterdir() if path.is_file()]
        if not last.exists() or any(path.stat().st_size == 0 for path in files):
            return False
        return zipfile.is_zipfile(last) and all(
            weights_trouble(path) is None for path in files if path.suffix == ".safetensors"
        )
    except OSError:  # an old one that is just being removed
        return False


def differences(path: Path, expected: Mapping[str, str]) -> list[str]:
    """What the metadata of an adapter says otherwise than asked: name, wanted, found. Only safetensors have metadata.
    Raises UnreadableFile."""
    if not expected or path.suffix != ".safetensors":
        return []
    found = read_header(path).metadata
    return [
        f"{name}: asked {wanted}, found {found.get(name, 'nothing')}"
        for name, wanted in expected.items()
        if name not in found or not _same(_value(wanted), _value(found[name]))
    ]


def _value(text: str) -> object:
    """Metadata are Python values as `str` writes them, or objects of JSON."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return text


def _same(wanted: object, found: object) -> bool:
    if isinstance(wanted, list) and len(wanted) == 1 and not isinstance(found, list | tuple):
        return _same(wanted[0], found)  # of a list of learning rates most networks take the first
    if isinstance(wanted, bool) or isinstance(found, bool):
        return wanted is found
    if isinstance(wanted, int | float) and isinstance(found, int | float):
        return math.isclose(wanted, found, rel_tol=1e-9)
    if isinstance(wanted, dict) and isinstance(found, dict):  # network_args: sd-scripts adds some of its own
        return all(name in found and _same(value, found[name]) for name, value in wanted.items())
    if isinstance(wanted, list | tuple) and isinstance(found, list | tuple):
        return len(wanted) == len(found) and all(_same(*pair) for pair in zip(wanted, found, strict=True))
    return wanted == found
