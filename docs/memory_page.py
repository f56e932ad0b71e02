"""The generated part of docs/memory.md: published figures of memory beside what the estimate says."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from pipeline.families import Level, Shape
from pipeline.memory.estimate import Phase, estimate
from pipeline.memory.load import Load
from pipeline.memory.plain import CONTEXT_BYTES
from pipeline.settings import PROJECT

Table = Callable[[tuple[str, ...], Iterator[tuple[str, ...]]], str]
FIGURES = PROJECT / "tests" / "memory_figures.toml"
UNITS = {"GB": 10**9, "GiB": 2**30}
CLOSE = 0.15
PLAIN = {
    **{"kind": "measured", "compute": 2, "rank": 0, "batch": 1, "accumulation": 1, "checkpointed": True},
    **{"fused": False, "swapped": 0, "context": CONTEXT_BYTES["cuda"], "assumed": ""},
}
"""What a figure does not say."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A published figure, and the training phase as the estimate has it."""

    said: Mapping[str, Any]
    phase: Phase

    @property
    def published_bytes(self) -> float:
        return float(self.said["value"]) * UNITS[self.said["unit"]]

    @property
    def measured(self) -> bool:
        return bool(self.said["kind"] == "measured")

    @property
    def error(self) -> float:
        return self.phase.bytes / self.published_bytes - 1

    @property
    def holds(self) -> bool:
        """Within 15 % of what was measured; not above what it is said to fit in."""
        return abs(self.error) <= CLOSE if self.measured else self.error <= 0


@cache
def figures() -> tuple[Figure, ...]:
    """All of tests/memory_figures.toml."""
    every: list[Mapping[str, Any]] = []
    for said in _written()["figure"]:
        whole = PLAIN | (every[said["like"] - 1] if "like" in said else {}) | said
        every.append(whole)
    return tuple(Figure(said, _training(load_of(said))) for said in every)


def load_of(said: Mapping[str, Any]) -> Load:
    """An adapter's parameters are counted as a run's are (pipeline.memory.parameters)."""
    shape = shape_of(said["model"])
    return Load(
        shape=shape,
        parameters=shape.parameters,
        weight_bytes=said["weight"],
        adapter_parameters=shape.parameters * said["rank"] * 0.0005,
        trained_bytes=said["trained"],
        compute_bytes=said["compute"],
        state_bytes_per_parameter=said["state"],
        eight_bits=True,  # the figure is for the type that was trained in
        side_px=said["side"],
        batch=said["batch"],
        accumulation=said["accumulation"],
        gradient_checkpointing=said["checkpointed"],
        fused_backward=said["fused"],
        blocks_to_swap=said["swapped"],
        context_bytes=said["context"],
    )


def shape_of(model: str) -> Shape:
    """As the model's file has it; none of those in the figures takes it from another file."""
    written = yaml.safe_load((PROJECT / "conf" / "model" / f"{model}.yaml").read_text(encoding="utf-8"))
    shape = written["known"]["shape"]
    levels = [Level(**level) for level in shape["levels"]]
    return Shape(float(shape["parameters"]), levels, shape["text_tokens"], shape["blocks"])


def memory_tables(table: Table) -> str:
    """The share that holds, every figure, and those that were left out."""
    measured = [figure for figure in figures() if figure.measured]
    fitting = [figure for figure in figures() if not figure.measured]
    within, kept = (sum(figure.holds for figure in each) for each in (measured, fitting))
    share = (
        f"Within 15 %: {within} of {len(measured)} measured figures ({100 * within / len(measured):.0f} %). "
        f"Below the low end of the range: {_below(measured)}; above the high end: {_above(measured)}. "
        f"Kept: {kept} of {len(fitting)} of the sizes of cards that something is said to fit in.\n"
    )
    titles = (
        "what",
        "published",
        "estimate",
        "range",
        "error",
        "within 15 %",
        "not told by the source, assumed",
        "source",
    )
    fits = table(("what", "is said to fit in", "estimate", "kept", "assumed", "source"), map(_fits_row, fitting))
    left = table(("left out", "because"), ((each["what"], each["why"]) for each in _written()["left_out"]))
    return f"{share}\n{table(titles, map(_row, measured))}\n{fits}\n{left}"


def _below(measured: list[Figure]) -> int:
    return sum(figure.published_bytes < figure.phase.low_bytes for figure in measured)


def _above(measured: list[Figure]) -> int:
    return sum(figure.published_bytes > figure.phase.high_bytes for figure in measured)


def _row(figure: Figure) -> tuple[str, ...]:
    said, unit = figure.said, UNITS[figure.said["unit"]]
    low, high = figure.phase.low_bytes / unit, figure.phase.high_bytes / unit
    return (
        said["name"],
        f"{said['value']:g} {said['unit']}",
        f"{figure.phase.bytes / unit:.1f}",
        f"{low:.1f}-{high:.1f}",
        f"{100 * figure.error:+.0f} %",
        "yes" if figure.holds else "**no**",
        said["assumed"],
        said["source"],
    )


def _fits_row(figure: Figure) -> tuple[str, ...]:
    said, unit = figure.said, UNITS[figure.said["unit"]]
    estimated = f"{figure.phase.bytes / unit:.1f}"
    kept = "yes" if figure.holds else "**no**"
    return said["name"], f"{said['value']:g} {said['unit']}", estimated, kept, said["assumed"], said["source"]


def _training(load: Load) -> Phase:
    return next(phase for phase in estimate(load).phases if phase.name == "training")


@cache
def _written() -> Mapping[str, Any]:
    return tomllib.loads(FIGURES.read_text(encoding="utf-8"))
