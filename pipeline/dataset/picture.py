"""Reads one picture whole, and its caption, and says what is wrong with either."""

from __future__ import annotations

import hashlib
import struct
import zlib
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from PIL import Image

from pipeline.records import Picture

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif")
ORIENTATION_TAG = 0x0112
ORIENTATIONS = range(1, 9)
QUARTER_TURNS = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""
MAX_PIXELS = 178_956_970
"""Twice Pillow's own warning threshold, where it takes a picture for a decompression bomb."""
MAX_CAPTION_BYTES = 65_536

DAMAGED = (
    *(OSError, SyntaxError, ValueError, EOFError, ArithmeticError, LookupError, TypeError, AttributeError, MemoryError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)
"""What Pillow's decoders raise for hostile files; they are many authors' work and keep to no one kind of error."""


class Flaw(Enum):
    """Why a file can't be trained on."""

    unreadable = "can't be read whole"
    no_caption = "has no caption"
    bad_caption = "has a caption that can't be read"


@dataclass(frozen=True, slots=True)
class Flawed:
    """A picture that can't be trained on."""

    path: Path
    flaw: Flaw
    reason: str = ""


def read_picture(path: Path, caption_extension: str) -> Picture | Flawed:
    """Decodes every pixel, so that a file that is cut short is found here and not in the middle of the training."""
    try:
        digest, width_px, height_px, orientation = _decode(path)
    except DAMAGED as error:
        return Flawed(path, Flaw.unreadable, _short(error))
    caption = _read_caption(path.with_suffix(caption_extension))
    if isinstance(caption, Flaw):
        return Flawed(path, caption)
    return Picture(path, caption, width_px, height_px, digest, orientation)


def _decode(path: Path) -> tuple[str, int, int, int]:
    """Digest of the bytes, the size in pixels as a viewer shows it, and how the viewer turns it for that."""
    if not path.is_file():
        raise OSError("not a regular file")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        with Image.open(file) as image:
            width_px, height_px = image.size
            if width_px * height_px > MAX_PIXELS:
                raise ValueError(f"{width_px} x {height_px} px, of {MAX_PIXELS} pixels at the most")
            image.load()
            orientation = image.getexif().get(ORIENTATION_TAG, 1)
    if orientation in QUARTER_TURNS:
        width_px, height_px = height_px, width_px
    return digest, width_px, height_px, orientation if orientation in ORIENTATIONS else 1


def _short(error: BaseException) -> str:
    """Pillow names the open file object in some messages, which says nothing to a person."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error).partition("\n")[0]
    return "not a picture" if "cannot identify image file" in text else text or type(error).__name__


def _read_caption(path: Path) -> str | Flaw:
    """UTF-8, with or without a byte-order mark; a caption without a word is none."""
    if path.exists() and not path.is_file():  # a pipe would be waited for without end
        return Flaw.bad_caption
    try:
        with path.open("rb") as file:
            caption = file.read(MAX_CAPTION_BYTES + 1)
        if len(caption) > MAX_CAPTION_BYTES or b"\0" in caption:
            return Flaw.bad_caption
        return caption.decode("utf-8-sig").strip() or Flaw.no_caption
    except FileNotFoundError:
        return Flaw.no_caption
    except (OSError, UnicodeDecodeError):
        return Flaw.bad_caption
