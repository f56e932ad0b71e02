"""Short words for what varied: a trial's name in MLflow, and its label in pictures and tables."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

MAX_NAME_LENGTH = 14
"""Of a run in MLflow: the chart's legend and the table cut longer ones."""
WORDS: Mapping[str, str] = {
    "seed": "s",
    "optimizer.lr": "lr",
    "optimizer.args.weight_decay": "wd",
    "network.rank": "r",
    "network.alpha": "a",
    "network.conv_rank": "cr",
    "network.conv_alpha": "ca",
    "network.dropout": "drop",
    "mode.text_encoder_lr": "te",
    "train.max_steps": "steps",
    "train.epochs": "ep",
    "train.samples_per_image": "looks",
    "train.effective_batch_size": "b",
    "train.batch_size": "b",
    "train.resolution_px": "px",
    "train.more_resolutions_px": "more",
    "train.flip": "flip",
    "train.min_snr_gamma": "snr",
    "train.noise_offset": "noise",
    "train.caption_dropout": "cdrop",
    "train.tag_dropout": "tdrop",
    "train.warmup_fraction": "wu",
    "train.scheduler_cycles": "cyc",
    "train.timestep_shift": "shift",
}
"""In front of a value; other keys have the first letters of their last word's parts."""
VALUE_ALONE = ("network.algo", "train.scheduler", "train.timestep_sampling", "optimizer.name")
"""Values that say themselves what they are, as the options of groups do."""
_SHORTEST_WORD = 3
_LONGEST_COUNT = 7
"""Digits of a whole number that is written out."""
_SWITCHES = {"true": "on", "false": "off", "null": "none"}


def short_name(varied: Mapping[str, str], number: str) -> str:
    """`lr5e-4 r32`: at most 14 characters. The trial's number is in it where words are cut, and where figures are
    rounded and there is room."""
    exact = " ".join(_parts(varied, 12, MAX_NAME_LENGTH))
    if 0 < len(exact) <= MAX_NAME_LENGTH:
        return exact
    tail = f"#{number}"
    for digits in (3, 2):
        rounded = " ".join(_parts(varied, digits, MAX_NAME_LENGTH))
        if 0 < len(rounded) <= MAX_NAME_LENGTH:
            return f"{rounded} {tail}" if len(rounded) + len(tail) < MAX_NAME_LENGTH else rounded
    for letters in (6, _SHORTEST_WORD):
        parts = _parts(varied, 2, letters)
        if len(" ".join([*parts, tail])) <= MAX_NAME_LENGTH:
            break
    while parts and len(" ".join([*parts, tail])) > MAX_NAME_LENGTH:
        parts.pop()
    return " ".join([*parts, tail])[:MAX_NAME_LENGTH]


def labels(varied: Mapping[str, str]) -> list[str]:
    """`lr 5e-4`, `rank 32`, `style`: what varied, in words for people."""
    named = zip(varied.items(), titles(list(varied)), strict=True)
    return [_label(key, title, value) for (key, value), title in named]


def titles(keys: Sequence[str]) -> list[str]:
    """The last word of a dotted key, where that is no other's."""
    last = [key.rpartition(".")[2] for key in keys]
    return [word if last.count(word) == 1 else key for key, word in zip(keys, last, strict=True)]


def value_words(text: str, digits: int = 4) -> str:
    """A figure as one would type it, with so many digits: 1e-4, 0.05, 32. Any other value as it is."""
    figure = figure_of(text)
    if figure is None:
        return text.strip("'\"")
    if text.lstrip("-").isdigit() and len(text) <= _LONGEST_COUNT:
        return text
    plain = f"{figure:.{digits}g}"
    if 0 < abs(figure) < 0.01 or "e" in plain:
        return re.sub(r"\.?0*e", "e", f"{figure:.{digits - 1}e}").replace("e-0", "e-").replace("e+0", "e")
    return plain


def figure_of(text: str) -> float | None:
    """The number that a typed value is; None for any other."""
    try:
        return float(text)
    except ValueError:
        return None


def _label(key: str, title: str, value: str) -> str:
    return value_words(value) if _is_alone(key, value) else f"{title} {value_words(value)}"


def _parts(varied: Mapping[str, str], digits: int, letters: int) -> list[str]:
    return [_part(key, value, digits, letters) for key, value in varied.items()]


def _part(key: str, value: str, digits: int, letters: int) -> str:
    word = "" if _is_alone(key, value) else WORDS.get(key) or _initials(key)
    if figure_of(value) is not None:
        return word + value_words(value, digits)
    name = value.strip("'\"").rstrip("/").rpartition("/")[2].replace(" ", "_")
    name = _SWITCHES.get(name, name)[:letters]
    return f"{word}={name}" if word else name


def _is_alone(key: str, value: str) -> bool:
    """Options of groups have keys without a dot."""
    return key in VALUE_ALONE or ("." not in key and figure_of(value) is None)


def _initials(key: str) -> str:
    words = key.rpartition(".")[2].split("_")
    return "".join(word[:1] for word in words) if len(words) > 1 else words[0][:4]
