"""Files that are either whole or not there: written to a temporary name, flushed, renamed."""

from __future__ import annotations

import os
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Makes the folder where it is missing; an existing file is replaced."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """The same; several processes may write the same file at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    with unfinished.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def flush_folder(folder: Path) -> None:
    """Puts every file of the folder on the disk, so that a rename of the folder is a whole one."""
    for path in folder.rglob("*"):
        if path.is_file():
            flush_file(path)


def flush_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
