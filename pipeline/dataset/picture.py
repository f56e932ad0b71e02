"""Reads one picture whole, and its caption, and says what is wrong with either."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from PIL import Image

from pipeline.dataset.formats import DAMAGED, formats, short
from pipeline.dataset.pixels import as_rgb, flattened, load, orientation_of, upright
from pipeline.records import Picture

QUARTER_TURNS = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""
MAX_CAPTION_BYTES = 65_536
SAMPLED_PX = 128
"""Of a larger picture's shorter side, at least so many pixels are taken: averaging all would take a tenth of the
decoding, and finds no more copies (tried on copies saved anew, resized and lightened)."""
REDUCED_PX = 64
"""The shorter side that the perceptual hash is made from: twice what it resizes to."""
REDUCIBLE = ("L", "RGB", "CMYK", "YCbCr")
"""Modes that are made smaller as they are; the others are converted before."""
SERIES = ("MPO", "TIFF")
"""Formats whose further frames are no animation: a second eye or a gain map, pages."""


class Flaw(Enum):
    """Why a file can't be trained on."""

    unreadable = "can't be read whole"
    bad_name = "has a name that is not UTF-8"
    no_caption = "has no caption"
    bad_caption = "has a caption that can't be read"
    bad_mask = "has no mask"


@dataclass(frozen=True, slots=True)
class Flawed:
    """A picture that can't be trained on."""

    path: Path
    flaw: Flaw
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Look:
    """What the bytes of a picture's file tell."""

    digest: str
    """SHA-256 of them."""
    width_px: int
    """Of the upright picture, as the height."""
    height_px: int
    orientation: int
    """Of EXIF, 1 to 8."""
    mode: str
    """Pillow's, of the stored pixels: RGB, P, CMYK, I;16."""
    alike: int
    """Perceptual hash of 64 bits: pictures that look alike differ in few of them."""
    blank: bool
    """All pixels have one colour."""
    animated: bool


def look_at(path: Path) -> Look | Flawed:
    """All that there is to be known of the picture without its caption. Decodes every pixel, so that a file that is cut
    short is found here and not in the middle of the training."""
    if not is_utf8(str(path)):
        return Flawed(path, Flaw.bad_name)
    try:
        check_regular(path.stat().st_mode)
        return _decoded(path)
    except DAMAGED as error:
        return Flawed(path, Flaw.unreadable, why(path, error))


def captioned(
    path: Path, look: Look, *, caption_extension: str, listed: str | None = None, otherwise: str = ""
) -> Picture | Flawed:
    """With the caption that is `listed`, the one beside the picture, or the one that pictures without have."""
    caption = _checked(listed) if listed else _read_caption(os.path.splitext(path)[0] + caption_extension)  # noqa: PTH122 - a few times faster
    if caption is Flaw.no_caption and otherwise:
        caption = otherwise
    if isinstance(caption, Flaw):
        return Flawed(path, caption)
    return Picture(path, caption, look.width_px, look.height_px, look.digest, look.orientation)


def check_regular(mode: int) -> None:
    """Raises OSError for what is no file: a pipe would be waited for without end."""
    if not stat.S_ISREG(mode):
        raise OSError("is a folder" if stat.S_ISDIR(mode) else "not a regular file")


def why(path: Path, error: BaseException) -> str:
    """In the words of the system, but for links."""
    if isinstance(error, FileNotFoundError) and path.is_symlink():
        return "a link to what is not there"
    if isinstance(error, OSError) and error.errno == errno.ELOOP:
        return "a link that leads to itself"
    return short(error)


def is_utf8(name: str) -> bool:
    """False for a name with bytes that Python carries through as lone surrogates: no JSON or TOML file can hold it."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def named(path: Path | str) -> str:
    r"""To be shown: as it is, but bytes that are not UTF-8 as \xff."""
    return os.fsencode(path).decode("utf-8", errors="backslashreplace")


# ------------------------------------------------------------------------------------------------------------ pixels


def _decoded(path: Path) -> Look:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        with Image.open(file, formats=formats()) as image:
            animated = image.format not in SERIES and bool(getattr(image, "is_animated", False))
            load(image)
            orientation = orientation_of(image)
            alike, blank = _seen(image, orientation)
            width_px, height_px = image.size
            mode = image.mode
    if orientation in QUARTER_TURNS:
        width_px, height_px = height_px, width_px
    return Look(digest, width_px, height_px, orientation, mode, alike, blank, animated)


def _seen(image: Image.Image, orientation: int) -> tuple[int, bool]:
    """The perceptual hash, and whether all is of one colour. Both of the picture made small; only one that is blank
    when small is looked at as it is."""
    import numpy as np
    from imagehash import phash  # takes numpy and scipy, which a scan of known pictures has no need of

    small = _small(image)
    if _is_uniform(small) and _is_uniform(flattened(image)):
        return 0, True
    bits = phash(upright(as_rgb(small), orientation)).hash
    return int.from_bytes(np.packbits(bits).tobytes(), "big"), False


def _small(image: Image.Image) -> Image.Image:
    """In a mode of 8 bits, without transparency."""
    step = max(1, min(image.size) // SAMPLED_PX)
    if step > 1:
        image = image.resize((image.width // step, image.height // step), Image.Resampling.NEAREST)
    flat = flattened(image)
    flat = flat if flat.mode in REDUCIBLE else as_rgb(flat)
    return flat.reduce(max(1, min(flat.size) // REDUCED_PX))


def _is_uniform(image: Image.Image) -> bool:
    extrema = image.getextrema()
    bands = extrema if isinstance(extrema[0], tuple) else (extrema,)
    return all(low == high for low, high in bands)


# ----------------------------------------------------------------------------------------------------------- caption

READ_ONLY = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
"""A pipe would be waited for without end."""


def _read_caption(path: str) -> str | Flaw:
    """UTF-8, with or without a byte-order mark; a caption without a word is none."""
    try:
        caption = _first_bytes(path)
        if len(caption) > MAX_CAPTION_BYTES or b"\0" in caption:
            return Flaw.bad_caption
        return caption.decode("utf-8-sig").strip() or Flaw.no_caption
    except FileNotFoundError:
        return Flaw.no_caption
    except (OSError, UnicodeDecodeError):
        return Flaw.bad_caption


def _checked(caption: str) -> str | Flaw:
    if len(caption.encode(errors="surrogatepass")) > MAX_CAPTION_BYTES or "\0" in caption or not is_utf8(caption):
        return Flaw.bad_caption
    return caption.strip() or Flaw.no_caption


def _first_bytes(path: str) -> bytes:
    """Up to one byte more than a caption may have; what is no file can't be read."""
    descriptor = os.open(path, READ_ONLY)
    try:
        check_regular(os.fstat(descriptor).st_mode)
        found = b""
        while len(found) <= MAX_CAPTION_BYTES and (more := os.read(descriptor, MAX_CAPTION_BYTES + 1 - len(found))):
            found += more
        return found
    finally:
        os.close(descriptor)
