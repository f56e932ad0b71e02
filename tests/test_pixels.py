"""Pictures of every kind that Pillow writes, read as a trainer sees them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageDraw

from pipeline.dataset.pixels import opened
from pipeline.errors import UnreadableFile

Colour = tuple[int, ...]


def saved(folder: Path, image: Image.Image, name: str = "a.png", **options: Any) -> Path:
    image.save(folder / name, **options)
    return folder / name


def colour(path: Path, at: tuple[int, int] = (0, 0)) -> Colour:
    image = opened(path)
    assert image.mode == "RGB"
    found = image.getpixel(at)
    assert isinstance(found, tuple)
    return tuple(int(part) for part in found)


def is_near(one: Colour, other: Colour, *, by: int = 2) -> bool:
    return all(abs(a - b) <= by for a, b in zip(one, other, strict=True))


def test_plain_colours_stay_as_they_are(tmp_path: Path) -> None:
    assert colour(saved(tmp_path, Image.new("RGB", (2, 2), (10, 20, 30)))) == (10, 20, 30)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_made_upright(tmp_path: Path, orientation: int) -> None:
    """A picture whose top left is red: stored as the camera held it, told by EXIF how to turn it."""
    wanted = Image.new("RGB", (12, 6), "black")
    ImageDraw.Draw(wanted).rectangle((0, 0, 2, 2), "red")
    turn = Image.Transpose
    stored = {
        1: lambda picture: picture,
        2: lambda picture: picture.transpose(turn.FLIP_LEFT_RIGHT),
        3: lambda picture: picture.transpose(turn.ROTATE_180),
        4: lambda picture: picture.transpose(turn.FLIP_TOP_BOTTOM),
        5: lambda picture: picture.transpose(turn.TRANSPOSE),
        6: lambda picture: picture.transpose(turn.ROTATE_90),
        7: lambda picture: picture.transpose(turn.TRANSVERSE),
        8: lambda picture: picture.transpose(turn.ROTATE_270),
    }[orientation](wanted)
    exif = Image.Exif()
    exif[0x0112] = orientation
    seen = opened(saved(tmp_path, stored, exif=exif))
    assert (seen.size, seen.tobytes()) == (wanted.size, wanted.tobytes())


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path: Path, name: str) -> None:
    values = np.array([[0, 300, 32768, 65535]], dtype=np.uint16)
    path = saved(tmp_path, Image.fromarray(values), name)
    assert [colour(path, (x, 0))[0] for x in range(4)] == [0, 1, 128, 255]


@pytest.mark.parametrize(
    ("values", "grey"),
    [([0.0, 0.5, 1.0], [0, 128, 255]), ([0.0, 100.0, 255.0], [0, 100, 255]), ([-1.0, 0.0, 1.0], [0, 128, 255])],
    ids=["fractions", "bytes", "negative"],
)
def test_floating_point_grey_is_scaled_by_what_it_holds(tmp_path: Path, values: list[float], grey: list[int]) -> None:
    path = saved(tmp_path, Image.fromarray(np.array([values], dtype=np.float32)), "a.tif")
    assert [colour(path, (x, 0))[0] for x in range(3)] == grey


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    image.putpixel((1, 0), (255, 0, 0, 128))
    path = saved(tmp_path, image)
    assert colour(path) == (255, 255, 255)
    assert is_near(colour(path, (1, 0)), (255, 127, 127))


@pytest.mark.parametrize("mode", ["LA", "P", "PA"])
def test_transparency_of_greys_and_palettes_lies_on_white(tmp_path: Path, mode: str) -> None:
    """PA is written by none of Pillow's formats: a palette with one transparent entry stands for it."""
    if mode == "LA":
        path = saved(tmp_path, Image.new("LA", (2, 2), (0, 0)))
    else:
        image = Image.new("P", (2, 2), 1)
        image.putpalette([0, 0, 0, 9, 9, 9])
        path = saved(tmp_path, image, "a.gif" if mode == "PA" else "a.png", transparency=1)
    assert colour(path) == (255, 255, 255)


def test_a_palette_becomes_its_colours(tmp_path: Path) -> None:
    image = Image.new("P", (2, 2), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    assert colour(saved(tmp_path, image)) == (200, 100, 50)


def test_black_and_white_is_read(tmp_path: Path) -> None:
    assert colour(saved(tmp_path, Image.new("1", (2, 2), 1))) == (255, 255, 255)


def test_cmyk_without_a_profile_becomes_red_green_and_blue(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "a.jpg", quality=100)
    assert is_near(colour(path), (255, 0, 0))


def test_lab_becomes_red_green_and_blue(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.new("LAB", (4, 4), (128, 128, 128)), "a.tif")
    red, green, blue = colour(path)
    assert max(red, green, blue) - min(red, green, blue) <= 3
    assert 100 < green < 140


def rgb_profile(*, red_and_green_swapped: bool) -> bytes:
    """sRGB under a name of its own, by its bytes; with two colorants exchanged it means other colours."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    if red_and_green_swapped:
        red, green = profile.index(b"rXYZ", 128), profile.index(b"gXYZ", 128)
        profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(profile).replace("sRGB".encode("utf-16-be"), "mine".encode("utf-16-be"))


def test_a_profile_that_is_not_srgb_is_converted(tmp_path: Path) -> None:
    image = Image.new("RGB", (2, 2), (200, 50, 30))
    path = saved(tmp_path, image, icc_profile=rgb_profile(red_and_green_swapped=True))
    assert is_near(colour(path), (50, 200, 30), by=3)


def test_a_profile_is_used_under_transparency_and_for_grey(tmp_path: Path) -> None:
    profile = rgb_profile(red_and_green_swapped=True)
    clear = saved(tmp_path, Image.new("RGBA", (2, 2), (200, 50, 30, 255)), "clear.png", icc_profile=profile)
    grey = saved(tmp_path, Image.new("L", (2, 2), 120), "grey.png", icc_profile=profile)
    assert is_near(colour(clear), (50, 200, 30), by=3)
    assert is_near(colour(grey), (120, 120, 120), by=2)


def test_srgb_changes_nothing(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = saved(tmp_path, Image.new("RGB", (2, 2), (200, 51, 33)), icc_profile=profile)
    assert colour(path) == (200, 51, 33)


@pytest.mark.parametrize("damage", ["garbage", "another kind"])
def test_a_profile_that_can_not_be_used_is_left_out_of_account(tmp_path: Path, damage: str) -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    profile = b"no profile" if damage == "garbage" else lab
    assert colour(saved(tmp_path, Image.new("RGB", (2, 2), (1, 2, 3)), icc_profile=profile)) == (1, 2, 3)


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tif"])
def test_the_first_frame_is_taken(tmp_path: Path, name: str) -> None:
    frames = [Image.new("RGB", (8, 8), shade) for shade in ("red", "blue", "green")]
    options = {"lossless": True} if name.endswith("webp") else {}
    path = saved(tmp_path, frames[0], name, save_all=True, append_images=frames[1:], **options)
    assert colour(path) == (255, 0, 0)


def test_what_can_not_be_decoded_is_told(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.effect_noise((64, 64), 50))
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(UnreadableFile, match="can't be decoded"):
        opened(path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(UnreadableFile, match="not a regular file"):
        opened(tmp_path / "a.png")


def test_a_document_that_calls_itself_a_picture_is_not_opened(tmp_path: Path) -> None:
    """Pillow would start Ghostscript for it."""
    Image.new("RGB", (2, 2)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with pytest.raises(UnreadableFile, match="not a picture"):
        opened(tmp_path / "a.png")
