"""Files that are either whole or not there: written to a temporary name, flushed, renamed."""

from __future__ import annotations

import os
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Makes the folder where it is missing; an existing file is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    with unfinished.open("w", encoding="utf-8") as file:
        file.write(text)
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
