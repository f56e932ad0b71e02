"""Says what a base model is: family, prediction, size, from a diffusers folder or a single safetensors file."""

from __future__ import annotations

from pathlib import Path

from pipeline.checkpoint.diffusers_folder import read_folder
from pipeline.checkpoint.single_file import read_single_file
from pipeline.errors import UnreadableFile
from pipeline.records import Checkpoint


def recognise(path: Path) -> Checkpoint:
    """Reads headers and configs only. Raises UnreadableFile for what is no base model, and for damaged files."""
    try:
        path = path.expanduser().absolute()
        if path.is_dir():
            return read_folder(path)
        if path.exists():
            return read_single_file(path)
    except (OSError, RuntimeError) as error:  # a folder that is closed to us, a name too long, ~nobody
        raise UnreadableFile(f"{path} can't be read: {error}") from error
    raise UnreadableFile(f"{path}: there is no such file or folder")
