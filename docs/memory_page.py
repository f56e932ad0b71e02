"""The generated part of docs/memory.md: published figures of memory beside what the estimate says."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import yaml

from pipeline.families import Level, Shape
from pipeline.memory.adapters import adapter_parameters
from pipeline.memory.estimate import Phase, estimate
from pipeline.memory.load import Load
from pipeline.memory.plain import CONTEXT_BYTES
from pipeline.records import Matrix
from pipeline.settings import PROJECT, Algorithm, Network, SaveDtype
from tests.model_headers import adapted, adapted_encoders

Table = Callable[[tuple[str, ...], Iterator[tuple[str, ...]]], str]
FIGURES = PROJECT / "tests" / "memory_figures.toml"
UNITS = {"GB": 10**9, "GiB": 2**30}
CLOSE = 0.15
PLAIN = {
    **{"kind": "measured", "compute": 2, "rank": 0, "batch": 1, "accumulation": 1, "checkpointed": True},
    **{"fused": False, "swapped": 0, "context": CONTEXT_BYTES["cuda"], "assumed": "", "encoders": 0.0},
}
"""What a figure does not say."""
ROWS = range(1, 106)
"""Of the collection that the figures are from."""


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
    def fits(self) -> bool:
        return bool(self.said["kind"] == "fits")

    @property
    def complete(self) -> bool:
        """Its source tells all settings that matter."""
        return not self.said["assumed"]

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
    """An adapter's parameters are counted as a run's are, by the model's recorded header. An encoder that is named is
    trained, and stays on the device."""
    shape = shape_of(said["model"])
    return Load(
        shape=replace(shape, text_tokens=said.get("text", shape.text_tokens)),
        parameters=shape.parameters,
        weight_bytes=said["weight"],
        adapter_parameters=_adapter(said, adapted) if said["rank"] else 0,
        trained_bytes=said["trained"],
        compute_bytes=said["compute"],
        state_bytes_per_parameter=said["state"],
        eight_bits=True,  # the figure is for the type that was trained in
        side_px=said["side"],
        batch=said["batch"],
        accumulation=said["accumulation"],
        gradient_checkpointing=said["checkpointed"],
        encoder_parameters=said["encoders"],
        encoder_bytes=said["weight"],
        encoders_stay=bool(said["encoders"]),
        trained_encoder_parameters=_encoders(said),
        fused_backward=said["fused"],
        blocks_to_swap=said["swapped"],
        context_bytes=said["context"],
    )


def _adapter(said: Mapping[str, Any], layers: Callable[[str], tuple[Matrix, ...]]) -> float:
    """LoRA's: all figures of adapters are of it."""
    return float(said.get("adapter") or adapter_parameters(layers(said["model"]), lora(said["rank"])))


def _encoders(said: Mapping[str, Any]) -> float:
    return _adapter(said, adapted_encoders) if said["encoders"] and said["rank"] else float(said["encoders"])


def lora(rank: int) -> Network:
    return Network(Algorithm.lora, rank, float(rank), 0, 0.0, 0.0, SaveDtype.fp16, {})


@cache
def shape_of(model: str) -> Shape:
    """Of a model's denoiser."""
    shape = known_of(model, "shape")
    levels = [Level(**level) for level in shape["levels"]]
    return Shape(float(shape["parameters"]), levels, shape["text_tokens"], shape["blocks"])


def known_of(model: str, section: str) -> dict[str, Any]:
    """A section of `known` as the model's file has it, laid over those that it names."""
    written = yaml.safe_load((PROJECT / "conf" / "model" / f"{model}.yaml").read_text(encoding="utf-8"))
    under = [known_of(each, section) for each in written.get("defaults", ()) if each != "_self_"]
    own = written.get("known", {}).get(section, {})
    return {key: value for each in (*under, own) for key, value in each.items()}


def memory_tables(table: Table) -> str:
    """The shares that hold, every figure, and those that were left out."""
    measured = [figure for figure in figures() if figure.measured]
    complete = [figure for figure in measured if figure.complete]
    fitting = [figure for figure in figures() if figure.fits]
    share = (
        f"Within 15 %: {_share(complete)} measured figures whose sources tell every setting that matters, and "
        f"{_share(measured)} with those of which a setting is assumed. Of all: below the low end of the range: "
        f"{_below(measured)}; above the high end: {_above(measured)}. "
        f"Kept: {sum(figure.holds for figure in fitting)} of {len(fitting)} of the sizes of cards that something is "
        f"said to fit in.\n"
    )
    titles = ("no.", "what", "published", "estimate", "range", "error", "within 15 %", "assumed", "source")
    rows = [table(titles, map(_row, which)) for which in (complete, [f for f in measured if not f.complete])]
    fits = table(
        ("no.", "what", "is said to fit in", "estimate", "kept", "assumed", "source"),
        map(_fits_row, [f for f in figures() if not f.measured]),
    )
    left = table(("no.", "left out", "because"), map(_left_row, _written()["left_out"]))
    told, assumed = "Every setting is told:", "A setting is not told by the source, and assumed:"
    return "\n".join((share, told, "", rows[0], assumed, "", rows[1], "What fits in a card:", "", fits, left))


def unaccounted() -> set[int]:
    """Rows of the collection that are neither compared nor left out with a reason."""
    out = (row for each in _written()["left_out"] for row in each["rows"])
    return {*ROWS} - {figure.said["row"] for figure in figures()} - {*out}


def _share(these: list[Figure]) -> str:
    within = sum(figure.holds for figure in these)
    return f"{within} of {len(these)} ({100 * within / len(these):.0f} %)"


def _below(measured: list[Figure]) -> int:
    return sum(figure.published_bytes < figure.phase.low_bytes for figure in measured)


def _above(measured: list[Figure]) -> int:
    return sum(figure.published_bytes > figure.phase.high_bytes for figure in measured)


def _row(figure: Figure) -> tuple[str, ...]:
    said, unit = figure.said, UNITS[figure.said["unit"]]
    low, high = figure.phase.low_bytes / unit, figure.phase.high_bytes / unit
    return (
        str(said["row"]),
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
    kept = "yes" if figure.holds else "**no**" if figure.fits else "no, and it is only said to be possible"
    fits = f"{said['value']:g} {said['unit']}"
    return str(said["row"]), said["name"], fits, estimated, kept, said["assumed"], said["source"]


def _left_row(left: Mapping[str, Any]) -> tuple[str, ...]:
    return _numbers(left["rows"]), left["what"], left["why"]


def _numbers(rows: list[int]) -> str:
    """1, 3-5"""
    runs: list[list[int]] = []
    for row in rows:
        if runs and row == runs[-1][-1] + 1:
            runs[-1].append(row)
        else:
            runs.append([row])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _training(load: Load) -> Phase:
    return next(phase for phase in estimate(load).phases if phase.name == "training")


@cache
def _written() -> Mapping[str, Any]:
    return tomllib.loads(FIGURES.read_text(encoding="utf-8"))
