from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.checkpoint.header import MAX_NUMBERS, Header, Tensor, digest, read_header, read_numbers
from pipeline.errors import UnreadableFile
from pipeline.settings import PROJECT
from tests import given

ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def raw_file(path: Path, header: Any, data: bytes = b"", *, length: int | None = None) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(raw) if length is None else length).to_bytes(8, "little") + raw + data)
    return path


def told(path: Path) -> str:
    with pytest.raises(UnreadableFile) as caught:
        read_header(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.safetensors"


# ------------------------------------------------------------------------------------------------------ what is read


def test_types_shapes_places_and_metadata(path: Path) -> None:
    given.safetensors(path, {"w": ("F16", (2, 3)), "b": ("F32", (2,))}, metadata={"format": "pt"})
    header_bytes = int.from_bytes(path.read_bytes()[:8], "little")
    assert read_header(path) == Header(
        tensors={"w": Tensor("F16", (2, 3), 8 + header_bytes, 12), "b": Tensor("F32", (2,), 20 + header_bytes, 8)},
        metadata={"format": "pt"},
        file_bytes=path.stat().st_size,
        header_bytes=header_bytes,
    )
    assert read_header(path).tensors["w"].elements == 6


def test_the_weights_are_not_read(path: Path) -> None:
    raw_file(path, {"w": {"dtype": "U8", "shape": [2**43], "data_offsets": [0, 2**43]}})
    os.truncate(path, path.stat().st_size + 2**43)  # a hole of 8 TB
    assert read_header(path).tensors["w"].bytes == 2**43


def test_a_file_that_the_reference_library_wrote(path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    writer = pytest.importorskip("safetensors.numpy")
    weights = {"a": numpy.ones((2, 3), numpy.float32), "b": numpy.zeros((0, 4), numpy.int64), "c": numpy.float16([1])}
    writer.save_file(weights, path, metadata={"k": "v"})
    tensors = read_header(path).tensors
    assert {name: tensor.shape for name, tensor in tensors.items()} == {"a": (2, 3), "b": (0, 4), "c": (1,)}
    assert read_numbers(path, tensors["a"]) == (1.0,) * 6


@pytest.mark.parametrize("shape", [(0,), (3, 0, 2), ()])
def test_marks_without_numbers_and_scalars_are_legal(path: Path, shape: tuple[int, ...]) -> None:
    given.safetensors(path, {"v_pred": ("F32", shape), "w": ("F32", (2,))})
    assert read_header(path).tensors["v_pred"].shape == shape


def test_tensors_may_be_listed_in_any_order(path: Path) -> None:
    raw_file(path, {"late": ONE | {"data_offsets": [8, 16]}, "mark": ONE | {"shape": [0], "data_offsets": [8, 8]}})
    raw = {**json.loads(path.read_bytes()[8:]), "early": ONE}
    assert list(read_header(raw_file(path, raw, b"1" * 16)).tensors) == ["late", "mark", "early"]


def test_a_type_newer_than_the_table_is_taken(path: Path) -> None:
    raw_file(path, {"w": ONE | {"dtype": "F2"}}, b"12345678")
    assert read_header(path).tensors["w"].dtype == "F2"


@pytest.mark.parametrize("raw", [b"{}", b'{"__metadata__":null}', b'{"__metadata__":{}}  \n\t '])
def test_a_file_without_tensors_is_legal(path: Path, raw: bytes) -> None:
    assert read_header(raw_file(path, raw)).metadata == {}


# --------------------------------------------------------------------------------------------------- the weights, some


def test_the_digest_is_that_of_earlier_versions(path: Path) -> None:
    """Runs that were begun with them go on only where it is the same."""
    shapes = {"w": ("F32", (100_000,)), "v": ("F16", (3, 3))}
    given.safetensors(path, shapes, fill=b"\1", metadata={"format": "pt"})
    assert digest(path, read_header(path)) == "e5f6acec03a93b6759737f34760ced33ec3c3e0376150968d1938ea56e7e24f9"


def test_another_training_of_the_same_shapes_has_another_digest(tmp_path: Path) -> None:
    shapes = {"w": ("F32", (100_000,))}
    one = given.safetensors(tmp_path / "1.safetensors", shapes, fill=b"\1")
    two = given.safetensors(tmp_path / "2.safetensors", shapes, fill=b"\2")
    copy = Path(shutil.copy(one, tmp_path / "3.safetensors"))
    assert digest(one, read_header(one)) != digest(two, read_header(two))
    assert digest(one, read_header(one)) == digest(copy, read_header(copy))


@pytest.mark.parametrize(
    ("dtype", "raw"),
    [
        ("F32", struct.pack("<4f", 1.0, -2.5, 0.0, float("inf"))),
        ("F16", struct.pack("<4e", 1.0, -2.5, 0.0, float("inf"))),
        ("BF16", b"\x80\x3f\x20\xc0\x00\x00\x80\x7f"),
    ],
)
def test_numbers_of_a_small_tensor(path: Path, dtype: str, raw: bytes) -> None:
    entries = {"first": ONE, "w": {"dtype": dtype, "shape": [2, 2], "data_offsets": [8, 8 + len(raw)]}}
    raw_file(path, entries, b"\xff" * 8 + raw)
    assert read_numbers(path, read_header(path).tensors["w"]) == (1.0, -2.5, 0.0, float("inf"))


@pytest.mark.parametrize(("dtype", "size"), [("F32", MAX_NUMBERS + 1), ("I64", 1), ("F8_E4M3", 1)])
def test_numbers_of_other_tensors_are_refused(path: Path, dtype: str, size: int) -> None:
    given.safetensors(path, {"w": (dtype, (size,))})
    with pytest.raises(UnreadableFile, match="the numbers are not read here"):
        read_numbers(path, read_header(path).tensors["w"])


def test_numbers_that_were_cut_off_since_are_told(path: Path) -> None:
    given.safetensors(path, {"w": ("F32", (MAX_NUMBERS,))})
    tensor = read_header(path).tensors["w"]
    os.truncate(path, path.stat().st_size - 3)
    with pytest.raises(UnreadableFile, match="3 bytes are missing"):
        read_numbers(path, tensor)


def test_a_file_that_went_away_since_is_told(path: Path) -> None:
    header = read_header(given.safetensors(path, {"w": ("F32", (2,))}))
    path.unlink()
    with pytest.raises(UnreadableFile, match="no such file"):
        digest(path, header)
    with pytest.raises(UnreadableFile, match="no such file"):
        read_numbers(path, header.tensors["w"])


# ------------------------------------------------------------------------------------------------------ damaged files


@pytest.mark.parametrize("missing", [1, 17, 40])
def test_a_file_that_is_cut_short_says_how_much_is_missing(path: Path, missing: int) -> None:
    given.safetensors(path, {"w": ("F32", (10,))})
    os.truncate(path, path.stat().st_size - missing)
    assert f"{missing} bytes are missing" in told(path)


def test_a_file_cut_inside_its_header_says_how_much_is_missing(path: Path) -> None:
    given.safetensors(path, {"w": ("F32", (0,))})
    os.truncate(path, path.stat().st_size - 5)
    assert "5 bytes are missing" in told(path)


@pytest.mark.parametrize(
    ("header", "data", "said"),
    [
        (b"{nonsense", b"", "not JSON"),
        (b'{"\xff": 1}', b"", "not JSON ('utf-8' codec"),
        ('{"a": 1}'.encode("utf-16-le"), b"", "not JSON"),
        (b'{"\\ud800": 1}', b"", "surrogates not allowed"),
        (b'{"a": NaN}', b"", "NaN is no JSON"),
        (b'{"a": ' + b"1" * 10_000 + b"}", b"", "not JSON"),
        (b'{"a":' + b"[" * 100_000, b"", "not JSON"),
        (b'{"a":' * 100_000, b"", "not JSON"),
        (b'{"a": 1, "a": 2}', b"", "appears twice"),
        (b'{"a": {"dtype": "F32", "dtype": "F32"}}', b"", "appears twice"),
        (b"{} {}", b"", "not JSON"),
        ({"w": [1]}, b"", "makes no sense"),
        ({"w": None}, b"", "makes no sense"),
        ({"w": "text"}, b"", "makes no sense"),
        ({"w": {"dtype": "F32", "shape": [2]}}, b"12345678", "makes no sense"),
        ({"__metadata__": {"a": 1}}, b"", "object of strings"),
        ({"__metadata__": []}, b"", "object of strings"),
        ({"w": ONE | {"dtype": None}}, b"12345678", "makes no sense"),
        ({"w": ONE | {"shape": {}}}, b"12345678", "makes no sense"),
        ({"w": ONE | {"shape": ""}}, b"12345678", "makes no sense"),
        ({"w": ONE | {"shape": [2.0]}}, b"12345678", "makes no sense"),
        ({"w": ONE | {"shape": [True, True]}}, b"12345678", "makes no sense"),
        ({"w": ONE | {"shape": [-1, -2]}}, b"12345678", "makes no sense"),
        ({"w": ONE | {"shape": [2**63]}}, b"12345678", "makes no sense"),
        ({"w": ONE | {"shape": [1] * 65}}, b"12345678", "makes no sense"),
        ({"w": ONE | {"shape": [3]}}, b"12345678", "does not fill"),
        ({"w": ONE | {"shape": [2**62] * 64}}, b"12345678", "does not fill"),
        ({"w": ONE | {"shape": [2**62, 2**62, 0], "data_offsets": [0, 0]}}, b"", "does not fill"),
        ({"w": ONE | {"dtype": "F4", "shape": [3], "data_offsets": [0, 1]}}, b"1", "does not fill"),
        ({"w": ONE | {"data_offsets": [-8, 0]}}, b"", "makes no sense"),
        ({"w": ONE | {"data_offsets": [8, 0]}}, b"", "does not fill"),
        ({"w": ONE, "v": ONE | {"dtype": "X", "data_offsets": [8, 0]}}, b"", "does not fill"),
        ({"w": ONE | {"data_offsets": {"0": 0, "8": 8}}}, b"12345678", "makes no sense"),
        ({"w": ONE | {"data_offsets": [0, 8, 16]}}, b"", "makes no sense"),
        ({"w": ONE | {"data_offsets": "08"}}, b"", "makes no sense"),
        ({"w": ONE | {"data_offsets": [2**70, 2**70 + 8]}}, b"", "makes no sense"),
        ({"w": ONE | {"data_offsets": [2**62, 2**62 + 8]}}, b"", "gaps"),
        ({"w": ONE, "v": ONE}, b"12345678", "overlap"),
        ({"w": ONE, "v": ONE | {"shape": [1], "data_offsets": [4, 8]}}, b"12345678", "overlap"),
        ({"w": ONE, "v": ONE | {"data_offsets": [16, 24]}}, b"1" * 24, "gaps"),
        ({"w": ONE}, b"123456789", "1 bytes follow"),
        ({}, b"1", "1 bytes follow"),
    ],
)
def test_damaged_headers_are_told(path: Path, header: Any, data: bytes, said: str) -> None:
    words = told(raw_file(path, header, data))
    assert said in words
    assert "Download or convert it again" in words


def test_what_is_told_has_an_end(path: Path) -> None:
    assert len(told(raw_file(path, {"n" * 10_000: ONE | {"dtype": "d" * 10_000, "data_offsets": [8, 0]}}))) < 1000
    assert len(told(raw_file(path, {"n" * 10_000: 1}))) < 1000


@pytest.mark.parametrize("length", [100_000_001, 2**40, 2**64 - 1])
def test_a_header_that_claims_too_much_is_not_read(path: Path, length: int) -> None:
    assert f"claims {length} bytes, of 100000000 at the most" in told(raw_file(path, {"w": ONE}, length=length))


@pytest.mark.parametrize(
    "magic", [b"\x80\x02", b"PK\x03\x04", b"\x1f\x8b\x08\0", b"<", b"7z\xbc", b"BZh", b"{", b"\x0a\x0a\x0a"]
)
def test_a_header_whose_length_looks_like_another_file_is_read(path: Path, magic: bytes) -> None:
    """A header of 640 bytes begins like a pickle."""
    raw = json.dumps({"w": ONE}, separators=(",", ":")).encode().ljust(int.from_bytes(magic, "little"))
    raw_file(path, raw, b"12345678")
    assert path.read_bytes().startswith(magic)
    assert set(read_header(path).tensors) == {"w"}


BOMB = """
import resource, sys
from pathlib import Path
from pipeline.checkpoint.header import read_header
from pipeline.errors import UnreadableFile
resource.setrlimit(resource.RLIMIT_AS, (1_500_000_000,) * 2)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_header(Path(sys.argv[1]))
except UnreadableFile as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"{" + b",".join(b'"%x":{}' % i for i in range(1 << 22)) + b"}", "more than 2000000 values"),
        (b'{"a":[' + b",".join([b"[" * 500 + b"]" * 500] * 60_000) + b"]}", "more than 2000000 values"),
        (b'{"a":[' + b",".join([b'{"a":' * 400 + b"1" + b"}" * 400] * 4_900) + b"]}", "makes no sense"),
    ],
    ids=["entries", "nested", "as many as are allowed"],
)
def test_a_header_of_millions_of_values_takes_no_gigabytes(path: Path, raw: bytes, said: str) -> None:
    command = [sys.executable, "-c", BOMB, str(raw_file(path, raw))]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True, timeout=120)
    words, kilobytes = done.stdout.splitlines()
    assert said in words
    assert int(kilobytes) < 700_000


# ------------------------------------------------------------------------------------------------ what is not readable


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (b"GGUF\x03\0\0\0\x7b", "GGUF"),
        (b"PK\x03\x04" + b"\0" * 40, "ComfyUI"),
        *((b"\x80%c}q\0" % protocol + b"\0" * 40, "ComfyUI") for protocol in range(2, 6)),
        (b"storages".ljust(257, b"\0") + b"ustar\0" + b"\0" * 300, "ComfyUI"),
        (b"\x1f\x8b\x08\0\0\0\0\0\0\x03", "an archive: unpack it"),
        (b"7z\xbc\xaf\x27\x1c\0\4", "an archive: unpack it"),
        (b"<!DOCTYPE html><html>" + b" " * 40, "a web page"),
        (b"\n  <html lang=en>", "a web page"),
        (b'<?xml version="1.0"?><Error>', "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b'{\n  "metadata": {},\n  "weight_map": {"w": "1.safetensors"}}', "give the folder that holds them"),
        (b'{"error": "Invalid username or password."}', "JSON text, not weights"),
        (b"\0" * 600, "a download that never ended"),
        (b"", "is empty"),
        (b"abc", "not a safetensors file (3 bytes)"),
        (b"\2\0\0\0\0\0\0\0", "not a safetensors file (8 bytes)"),
        (b"\3\0\0\0\0\0\0\0 {}", "not a safetensors file (11 bytes)"),
        (b"hello, world, this is text", "not a safetensors file"),
    ],
)
def test_other_files_are_named_with_what_to_do(path: Path, start: bytes, said: str) -> None:
    path.write_bytes(start)
    assert said in told(path)


def test_the_list_of_shards_is_told_by_its_name(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"padding": " " * 1000}, "weight_map": {}}))
    assert "give the folder that holds them" in told(index)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_torch_wrote_is_not_loaded(path: Path, legacy: bool) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"w": torch.zeros(3)}, path, _use_new_zipfile_serialization=not legacy)
    assert "never loaded here" in told(path)


def test_a_folder(tmp_path: Path) -> None:
    assert "is a folder" in told(tmp_path)


def test_no_file(path: Path) -> None:
    assert "there is no such file" in told(path)
    assert "there is no such file" in told(Path("a\0b"))
    assert "Not a directory" in told(given.safetensors(path, {}) / "b")
    assert "File name too long" in told(path.with_name("a" * 300))


@pytest.fixture
def special_files(tmp_path: Path) -> Iterator[list[Path]]:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        yield [tmp_path / "pipe", tmp_path / "socket", Path("/dev/zero"), Path("/dev/null")]


def test_pipes_sockets_and_devices_are_refused_without_waiting(special_files: list[Path]) -> None:
    for special in special_files:
        assert "is no regular file" in told(special)


def test_links(tmp_path: Path, path: Path) -> None:
    link = tmp_path / "link.safetensors"
    link.symlink_to(path)
    assert f"a link to {path}, which is not there" in told(link)
    given.safetensors(path, {"w": ("F32", (2,))})
    assert set(read_header(link).tensors) == {"w"}


def test_links_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert "a link that leads in a circle" in told(tmp_path / "a")


def test_a_file_that_may_not_be_read(path: Path) -> None:
    given.safetensors(path, {"w": ("F32", (2,))}).chmod(0)
    user = os.geteuid()
    if user == 0:  # who may read everything
        os.seteuid(65534)
    try:
        assert "this user may not read it" in told(path)
    finally:
        os.seteuid(user)
