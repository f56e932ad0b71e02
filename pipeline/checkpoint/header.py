"""Reads the header of a safetensors file: 8 bytes of length, then JSON, then the weights.

Format: https://github.com/huggingface/safetensors#format. The checks are those of the reference reader, made here
because their messages must tell a person what to do, and because a broken file must be seen before a run starts.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, TypeGuard

from pipeline.errors import UnreadableFile

MAX_HEADER_BYTES = 100_000_000
"""The reference reader's own limit."""
MAX_DIMENSIONS = 64
SAMPLES = 64
SAMPLE_BYTES = 4096
BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
"""Bits a number; a type that is not in here is newer than this table and its size is not checked."""

CONVERT = (
    'python -c "import sys, torch; from safetensors.torch import save_file; w = torch.load(sys.argv[1], '
    "map_location='cpu', weights_only=True); w = w.get('state_dict', w); save_file({k: v.clone() for k, v in w.items() "
    'if torch.is_tensor(v)}, sys.argv[2])" IN OUT.safetensors'
)
PICKLE = f"a PyTorch pickle, which could run code when opened and is never loaded here. Convert it with: {CONVERT}"
NOT_SAFETENSORS = (
    (b"GGUF", "a GGUF file: its weights are quantised for inference. Training needs the safetensors file it came from"),
    (b"PK\x03\x04", PICKLE),
    (b"\x80\x02", PICKLE),
    (b"<", "a web page: the download was not let in. Log in or accept the model's licence, and download again"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself: git lfs pull"),
)


@dataclass(frozen=True, slots=True)
class Tensor:
    """What the header says of one tensor."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Header:
    """All that a safetensors file says of itself."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    file_bytes: int
    digest: str
    """SHA-256 of the header and of a sample of the weights: another training of the same architecture has another."""


def read_header(path: Path) -> Header:
    """The header, checked against the file's size. Raises UnreadableFile, whatever the file holds."""
    try:
        if not path.is_file():
            raise UnreadableFile(f"{path}: there is no such file")
        file_bytes = path.stat().st_size
        with path.open("rb") as file:
            header_bytes = _header_bytes(path, file.read(32), file_bytes)
            file.seek(8)
            raw = file.read(header_bytes)
            sample = _sample(file, begin=8 + header_bytes, end=file_bytes)
    except OSError as error:
        raise UnreadableFile(f"{path} can't be read: {error.strerror or error}") from error
    tensors, metadata = _parse(path, raw, data_bytes=file_bytes - 8 - header_bytes)
    digest = hashlib.sha256(b"%d\n%b%b" % (file_bytes, raw, sample)).hexdigest()
    return Header(tensors, metadata, file_bytes, digest)


def _header_bytes(path: Path, start: bytes, file_bytes: int) -> int:
    """The length of the JSON part; a file of another kind is named."""
    for magic, kind in NOT_SAFETENSORS:
        # a header of 640 bytes begins like a pickle: what follows the length decides
        if start.startswith(magic) and (start[8:9] != b"{" or magic == b"GGUF"):
            raise UnreadableFile(f"{path} is {kind}")
    length = int.from_bytes(start[:8], "little")
    if file_bytes < 10 or start[8:9] != b"{":
        raise UnreadableFile(f"{path} is not a safetensors file ({file_bytes} bytes): download or convert it again")
    if length > MAX_HEADER_BYTES:
        raise UnreadableFile(
            f"{path}: its header claims {length} bytes, of {MAX_HEADER_BYTES} at the most: it is damaged"
        )
    if 8 + length > file_bytes:
        raise _truncated(path, 8 + length - file_bytes)
    return length


def _truncated(path: Path, missing_bytes: int) -> UnreadableFile:
    return UnreadableFile(f"{path} is cut short: {missing_bytes} bytes are missing. Download or copy it again")


def _sample(file: BinaryIO, *, begin: int, end: int) -> bytes:
    """Blocks spread evenly over the weights: cheap for a file of any size, and different after any training."""
    stride = max(SAMPLE_BYTES, (end - begin) // SAMPLES)
    blocks = []
    for offset in range(begin, end, stride):
        file.seek(offset)
        blocks.append(file.read(SAMPLE_BYTES))
    return b"".join(blocks)


# ------------------------------------------------------------------------------------------------------ the JSON part


def _parse(path: Path, raw: bytes, *, data_bytes: int) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        entries = json.loads(raw, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its header is not JSON ({error})") from error
    metadata = entries.pop("__metadata__", {}) if isinstance(entries, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _damaged(path, "its header is not an object with metadata of strings")
    tensors, spans = {}, []
    for name, entry in entries.items():
        tensors[name], span = _tensor(path, name, entry)
        spans.append(span)
    _check_spans(path, sorted(spans), data_bytes)
    return tensors, metadata


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ValueError("a name appears twice")
    return entries


def _damaged(path: Path, reason: str) -> UnreadableFile:
    return UnreadableFile(f"{path} is damaged: {reason}. Download or convert it again")


def _tensor(path: Path, name: str, entry: object) -> tuple[Tensor, tuple[int, int]]:
    """The tensor and where its numbers are: begin and end, from the end of the header."""
    entry = entry if isinstance(entry, dict) else {}
    dtype, shape, span = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or not _are_sizes(shape, MAX_DIMENSIONS) or not _are_sizes(span, 2) or len(span) != 2:
        raise _damaged(path, f"the entry of tensor {name[:200]!r} makes no sense")
    tensor = Tensor(dtype, tuple(shape))
    begin, end = span
    if end < begin or (dtype in BITS and tensor.elements * BITS[dtype] != (end - begin) * 8):
        raise _damaged(
            path, f"tensor {name[:200]!r} has {end - begin} bytes, which {dtype} {list(shape)} does not fill"
        )
    return tensor, (begin, end)


def _are_sizes(value: object, most: int) -> TypeGuard[list[int]]:
    """Whole numbers from 0 to 2^63; True is an int to Python, and not to us."""
    return (
        isinstance(value, list)
        and len(value) <= most
        and all(type(number) is int and 0 <= number < 2**63 for number in value)
    )


def _check_spans(path: Path, spans: list[tuple[int, int]], data_bytes: int) -> None:
    """The numbers lie one behind the other, without gaps, to the end of the file."""
    for (_, end), (begin, _) in pairwise([(0, 0), *spans]):
        if begin != end:
            raise _damaged(path, "its tensors overlap" if begin < end else "there are gaps between its tensors")
    end = spans[-1][1] if spans else 0
    if end > data_bytes:
        raise _truncated(path, end - data_bytes)
    if end < data_bytes:
        raise _damaged(path, f"{data_bytes - end} bytes follow its last tensor")
