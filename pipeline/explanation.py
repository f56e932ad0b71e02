"""What every setting is and where it comes from, with what the plan decided: a table to read, and one to keep.

python run.py profile=style explain=true
"""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from enum import Enum

from pipeline.records import Choice, Origin
from pipeline.settings import Settings
from pipeline.tracking.masking import MASK, Masker, looks_secret

FILE_NAME = "explain.json"
WIDTH = 100
COLUMNS = (24, 16, 29)
"""Of key, value and source; the reason has the rest."""
MOST_CHARACTERS = 60
"""Of a value; a longer one is cut."""
AS_THEY_ARE = ("hardware", "tracking")
"""Groups of which only what is not as their files have it is shown."""
NO_SECTION = "besides"
DECIDED = "decided"
FOLLOWS = {"train": "memory", "memory": "memory", "optimizer": "memory", "mode": "optimizer", "tracking": "hardware"}
"""Group -> the choice that changes its settings, where none is made of them by name."""
EMPTY: tuple[object, ...] = (None, [], {})


def typed_keys(origins: Collection[Origin]) -> frozenset[str]:
    """Settings that the user gave by hand, on the command line or in an experiment."""
    return frozenset(origin.key for origin in origins if origin.layer in ("command line", "experiment"))


def explained(origins: Sequence[Origin], settings: Settings, choices: Sequence[Choice]) -> tuple[Origin, ...]:
    """With the values of the plan's `settings`; what differs from what was asked for was decided, and its choice says
    why. Choices of what is no setting stand at the end. Secrets are masked."""
    values, made = settings.flat(), {_setting_of(choice.key, settings): choice for choice in choices}
    told = [_explained(origin, values, made) for origin in origins if origin.key in values]
    known = {origin.key for origin in told}
    others = (Origin(c.key, c.value, "decided", DECIDED, c.reason) for key, c in made.items() if key not in known)
    mask = Masker(os.environ)
    return tuple(_masked(origin, mask) for origin in (*told, *others))


def _setting_of(key: str, settings: Settings) -> str:
    """A choice of a group is one of its option."""
    return f"{key}.name" if hasattr(getattr(settings, key, None), "name") else key


def _explained(origin: Origin, values: dict[str, object], made: dict[str, Choice]) -> Origin:
    choice, value = made.get(origin.key), values[origin.key]
    asked = _simple(origin.value)
    if choice is not None and _simple(choice.value) != asked:
        return replace(origin, value=choice.value, layer="decided", source=DECIDED, reason=_why(choice.reason, origin))
    if value != asked:
        because = choice or _following(origin.key, made)
        reason = "decided with the plan" if because is None else f"follows from {because.key}={because.value}"
        return replace(origin, value=value, layer="decided", source=DECIDED, reason=_why(reason, origin))
    return origin if choice is None else replace(origin, reason=choice.reason)


def _following(key: str, made: dict[str, Choice]) -> Choice | None:
    group = key.partition(".")[0]
    return made.get(f"{group}.name") or made.get(f"{FOLLOWS.get(group)}.name")


def _why(reason: str, origin: Origin) -> str:
    """What was asked for is told where it was more than to decide."""
    asked = "" if origin.value in (*EMPTY, "auto") else f" (asked: {_words(origin.value)}, {origin.source})"
    return f"{reason}{asked}"


def _simple(value: object) -> object:
    return value.value if isinstance(value, Enum) else value


def _masked(origin: Origin, mask: Masker) -> Origin:
    if looks_secret(origin.key) and origin.value is not None:
        source = f"command line: {origin.key}={MASK}" if origin.layer == "command line" else mask(origin.source)
        return replace(origin, value=MASK, source=source)
    value = mask(origin.value) if isinstance(origin.value, str) else _simple(origin.value)
    return replace(origin, value=value, source=mask(origin.source), reason=mask(origin.reason))


# ------------------------------------------------------------------------------------------------------------ to keep


def as_json(origins: Sequence[Origin]) -> str:
    """A list, a line a setting."""
    rows = ({"key": o.key, "value": o.value, "source": o.source, "reason": o.reason} for o in origins)
    lines = (json.dumps(row, ensure_ascii=False, default=str) for row in rows)
    return "[\n" + ",\n".join(f" {line}" for line in lines) + "\n]\n"


# ------------------------------------------------------------------------------------------------------------ to read


def table(origins: Sequence[Origin], width: int = WIDTH) -> list[str]:
    """Lines of a table in sections. What is empty and was left so is counted only; a run keeps it."""
    shown = [origin for origin in origins if not _says_nothing(origin)]
    lines: list[str] = []
    for section in dict.fromkeys(_section(origin) for origin in shown):
        lines += _section_lines(section, [origin for origin in shown if _section(origin) == section], width)
    left_out = (
        f"{len(origins) - len(shown)} settings are left out: empty, or as the files of {' and '.join(AS_THEY_ARE)}"
    )
    return [*lines, "", *textwrap.wrap(f"{left_out} have them. A run keeps all in {FILE_NAME}.", width)]


def _says_nothing(origin: Origin) -> bool:
    is_empty = origin.value in EMPTY and origin.layer in ("default", "group", "model")
    return origin.key == "explain" or is_empty or (origin.layer == "group" and _section(origin) in AS_THEY_ARE)


def _section(origin: Origin) -> str:
    group, dot, _ = origin.key.partition(".")
    return group if dot else NO_SECTION if origin.source == DECIDED else ""


def _section_lines(section: str, rows: list[Origin], width: int) -> Iterator[str]:
    yield ""
    yield _row((section or "the run", "value", "where from", "why"), width)[0]
    for origin in rows:
        cells = (origin.key.removeprefix(f"{section}."), _short(_words(origin.value)), origin.source, origin.reason)
        yield from _row((f"  {cells[0]}", *cells[1:]), width)


def _row(cells: tuple[str, ...], width: int) -> list[str]:
    """As many lines as the longest cell needs."""
    widths = (*COLUMNS, max(20, width - sum(COLUMNS) - len(COLUMNS)))
    wrapped = [_wrapped(cell, size) for cell, size in zip(cells, widths, strict=True)]
    height = max(len(lines) for lines in wrapped)
    padded = ([*lines, *[""] * (height - len(lines))] for lines in wrapped)
    return [
        " ".join(f"{part:<{size}}" for part, size in zip(parts, widths, strict=True)).rstrip()
        for parts in zip(*padded, strict=True)
    ]


def _wrapped(text: str, width: int) -> list[str]:
    indent = " " * (len(text) - len(text.lstrip()))
    return textwrap.wrap(text, width, initial_indent="", subsequent_indent=f"{indent}  ", break_on_hyphens=False) or [
        ""
    ]


def _short(text: str) -> str:
    """The end of a path says more than its beginning."""
    if len(text) <= MOST_CHARACTERS:
        return text
    return f"...{text[3 - MOST_CHARACTERS :]}" if text.startswith("/") else f"{text[: MOST_CHARACTERS - 3]}..."


def _words(value: object) -> str:
    """As it would be typed."""
    return value if isinstance(value, str) else json.dumps(value, default=str)
