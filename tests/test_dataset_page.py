"""The dataset as a page, and the contact sheet on it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given as each_of
from hypothesis import strategies
from PIL import Image

from pipeline.dataset.page import SHOWN_PICTURES, dataset_page
from pipeline.dataset.sheet import CELL_PX, MARGIN_PX, contact_sheet, kept_box
from pipeline.preflight import PAGE_NAME, dataset_page_file, write_page
from pipeline.records import Picture
from tests.conftest import PlanFor, demo_pictures

LENGTHS = strategies.integers(1, 400)


def flat(path: Path, size: tuple[int, int], *, colour: str = "white") -> Picture:
    Image.new("RGB", size, colour).save(path)
    return Picture(path, "a cat, <b>tag</b>", *size, "d" * 64)


def test_what_is_cut_off_is_dark_and_the_rest_is_as_it_was(tmp_path: Path) -> None:
    sheet = contact_sheet([(flat(tmp_path / "a.png", (400, 200)), (64, 64))])
    middle = MARGIN_PX + CELL_PX // 2
    assert sheet.getpixel((middle, middle)) == (255, 255, 255)
    assert max(sheet.getpixel((MARGIN_PX + 4, middle))) < 100  # type: ignore[arg-type]


@each_of(LENGTHS, LENGTHS, LENGTHS, LENGTHS)
def test_what_is_kept_lies_inside_of_the_picture(width: int, height: int, side_w: int, side_h: int) -> None:
    left, top, right, bottom = kept_box((width, height), (side_w, side_h))
    assert 0 <= left <= right <= width and 0 <= top <= bottom <= height
    assert (left, right) == (0, width) or (top, bottom) == (0, height)


def test_what_is_transparent_is_white_as_it_is_trained_on(tmp_path: Path) -> None:
    Image.new("RGBA", (64, 64), (255, 0, 0, 0)).save(tmp_path / "a.png")
    sheet = contact_sheet([(Picture(tmp_path / "a.png", "", 64, 64, "x"), (64, 64))])
    assert sheet.getpixel((MARGIN_PX + CELL_PX // 2, MARGIN_PX + CELL_PX // 2)) == (255, 255, 255)


def test_a_picture_that_is_gone_is_an_empty_cell(tmp_path: Path) -> None:
    there = flat(tmp_path / "a.png", (64, 64), colour="red")
    sheet = contact_sheet([(replace(there, path=tmp_path / "gone.png"), (64, 64)), (there, (64, 64))])
    assert sheet.getpixel((MARGIN_PX + CELL_PX // 2, MARGIN_PX + CELL_PX // 2)) == (255, 255, 255)


def test_captions_stand_on_the_page_as_text(tmp_path: Path, plan_for: PlanFor) -> None:
    dataset = replace(plan_for().dataset, train=(flat(tmp_path / "a.png", (64, 64)),))
    page = dataset_page(dataset, {64: [(each, (64, 64)) for each in dataset.train]}, flip=False)
    assert "&lt;b&gt;tag&lt;/b&gt;" in page and "<b>tag" not in page


def test_the_page_has_the_buckets_of_each_resolution_and_what_is_left_out(tmp_path: Path, plan_for: PlanFor) -> None:
    large, small = flat(tmp_path / "large.png", (128, 128)), flat(tmp_path / "small.png", (64, 64))
    dataset = replace(plan_for().dataset, train=(large, small))
    sides = {64: [(large, (64, 64)), (small, (64, 64))], 96: [(large, (96, 96))]}
    page = dataset_page(dataset, sides, flip=True)
    assert "at 64 and 96 px, each picture mirrored in half of the draws" in page
    first, second = page.split("Buckets at ")[1:]
    assert first.startswith("64 px: 1<") and "small.png and" not in first and "too small" not in first
    assert second.startswith("96 px: 1<")
    assert "1 picture too small for it, and trained at the other sizes only: small.png" in second


def test_the_page_is_made_anew_for_other_resolutions_and_flips(plan_for: PlanFor, tmp_path: Path) -> None:
    cache = f"cache.dir={tmp_path / 'cache'}"
    typed = ((), ("train.more_resolutions_px=[32]",), ("train.flip=true",))
    assert len({dataset_page_file(plan_for(cache, *words)) for words in typed}) == 3


def test_the_pictures_that_lose_most_are_shown_first(tmp_path: Path, plan_for: PlanFor) -> None:
    many = [flat(tmp_path / f"{n:03}.png", (64, 64)) for n in range(SHOWN_PICTURES + 5)]
    dataset = replace(plan_for().dataset, train=(*many, flat(tmp_path / "wide.png", (256, 64))))
    page = dataset_page(dataset, {64: [(each, (64, 64)) for each in dataset.train]}, flip=False)
    assert f"{SHOWN_PICTURES} of {len(dataset.train)}, the most cropped first" in page
    assert "<td>75 %</td><td>wide.png</td>" in page


def test_the_page_is_made_once_for_the_same_pictures_and_anew_for_others(
    tmp_path: Path, plan_for: PlanFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_for(f"cache.dir={tmp_path / 'cache'}")
    write_page(plan, tmp_path / "one")
    first = (tmp_path / "one" / PAGE_NAME).read_text()
    monkeypatch.setattr("pipeline.preflight.dataset_page", lambda *_, **__: "made anew")
    write_page(plan, tmp_path / "two")
    assert (tmp_path / "two" / PAGE_NAME).read_text() == first
    fewer = replace(plan, dataset=replace(plan.dataset, train=demo_pictures("train")[:3], digest="other"))
    write_page(fewer, tmp_path / "three")
    assert (tmp_path / "three" / PAGE_NAME).read_text() == "made anew"


def test_a_cache_that_cannot_be_written_costs_the_page_only(tmp_path: Path, plan_for: PlanFor) -> None:
    (tmp_path / "file").write_text("")
    told = write_page(plan_for(f"cache.dir={tmp_path / 'file' / 'cache'}"), tmp_path / "run")
    assert str(tmp_path / "file" / "cache") in told
    assert not (tmp_path / "run" / PAGE_NAME).exists()
