from __future__ import annotations

import os
import random
import re
import shutil
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image, features

from pipeline.dataset.holdout import split
from pipeline.dataset.prompts import choose_prompts
from pipeline.dataset.scan import scan
from pipeline.errors import Problem
from pipeline.records import Dataset
from pipeline.settings import Data
from tests import given

AVIF = ["avif"] if features.check("avif") else []
"""Pillow reads it from 11.3 on."""


def data(folder: Path, heldout_dir: Path | None = None, *, fraction: float = 0.0, extension: str = ".txt") -> Data:
    aside = None if heldout_dir is None else str(heldout_dir)
    return Data("folder", str(folder), aside, fraction, extension, None)


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
