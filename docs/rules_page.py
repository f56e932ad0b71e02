"""The generated part of docs/errors.md: what recipes keep to, and settings that have one right value for a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pipeline.backends.kohya.rules.recipes import USUAL, Usual
from pipeline.backends.kohya.scripts import FLUX
from pipeline.backends.kohya.translation import settings_of
from pipeline.checkpoint.catalog import MODELS, with_defaults
from pipeline.checks.recipes import RULES

Table = Callable[[tuple[str, ...], Iterator[tuple[str, ...]]], str]


def rule_tables(table: Table) -> str:
    """Warnings, then errors."""
    return "\n".join(
        (
            "Warnings:\n",
            table(("setting", "usual", "because"), warned()),
            "Errors, for they would have no effect or the wrong one:\n",
            table(("setting", "must be", "because", "models"), refused()),
        )
    )


def warned() -> Iterator[tuple[str, ...]]:
    yield from ((f"`{rule.about}`", rule.usual, rule.reason) for rule in RULES)
    yield from ((f"`{key_of(usual)}`{models_of(usual)}", str(usual), usual.reason) for usual in USUAL)


def key_of(usual: Usual) -> str:
    """What sets it, in the scripts that have it."""
    written = (settings_of(script).get(usual.argument) for script in sorted(usual.scripts))
    return next((key for key in written if key is not None), f"backend.args.{usual.argument}")


def models_of(usual: Usual) -> str:
    """Where it is not for all."""
    return " of FLUX" if usual.scripts == FLUX else ""


def refused() -> Iterator[tuple[str, ...]]:
    """A row for each setting with its value and reason, with the models that share it."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for model in (with_defaults(file) for file in sorted(MODELS.glob("*.yaml")) if file.stem != "auto"):
        for fixed in model["known"]["fixed"]:
            rows.setdefault((fixed["key"], typed(fixed["value"]), fixed["reason"]), []).append(model["name"])
    for (key, value, reason), models in sorted(rows.items()):
        yield f"`{key}`", f"`{value}`", reason, ", ".join(f"`{name}`" for name in models)


def typed(value: Any) -> str:
    """On the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else f"{value:g}"
