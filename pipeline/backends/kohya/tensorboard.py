"""Reads the scalars of TensorBoard event files while they are written.

Read here and not by the library `tensorboard`: that brings 50 MB and four packages more (grpcio and a server binary
among them) for what is a frame with a checksum and six protobuf fields. Formats:
https://www.tensorflow.org/tutorials/load_data/tfrecord (frames, masked crc32c) and tensorflow's event.proto and
summary.proto (fields). `tests/kohya_events/` has a file that torch's own SummaryWriter wrote.

Only `simple_value` is read: it is what accelerate's tracker writes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PATTERN = "events.out.tfevents.*"
FRAME_HEAD = struct.Struct("<QI")
CHECKSUM = struct.Struct("<I")
VARINT, FIXED_64, BYTES, FIXED_32 = 0, 1, 2, 5
"""Wire types of protobuf."""
EVENT_TIME, EVENT_STEP, EVENT_SUMMARY = 1, 2, 5
SUMMARY_VALUE = 1
VALUE_TAG, VALUE_SIMPLE = 1, 2


class Scalar(NamedTuple):
    """One number of one step."""

    tag: str
    step: int
    value: float
    time: float
    """Seconds since the epoch."""


class EventFile:
    """One event file, read on from where the last call ended."""

    def __init__(self, path: Path, *, offset: int = 0) -> None:
        self.path = path
        self.offset = offset
        self.is_damaged = False
        """A length does not match its checksum: what follows can't be found any more."""

    def new_scalars(self) -> Iterator[Scalar]:
        """Of whole records; one that is still being written comes with a later call."""
        if self.is_damaged:
            return
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                raw = file.read()
        except OSError:
            return
        for data in self._records(raw):
            try:
                yield from _scalars(data)
            except (IndexError, struct.error, ValueError):  # not an event: the next one may be
                continue

    def _records(self, raw: bytes) -> Iterator[memoryview]:
        """Payloads whose checksum is right."""
        view, position = memoryview(raw), 0
        while len(raw) - position >= FRAME_HEAD.size:
            length, checksum = FRAME_HEAD.unpack_from(raw, position)
            if masked_crc32c(view[position : position + 8]) != checksum:
                self.is_damaged = True
                return
            begin = position + FRAME_HEAD.size
            end = begin + length
            if len(raw) < end + CHECKSUM.size:
                return
            position = end + CHECKSUM.size
            self.offset += position - (begin - FRAME_HEAD.size)
            if masked_crc32c(view[begin:end]) == CHECKSUM.unpack_from(raw, end)[0]:
                yield view[begin:end]


class EventFolder:
    """All event files under a folder, those that come later too; what was there at the beginning is left out."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files = {path: EventFile(path, offset=path.stat().st_size) for path in folder.rglob(PATTERN)}

    def new_scalars(self) -> list[Scalar]:
        for path in sorted(self._folder.rglob(PATTERN)):
            self._files.setdefault(path, EventFile(path))
        return [scalar for file in self._files.values() for scalar in file.new_scalars()]

    def damaged(self) -> list[Path]:
        return [path for path, file in self._files.items() if file.is_damaged]


class _Field(NamedTuple):
    """One field of a message."""

    number: int
    integer: int
    """Of a varint; 0 for the others."""
    data: memoryview
    """Of the others; empty for a varint."""


def _scalars(event: memoryview) -> Iterator[Scalar]:
    time, step = 0.0, 0
    summaries = []
    for field in _fields(event):
        if field.number == EVENT_TIME:
            (time,) = struct.unpack("<d", field.data)
        elif field.number == EVENT_STEP:
            step = field.integer - (1 << 64) if field.integer >> 63 else field.integer
        elif field.number == EVENT_SUMMARY:
            summaries.append(field.data)
    for summary in summaries:
        for field in _fields(summary):
            tag, simple = _value(field.data) if field.number == SUMMARY_VALUE else ("", None)
            if simple is not None:
                yield Scalar(tag, step, simple, time)


def _value(message: memoryview) -> tuple[str, float | None]:
    tag, simple = "", None
    for field in _fields(message):
        if field.number == VALUE_TAG:
            tag = bytes(field.data).decode(errors="replace")
        elif field.number == VALUE_SIMPLE:
            simple = _as_written(*struct.unpack("<f", field.data))
    return tag, simple


def _as_written(single: float) -> float:
    """0.0001 and not 9.999999747378752e-05: a float32 has seven digits."""
    return float(f"{single:.7g}")


def _fields(message: memoryview) -> Iterator[_Field]:
    """Raises IndexError or ValueError for what is no message."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        if key & 7 == VARINT:
            integer, position = _varint(message, position)
            yield _Field(key >> 3, integer, message[:0])
            continue
        length, position = _length(message, position, key & 7)
        if position + length > len(message):
            raise ValueError("a field is longer than its message")
        yield _Field(key >> 3, 0, message[position : position + length])
        position += length


def _length(message: memoryview, position: int, wire: int) -> tuple[int, int]:
    if wire == BYTES:
        return _varint(message, position)
    if wire in (FIXED_64, FIXED_32):
        return (8 if wire == FIXED_64 else 4), position
    raise ValueError(f"wire type {wire}")


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position
        if shift > 63:
            raise ValueError("a number is too long")


# -------------------------------------------------------------------------------------------------------- checksum


def masked_crc32c(data: bytes | memoryview) -> int:
    """As TFRecord stores it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _entry(byte: int) -> int:
    for _ in range(8):
        byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_TABLE = tuple(_entry(byte) for byte in range(256))
