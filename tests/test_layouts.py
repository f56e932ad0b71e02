"""Folders of Kohya's, concepts, metadata files, regularisation pictures, masks."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from pipeline.checks.datasets import dataset_problems
from pipeline.dataset.epoch import samples_per_epoch
from pipeline.dataset.pixels import mask_of
from pipeline.dataset.scan import scan
from pipeline.errors import Problem
from pipeline.length import equation, steps_of
from pipeline.records import Dataset, Picture
from pipeline.settings import Concept, Layout, OnBad
from tests import given


def scanned(folder: Path, **values: Any) -> Dataset:
    found, problems = scan(given.data(folder, **values), threads=2)
    assert problems == ()
    assert found is not None
    return found


def problem(folder: Path, **values: Any) -> Problem:
    _, problems = scan(given.data(folder, **values), threads=2)
    assert len(problems) == 1, problems
    return problems[0]


def shown(dataset: Dataset) -> dict[str, tuple[int, str]]:
    return {picture.path.name: (picture.repeats, picture.caption) for picture in dataset.train}


# ------------------------------------------------------------------------------------------------- Kohya's folders


def test_kohyas_folders_say_repeats_and_what_pictures_without_a_caption_show(tmp_path: Path) -> None:
    given.picture(tmp_path / "10_sks cat" / "a.png", None)
    given.picture(tmp_path / "10_sks cat" / "below" / "b.png", "a cat on a mat")
    given.picture(tmp_path / "2_dog" / "c.png", "a dog")
    dataset = scanned(tmp_path)
    assert shown(dataset) == {"a.png": (10, "sks cat"), "b.png": (10, "a cat on a mat"), "c.png": (2, "a dog")}
    assert any("laid out as Kohya's: 10_sks cat (2), 2_dog (1)" in warning for warning in dataset.warnings)
    assert any("1 of 2 pictures" in warning and "'sks cat'" in warning for warning in dataset.warnings)


def test_numbers_of_folders_have_no_effect_where_pictures_lie_beside_them(tmp_path: Path) -> None:
    given.picture(tmp_path / "10_cat" / "a.png")
    given.picture(tmp_path / "b.png")
    dataset = scanned(tmp_path)
    assert [picture.repeats for picture in dataset.train] == [1, 1]
    assert any("their numbers have no effect" in warning for warning in dataset.warnings)
    told = problem(tmp_path, layout=Layout.kohya)
    assert (told.key, "b.png" in told.reason) == ("data.layout", True)


def test_layout_folder_shows_each_once(tmp_path: Path) -> None:
    given.picture(tmp_path / "10_cat" / "a.png")
    dataset = scanned(tmp_path, layout=Layout.folder)
    assert (shown(dataset), dataset.warnings) == ({"a.png": (1, "a cat")}, ())


def test_a_year_is_no_number_of_repeats(tmp_path: Path) -> None:
    given.picture(tmp_path / "2024_summer" / "a.png")
    given.picture(tmp_path / "2_cat" / "b.png")
    dataset = scanned(tmp_path)
    assert [picture.repeats for picture in dataset.train] == [1, 1]
    assert "since 2024_summer can't mean so many repeats" in dataset.warnings[0]
    assert "shown 2024 times" in problem(tmp_path, layout=Layout.kohya).reason


def test_a_folder_that_shows_its_pictures_never_is_told(tmp_path: Path) -> None:
    given.picture(tmp_path / "0_cat" / "a.png")
    assert "shown 0 times" in problem(tmp_path).reason


def test_repeats_and_masks_are_part_of_the_digest(tmp_path: Path) -> None:
    given.picture(tmp_path / "1_cat" / "a.png")
    digests = [scanned(tmp_path, layout=Layout.folder, repeats=repeats).digest for repeats in (1, 2)]
    assert digests[0] != digests[1]


# -------------------------------------------------------------------------------------------------------- concepts


def test_concepts_have_repeats_and_captions_of_their_own(tmp_path: Path) -> None:
    given.picture(tmp_path / "in" / "cat" / "a.png", None)
    given.picture(tmp_path / "in" / "other" / "left.png")
    given.picture(tmp_path / "elsewhere" / "b.png", "a dog")
    concepts = [Concept("cat", 4, "sks cat"), Concept(str(tmp_path / "elsewhere"))]
    dataset = scanned(tmp_path / "in", concepts=concepts, repeats=2)
    assert shown(dataset) == {"a.png": (4, "sks cat"), "b.png": (2, "a dog")}


def test_a_dataset_of_concepts_is_the_same_in_another_place(tmp_path: Path) -> None:
    for place in ("one", "two"):
        given.picture(tmp_path / place / "in" / "a.png", seed="a")
        given.picture(tmp_path / place / "out" / "b.png", seed="b")
    digests = {
        scanned(tmp_path / place / "in", concepts=[Concept("."), Concept(str(tmp_path / place / "out"))]).digest
        for place in ("one", "two")
    }
    assert len(digests) == 1


@pytest.mark.parametrize("inner", ["cat/small", "cat"])
def test_a_concept_inside_of_another_is_told(tmp_path: Path, inner: str) -> None:
    given.picture(tmp_path / "cat" / "small" / "a.png")
    _, problems = scan(given.data(tmp_path, concepts=[Concept("cat"), Concept(inner)]), threads=1)
    assert {each.key for each in problems} <= {"data.concepts[0].dir", "data.concepts[1].dir"}
    assert problems
    assert "shown too" in problems[-1].reason


def test_a_missing_concept_is_told_with_what_to_type(tmp_path: Path) -> None:
    given.picture(tmp_path / "cat" / "a.png")
    told = problem(tmp_path, concepts=[Concept("cat"), Concept("dgo")])
    assert (told.key, told.value) == ("data.concepts[1].dir", "dgo")
    assert "data.concepts=[{dir:FOLDER}" in told.fix


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"data__concepts": [Concept("a", 0)]}, "data.concepts[0].repeats"),
        ({"data__concepts": [Concept("a", 1, " ")]}, "data.concepts[0].caption"),
        ({"data__concepts": [Concept("a")], "data__layout": Layout.kohya}, "data.layout"),
        ({"data__reg_caption": "a cat"}, "data.reg_caption"),
        ({"data__caption": ""}, "data.caption"),
        ({"data__caption_column": "text", "data__metadata": "none"}, "data.caption_column"),
        ({"train__prior_loss_weight": 0.5}, "train.prior_loss_weight"),
    ],
)
def test_what_has_no_effect_is_told(values: dict[str, object], key: str) -> None:
    assert [each.key for each in dataset_problems(given.settings(**values))] == [key]


# -------------------------------------------------------------------------------------------------------- metadata


def write_metadata(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_captions_stand_in_a_metadata_file(tmp_path: Path, ending: str) -> None:
    given.picture(tmp_path / "a.png", None)
    given.picture(tmp_path / "b" / "c.png", None)
    rows = [{"file_name": "a.png", "text": 'a cat, "so"'}, {"file_name": "b/c.png", "text": "ein Mädchen"}]
    write_metadata(tmp_path / f"metadata.{ending}", rows)
    assert {name: caption for name, (_, caption) in shown(scanned(tmp_path)).items()} == {
        **{"a.png": 'a cat, "so"', "c.png": "ein Mädchen"}
    }


def test_a_metadata_file_holds_for_its_own_folder(tmp_path: Path) -> None:
    given.picture(tmp_path / "a" / "x.png", None)
    given.picture(tmp_path / "b" / "x.png", "beside")
    write_metadata(tmp_path / "a" / "metadata.jsonl", [{"file_name": "x.png", "caption": "listed"}])
    assert [picture.caption for picture in scanned(tmp_path).train] == ["listed", "beside"]


def test_what_is_listed_beats_what_lies_beside_and_that_is_said(tmp_path: Path) -> None:
    given.picture(tmp_path / "a.png", "beside")
    write_metadata(tmp_path / "metadata.jsonl", [{"file_name": "a.png", "text": "listed"}])
    dataset = scanned(tmp_path)
    assert dataset.train[0].caption == "listed"
    assert "1 captions beside pictures are not read" in dataset.warnings[0]
    assert scanned(tmp_path, metadata="none").train[0].caption == "beside"


def test_rows_without_a_picture_are_told(tmp_path: Path) -> None:
    given.picture(tmp_path / "a.png", None)
    rows = [{"file_name": "a.png", "text": "x"}, {"file_name": "../gone.png", "text": "y"}]
    write_metadata(tmp_path / "metadata.jsonl", rows)
    assert f"name no picture: {tmp_path.parent / 'gone.png'}" in scanned(tmp_path).warnings[0]


def test_a_picture_that_no_row_names_needs_a_caption_beside_it(tmp_path: Path) -> None:
    given.picture(tmp_path / "a.png", None)
    given.picture(tmp_path / "b.png", None)
    write_metadata(tmp_path / "metadata.jsonl", [{"file_name": "a.png", "text": "x"}])
    assert "b.png" in problem(tmp_path).reason


def test_a_column_is_chosen_by_name(tmp_path: Path) -> None:
    given.picture(tmp_path / "a.png", None)
    write_metadata(tmp_path / "metadata.csv", [{"file_name": "a.png", "text": "x", "long": "y"}])
    assert scanned(tmp_path, caption_column="long").train[0].caption == "y"
    _, problems = scan(given.data(tmp_path, caption_column="lnog"), threads=1)
    assert "no column lnog, only file_name, text, long" in problems[0].reason


def test_several_captions_of_a_row_are_lines(tmp_path: Path) -> None:
    given.picture(tmp_path / "a.png", None)
    write_metadata(tmp_path / "metadata.jsonl", [{"file_name": "a.png", "text": ["one", " two "]}])
    assert scanned(tmp_path).train[0].caption == "one\ntwo"


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("metadata.jsonl", b'{"file_name": "a.png", "text": "x"}\n{"file', "can't be read"),
        ("metadata.jsonl", b"[1]\n", "line 1 is no object"),
        ("metadata.jsonl", b'{"text": "x"}\n', "row 1 has no file_name, only text"),
        ("metadata.jsonl", b'{"file_name": "a.png", "text": 5}\n', "no text in its column text, but 5"),
        ("metadata.jsonl", b'{"file_name": "a.png"}\n', "no column text, caption, prompt"),
        ("metadata.jsonl", b'{"file_name": "a.png", "text": "\xff"}\n', "can't be read"),
        ("metadata.csv", b"file_name,text\n\0,x\n", "metadata.csv"),
        ("metadata.parquet", b"PAR1 no", "can't be read"),
        ("metadata.parquet", b"", "can't be read"),
    ],
)
def test_a_metadata_file_that_can_not_be_read_is_told(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    given.picture(tmp_path / "a.png")
    (tmp_path / name).write_bytes(content)
    dataset, problems = scan(given.data(tmp_path), threads=1)
    said = [f"{each.value} {each.reason}" for each in problems] + list(dataset.warnings if dataset else ())
    assert any(told in each for each in said), said


def test_two_captions_of_one_picture_are_told(tmp_path: Path) -> None:
    given.picture(tmp_path / "a.png", None)
    write_metadata(tmp_path / "metadata.jsonl", [{"file_name": "a.png", "text": each} for each in "xy"])
    _, problems = scan(given.data(tmp_path), threads=1)
    assert "two captions" in problems[0].reason


def test_a_named_metadata_file_is_read_from_its_own_place(tmp_path: Path) -> None:
    given.picture(tmp_path / "in" / "a.png", None)
    write_metadata(tmp_path / "lists" / "mine.jsonl", [{"file_name": "../in/a.png", "text": "x"}])
    asked = str(tmp_path / "lists" / "mine.jsonl")
    assert scanned(tmp_path / "in", metadata=asked).train[0].caption == "x"
    told = scan(given.data(tmp_path / "in", metadata=str(tmp_path / "gone.csv")), threads=1)[1][0]
    assert (told.key, "No such file" in told.reason) == ("data.metadata", True)


def test_a_metadata_file_that_is_nested_without_end_is_told(tmp_path: Path) -> None:
    given.picture(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text("[" * 200_000)
    _, problems = scan(given.data(tmp_path), threads=1)
    assert [each.key for each in problems] == ["data.metadata"]


def test_a_named_metadata_file_that_can_not_be_read_is_told_once(tmp_path: Path) -> None:
    for name in ("in", "aside", "reg"):
        given.picture(tmp_path / name / "a.png", seed=name)
    folders = {"heldout_dir": str(tmp_path / "aside"), "reg_dir": str(tmp_path / "reg")}
    _, problems = scan(given.data(tmp_path / "in", metadata=str(tmp_path / "gone.csv"), **folders), threads=1)
    assert [each.key for each in problems] == ["data.metadata"]


# -------------------------------------------------------------------------------------------------- regularisation


def test_regularisation_pictures_may_lie_otherwise_than_the_others(tmp_path: Path) -> None:
    given.picture(tmp_path / "in" / "2_cat" / "a.png")
    given.picture(tmp_path / "reg" / "x.png")
    dataset = scanned(tmp_path / "in", layout=Layout.kohya, reg_dir=str(tmp_path / "reg"))
    assert [picture.repeats for picture in (*dataset.train, *dataset.regularisation)] == [2, 1]
    given.picture(tmp_path / "reg2" / "3_cat" / "x.png")
    dataset = scanned(tmp_path / "in", layout=Layout.kohya, reg_dir=str(tmp_path / "reg2"))
    assert dataset.regularisation[0].repeats == 3
    assert any(warning.startswith("data.reg_dir is laid out as Kohya's") for warning in dataset.warnings)


def test_regularisation_pictures_stand_apart(tmp_path: Path) -> None:
    given.picture(tmp_path / "in" / "a.png")
    for name in "xyz":
        given.picture(tmp_path / "reg" / f"{name}.png", None)
    dataset = scanned(tmp_path / "in", reg_dir=str(tmp_path / "reg"), reg_caption="a photo of a cat")
    assert (len(dataset.train), len(dataset.regularisation)) == (1, 3)
    assert {picture.caption for picture in dataset.regularisation} == {"a photo of a cat"}
    assert any("only 1 of 3 regularisation pictures are shown" in warning for warning in dataset.warnings)
    assert dataset.digest != scanned(tmp_path / "in").digest


def test_what_is_trained_on_can_not_regularise(tmp_path: Path) -> None:
    given.picture(tmp_path / "in" / "a.png", seed="a")
    given.picture(tmp_path / "reg" / "b.png", seed="a")
    assert "for regularisation and trained on as well" in problem(tmp_path / "in", reg_dir=str(tmp_path / "reg")).reason


def test_a_regularisation_picture_without_caption_is_told_with_its_setting(tmp_path: Path) -> None:
    given.picture(tmp_path / "in" / "a.png")
    given.picture(tmp_path / "reg" / "b.png", None)
    assert "data.reg_caption" in problem(tmp_path / "in", reg_dir=str(tmp_path / "reg")).fix


# ----------------------------------------------------------------------------------------------------------- masks


def test_masks_lie_in_a_folder_under_the_pictures_names(tmp_path: Path) -> None:
    given.picture(tmp_path / "in" / "a.jpg")
    given.picture(tmp_path / "in" / "sub" / "a.png")
    given.picture(tmp_path / "masks" / "a.png", None)
    given.picture(tmp_path / "masks" / "sub" / "a.webp", None)
    dataset = scanned(tmp_path / "in", masks_dir=str(tmp_path / "masks"))
    assert [picture.mask_path for picture in dataset.train] == [
        tmp_path / "masks" / "a.png",
        tmp_path / "masks" / "sub" / "a.webp",
    ]
    assert dataset.digest != scanned(tmp_path / "in").digest


def test_a_picture_without_a_mask_is_told_or_left_out(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        given.picture(tmp_path / "in" / f"{name}.png", size=(6, 4))
    given.picture(tmp_path / "masks" / "a.png", None)
    given.picture(tmp_path / "masks" / "b.png", None, size=(4, 6))
    masks_dir = str(tmp_path / "masks")
    told = problem(tmp_path / "in", masks_dir=masks_dir)
    assert told.key == "data.masks_dir"
    assert "2 pictures without a mask" in told.reason
    assert "another shape: 4 x 6, the picture 6 x 4" in told.reason
    assert list(shown(scanned(tmp_path / "in", masks_dir=masks_dir, on_bad=OnBad.skip))) == ["a.png"]


def test_masks_among_the_pictures_are_told(tmp_path: Path) -> None:
    """With one caption for all they would be trained on."""
    given.picture(tmp_path / "a.png", None)
    given.picture(tmp_path / "masks" / "a.png", None, seed="mask")
    told = problem(tmp_path, masks_dir=str(tmp_path / "masks"), caption="a cat")
    assert (told.key, "lie among those to train on" in told.reason) == ("data.masks_dir", True)


def test_a_mask_of_one_colour_is_told(tmp_path: Path) -> None:
    given.picture(tmp_path / "in" / "a.png", size=(6, 4))
    (tmp_path / "masks").mkdir()
    Image.new("L", (6, 4), 0).save(tmp_path / "masks" / "a.png")
    dataset = scanned(tmp_path / "in", masks_dir=str(tmp_path / "masks"))
    assert any("masks are of one colour" in warning for warning in dataset.warnings)


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
def test_a_folder_of_masks_that_is_none_is_told(tmp_path: Path, make: Any) -> None:
    given.picture(tmp_path / "in" / "a.png")
    make(tmp_path / "masks")
    assert problem(tmp_path / "in", masks_dir=str(tmp_path / "masks")).key == "data.masks_dir"


def test_transparency_is_a_mask(tmp_path: Path) -> None:
    Image.new("RGBA", (6, 4), (9, 9, 9, 0)).save(tmp_path / "a.png")
    given.picture(tmp_path / "b.png")
    (tmp_path / "a.txt").write_text("a cat")
    dataset = scanned(tmp_path, alpha_masks=True)
    assert [picture.mask_path for picture in dataset.train] == [tmp_path / "a.png", None]
    assert any("1 picture without transparency" in warning for warning in dataset.warnings)


def test_transparency_that_no_picture_has_is_told(tmp_path: Path) -> None:
    given.picture(tmp_path / "a.png")
    assert problem(tmp_path, alpha_masks=True).key == "data.alpha_masks"


def test_a_mask_is_turned_as_its_picture_is(tmp_path: Path) -> None:
    mask = Image.new("L", (4, 2), 0)
    mask.putpixel((0, 0), 255)
    exif = Image.Exif()
    exif[0x0112] = 6
    mask.save(tmp_path / "m.png", exif=exif)
    read = mask_of((tmp_path / "m.png").read_bytes(), transparency=False)
    assert (read.size, read.getpixel((1, 0))) == ((2, 4), 255)


def test_a_transparent_palette_is_a_mask(tmp_path: Path) -> None:
    picture = Image.new("P", (2, 1), 0)
    picture.putpixel((1, 0), 1)
    picture.putpalette([0, 0, 0, 255, 255, 255])
    picture.save(tmp_path / "a.gif", transparency=0)
    read = mask_of((tmp_path / "a.gif").read_bytes(), transparency=True)
    assert [read.getpixel((x, 0)) for x in (0, 1)] == [0, 255]


# ---------------------------------------------------------------------------------------------------------- length


def dataset_of(*repeats: int, regularised: bool = False) -> Dataset:
    pictures = tuple(Picture(Path(f"{n}.png"), "", 8, 8, str(n), repeats=each) for n, each in enumerate(repeats))
    reg = (Picture(Path("r.png"), "", 8, 8, "r"),) if regularised else ()
    return Dataset("mine", Path("/"), pictures, (), "x", regularisation=reg)


@pytest.mark.parametrize(
    ("dataset", "samples", "steps", "told"),
    [
        (dataset_of(1, 1), 2, 5, "2 pictures x 1 repeat x 5 epochs / batch 2 = 5 steps"),
        (dataset_of(3, 3), 6, 15, "2 pictures x 3 repeats x 5 epochs / batch 2 = 15 steps"),
        (dataset_of(1, 4), 5, 13, "5 (2 pictures x 1 to 4 repeats) x 5.2 epochs / batch 2 = 13 steps"),
        (
            dataset_of(2, 2, regularised=True),
            *(8, 20, "(2 pictures x 2 repeats + 4 for regularisation) x 5 epochs / batch 2 = 20 steps"),
        ),
    ],
)
def test_an_epoch_shows_repeats_and_regularisation(dataset: Dataset, samples: int, steps: int, told: str) -> None:
    settings = given.settings(train__epochs=5.0, train__batch_size=2, train__accumulation_steps=1)
    assert samples_per_epoch(dataset, settings.train) == samples
    found, choice = steps_of(settings, dataset)
    assert (found, choice and choice.reason.partition(";")[0]) == (steps, told)
    assert equation(dataset, settings.train, 2, found) == told


def test_samples_a_picture_are_not_multiplied_by_repeats() -> None:
    values = {"train__samples_per_image": 10, "train__samples_floor": 0, "train__min_steps": 1}
    settings = given.settings(train__batch_size=1, train__accumulation_steps=1, **values)
    assert [steps_of(settings, dataset_of(each, each))[0] for each in (1, 5)] == [20, 20]
    assert steps_of(settings, dataset_of(1, 1, regularised=True))[0] == 40


# -------------------------------------------------------------------------------------------------------- held out


def test_a_folder_that_would_be_held_out_whole_is_trained_on(tmp_path: Path) -> None:
    """Whichever picture is chosen by its content: each folder has one."""
    concepts = []
    for number in range(12):
        given.picture(tmp_path / f"{number}" / "a.png", seed=number)
        concepts.append(Concept(f"{number}"))
    dataset = scanned(tmp_path, concepts=concepts, heldout_fraction=0.5)
    assert (len(dataset.train), dataset.heldout) == (12, ())
    given.picture(tmp_path / "0" / "b.png", seed="b")
    given.picture(tmp_path / "0" / "c.png", seed="c")
    dataset = scanned(tmp_path, concepts=concepts, heldout_fraction=0.5)
    assert {picture.path.parent.name for picture in dataset.train} == {str(number) for number in range(12)}
    assert len(dataset.train) + len(dataset.heldout) == 14
