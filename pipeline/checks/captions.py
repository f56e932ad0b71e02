"""What captions are given, and how much of them is read."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.dataset.tokens import CAPTION_TOKENS
from pipeline.errors import Problem
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
