"""Reads the header of a safetensors file: 8 bytes of length, then JSON, then the weights, which stay unread.

Format: https://github.com/huggingface/safetensors#format. The checks are those of the reference reader, made here
because their messages must tell a person what to do, and because a broken file must be seen before a run starts.
Where the two differ is listed in `tests/test_header_fuzz.py`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import re
import stat
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, NoReturn

from pipeline.errors import UnreadableFile

MAX_HEADER_BYTES = 100_000_000
"""The reference reader's own limit."""
MAX_VALUES = 2_000_000
"""Of the JSON part, which takes some 500 bytes of memory for each. The largest real headers have under 100,000."""
MAX_DIMENSIONS = 64
"""As in numpy and torch."""
MAX_NUMBERS = 4096
"""Of a tensor that `read_numbers` reads."""
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


class Tensor(NamedTuple):
    """What the header says of one tensor. There are thousands in a file: a tuple is the cheapest record."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    """Bytes from the start of the file to its first number."""
    bytes: int

    @property
    def elements(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Header:
    """All that a safetensors file says of itself."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    file_bytes: int
    header_bytes: int
    """Of the JSON part; the weights begin 8 bytes after its length."""


def read_header(path: Path) -> Header:
    """The header, checked against the file's size. Raises UnreadableFile, whatever the file holds."""
    with _opened(path) as (file, file_bytes):
        header_bytes = _header_bytes(path, file.read(START_BYTES), file_bytes)
        file.seek(8)
        raw = file.read(header_bytes)
    entries = _entries(path, raw)
    metadata = _metadata(path, entries.pop("__metadata__", None))
    tensors = _tensors(path, entries, data_begin=8 + header_bytes)
    _check_spans(path, tensors, data_begin=8 + header_bytes, file_bytes=file_bytes)
    return Header(tensors, metadata, file_bytes, header_bytes)


def digest(path: Path, header: Header) -> str:
    """SHA-256 of the header and of a sample of the weights: another training of the same architecture has another.

    Reads at most SAMPLES + 1 blocks of SAMPLE_BYTES beside the header. Raises UnreadableFile.
    """
    with _opened(path) as (file, _):
        file.seek(8)
        raw = file.read(header.header_bytes)
        sample = _sample(file, begin=8 + header.header_bytes, end=header.file_bytes)
    return hashlib.sha256(b"%d\n%b%b" % (header.file_bytes, raw, sample)).hexdigest()


def _sample(file: BinaryIO, *, begin: int, end: int) -> bytes:
    """Blocks spread evenly over the weights: cheap for a file of any size, and different after any training."""
    stride = max(SAMPLE_BYTES, (end - begin) // SAMPLES)
    blocks = []
    for offset in range(begin, end, stride):
        file.seek(offset)
        blocks.append(file.read(SAMPLE_BYTES))
    return b"".join(blocks)


def can_be_read(tensor: Tensor) -> bool:
    """Whether `read_numbers` reads it."""
    return tensor.dtype in ("F32", "F16", "BF16") and tensor.elements <= MAX_NUMBERS


def read_numbers(path: Path, tensor: Tensor) -> tuple[float, ...]:
    """The numbers of one small tensor of F32, F16 or BF16, in the order of the file. Raises UnreadableFile."""
    if not can_be_read(tensor):
        raise UnreadableFile(
            f"{path}: of a tensor of {tensor.dtype[:20]} {list(tensor.shape)} the numbers are not read here, only of "
            f"F32, F16 and BF16 with {MAX_NUMBERS} numbers at the most"
        )
    with _opened(path) as (file, _):
        file.seek(tensor.begin)
        raw = file.read(tensor.bytes)
    if len(raw) < tensor.bytes:
        raise _truncated(path, tensor.bytes - len(raw))
    if tensor.dtype == "BF16":  # the upper half of an F32
        raw = b"".join(b"\0\0" + raw[at : at + 2] for at in range(0, len(raw), 2))
    return struct.unpack(f"<{tensor.elements}{'e' if tensor.dtype == 'F16' else 'f'}", raw)


# ----------------------------------------------------------------------------------------------------------- the file


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """The file and its size in bytes; what goes wrong with it meanwhile is told. Never waits, as for a pipe."""
    try:
        file_bytes = _file_bytes(path)
        with path.open("rb") as file:
            yield file, file_bytes
    except OSError as error:
        raise UnreadableFile(f"{path} can't be read: {_why(path, error)}") from error


def _file_bytes(path: Path) -> int:
    """Raises UnreadableFile for what is no regular file, OSError where it is not reached."""
    try:
        found = path.stat()
    except ValueError as error:  # a name with a zero byte
        raise UnreadableFile(f"{path}: there is no such file. Check the path") from error
    if stat.S_ISDIR(found.st_mode):
        raise UnreadableFile(f"{path} is a folder, not a safetensors file: give one of the files in it")
    if not stat.S_ISREG(found.st_mode):
        raise UnreadableFile(f"{path} is no regular file but a pipe, a socket or a device: give a file")
    return found.st_size


def _why(path: Path, error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "it is a link that leads in a circle. Give the file itself"
    if isinstance(error, FileNotFoundError) and path.is_symlink():
        return f"it is a link to {path.readlink()}, which is not there. Give the file itself"
    if isinstance(error, FileNotFoundError):
        return "there is no such file. Check the path"
    if isinstance(error, PermissionError):
        return "this user may not read it. Ask its owner, or allow it with chmod"
    return error.strerror or str(error)


def _header_bytes(path: Path, start: bytes, file_bytes: int) -> int:
    """The length of the JSON part; a file of another kind is named."""
    length = int.from_bytes(start[:8], "little")
    if start[8:9] != b"{" or length > MAX_HEADER_BYTES:  # what follows the length decides, not what it looks like
        _raise_other_kind(path, start, file_bytes)
    if 8 + length > file_bytes:
        raise _truncated(path, 8 + length - file_bytes)
    return length


def _truncated(path: Path, missing_bytes: int) -> UnreadableFile:
    return UnreadableFile(f"{path} is cut short: {missing_bytes} bytes are missing. Download or copy it again")


# ---------------------------------------------------------------------------------------------- files of another kind

CONVERT = (
    "which could run code when opened and is never loaded here. Convert it once with ComfyUI (nodes Load Checkpoint, "
    "Save Checkpoint), which writes safetensors, or take the safetensors download"
)
START_BYTES = 512
"""What is looked at to tell a file's kind: the first block of a tar."""
OTHER_KINDS: Final = tuple(
    (re.compile(pattern, re.DOTALL), kind)
    for pattern, kind in (
        (rb"GGUF", "a GGUF file, quantised for inference: training needs the safetensors file that it came from"),
        (rb"\x80[\x02-\x05]", f"a PyTorch pickle, {CONVERT}"),
        (rb"PK\x03\x04", f"a ZIP archive. PyTorch writes a pickle into one, {CONVERT}. If you packed it, unpack it"),
        (rb".{257}ustar", f"a tar archive. Old PyTorch writes a pickle so, {CONVERT}. If you packed it, unpack it"),
        (rb"7z\xbc\xaf\x27\x1c|\x1f\x8b|\xfd7zXZ\0|BZh\d1AY|\x28\xb5\x2f\xfd|Rar!\x1a\x07", "an archive: unpack it"),
        (rb"version https://git-lfs", "a Git LFS pointer, not the file itself: git lfs pull"),
        (
            rb"(?:\xef\xbb\xbf)?\s*<(?i:!doctype|!--|html|head|body|\?xml)",
            "a web page: the download was not let in. Log in or accept the model's licence, and download again",
        ),
        (rb'\s*\{.*"weight_map"', "the list of a model's files, not the model: give the folder that holds them"),
        (rb'(?:\xef\xbb\xbf)?\s*\{\s*"', "JSON text, not weights: give the file (or the whole folder) of the model"),
        (rb"\0{16}", "all zeros at its start, as a download that never ended leaves it: download it again"),
        (rb"\Z", "empty: download or copy it again"),
    )
)
"""By their first bytes."""


def _raise_other_kind(path: Path, start: bytes, file_bytes: int) -> NoReturn:
    length = int.from_bytes(start[:8], "little")
    if path.name.endswith(".index.json"):
        raise UnreadableFile(f"{path} is the list of a model's files, not the model: give the folder that holds them")
    for pattern, kind in OTHER_KINDS:
        if pattern.match(start):
            raise UnreadableFile(f"{path} is {kind}")
    if start[8:9] == b"{":
        raise _damaged(path, f"its header claims {length} bytes, of {MAX_HEADER_BYTES} at the most")
    raise UnreadableFile(f"{path} is not a safetensors file ({file_bytes} bytes): download or convert it again")


# ------------------------------------------------------------------------------------------------------ the JSON part


def _entries(path: Path, raw: bytes) -> dict[str, Any]:
    """The JSON object, which is bounded in values before it is made."""
    if sum(map(raw.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise _damaged(path, f"its header holds more than {MAX_VALUES} values, and no model has that many")
    try:
        entries: dict[str, Any] = json.loads(raw.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
        if b"\\u" in raw:  # may be half a character, which no name can hold and nothing can print
            json.dumps(entries, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its header is not JSON ({error})") from error
    return entries


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ValueError("a name appears twice")
    return entries


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")


def _damaged(path: Path, reason: str) -> UnreadableFile:
    return UnreadableFile(f"{path} is damaged: {reason}. Download or convert it again")


def _metadata(path: Path, metadata: object) -> dict[str, str]:
    if metadata is None:
        return {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _damaged(path, "its __metadata__ is not an object of strings")
    return metadata


def _tensors(path: Path, entries: Mapping[str, Any], *, data_begin: int) -> dict[str, Tensor]:
    """Raises UnreadableFile, which names the tensor."""
    tensors = {}
    for name, entry in entries.items():
        try:
            dtype, shape, begin, size = _checked(entry)
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(path, f"the entry of tensor {name[:200]!r} makes no sense") from error
        if not _fills(dtype, shape, size):
            words = f"tensor {name[:200]!r} has {size} bytes, which {dtype[:20]} {list(shape)} does not fill"
            raise _damaged(path, words)
        tensors[name] = Tensor(dtype, shape, data_begin + begin, size)
    return tensors


def _checked(entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    """Type, shape, first byte after the header, bytes. Raises KeyError, TypeError or ValueError."""
    dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    sizes = [*shape, begin, end]
    if type(dtype) is not str or type(shape) is not list or len(shape) > MAX_DIMENSIONS:
        raise TypeError
    if not ONLY_INT.issuperset(map(type, sizes)) or min(sizes) < 0 or max(sizes) >= 2**63:
        raise ValueError
    return dtype, tuple(shape), begin, end - begin


ONLY_INT: Final = frozenset({int})
"""True is an int to isinstance, and not to us."""


def _fills(dtype: str, shape: tuple[int, ...], size: int) -> bool:
    """Whether the numbers need exactly that many bytes; of no numbers, the shape must be one that can be."""
    elements = math.prod(shape)
    if elements == 0 and math.prod(filter(None, shape)) >= 2**63:
        return False
    return size >= 0 and (dtype not in BITS or elements * BITS[dtype] == size * 8)


def _check_spans(path: Path, tensors: Mapping[str, Tensor], *, data_begin: int, file_bytes: int) -> None:
    """The numbers lie one behind the other, without gaps, to the end of the file."""
    spans = sorted(map(itemgetter(2, 3), tensors.values()))
    for (before, size), (begin, _) in pairwise([(0, data_begin), *spans]):
        if begin != before + size:
            raise _damaged(
                path, "its tensors overlap" if begin < before + size else "there are gaps between its tensors"
            )
    end = sum(spans[-1]) if spans else data_begin
    if end > file_bytes:
        raise _truncated(path, end - file_bytes)
    if end < file_bytes:
        raise _damaged(path, f"{file_bytes - end} bytes follow its last tensor")
