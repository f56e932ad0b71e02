"""What is typed after `run.py`: overrides and flags, as Hydra reads them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import OverrideParseException

from pipeline.settings import PROJECT

CONF = PROJECT / "conf"
PLAIN_WORD = re.compile(r"[A-Za-z_/][A-Za-z0-9_./-]*")
NO_WORDS = {"null", "true", "false", "inf", "nan"}
"""What Hydra reads as a value of another type, unless it is in quotes."""
FLAGS_WITH_VALUE = {
    "-c",
    "--cfg",
    "-p",
    "--package",
    "-cp",
    "--config-path",
    "-cn",
    "--config-name",
    "-cd",
    "--config-dir",
}


AS_ONE = "hydra.mode=RUN"
"""Makes one run of an example that sweeps."""


def apart(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Overrides, and the flags with their values."""
    is_override = [
        not word.startswith("-") and ("=" in word or word.startswith("~")) and before not in FLAGS_WITH_VALUE
        for before, word in zip(("", *argv), argv, strict=False)
    ]
    overrides = [word for word, override in zip(argv, is_override, strict=True) if override]
    return overrides, [word for word, override in zip(argv, is_override, strict=True) if not override]


def keys(argv: Sequence[str]) -> set[str]:
    return {argument.lstrip("+~").partition("=")[0] for argument in argv if "=" in argument}


def chosen(key: str, overrides: Sequence[str]) -> str | None:
    """The value that counts, the last one."""
    return next((value_of(each) for each in reversed(overrides) if each.lstrip("+").startswith(f"{key}=")), None)


def value_of(override: str) -> str:
    value = override.partition("=")[2]
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value


def typed_as(value: object) -> str:
    """The value as Hydra reads it back, without a shell's quotes."""
    if isinstance(value, list):
        return f"[{','.join(map(typed_as, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{typed_as(item)}" for key, item in value.items()) + "}"
    if isinstance(value, str) and (not PLAIN_WORD.fullmatch(value) or value.lower() in NO_WORDS):
        return QuotedString(value.replace("${", "\\${"), Quote.single).with_quotes()
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The flags that decide what is composed, and the overrides."""
    from hydra._internal.utils import get_args_parser

    arguments, _ = get_args_parser().parse_known_args(list(argv))
    named = (("-cp", arguments.config_path), ("-cn", arguments.config_name), ("-cd", arguments.config_dir))
    return [word for flag, value in named if value is not None for word in (flag, value)], arguments.overrides


def groups() -> set[str]:
    return {folder.name for folder in CONF.iterdir() if folder.is_dir()}


def sweeps(argv: Sequence[str]) -> bool:
    return not {"-m", "--multirun"}.isdisjoint(argv)


def sweep_choices(override: str, *, sweeping: bool) -> list[str]:
    """A sweep over a,b is tried as two overrides."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    if not sweeping:
        return [override]
    try:
        parsed = OverridesParser.create().parse_override(override)
    except OverrideParseException:
        return [override]
    if not parsed.is_sweep_override() or not parsed.is_discrete_sweep():
        return [override]
    return [f"{parsed.get_key_element()}={value}" for value in parsed.sweep_string_iterator()]
