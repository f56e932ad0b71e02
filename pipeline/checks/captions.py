"""What captions are given, and how much of them is read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from pipeline.dataset.captions import longest_texts
from pipeline.dataset.flaws import count, listed
from pipeline.dataset.tokens import CAPTION_TOKENS, tokens_read, too_long
from pipeline.errors import Problem, UnreadableFile
from pipeline.records import Checkpoint, Facts, Picture
from pipeline.settings import Data, Settings


def caption_problems(settings: Settings) -> Iterator[Problem]:
    yield from _trigger(settings.data)
    yield from _one_line(settings.data)
    yield from _tokens(settings.train.caption_tokens)


def _trigger(data: Data) -> Iterator[Problem]:
    trigger = data.trigger
    if trigger is None:
        return
    word = " ".join(trigger.replace(",", " ").split())
    if not word:
        yield Problem("data.trigger", repr(trigger), "is no word", "data.trigger=WORD, or data.trigger=null")
    elif "," in trigger:
        reason = "a comma makes several tags of it, and a trigger is one"
        yield Problem("data.trigger", repr(trigger), reason, f"data.trigger='{word}'")
    elif trigger != word:
        reason = "spaces at its ends, several together and line breaks are not read"
        yield Problem("data.trigger", repr(trigger), reason, f"data.trigger='{word}'")
    elif data.wildcards and set("{}") & set(trigger):
        reason = "data.wildcards=true would draw it, and a trigger is always the same"
        yield Problem("data.trigger", repr(trigger), reason, "data.trigger=WORD, or data.wildcards=false")


def _one_line(data: Data) -> Iterator[Problem]:
    """A line break would be a further caption, with data.wildcards."""
    for name, text in (("caption_prefix", data.caption_prefix), ("caption_suffix", data.caption_suffix)):
        if not text.isprintable():
            reason = "has a line break or another character that can't be printed"
            yield Problem(f"data.{name}", repr(text), reason, f"data.{name}='{' '.join(text.split())}'")


def _tokens(tokens: int) -> Iterator[Problem]:
    """More or fewer are told by the ranges."""
    if CAPTION_TOKENS[0] < tokens < CAPTION_TOKENS[-1] and tokens not in CAPTION_TOKENS:
        enough = next(each for each in CAPTION_TOKENS if each > tokens)
        reason = f"must be {', '.join(map(str, CAPTION_TOKENS[:-1]))} or {CAPTION_TOKENS[-1]}: CLIP reads 75 at a time"
        yield Problem("train.caption_tokens", tokens, reason, f"train.caption_tokens={enough}")


# ---------------------------------------------------------------------------------------------------- what is cut off

CLIP_POSITIONS = 77
"""Of Stable Diffusion 1's text encoder, where no configuration says otherwise."""


def cut_captions(settings: Settings, facts: Facts) -> Iterator[str]:
    """What a CLIP text encoder would not see; not asked where the tokenizer is neither named nor beside the model."""
    checkpoint, dataset = facts.checkpoint, facts.dataset
    if checkpoint is None or dataset is None:
        return
    beside = checkpoint.path if checkpoint.layout == "diffusers" else checkpoint.path.parent
    folder = Path(settings.model.tokenizer) if settings.model.tokenizer else beside / "tokenizer"
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        return
    pictures = (*dataset.train, *dataset.heldout, *dataset.regularisation)
    texts = [(each.path.name, _texts(each, settings)) for each in pictures]
    positions, asked = _positions(checkpoint), settings.train.caption_tokens
    try:
        cut = too_long((text for _, each in texts for text in each), folder, tokens_read(positions, asked))
    except UnreadableFile as error:
        yield str(error)
        return
    names = [name for name, each in texts if not cut.isdisjoint(each)]
    if names:
        more = next((tokens for tokens in CAPTION_TOKENS if tokens > asked), None)
        told = f"longer than {_limit(positions, asked)}, and their ends are not seen"
        told += f" (train.caption_tokens={more} reads more)" if more else ""
        yield f"{count(names)} with a caption {told}: {listed(names)}"


def _texts(picture: Picture, settings: Settings) -> list[str]:
    """The longest that may be drawn of a caption."""
    return longest_texts(picture.caption) if settings.data.wildcards else [picture.caption]


def _limit(positions: int, caption_tokens: int) -> str:
    limit = tokens_read(positions, caption_tokens)
    if limit == positions:
        return f"the text encoder's {limit} tokens"
    return f"the {limit} tokens of train.caption_tokens={caption_tokens}"


def _positions(checkpoint: Checkpoint) -> int:
    try:
        config = json.loads((checkpoint.path / "text_encoder" / "config.json").read_text(encoding="utf-8"))
        return int(config["max_position_embeddings"])
    except (OSError, ValueError, KeyError, TypeError):
        return CLIP_POSITIONS
