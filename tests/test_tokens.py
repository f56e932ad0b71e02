"""Captions that a text encoder sees only the beginning of, counted without the libraries that train."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.backends.native.support import CLIP_POSITIONS, native_warnings
from pipeline.dataset.tokens import too_long
from pipeline.errors import UnreadableFile
from pipeline.records import Facts
from pipeline.settings import PROJECT
from tests import given

DEMO = PROJECT / "demo" / "model"
CAPTIONS = (
    "one large red circle",
    "A Cat,  sat 123 times!\tit's <|endoftext|> late",
    "ein Mädchen, 猫\n é",
    "<|startoftext|>",
    "x" * 50,
    "don't",
)


def two_files(folder: Path) -> Path:
    """The demo's tokenizer as CLIP's first one was kept."""
    model = json.loads((DEMO / "tokenizer" / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
    merges = "\n".join(" ".join(pair) for pair in model["merges"])
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize("form", ["one file", "two files"])
def test_captions_are_counted_as_the_trainer_counts_them(form: str, tmp_path: Path) -> None:
    from transformers import CLIPTokenizer

    folder = DEMO / "tokenizer" if form == "one file" else two_files(tmp_path / "tokenizer")
    theirs = CLIPTokenizer.from_pretrained(str(folder))
    for caption in CAPTIONS:
        tokens = len(theirs(caption).input_ids)
        assert too_long([caption], folder, tokens) == set(), caption
        assert too_long([caption], folder, tokens - 1) == {caption}


def test_no_tokenizer_is_read_for_captions_that_are_short_anyway(tmp_path: Path) -> None:
    assert too_long(["a cat", ""], tmp_path, 77) == set()


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.json"])
def test_a_tokenizer_that_can_not_be_read_is_told(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("{")
    with pytest.raises(UnreadableFile, match="holds no tokenizer that can be read"):
        too_long(["x" * 100], tmp_path, 77)


def with_captions(caption: str, path: Path) -> Facts:
    facts = given.facts(dataset=replace(given.dataset(0), train=given.pictures(7, caption=caption)))
    assert facts.checkpoint is not None
    return replace(facts, checkpoint=replace(facts.checkpoint, path=path))


def test_captions_that_are_cut_off_are_told_with_the_pictures_names() -> None:
    """The demo's encoder has 32 positions: its configuration says so."""
    (told,) = native_warnings(given.settings(), with_captions("circle, " * 30, DEMO))
    assert told.startswith("7 pictures with a caption longer than the text encoder's 32 tokens")
    assert told.endswith("4.png ... and 2 more")
    assert list(native_warnings(given.settings(), with_captions("circle", DEMO))) == []


def test_a_single_file_has_the_tokenizer_that_is_named(tmp_path: Path) -> None:
    settings = given.settings(model__tokenizer=str(two_files(tmp_path / "tokenizer")))
    facts = with_captions("circle, " * 60, tmp_path / "model.safetensors")
    (told,) = native_warnings(settings, facts)
    assert f"{CLIP_POSITIONS} tokens" in told


def test_without_a_tokenizer_nothing_is_said(tmp_path: Path) -> None:
    assert list(native_warnings(given.settings(), with_captions("circle, " * 60, tmp_path))) == []
