"""Captions that a text encoder sees only the beginning of, counted without the libraries that train."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from pipeline.backends.native.stable_diffusion_1 import TextParts
from pipeline.backends.native.support import native_warnings
from pipeline.checks.captions import CLIP_POSITIONS
from pipeline.dataset.tokens import chunks_of, tokens_read, too_long
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


# --------------------------------------------------------------------------------------------------- several chunks

BEGIN, END, RED = 344, 345, 282
"""Ids of the demo's tokenizer."""
CHUNKS = {
    (0, 75): [[BEGIN, *[END] * 76]],
    (80, 75): [[BEGIN, *[RED] * 75, END]],
    (0, 150): [[BEGIN, *[END] * 76]] * 2,
    (74, 150): [[BEGIN, *[RED] * 74, END, END], [BEGIN, *[END] * 76]],
    (75, 150): [[BEGIN, *[RED] * 75, END], [BEGIN, *[END] * 76]],
    (80, 150): [[BEGIN, *[RED] * 75, END], [BEGIN, *[RED] * 5, *[END] * 71]],
    (151, 150): [[BEGIN, *[RED] * 75, END]] * 2,
    (151, 225): [[BEGIN, *[RED] * 75, END]] * 2 + [[BEGIN, RED, *[END] * 75]],
    (400, 225): [[BEGIN, *[RED] * 75, END]] * 3,
}
"""Words of a caption and train.caption_tokens -> what SdTokenizeStrategy of sd-scripts 0.10.1 makes of it
(library/strategy_sd.py, with this tokenizer), recorded."""


def text_parts(caption_tokens: int, *, clip_skip: int = 0, positions: int = 77) -> TextParts:
    """The demo's tokenizer with CLIP's length, and an encoder of random weights."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(str(DEMO / "tokenizer"))
    tokenizer.model_max_length = positions
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=1,
        max_position_embeddings=positions, bos_token_id=BEGIN, eos_token_id=END, pad_token_id=END,
    )  # fmt: skip
    return TextParts(tokenizer, CLIPTextModel(config).eval(), clip_skip, chunks_of(caption_tokens))


@pytest.mark.parametrize(("words", "tokens"), CHUNKS)
def test_captions_are_cut_into_chunks_as_sd_scripts_does_it(words: int, tokens: int) -> None:
    parts = text_parts(tokens)
    ids = parts.tokens(["red " * words, ""])
    assert ids[0].tolist() == CHUNKS[words, tokens]
    assert ids[1].tolist() == [[BEGIN, *[END] * 76]] * (tokens // 75)


@pytest.mark.parametrize("clip_skip", [0, 1])
def test_between_chunks_there_is_neither_begin_nor_end(clip_skip: int) -> None:
    """As SdTextEncodingStrategy.encode_tokens of sd-scripts joins them."""
    long, short = text_parts(225, clip_skip=clip_skip), text_parts(75, clip_skip=clip_skip)
    caption = "one two red green " * 50
    with torch.no_grad():
        joined = long.encode(long.tokens([caption, "one"]))[0]
        chunks = [short.encode(ids[None, None])[0] for ids in long.tokens([caption])[0]]
    wanted = torch.cat([chunks[0][:1], *(chunk[1:-1] for chunk in chunks), chunks[-1][-1:]])
    assert joined.shape == (227, 16) == (tokens_read(77, 225), 16)
    assert torch.allclose(joined, wanted, atol=1e-6)


def test_one_chunk_is_what_the_encoder_makes_of_the_padded_caption() -> None:
    parts = text_parts(75)
    padded = parts.tokenizer(
        CAPTIONS, padding="max_length", truncation=True, max_length=77, return_tensors="pt"
    ).input_ids
    assert torch.equal(parts.tokens(list(CAPTIONS))[:, 0], padded)
    with torch.no_grad():
        whole = parts.encoder(torch.tensor([[BEGIN, RED, *[END] * 75]])).last_hidden_state
        assert torch.equal(parts.encode(parts.tokens(["red"])), whole)


def test_a_smaller_encoder_is_read_in_smaller_chunks() -> None:
    parts = text_parts(150, positions=32)
    assert [len(each) - each.count(END) - 1 for each in parts.tokens(["red " * 40])[0].tolist()] == [30, 10]
    assert parts.encode(parts.tokens(["red"])).shape[1] == tokens_read(32, 150) == 62
