"""Writes and reads the kinds of files that the real scripts leave to torch, safetensors, numpy, Pillow and
TensorBoard."""

import json
import os
import socket
import struct
import time
import zipfile
import zlib


def write_weights(path, metadata):
    """A safetensors file with one matrix."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    header = {"__metadata__": metadata} if metadata else {}
    header["lora_unet.lora_down.weight"] = {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]}
    raw = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw + bytes(32))


def write_torch_file(path, content=b""):
    """torch.save makes a zip."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", content)


def read_torch_file(path):
    with zipfile.ZipFile(path) as file:
        return file.read("archive/data.pkl")


def write_arrays(path, arrays):
    """As numpy.savez does: a zip with a .npy of bytes for each name."""
    with zipfile.ZipFile(path, "w") as file:
        for name, data in arrays.items():
            head = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({len(data)},), }}".ljust(117) + "\n"
            file.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + data)


def members_of(path):
    """Names of the arrays; an archive that can't be read ends the script, as numpy's error does."""
    if not os.path.exists(path):
        return set()
    with zipfile.ZipFile(path) as file:
        return {name.removesuffix(".npy") for name in file.namelist()}


def picture_size(path):
    """Width and height of a PNG; None for anything else."""
    with open(path, "rb") as file:
        head = file.read(24)
    return struct.unpack(">II", head[16:]) if head.startswith(b"\x89PNG") and len(head) == 24 else None


def write_picture(path):
    """A PNG of 8 by 8 grey pixels."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    rows = b"".join(b"\0" + bytes([128]) * 8 for _ in range(8))
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for kind, data in chunks:
            file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))


class EventWriter:
    """A TensorBoard event file: frames with masked crc32c around protobuf events."""

    def __init__(self, folder):
        os.makedirs(folder, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}.0"
        self.file = open(os.path.join(folder, name), "wb")  # noqa: SIM115
        self.frame(_time() + _text(3, b"brain.Event:2"))

    def write(self, step, scalars):
        """An event for each scalar, flushed after the last, as accelerate's tracker does."""
        for tag, value in scalars.items():
            summary = _text(1, _text(1, tag.encode()) + b"\x15" + struct.pack("<f", value))
            self.frame(_time() + b"\x10" + _varint(step) + _text(5, summary))
        self.file.flush()

    def tear(self):
        """Half a frame, as a process leaves it that is killed while it writes."""
        self.file.write(struct.pack("<Q", 100)[:5])
        self.file.flush()

    def frame(self, data):
        length = struct.pack("<Q", len(data))
        self.file.write(length + _masked_crc32c(length) + data + _masked_crc32c(data))


def _time():
    return b"\x09" + struct.pack("<d", time.time())


def _text(number, data):
    return bytes([number << 3 | 2]) + _varint(len(data)) + data


def _varint(value):
    raw = bytearray()
    while value > 0x7F:
        raw.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*raw, value])


def _masked_crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)
