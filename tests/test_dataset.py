from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw, features

from pipeline.dataset import alike
from pipeline.dataset.alike import earlier, partners
from pipeline.dataset.formats import endings
from pipeline.dataset.holdout import split
from pipeline.dataset.prompts import choose_prompts
from pipeline.dataset.scan import scan
from pipeline.errors import Problem
from pipeline.records import Dataset
from pipeline.settings import Data, OnBad
from tests import given

AVIF = ["avif"] if features.check("avif") else []
"""Pillow reads it from 11.3 on."""


def data(folder: Path, heldout_dir: Path | None = None, *, fraction: float = 0.0, extension: str = ".txt") -> Data:
    aside = None if heldout_dir is None else str(heldout_dir)
    return given.data(folder, heldout_dir=aside, heldout_fraction=fraction, caption_extension=extension)


def scanned(folder: Path, heldout_dir: Path | None = None, *, fraction: float = 0.0) -> Dataset:
    found, problems = scan(data(folder, heldout_dir, fraction=fraction), threads=2)
    assert problems == ()
    assert found is not None
    return found


def problem(asked: Data) -> Problem:
    _, problems = scan(asked, threads=2)
    assert len(problems) == 1, problems
    return problems[0]


def many(folder: Path, count: int) -> list[Path]:
    return [given.picture(folder / f"{i:03}.png", f"caption {i}") for i in range(count)]


# ---------------------------------------------------------------------------------------------------------- reading


def test_pictures_are_found_in_order_with_captions_and_sizes(tmp_path: Path) -> None:
    given.picture(tmp_path / "b.jpg", "a dog")
    given.picture(tmp_path / "a" / "c.webp", "  a cat \n", size=(9, 5))
    dataset = scanned(tmp_path)
    assert [picture.path.name for picture in dataset.train] == ["c.webp", "b.jpg"]
    assert (dataset.train[0].caption, dataset.train[0].width_px, dataset.train[0].height_px) == ("a cat", 9, 5)


@pytest.mark.parametrize("ending", ["png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff", "gif", "PNG", *AVIF])
def test_every_format_is_read(tmp_path: Path, ending: str) -> None:
    given.picture(tmp_path / f"a.{ending}")
    assert len(scanned(tmp_path).train) == 1


def test_hidden_files_folders_and_other_files_are_left_out(tmp_path: Path) -> None:
    given.picture(tmp_path / "a.png")
    given.picture(tmp_path / "._a.png", None)
    given.picture(tmp_path / ".thumbnails" / "a.png", None)
    (tmp_path / "notes.md").write_text("hello")
    assert [picture.path.name for picture in scanned(tmp_path).train] == ["a.png"]


def test_a_turned_photo_has_the_size_that_a_viewer_shows(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "a.jpg", exif=exif)
    (tmp_path / "a.txt").write_text("a cat")
    picture = scanned(tmp_path).train[0]
    assert (picture.width_px, picture.height_px) == (4, 8)


def test_a_byte_order_mark_is_no_part_of_the_caption(tmp_path: Path) -> None:
    given.picture(tmp_path / "a.png", None)
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfein M\xc3\xa4dchen")
    assert scanned(tmp_path).train[0].caption == "ein Mädchen"


def test_a_relative_folder_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given.picture(tmp_path / "pictures" / "a.png")
    monkeypatch.chdir(tmp_path)
    assert scanned(Path("pictures")).train[0].path == tmp_path / "pictures" / "a.png"


# ----------------------------------------------------------------------------------------------------- what is wrong


def test_a_missing_folder_is_told_with_what_is_there(tmp_path: Path) -> None:
    told = problem(data(tmp_path / "x" / "y"))
    assert told.key == "data.dir"
    assert f"no such folder ({tmp_path} is there)" in told.reason


def test_a_file_in_place_of_the_folder_is_told(tmp_path: Path) -> None:
    path = given.picture(tmp_path / "a.png")
    assert problem(data(path)).reason == "is not a folder"


def test_a_folder_without_pictures_is_told(tmp_path: Path) -> None:
    assert "holds no pictures" in problem(data(tmp_path)).reason


def test_an_empty_heldout_folder_is_told_under_its_own_key(tmp_path: Path) -> None:
    given.picture(tmp_path / "train" / "a.png")
    (tmp_path / "heldout").mkdir()
    assert problem(data(tmp_path / "train", tmp_path / "heldout")).key == "data.heldout_dir"


def truncated(path: Path) -> None:
    given.picture(path, size=(64, 64))
    os.truncate(path, path.stat().st_size * 2 // 3)


def bomb(path: Path) -> None:
    """A PNG that claims 40000 x 40000 pixels."""
    head = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + head
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(head)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    path.write_bytes(start + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT")))


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.bmp", "a.gif"])
def test_a_picture_that_is_cut_short_is_found(tmp_path: Path, name: str) -> None:
    truncated(tmp_path / name)
    assert f"1 picture can't be read whole: {tmp_path / name}" in problem(data(tmp_path)).reason


def test_a_decompression_bomb_is_found_without_unpacking_it(tmp_path: Path) -> None:
    bomb(tmp_path / "a.png")
    assert "can't be read whole" in problem(data(tmp_path)).reason


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM" + b"\xff" * 60])
def test_what_is_no_picture_is_found(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    (tmp_path / "a.txt").write_text("a cat")
    assert "can't be read whole" in problem(data(tmp_path)).reason


def test_damaged_bytes_anywhere_are_told_and_never_raised(tmp_path: Path) -> None:
    rng = random.Random(0)
    for ending in ("png", "jpg", "webp", "gif", "tif", "bmp"):
        whole = given.picture(tmp_path / f"a.{ending}", size=(16, 16)).read_bytes()
        for i in range(40):
            broken = bytearray(whole)
            for _ in range(4):
                broken[rng.randrange(len(broken))] = rng.randrange(256)
            (tmp_path / f"{ending}{i}.{ending}").write_bytes(broken)
    scan(data(tmp_path), threads=2)


def test_the_first_five_are_named_and_the_rest_is_counted(tmp_path: Path) -> None:
    for i in range(8):
        (tmp_path / f"{i}.png").write_bytes(b"no picture")
    reason = problem(data(tmp_path)).reason
    assert reason.startswith("8 pictures can't be read whole")
    assert reason.endswith("... and 3 more")
    assert len(re.findall(r"\d\.png", reason)) == 5


def test_a_missing_caption_is_told_with_the_file_to_write(tmp_path: Path) -> None:
    given.picture(tmp_path / "a.png")
    given.picture(tmp_path / "b.png", None)
    told = problem(data(tmp_path))
    assert f"1 picture without a caption: {tmp_path / 'b.png'}" in told.reason
    assert str(tmp_path / "b.txt") in told.fix


def test_an_empty_caption_counts_as_missing(tmp_path: Path) -> None:
    given.picture(tmp_path / "a.png", " \n")
    assert "without a caption" in problem(data(tmp_path)).reason


def test_captions_under_another_ending_are_offered(tmp_path: Path) -> None:
    for path in many(tmp_path, 3):
        path.with_suffix(".txt").rename(path.with_suffix(".caption"))
    assert problem(data(tmp_path)).fix == "data.caption_extension=.caption"


@pytest.mark.parametrize("caption", [b"caf\xe9", "a cat".encode("utf-16"), b"x" * 100_000])
def test_a_caption_that_is_no_utf8_text_is_told(tmp_path: Path, caption: bytes) -> None:
    given.picture(tmp_path / "a.png", None)
    (tmp_path / "a.txt").write_bytes(caption)
    assert "can't be read as UTF-8 text" in problem(data(tmp_path)).reason


@pytest.mark.parametrize(("extension", "fix"), [("txt", ".txt"), ("", ".txt"), ("/x", ".x"), (".", ".txt")])
def test_a_caption_extension_without_its_dot_is_told(tmp_path: Path, extension: str, fix: str) -> None:
    given.picture(tmp_path / "a.png")
    assert problem(data(tmp_path, extension=extension)).fix == f"data.caption_extension={fix}"


def test_all_kinds_of_flaws_are_told_at_once(tmp_path: Path) -> None:
    given.picture(tmp_path / "a.png")
    given.picture(tmp_path / "b.png", None)
    truncated(tmp_path / "c.png")
    (given.picture(tmp_path / "d.png", None)).with_suffix(".txt").write_bytes(b"\xff")
    dataset, problems = scan(data(tmp_path), threads=2)
    assert len(problems) == 3
    assert dataset is not None
    assert [picture.path.name for picture in dataset.train] == ["a.png"]


# ---------------------------------------------------------------------------------------------------------- held out


def test_a_heldout_folder_is_scanned_alike(tmp_path: Path) -> None:
    given.picture(tmp_path / "train" / "a.png")
    given.picture(tmp_path / "heldout" / "b.png", "a dog")
    dataset = scanned(tmp_path / "train", tmp_path / "heldout", fraction=0.5)
    assert [picture.caption for picture in dataset.heldout] == ["a dog"]
    assert len(dataset.train) == 1


def test_a_picture_in_both_folders_is_told(tmp_path: Path) -> None:
    path = given.picture(tmp_path / "train" / "a.png")
    (tmp_path / "heldout").mkdir()
    for ending in (".png", ".txt"):
        shutil.copy(path.with_suffix(ending), (tmp_path / "heldout" / "other").with_suffix(ending))
    told = problem(data(tmp_path / "train", tmp_path / "heldout"))
    assert "held out and trained on as well" in told.reason
    assert "other.png" in told.reason


def test_the_heldout_share_is_chosen_by_content_not_by_name(tmp_path: Path) -> None:
    paths = many(tmp_path / "one", 20)
    for i, path in enumerate(paths):
        for ending in (".png", ".txt"):
            target = tmp_path / "two" / f"{99 - i}{ending}"
            target.parent.mkdir(exist_ok=True)
            shutil.copy(path.with_suffix(ending), target)
    one, two = scanned(tmp_path / "one", fraction=0.2), scanned(tmp_path / "two", fraction=0.2)
    assert len(one.heldout) == 4
    assert {picture.digest for picture in one.heldout} == {picture.digest for picture in two.heldout}


@pytest.mark.parametrize(
    ("count", "fraction", "heldout"),
    [(4, 0.5, 0), (5, 0.01, 1), (5, 0.9, 4), (5, 1.0, 4), (10, 0.0, 0), (10, 0.25, 2), (10, float("nan"), 0)],
)
def test_how_many_are_held_out(count: int, fraction: float, heldout: int) -> None:
    train, aside = split(given.pictures(count), fraction)
    assert (len(train), len(aside)) == (count - heldout, heldout)


def test_copies_of_a_picture_stay_on_one_side() -> None:
    pictures = given.pictures(6) * 2
    train, aside = split(pictures, 0.25)
    assert not {picture.digest for picture in train} & {picture.digest for picture in aside}
    assert len(aside) == 4


def test_copies_of_one_picture_are_all_trained_on() -> None:
    assert split(given.pictures(1) * 8, 0.5) == (given.pictures(1) * 8, ())


# ------------------------------------------------------------------------------------------------------------ digest


def test_the_digest_is_that_of_the_content_and_not_of_the_place(tmp_path: Path) -> None:
    many(tmp_path / "one", 3)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert scanned(tmp_path / "one").digest == scanned(tmp_path / "two").digest


def test_the_digest_follows_captions_pictures_and_the_split(tmp_path: Path) -> None:
    many(tmp_path, 6)
    digests = [scanned(tmp_path).digest, scanned(tmp_path, fraction=0.5).digest]
    (tmp_path / "000.txt").write_text("another caption")
    digests.append(scanned(tmp_path).digest)
    given.picture(tmp_path / "001.png", "caption 1", seed="another")
    digests.append(scanned(tmp_path).digest)
    assert len(set(digests)) == 4


# ----------------------------------------------------------------------------------------------------------- prompts


def test_asked_for_prompts_come_first() -> None:
    prompts, choice = choose_prompts(given.settings(sample__prompts=["a"], data__prompts=["b"]), given.dataset())
    assert (prompts, choice) == (("a",), None)


def test_no_prompts_may_be_asked_for() -> None:
    assert choose_prompts(given.settings(sample__prompts=[]), given.dataset())[0] == ()


def test_the_datasets_prompts_come_second() -> None:
    prompts, choice = choose_prompts(given.settings(data__prompts=["b"]), given.dataset())
    assert prompts == ("b",)
    assert choice is not None
    assert "data=demo" in choice.reason


def test_captions_of_heldout_pictures_come_third_evenly_spread() -> None:
    prompts, choice = choose_prompts(given.settings(data__prompts=None), given.dataset(24, 8))
    assert prompts == tuple(f"picture {i}" for i in (24, 26, 28, 30))
    assert choice is not None
    assert "held-out" in choice.reason


def test_examples_that_suit_the_model_are_the_last_resort() -> None:
    settings = given.settings(data__prompts=None)
    prompts, choice = choose_prompts(settings, given.dataset(24, 0))
    assert prompts == tuple(settings.model.known.prompts.examples)
    assert choice is not None
    assert settings.model.known.title in choice.reason


def test_heldout_pictures_without_captions_suggest_no_prompts() -> None:
    settings = given.settings(data__prompts=None)
    dataset = replace(given.dataset(), heldout=given.pictures(6, caption=""))
    assert choose_prompts(settings, dataset)[0] == tuple(settings.model.known.prompts.examples)


def test_a_caption_that_is_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    given.picture(tmp_path / "cat.png", caption=None)
    os.mkfifo(tmp_path / "cat.txt")
    assert "cat.txt" in str(problem(data(tmp_path))) or "cat.png" in str(problem(data(tmp_path)))


# ---------------------------------------------------------------------------------------- what is left out, if asked


def bad_pictures(folder: Path) -> dict[str, str]:
    """One of each kind, and what is said of it."""
    folder.mkdir()
    truncated(folder / "truncated.png")
    bomb(folder / "bomb.png")
    (folder / "empty.jpg").touch()
    (folder / "text.png").write_text("a text, not a picture")
    damaged = bytearray(given.picture(folder / "corrupt.png", size=(64, 64)).read_bytes())
    damaged[100:200] = bytes(100)
    (folder / "corrupt.png").write_bytes(damaged)
    Image.new("RGB", (2, 2)).save(folder / "document.eps")
    (folder / "document.eps").rename(folder / "document.png")
    (folder / "dangling.png").symlink_to("nothing.png")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "folder.png").mkdir()
    (folder / "to_folder.png").symlink_to("folder.png")
    os.mkfifo(folder / "pipe.png")
    for path in folder.iterdir():
        path.with_suffix(".txt").write_text("a cat")
    given.picture(folder / "no_caption.png", None)
    (given.picture(folder / "latin1.png", None)).with_suffix(".txt").write_bytes(b"caf\xe9")
    (given.picture(folder / "folder_caption.png", None)).with_suffix(".txt").mkdir()
    return {
        "truncated.png": "truncated",
        "bomb.png": "1600000000 pixels",
        **dict.fromkeys(("empty.jpg", "text.png", "document.png"), "not a picture"),
        "corrupt.png": "can't be read whole",
        "dangling.png": "a link to what is not there",
        "loop.png": "a link that leads to itself",
        **dict.fromkeys(("folder.png", "to_folder.png"), "is a folder"),
        "pipe.png": "not a regular file",
        "no_caption.png": "has no caption",
        **dict.fromkeys(("latin1.png", "folder_caption.png"), "has a caption that can't be read"),
    }


def good_pictures(folder: Path) -> set[str]:
    """What looks odd and is no mistake."""
    given.picture(folder / "plain.png")
    (folder / "linked.png").symlink_to("plain.png")
    given.picture(folder / "png_named.png").rename(folder / "png_named.jpg")
    (folder / "linked.txt").write_text("x" * 10_000)
    given.picture(folder / "name of a Mädchen, 猫.png")
    return {"plain.png", "linked.png", "png_named.jpg", "name of a Mädchen, 猫.png"}


def skipping(folder: Path) -> Data:
    return replace(data(folder), on_bad=OnBad.skip)


def test_every_bad_picture_is_left_out_with_its_reason_and_the_rest_is_there(tmp_path: Path) -> None:
    bad, good = bad_pictures(tmp_path / "in"), good_pictures(tmp_path / "in")
    dataset, problems = scan(skipping(tmp_path / "in"), threads=2)
    assert problems == ()
    assert dataset is not None
    assert {picture.path.name for picture in dataset.train} == good
    skipped = {Path(path).name: reason for path, reason in dataset.skipped}
    assert skipped.keys() == bad.keys()
    assert {name for name, reason in bad.items() if reason not in skipped[name]} == set()


def test_what_is_left_out_is_told_with_names_and_counts(tmp_path: Path) -> None:
    bad_pictures(tmp_path / "in"), good_pictures(tmp_path / "in")
    dataset, _ = scan(skipping(tmp_path / "in"), threads=2)
    assert dataset is not None
    told = [text for text in dataset.warnings if text.startswith("left out, by data.on_bad=skip")]
    assert [re.findall(r"(\d+) (?:picture|of the captions)", text)[0] for text in told] == ["11", "2", "1"]
    assert "... and 6 more" in told[0]
    assert "latin1.txt" in told[1]


def test_bad_pictures_are_problems_unless_asked_to_be_left_out(tmp_path: Path) -> None:
    bad_pictures(tmp_path / "in"), good_pictures(tmp_path / "in")
    dataset, problems = scan(data(tmp_path / "in"), threads=2)
    assert dataset is not None
    assert dataset.skipped == ()
    assert len(problems) == 3
    assert all("data.on_bad=skip" in each.fix for each in problems)


def test_where_nothing_would_be_left_the_problems_stay(tmp_path: Path) -> None:
    bad_pictures(tmp_path / "in")
    dataset, problems = scan(skipping(tmp_path / "in"), threads=2)
    assert dataset is None
    assert len(problems) == 3


def test_a_name_that_is_not_utf8_is_refused_and_shown_by_its_bytes(tmp_path: Path) -> None:
    given.picture(tmp_path / "a.png")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")).write_bytes((tmp_path / "a.png").read_bytes())
    told = problem(data(tmp_path))
    assert rf"{tmp_path}/caf\xe9.png" in told.reason
    assert str(told).encode(), "it can be printed"
    dataset, _ = scan(skipping(tmp_path), threads=2)
    assert dataset is not None
    assert dataset.skipped == ((rf"{tmp_path}/caf\xe9.png", "has a name that is not UTF-8"),)
    assert "".join(dataset.warnings).encode()


def test_a_folder_whose_name_is_not_utf8_is_refused(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    given.picture(folder / "a.png", seed=0)
    told = problem(data(folder))
    assert told.key == "data.dir"
    assert "not UTF-8" in told.reason
    assert str(told).encode()


def test_links_to_folders_are_told(tmp_path: Path) -> None:
    given.picture(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "more").symlink_to(tmp_path)
    dataset = scanned(tmp_path / "in")
    assert dataset.warnings == (f"links to folders are not followed: {tmp_path / 'in' / 'more'}",)


# ---------------------------------------------------------------------------------------------------------- warnings


def shapes(seed: int, *, side_px: int = 400) -> Image.Image:
    image, rng = Image.new("RGB", (side_px, side_px), "grey"), random.Random(seed)
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        left, top = (rng.randrange(side_px) for _ in range(2))
        box = (left, top, left + rng.randrange(9, side_px), top + rng.randrange(9, side_px))
        draw.ellipse(box, (rng.randrange(256), rng.randrange(256), rng.randrange(256)))
    return image


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    image.save(path, **options)
    path.with_suffix(".txt").write_text(f"picture {path.stem}")
    return path


def warned(folder: Path, heldout_dir: Path | None = None) -> str:
    (told,) = scanned(folder, heldout_dir).warnings
    return told


def test_pictures_of_many_kinds_are_no_reason_for_a_warning(tmp_path: Path) -> None:
    for i in range(8):
        saved(tmp_path / "train" / f"{i}.png", shapes(i))
        saved(tmp_path / "aside" / f"{i}.png", shapes(100 + i))
    assert scanned(tmp_path / "train", tmp_path / "aside").warnings == ()


def test_copies_among_the_pictures_to_train_on_are_told(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        given.picture(tmp_path / f"{name}.png", seed="one")
    told = warned(tmp_path)
    assert told.startswith("2 pictures trained on again as a copy")
    assert f"{tmp_path / 'b.png'} (of {tmp_path / 'a.png'})" in told


@pytest.mark.parametrize("change", ["saved anew", "smaller", "turned by EXIF"])
def test_a_held_out_picture_that_looks_like_a_trained_one_is_told(tmp_path: Path, change: str) -> None:
    for i in range(6):
        saved(tmp_path / "train" / f"{i}.png", shapes(i))
    options: dict[str, Any] = {"quality": 60}
    like = shapes(3)
    if change == "smaller":
        like = like.resize((150, 150))
    elif change == "turned by EXIF":
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = 6
        like = like.transpose(Image.Transpose.ROTATE_90)
    saved(tmp_path / "aside" / "x.jpg", like, **options)
    saved(tmp_path / "aside" / "y.jpg", shapes(77))
    told = warned(tmp_path / "train", tmp_path / "aside")
    assert told.startswith("1 picture held out that look like one trained on")
    assert f"{tmp_path / 'aside' / 'x.jpg'} (like {tmp_path / 'train' / '3.png'})" in told


def test_pictures_to_train_on_that_look_alike_are_told(tmp_path: Path) -> None:
    for i in range(4):
        saved(tmp_path / f"{i}.png", shapes(i))
    saved(tmp_path / "anew.jpg", shapes(2), quality=60)
    told = warned(tmp_path)
    assert told.startswith("1 picture to train on looks like another one")
    assert f"{tmp_path / 'anew.jpg'} (like {tmp_path / '2.png'})" in told or f"{tmp_path / '2.png'} (like" in told


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "CMYK", "I;16"])
def test_a_blank_picture_is_told(tmp_path: Path, mode: str) -> None:
    saved(tmp_path / "a.tif", Image.new(mode, (600, 500)))
    assert warned(tmp_path).startswith("1 picture of one colour only")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "L", "P", "1", "CMYK"])
def test_a_picture_of_any_mode_looks_like_its_copy_in_colours(tmp_path: Path, mode: str) -> None:
    saved(tmp_path / "train" / "a.png", shapes(3))
    saved(tmp_path / "aside" / "a.tif", shapes(3).convert(mode))
    assert "like one trained on" in warned(tmp_path / "train", tmp_path / "aside")


def test_one_pixel_of_another_colour_is_enough_not_to_be_blank(tmp_path: Path) -> None:
    image = Image.new("RGB", (1500, 1500))
    image.putpixel((701, 333), (1, 0, 0))
    saved(tmp_path / "a.png", image)
    assert scanned(tmp_path).warnings == ()


@pytest.mark.parametrize("ending", ["gif", "png", "webp"])
def test_an_animation_is_told(tmp_path: Path, ending: str) -> None:
    saved(tmp_path / f"a.{ending}", shapes(1), save_all=True, append_images=[shapes(2), shapes(3)])
    assert warned(tmp_path).startswith("1 picture with several frames, of which the first is taken")


def test_a_photo_with_a_second_picture_inside_is_no_animation(tmp_path: Path) -> None:
    saved(tmp_path / "a.mpo", shapes(1), save_all=True, append_images=[shapes(2)])
    (tmp_path / "a.mpo").rename(tmp_path / "a.jpg")
    assert scanned(tmp_path).warnings == ()


@pytest.mark.parametrize(("size", "odd"), [((81, 20), True), ((80, 20), False), ((20, 81), True)])
def test_a_very_long_picture_is_told(tmp_path: Path, size: tuple[int, int], odd: bool) -> None:
    saved(tmp_path / "a.png", shapes(1).resize(size))
    told = scanned(tmp_path).warnings
    assert [f"({size[0]} x {size[1]})" in text for text in told] == [True] * odd


# ----------------------------------------------------------------------------------------- pictures that look alike


def flipped(value: int, bits: int, rng: random.Random) -> int:
    for place in rng.sample(range(64), bits):
        value ^= 1 << place
    return value


@pytest.mark.parametrize("few", [0, 10**9], ids=["by bands", "one by one"])
def test_the_pairs_within_four_bits_are_found_and_no_others(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against all pairs, one by one."""
    monkeypatch.setattr(alike, "FEW_PAIRS", few)
    rng = random.Random(0)
    hashes = [rng.getrandbits(64) for _ in range(300)]
    others = [flipped(value, i % 8, rng) for i, value in enumerate(hashes)]
    found = partners(hashes, others)
    near = {i for i, one in enumerate(hashes) if any((one ^ other).bit_count() <= 4 for other in others)}
    assert found.keys() == near
    assert len(near) >= 5 * 300 // 8
    assert all((hashes[i] ^ others[j]).bit_count() <= 4 for i, j in found.items())


@pytest.mark.parametrize("few", [0, 10**9], ids=["by bands", "one by one"])
def test_each_finds_one_before_it_that_is_near(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alike, "FEW_PAIRS", few)
    rng = random.Random(1)
    first = [rng.getrandbits(64) for _ in range(200)]
    hashes = [*first, *(flipped(value, i % 8, rng) for i, value in enumerate(first))]
    found = earlier(hashes)
    near = {i for i, one in enumerate(hashes) if any((one ^ other).bit_count() <= 4 for other in hashes[:i])}
    assert found.keys() == near
    assert len(near) >= 5 * 200 // 8
    assert all(j < i and (hashes[i] ^ hashes[j]).bit_count() <= 4 for i, j in found.items())


@pytest.mark.parametrize("few", [-1, 10**9], ids=["by bands", "one by one"])
def test_nothing_looks_like_one_of_none(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alike, "FEW_PAIRS", few)
    assert (partners([], [1]), partners([1], []), partners([7], [7])) == ({}, {}, {0: 0})
    assert (earlier([]), earlier([1])) == ({}, {})


def test_the_digest_is_that_of_the_whole_list(tmp_path: Path) -> None:
    many(tmp_path / "b", 3), many(tmp_path / "a", 3)
    pictures = scanned(tmp_path).train
    listed = sorted(
        ("train", each.path.relative_to(tmp_path).as_posix(), each.digest, each.caption) for each in pictures
    )
    assert scanned(tmp_path).digest == hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def test_progress_is_told_of_every_picture(tmp_path: Path) -> None:
    many(tmp_path, 7)
    told: list[tuple[int, int]] = []
    scan(data(tmp_path), threads=2, progress=lambda done, pictures: told.append((done, pictures)))
    assert told == [(i, 7) for i in range(1, 8)]


def test_documents_films_and_icons_are_no_pictures() -> None:
    assert not {".eps", ".ps", ".pdf", ".mpg", ".psd", ".ico", ".h5"} & set(endings())
    assert {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".tga", ".jp2"} <= set(endings())
