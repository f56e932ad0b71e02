"""Which row of figures a figure is taken from: the one rule, for composed settings and for the files as they stand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

BEHIND_AUTO, NOTHING = "behind_auto", "nothing"
"""The resolver in the defaults of conf/config.yaml, and the empty file that it names where there is nothing to add."""
ALL = "all"
"""The row that holds what is usual."""
OWN = "own"
"""Stands for the figures that the model brings itself."""
FAST = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Every run reads these files once more than Hydra does."""


@dataclass(frozen=True, slots=True)
class Row:
    """Figures, and where they stand."""

    place: str
    """The profile's row, by its name; `own` for those of the model's file."""
    figures: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Figure:
    """A value, and the row that it was taken from."""

    value: Any
    place: str


def rows_of(model: Any, profile: Any, mode: str) -> Iterator[Row]:
    """In the order in which they are asked: the profile's row for this model, the model's own figures, the profile's
    row for its kin, the profile's row `all`. `model` and `profile` have `get`: they are composed, or as written."""
    rows = profile.get("figures").get(mode) or {}
    asked = (
        (model.get("name"), rows.get(model.get("name"))),
        (OWN, (model.get("figures") or {}).get(mode)),
        (model.get("kin"), rows.get(model.get("kin"))),
        (ALL, rows.get(ALL)),
    )
    yield from (Row(place, figures) for place, figures in asked if figures is not None)


def found(name: str, rows: Iterator[Row]) -> Figure | None:
    """None where no row has it."""
    return next((Figure(row.figures[name], row.place) for row in rows if name in row.figures), None)


# --------------------------------------------------------------------------------------------- options as written


def optimizer_behind_auto(folders: Sequence[Path], model: str, profile: str, mode: str) -> str:
    """The option whose class optimizer=auto has: that of the figure `optimizer`, in 32 bits. Where the options can't be
    found AdamW, so that Hydra goes on and tells what is wrong with them."""
    written = option(tuple(folders), "model", model), option(tuple(folders), "profile", profile)
    if not all(written):
        return "adamw"
    figure = found("optimizer", rows_of(*written, mode))
    return in_32_bits(tuple(folders), str(figure.value)) if figure is not None else "adamw"


def in_32_bits(folders: tuple[Path, ...], name: str) -> str:
    """The memory profile decides on the bits of the state."""
    optimizer = option(folders, "optimizer", name)
    small = optimizer.get("known", {}).get("twin") is not None
    return str(optimizer["falls_back_to"]) if small else name


def option(folders: tuple[Path, ...], group: str, name: str) -> Mapping[str, Any]:
    """An option of a config group as its file has it, over what it inherits; empty where there is no such file."""
    file = next((each for folder in folders if (each := folder / group / f"{name}.yaml").is_file()), None)
    if file is None:
        return {}
    written = _written(file, file.stat().st_mtime_ns)
    inherited: dict[str, Any] = {}
    for parent in written.get("defaults", []):
        if isinstance(parent, str) and parent != "_self_":
            inherited = _over(inherited, option(folders, group, parent))
    return _over(inherited, written)


@cache
def _written(file: Path, _changed: int) -> Mapping[str, Any]:
    written = yaml.load(file.read_text(encoding="utf-8"), FAST)  # noqa: S506
    return written if isinstance(written, dict) else {}


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values of the second beat those of the first."""
    both = {name: _over(below[name], value) for name, value in above.items() if _nested(below.get(name), value)}
    return {**below, **above, **both}


def _nested(below: object, above: object) -> bool:
    return isinstance(below, Mapping) and isinstance(above, Mapping)
