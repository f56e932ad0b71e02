"""The text of a caption: what is put around it once, and what is drawn of it each time its picture is shown.

What nothing is random in is done when the dataset is looked at, so that all that reads captions reads the same text:
weights out, then prefix and suffix, then the trigger in front. With `data.wildcards` each line is a caption.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from pipeline.settings import Data, Settings

Chosen = Callable[[Sequence[str]], str]
"""Picks one of several texts."""

OPENING, CLOSING = "\0<", "\0>"
"""Stand for {{ and }} meanwhile: no caption holds a null byte."""
ALTERNATIVES = re.compile(r"\{([^}]+)\}")


def static_text(caption: str, data: Data, *, tags_change: bool) -> str:
    """What is trained on, but for what is drawn each time. `tags_change`: they are shuffled or left out, so that the
    one with the trigger must be the first."""
    text = (without_weights(caption).strip() or caption) if data.strip_weights else caption
    if not data.wildcards:
        return _around(text, data, tags_change)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "\n".join(_around(line, data, tags_change) for line in lines)


def _around(text: str, data: Data, tags_change: bool) -> str:
    """Prefix and suffix stand beside a space, as sd-scripts puts them (process_caption of library/train_util.py)."""
    text = " ".join(part for part in (data.caption_prefix, text, data.caption_suffix) if part)
    return _triggered(text, data, tags_change) if data.trigger else text


def _triggered(text: str, data: Data, tags_change: bool) -> str:
    """With the trigger, as a word or a tag; what it may be drawn as one of does not count."""
    seen = _without_alternatives(text) if data.wildcards else text
    found = re.search(rf"(?<![\w-]){re.escape(data.trigger or '')}(?![\w-])", seen, re.IGNORECASE)
    if found is None:
        return f"{data.trigger}, {text}"
    begin = seen.rfind(",", 0, found.start()) + 1
    if begin == 0 or not tags_change:
        return text
    end = seen.find(",", found.end())
    end = len(text) if end < 0 else end
    return f"{text[begin:end].strip()}, {(text[: begin - 1] + text[end:]).strip()}"


def _without_alternatives(text: str) -> str:
    """As long as the text."""
    text = text.replace("{{", "\0\0").replace("}}", "\0\0")
    return _replaced(text, lambda found: "\0" * len(found[0]))


def kept_tags(settings: Settings) -> int:
    """Parts at the front that stay: the trigger is the first of them."""
    return max(settings.train.keep_tags, 1 if settings.data.trigger else 0)


def tags_change(settings: Settings) -> bool:
    """They are shuffled or left out."""
    return settings.train.shuffle_tags or settings.train.tag_dropout > 0


# --------------------------------------------------------------------------------------------------------- wildcards


def drawn(text: str, choose: Chosen) -> str:
    """One line of several, and one of each {a|b|c}; {{ and }} are braces. As process_caption of sd-scripts'
    library/train_util.py reads it: braces don't nest."""
    lines = text.split("\n")
    line = choose(lines) if len(lines) > 1 else text
    hidden = line.replace("{{", OPENING).replace("}}", CLOSING)
    shown = _replaced(hidden, lambda found: choose(found[1].split("|")))
    return shown.replace(OPENING, "{").replace(CLOSING, "}")


def _replaced(text: str, by: Callable[[re.Match[str]], str]) -> str:
    """All alternatives. Behind the last } is none, and looking there from every { would take long."""
    end = text.rfind("}") + 1
    return ALTERNATIVES.sub(by, text[:end]) + text[end:]


def first_text(text: str) -> str:
    """What stands for it where nothing may be random."""
    return drawn(text, lambda texts: texts[0])


def longest_texts(text: str) -> list[str]:
    """Of each line, with the longest of its alternatives."""
    return [drawn(line, lambda texts: max(texts, key=len)) for line in text.split("\n")]


def may_vary(text: str) -> bool:
    """False where what is drawn is always the text itself."""
    return any(sign in text for sign in "\n{}")


def has_lines(caption: str) -> bool:
    """More than one."""
    return len([line for line in caption.splitlines() if line.strip()]) > 1


def has_alternatives(caption: str) -> bool:
    """A choice of two or more."""
    plain = caption.replace("{{", "").replace("}}", "")
    return any("|" in found[1] for found in ALTERNATIVES.finditer(plain, 0, plain.rfind("}") + 1))


# ----------------------------------------------------------------------------------------------------------- weights

WEIGHT = r":\s*[+-]?(?:\d+(?:\.\d*)?|\.\d+)\s*\)"
MARK = re.compile(rf"\\[()\[\]\\]|[(\[\])]|{WEIGHT}")
"""What stands for more than itself: an escaped bracket or backslash, a bracket, a weight and the bracket it closes."""
WEIGHTED = re.compile(
    rf"\([^()]*{WEIGHT}|\(\([^()]*\)\)|\[\[[^\[\]]*\]\]|\\[()\[\]]"
    r"|(?:^|,)\s*(?:\([^()]*\)|\[[^\[\]]*\])\s*(?=,|$)",
    re.MULTILINE,
)
"""A weight, double brackets, an escaped bracket, or a whole part in brackets."""


def without_weights(caption: str) -> str:
    r"""(tag:1.3), ((tag)) and [tag] become tag, \( and \) plain brackets, as the web UI's prompts are read
    (parse_prompt_attention, AUTOMATIC1111's modules/prompt_parser.py). A bracket without a partner stays, as in :(."""
    marks = list(MARK.finditer(caption))
    partnered = set(_partnered([mark[0] for mark in marks]))
    pieces, end = [], 0
    for number, mark in enumerate(marks):
        text = mark[0]
        plain = text[1:] if text[0] == "\\" else "" if number in partnered else text
        pieces += [caption[end : mark.start()], plain]
        end = mark.end()
    return "".join([*pieces, caption[end:]])


def _partnered(marks: Sequence[str]) -> Iterator[int]:
    """The numbers of the brackets that open and close something."""
    opened: dict[str, list[int]] = {"(": [], "[": []}
    for number, mark in enumerate(marks):
        if mark in opened:
            opened[mark].append(number)
        elif mark[0] != "\\" and (before := opened["(" if mark.endswith(")") else "["]):
            yield from (before.pop(), number)


def looks_weighted(caption: str) -> bool:
    """Whether it seems to be written for the web UI: (a series) within a tag may be meant as it stands."""
    return WEIGHTED.search(caption) is not None
