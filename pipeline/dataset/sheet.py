"""A contact sheet: pictures as they will be cut, what is cut off shown dark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from pipeline.dataset.buckets import Side
from pipeline.dataset.formats import DAMAGED, formats
from pipeline.dataset.pixels import in_srgb, load, orientation_of, upright
from pipeline.records import Picture

CELL_PX = 200
LABEL_PX = 34
MARGIN_PX = 8
COLUMNS = 6
DARK = 0.3
"""Of its brightness that is left to what is cut off."""
FRAME = (230, 60, 40)


def contact_sheet(pictures: Sequence[tuple[Picture, Side]]) -> Image.Image:
    """In rows, each with its name and its sizes below. A picture that can't be read any more is an empty cell."""
    columns = min(COLUMNS, max(1, len(pictures)))
    rows = max(1, -(-len(pictures) // columns))
    width, height = CELL_PX + MARGIN_PX, CELL_PX + LABEL_PX + MARGIN_PX
    sheet = Image.new("RGB", (columns * width + MARGIN_PX, rows * height + MARGIN_PX), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for place, (picture, side) in enumerate(pictures):
        left, top = MARGIN_PX + place % columns * width, MARGIN_PX + place // columns * height
        drawn = _as_cut(picture, side)
        if drawn is not None:
            sheet.paste(drawn, (left + (CELL_PX - drawn.width) // 2, top + (CELL_PX - drawn.height) // 2))
        pen.text((left, top + CELL_PX + 2), _shortened(picture.path.name), font=font, fill="black")
        sizes = f"{picture.width_px} x {picture.height_px} -> {side[0]} x {side[1]}"
        pen.text((left, top + CELL_PX + 17), sizes, font=font, fill="gray")
    return sheet


def _as_cut(picture: Picture, side: Side) -> Image.Image | None:
    small = _small(picture.path)
    if small is None:
        return None
    box = kept_box(small.size, side)
    seen = small.point(lambda value: int(value * DARK))
    seen.paste(small.crop(box), box[:2])
    left, top, right, bottom = box
    ImageDraw.Draw(seen).rectangle((left, top, right - 1, bottom - 1), outline=FRAME)
    return seen


def kept_box(size: Side, side: Side) -> tuple[int, int, int, int]:
    """Left, top, right and bottom, in pixels of a picture of `size`, of what is left when it covers `side` and is
    cropped to the middle."""
    scale = max(side[0] / size[0], side[1] / size[1])
    width, height = (min(size[axis], round(side[axis] / scale)) for axis in (0, 1))
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return left, top, left + width, top + height


def _small(path: Path) -> Image.Image | None:
    """In the colours that are trained on."""
    try:
        with Image.open(path, formats=formats()) as opened:
            opened.draft("RGB", (CELL_PX * 2, CELL_PX * 2))  # of a JPEG only as much is decoded as is shown
            load(opened)
            turned = upright(in_srgb(opened), orientation_of(opened))
    except DAMAGED:
        return None
    turned.thumbnail((CELL_PX, CELL_PX))
    return ImageOps.scale(turned, max(1, CELL_PX // max(turned.size)), Image.Resampling.NEAREST)


def _shortened(name: str) -> str:
    return name if len(name) <= 32 else f"{name[:16]}...{name[-13:]}"
