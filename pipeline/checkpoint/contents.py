"""A digest of weights themselves, whatever the file around them is called or says of itself."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from pipeline.checkpoint.header import Header, Tensor, read_header
from pipeline.errors import UnreadableFile

PORTION_BYTES = 1 << 24


def weights_digest(files: Sequence[Path], prefix: str = "") -> str:
    """SHA-256 over name, type, shape and numbers of all tensors whose names begin with `prefix`. Reads them whole: a
    single changed number is another digest. Raises UnreadableFile."""
    headers = {file: read_header(file) for file in files}
    total = hashlib.sha256()
    for name, file, tensor in sorted(_tensors(headers, prefix)):
        total.update(f"{name}\0{tensor.dtype}\0{tensor.shape}\0".encode())
        _update(total, file, tensor)
    return total.hexdigest()


def _tensors(headers: dict[Path, Header], prefix: str) -> list[tuple[str, Path, Tensor]]:
    return [
        (name.removeprefix(prefix), file, tensor)
        for file, header in headers.items()
        for name, tensor in header.tensors.items()
        if name.startswith(prefix)
    ]


def _update(total: hashlib._Hash, file: Path, tensor: Tensor) -> None:
    try:
        with file.open("rb") as opened:
            opened.seek(tensor.begin)
            for begin in range(0, tensor.bytes, PORTION_BYTES):
                total.update(opened.read(min(PORTION_BYTES, tensor.bytes - begin)))
    except OSError as error:
        raise UnreadableFile(f"{file} can't be read: {error.strerror}") from error
