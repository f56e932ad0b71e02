"""A picture's pixels as a trainer wants them: red, green and blue of sRGB, 8 bits each, upright, on white."""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageCms

from pipeline.dataset.formats import DAMAGED, formats, short
from pipeline.errors import UnreadableFile

MAX_PIXELS = 178_956_970
"""Twice Pillow's own warning threshold, where it takes a picture for a decompression bomb."""
ORIENTATION_TAG = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what makes the stored picture upright; 1 is upright."""
SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}
"""Colour space of an ICC profile -> the mode of the pictures that it describes."""


def opened(path: Path) -> Image.Image:
    """The first frame in mode RGB: upright as EXIF says, 16 bits scaled to 8, CMYK and what has an ICC profile other
    than sRGB converted by it (relative colorimetric), on white where transparent. Raises UnreadableFile."""
    try:
        if not path.is_file():
            raise OSError("not a regular file")
        return decoded(path.read_bytes())
    except DAMAGED as error:
        raise UnreadableFile(f"{path} can't be decoded: {short(error)}") from error


def decoded(data: bytes) -> Image.Image:
    """The same of a file's bytes. Raises one of DAMAGED."""
    with Image.open(io.BytesIO(data), formats=formats()) as image:
        load(image)
        return upright(in_srgb(image), orientation_of(image))


def mask_of(data: bytes, *, transparency: bool) -> Image.Image:
    """Mode L, upright: how light the picture of a file's bytes is, or how opaque. Raises one of DAMAGED."""
    with Image.open(io.BytesIO(data), formats=formats()) as image:
        load(image)
        mask = image.convert("RGBA").getchannel("A") if transparency else flattened(image).convert("L")
        return upright(mask, orientation_of(image))


def load(image: Image.Image) -> None:
    """Decodes all of the first frame. Raises one of DAMAGED, ValueError for more than MAX_PIXELS."""
    width_px, height_px = image.size
    if width_px * height_px > MAX_PIXELS:
        raise ValueError(f"{width_px} x {height_px} px, of {MAX_PIXELS} pixels at the most")
    image.load()


def orientation_of(image: Image.Image) -> int:
    """1 to 8, as EXIF has it; 1 for what it doesn't know."""
    orientation = image.getexif().get(ORIENTATION_TAG, 1)
    return orientation if orientation in TURNS else 1


def upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(TURNS[orientation]) if orientation in TURNS else image


def in_srgb(image: Image.Image) -> Image.Image:
    """RGB, of a picture that is loaded; a profile that can't be used is left out of account."""
    flat = flattened(image)
    profile = image.info.get("icc_profile")
    converted = _by_profile(flat, profile) if isinstance(profile, bytes) and profile else None
    return converted or as_rgb(flat)


def flattened(image: Image.Image) -> Image.Image:
    """L, RGB, CMYK or another mode of 8 bits, in the picture's own colours; on white where transparent."""
    if image.mode.startswith("I") or image.mode == "F":
        return _eight_bits(image)
    if not image.has_transparency_data:
        return image.convert("RGB") if image.mode in ("P", "RGBX") else image
    grey = image.mode in ("1", "L", "LA", "La")
    colours = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    paper = Image.new("RGBA", colours.size, "white")
    return Image.alpha_composite(paper, colours).convert("L" if grey else "RGB")


def as_rgb(flat: Image.Image) -> Image.Image:
    if flat.mode == "LAB":
        return _by_profile(flat, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()) or flat
    return flat.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of more bits: 0 to 65535, or fractions of 1; what goes beyond is taken from its darkest to its lightest."""
    import numpy as np

    values = np.nan_to_num(np.asarray(image).astype(np.float32))
    low, high = float(values.min()), float(values.max())
    white = 1.0 if image.mode == "F" and high <= 1 else 255.0 if image.mode == "F" and high <= 255 else 65535.0
    if low < 0 or high > white:
        values, white = values - low, high - low
    return Image.fromarray(np.rint(values * (255 / white)).astype(np.uint8))


# --------------------------------------------------------------------------------------------------------- profiles


def _by_profile(flat: Image.Image, profile: bytes) -> Image.Image | None:
    """None where the profile changes nothing, or belongs to another kind of picture."""
    try:
        mode, transform = _transform(profile)
        if transform is None or mode not in (flat.mode, "RGB") or (mode != flat.mode and flat.mode != "L"):
            return None
        return ImageCms.applyTransform(flat.convert(mode), transform)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, ImportError):  # damaged, or no LittleCMS here
        return None


@lru_cache(maxsize=16)
def _transform(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """The mode of pictures that it takes, and what makes sRGB of them; None for what is sRGB."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    mode = SPACES.get(source.profile.xcolor_space.strip(), "")
    if not mode or "srgb" in (source.profile.profile_description or "").lower():
        return mode, None
    transform = ImageCms.buildTransform(
        source,
        ImageCms.createProfile("sRGB"),
        mode,
        "RGB",
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    return mode, transform
