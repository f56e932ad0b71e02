"""Which row of figures a figure is taken from: the one rule, for composed settings and for the files as they stand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

ALL = "all"
"""The row that holds what is usual."""
OWN = "own"
"""Stands for the figures that the model brings itself."""


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
