"""Files that nobody wrote on purpose, and the reference reader as the measure of which of them are valid.

The reader is the safetensors library. It differs from `read_header` where DIFFERENCES says so, and nowhere else.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open

from pipeline.checkpoint.header import BITS, Header, digest, read_header, read_numbers
from pipeline.errors import UnreadableFile

FUZZ = settings(deadline=None, derandomize=True, database=None)
"""The same files on every machine: what fails, fails for everybody."""


class Said(NamedTuple):
    """What a reader says of a file; the places in the file are not told by the library."""

    tensors: dict[str, tuple[str, tuple[int, ...]]]
    metadata: dict[str, str]


def ours(path: Path) -> Said | str:
    """What is in the file, or why it is refused."""
    try:
        header = read_header(path)
    except UnreadableFile as error:
        return str(error)
    return Said({name: (t.dtype, t.shape) for name, t in header.tensors.items()}, dict(header.metadata))


def theirs(path: Path) -> Said | str:
    try:
        with safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            tensors = {name: (str(s.get_dtype()), tuple(s.get_shape())) for name, s in slices.items()}
            return Said(tensors, file.metadata() or {})
    except (SafetensorError, OSError) as error:
        return str(error)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "a.safetensors"


def write(path: Path, raw: bytes, data: bytes, *, length: int | None = None) -> Path:
    path.write_bytes((len(raw) if length is None else length).to_bytes(8, "little") + raw + data)
    return path


# --------------------------------------------------------------------------------------------------- where they differ

ENTRY = b'"dtype":"F32","shape":[2],"data_offsets":[0,8]'
EMPTY = b'{"w":{"dtype":"F32","shape":[%b],"data_offsets":[0,0]}}'
DIFFERENCES = {
    # refused here only: the format wants it otherwise, whatever the library lets pass
    "a header that begins with a space": (b' {"w":{%b}}' % ENTRY, 8, "not a safetensors file"),
    "a tensor's name twice": (b'{"w":{%b},"w":{%b}}' % (ENTRY, ENTRY), 8, "appears twice"),
    "a metadata key twice": (b'{"__metadata__":{"a":"1","a":"2"}}', 0, "appears twice"),
    "an unused key twice": (b'{"w":{%b,"x":1,"x":2}}' % ENTRY, 8, "appears twice"),
    "an entry that is a list": (b'{"w":["F32",[2],[0,8]]}', 8, "makes no sense"),
    "a type that is an object": (b'{"w":{%b}}' % ENTRY.replace(b'"F32"', b'{"F32":null}'), 8, "makes no sense"),
    # refused here only: neither numpy nor torch can make such a tensor
    "more than 64 dimensions": (EMPTY % b",".join([b"0"] * 65), 0, "makes no sense"),
    "a size of 2^63": (EMPTY % b"0,9223372036854775808", 0, "makes no sense"),
    "no numbers, but more than 2^63 without its zeros": (EMPTY % b"0,4294967296,4294967296", 0, "does not fill"),
    # refused by the library only: the program runs with versions of it that know other types
    "an unknown type": (b'{"w":{%b}}' % ENTRY.replace(b"F32", b"F2"), 8, None),
    # refused by the library only: another reader of JSON, and no writer writes so
    "a zero with a sign": (b'{"w":{%b}}' % ENTRY.replace(b"[0,", b"[-0,"), 8, None),
    "an unused number that is too large": (b'{"w":{%b,"x":1e400}}' % ENTRY, 8, None),
    "an unused value that is nested": (b'{"w":{%b,"x":%b}}' % (ENTRY, b"[" * 200 + b"]" * 200), 8, None),
}
"""Header, bytes of weights, and what is said where it is refused here."""


@pytest.mark.parametrize(("raw", "size", "said"), DIFFERENCES.values(), ids=DIFFERENCES)
def test_the_differences_to_the_library(path: Path, raw: bytes, size: int, said: str | None) -> None:
    here, there = ours(write(path, raw, b"\1" * size)), theirs(path)
    if said is None:
        assert isinstance(here, Said) and isinstance(there, str)
    else:
        assert isinstance(there, Said) and isinstance(here, str) and said in here


def excused(raw: bytes, here: Said | str, there: Said | str) -> bool:
    """One of the differences that a mutation may hit upon."""
    if isinstance(there, str):
        return any(said in there for said in ("unknown variant", "floating point `-0", "number out of range"))
    absurd = any(int(digits) >= 2**31 for digits in re.findall(rb"\d+", raw))
    return raw[8:9] != b"{" or "appears twice" in here or absurd


# ----------------------------------------------------------------------------------------------------------- the files

SIZES = st.one_of(st.integers(0, 3), st.sampled_from([8, 16]))
TENSORS = st.dictionaries(
    st.one_of(st.sampled_from(["w", "v_pred", "ztsnr", "model.diffusion_model.out.2.weight"]), st.text(max_size=4)),
    st.tuples(st.sampled_from(sorted(BITS)), st.lists(SIZES, max_size=4)),
    max_size=5,
)
METADATA = st.one_of(st.none(), st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=3))


@st.composite
def headers(draw: st.DrawFn) -> tuple[dict[str, Any], int]:
    """A valid header, its entries in any order, and the bytes that its tensors take."""
    entries: list[tuple[str, Any]] = []
    end = 0
    for name, (dtype, shape) in draw(TENSORS).items():
        sizes = shape if BITS[dtype] % 8 == 0 else [4, *shape]
        begin, bits = end, BITS[dtype]
        for size in sizes:
            bits *= size
        end += bits // 8
        entries.append((name, {"dtype": dtype, "shape": sizes, "data_offsets": [begin, end]}))
    metadata = draw(METADATA)
    if metadata is not None:
        entries.append(("__metadata__", metadata))
    return dict(draw(st.permutations(entries))), end


@st.composite
def texts(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A valid header as text, spaced and escaped in any way, and weights."""
    header, size = draw(headers())
    separators = draw(st.sampled_from([None, (",", ":"), ("\n,\t", " : ")]))
    raw = json.dumps(header, ensure_ascii=draw(st.booleans()), separators=separators).encode(errors="replace")
    raw += draw(st.sampled_from([b"", b" ", b"       ", b"\n"]))
    return raw, draw(st.binary(min_size=min(size, 64), max_size=min(size, 64))).ljust(size, b"\1")


@st.composite
def changed_numbers(draw: st.DrawFn) -> bytes:
    """A valid file, with a number of its header replaced."""
    raw, data = draw(texts())
    numbers = list(re.finditer(rb"\d+", raw))
    for number in draw(st.lists(st.sampled_from(numbers), max_size=2)) if numbers else []:
        other = draw(st.one_of(st.integers(-2, 40), st.sampled_from([2**31, 2**32, 2**62, 2**63, 2**64, 10**30])))
        raw = raw[: number.start()] + b"%d" % other + raw[number.end() :]
    return len(raw).to_bytes(8, "little") + raw + data


def instead_of(piece: bytes) -> st.SearchStrategy[bytes]:
    """Something else in a piece's place."""
    flipped = (bytes([piece[0] ^ (1 << bit)]) + piece[1:] for bit in range(8)) if piece else ()
    words = (b"", b"{", b"]", b",", b'"', b"null", b"1.0", b"\\ud800", b"\xff", b"F2")
    return st.one_of(st.sampled_from([piece * 2, *flipped]), st.sampled_from(words), st.binary(max_size=3))


@st.composite
def spliced(draw: st.DrawFn) -> bytes:
    """A valid file with flipped bits, pieces cut out, doubled or put in, or its end cut off."""
    raw, data = draw(texts())
    content = bytearray(len(raw).to_bytes(8, "little") + raw + data)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        end = at + draw(st.integers(1, 12))
        content[at:end] = draw(instead_of(bytes(content[at:end])))
    if draw(st.booleans()):  # the length of what the header is now, so that more of them come as far as its JSON
        length = max(0, len(content) - 8 - len(data))
        content[:8] = length.to_bytes(8, "little")
    return bytes(content[: draw(st.one_of(st.none(), st.integers(0, len(content))))])


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=4)),
    max_leaves=6,
)
HOSTILE_ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.one_of(st.sampled_from(["F32", "F16", "F4", "X"]), JSON),
        "shape": st.one_of(st.lists(st.one_of(st.integers(0, 4), st.integers(-1, 2**70)), max_size=70), JSON),
        "data_offsets": st.one_of(st.tuples(SIZES, SIZES), st.lists(st.integers(-9, 2**65), max_size=3), JSON),
    },
)
HOSTILE_HEADER = st.dictionaries(
    st.one_of(st.just("__metadata__"), st.text(max_size=5)), st.one_of(HOSTILE_ENTRY, JSON), max_size=5
)


# ----------------------------------------------------------------------------------------------------------- the tests


@settings(FUZZ, max_examples=100)
@given(text=texts())
def test_valid_files_are_read_as_the_library_reads_them(path: Path, text: tuple[bytes, bytes]) -> None:
    here = ours(write(path, *text))
    assert isinstance(here, Said), here
    assert here == theirs(path)


@settings(FUZZ, max_examples=800)
@given(content=st.one_of(changed_numbers(), spliced()))
def test_changed_files_are_taken_and_refused_as_the_library_does(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    here, there = ours(path), theirs(path)
    event("refused" if isinstance(here, str) else "read")
    if isinstance(here, str) == isinstance(there, str):
        assert isinstance(here, str) or here == there
    else:
        assert excused(content, here, there), (content, here, there)


@settings(FUZZ, max_examples=300)
@given(header=HOSTILE_HEADER, data=st.binary(max_size=20), error=st.sampled_from([0, 0, 0, 1, -1, 2**63]))
def test_hostile_headers_raise_nothing_else(path: Path, header: dict[str, Any], data: bytes, error: int) -> None:
    raw = json.dumps(header).encode()
    whatever_is_read(write(path, raw, data, length=max(0, len(raw) + error)))


@settings(FUZZ, max_examples=300)
@given(
    start=st.sampled_from([b"", b"\x80\x02", b"PK\x03\x04", b"GGUF", b"<", b"\7" + b"\0" * 7 + b"{"]),
    content=st.binary(max_size=600),
)
def test_any_bytes_raise_nothing_else(path: Path, start: bytes, content: bytes) -> None:
    path.write_bytes(start + content)
    whatever_is_read(path)


def whatever_is_read(path: Path) -> None:
    """Raises what it must not raise."""
    with suppress(UnreadableFile):
        header: Header = read_header(path)
        assert len(digest(path, header)) == 64
        for tensor in header.tensors.values():
            with suppress(UnreadableFile):
                assert len(read_numbers(path, tensor)) == tensor.elements
