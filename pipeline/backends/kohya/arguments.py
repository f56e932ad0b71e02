"""What a script of sd-scripts takes: the arguments of its own parser, however they were come by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pipeline.errors import did_you_mean

Kind = Literal[
    "str",
    "int",
    "float",
    "int_or_float",
    "flag",
    "off_flag",
    "list[str]",
    "list[int]",
    "list[float]",
    "optional_str",
    "other",
]
"""A flag is `store_true`, an off_flag `store_false`; optional_str takes one value or none (nargs="?").

int_or_float tells a count from a fraction: whole numbers, or numbers below 1. other is what can't be told without
running the script; `Argument.note` says why.
"""
Value = str | int | float | bool | list[str] | list[int] | list[float] | None


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a script."""

    name: str
    """As it stands in a TOML: the destination, with underscores."""
    kind: Kind
    default: Value
    choices: tuple[str | int | float | None, ...] = ()
    """Empty: anything of its kind."""
    required: bool = False
    where: str = ""
    """file.py:function that adds it."""
    note: str = ""
    """What of it can't be told without running the script, with file:line."""


@dataclass(frozen=True, slots=True)
class Parser:
    """All arguments of one script."""

    script: str
    """File name in the checkout, such as sdxl_train_network.py."""
    arguments: Mapping[str, Argument]
    """By name."""


WORDS: Mapping[str, str] = {
    **{"str": "a text", "int": "a whole number", "float": "a number", "flag": "true or false"},
    **{"off_flag": "true or false", "optional_str": "a text", "int_or_float": "a number"},
}
TYPES: Mapping[str, tuple[type, ...]] = {
    **{"str": (str,), "int": (int,), "float": (int, float), "flag": (bool,), "off_flag": (bool,)},
    **{"optional_str": (str,), "int_or_float": (int, float)},
}


def check_value(argument: Argument, value: object) -> str | None:
    """Why a value would not have its effect in a TOML, or None. sd-scripts itself checks no value of a TOML."""
    if argument.kind == "other":
        return f"can't be checked: {argument.note or 'what it takes can only be told by running the script'}"
    if value is None:
        return "a TOML has no null: leave it out"
    item = argument.kind.removeprefix("list[").removesuffix("]")
    if item == argument.kind:
        return _wrong(item, value) or _not_among(argument, value)
    if not isinstance(value, list):
        return f"must be a list, of which each is {WORDS[item]}"
    return next((reason for each in value if (reason := _wrong(item, each) or _not_among(argument, each))), None)


def _wrong(kind: str, value: object) -> str | None:
    """True is an int to Python, and not to sd-scripts."""
    if type(value) not in TYPES[kind]:
        return f"must be {WORDS[kind]}"
    if kind == "int_or_float" and isinstance(value, float) and value >= 1:
        return f"a number with a point is a fraction here: a count is written {value:.0f}"
    return None


def _not_among(argument: Argument, value: object) -> str | None:
    if not argument.choices or value in argument.choices:
        return None
    told = [str(choice) for choice in argument.choices if choice is not None]
    return f"must be one of {', '.join(told)}.{did_you_mean(str(value), told)}"


def unknown_reason(parser: Parser, name: str) -> str:
    """What to say of a name that the script does not have."""
    return f"{parser.script} has no argument {name}.{did_you_mean(name, list(parser.arguments))}"
