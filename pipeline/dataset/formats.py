"""Which files are taken for pictures: what Pillow reads, without documents, films, and what starts other programs."""

from __future__ import annotations

import struct
import zlib
from functools import cache
from importlib import import_module
from importlib.util import find_spec

from PIL import Image

PLUGINS = ("pillow_jxl",)
"""Packages that teach Pillow a format by being imported; none of them is needed."""
NO_PICTURES = frozenset(
    (
        *("EPS", "PDF", "WMF"),  # documents; Ghostscript is started for the first
        *("MPEG", "FLI"),  # films
        *("BUFR", "FITS", "GRIB", "HDF5", "IPTC", "MCIDAS", "SPIDER"),  # measurements, or only their heads are read
        *("CUR", "ICNS", "ICO", "GBR", "XVTHUMB"),  # what desktops and editors leave in folders
        "PSD",  # a work in layers, its picture beside it
    )
)
USUAL = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""Tried first: a file is asked in turn whether it is of a format."""
DAMAGED = (
    *(OSError, SyntaxError, ValueError, EOFError, ArithmeticError, LookupError, TypeError, AttributeError, MemoryError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)
"""What Pillow's decoders raise for hostile files; they are many authors' work and keep to no one kind of error."""


@cache
def formats() -> tuple[str, ...]:
    """Pillow's names of them, whatever a file's name says: a PDF that calls itself PNG is not opened as one."""
    for plugin in PLUGINS:
        if find_spec(plugin) is not None:
            import_module(plugin)
    Image.init()
    readable = set(Image.OPEN) - NO_PICTURES
    return (*(name for name in USUAL if name in readable), *sorted(readable - set(USUAL)))


@cache
def endings() -> tuple[str, ...]:
    """Of file names, in lower case, with their dots."""
    known = {*formats(), "MPO"}  # which is opened as a JPEG
    return tuple(sorted(ending for ending, name in Image.registered_extensions().items() if name in known))


def short(error: BaseException) -> str:
    """Pillow names the open file object in some messages, which says nothing to a person."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error).partition("\n")[0]
    return "not a picture" if "cannot identify image file" in text else text or type(error).__name__
