"""The generated parts of docs/models.md: what conf/model knows of every model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pipeline.checkpoint.catalog import MODELS, with_defaults

Table = Callable[[tuple[str, ...], Iterator[tuple[str, ...]]], str]


def model_tables(table: Table) -> str:
    """A row a model: what it is and needs, how it is trained, and what people get wrong."""
    models = [with_defaults(file) for file in sorted(MODELS.glob("*.yaml")) if file.stem != "auto"]
    return "\n".join(
        (
            "### Files, sizes and noise\n",
            table(("model", "title", "family", "beside the denoiser", "px", "noise"), map(shape_row, models)),
            "### Learning rates, sd-scripts and sources\n",
            table(("model", "adapter", "finetune", "sd-scripts", "sources"), map(training_row, models)),
            "### What is good to know\n",
            "\n".join(f"**{model['name']}**\n\n{notes(model['known'])}" for model in models),
        )
    )


def shape_row(model: dict[str, Any]) -> tuple[str, ...]:
    known = model["known"]
    return (f"`{model['name']}`", known["title"], model["family"], part_words(known), size(known), noise_words(known))


def training_row(model: dict[str, Any]) -> tuple[str, ...]:
    known = model["known"]
    rates, kohya = known["learning_rates"], known["kohya"]
    scripts = [script for script in (kohya["lora_script"], kohya["finetune_script"]) if script]
    return (
        f"`{model['name']}`",
        band(rates["lora_low"], rates["lora_high"]),
        band(rates["finetune_low"], rates["finetune_high"]),
        ", ".join(f"`{script}`" for script in scripts) or "none",
        " ".join(known["sources"]),
    )


def part_words(known: dict[str, Any]) -> str:
    """The parts, with those that single files usually bring in brackets."""
    either = {names[0]: names for names in known["alternatives"]}
    second = {name for names in known["alternatives"] for name in names[1:]}
    words = (
        " or ".join(either.get(name, [name])) if not part["inside"] else f"({name})"
        for name, part in known["parts"].items()
        if name not in second
    )
    return ", ".join(words)


def size(known: dict[str, Any]) -> str:
    sides = known["resolution"]
    return f"{sides['native_px']} ({sides['min_px']} to {sides['max_px']})"


def noise_words(known: dict[str, Any]) -> str:
    """How it is added, where that is not the plain way."""
    noise = known["noise"]
    words = ["zero terminal SNR"] if noise["zero_terminal_snr"] else []
    words += [f"shift {noise['timestep_shift']:g}"] if noise["timestep_shift"] else []
    return ", ".join(words) or "plain"


def notes(known: dict[str, Any]) -> str:
    """In a list, after the form of its captions."""
    return "".join(f"- {note}\n" for note in (f"Captions and prompts: {known['prompts']['form']}.", *known["notes"]))


def band(low: float | None, high: float | None) -> str:
    return "not known" if low is None or high is None else f"{rate(low)} to {rate(high)}"


def rate(value: float) -> str:
    """1e-4 or 2.5e-4."""
    digits, _, power = f"{value:.1e}".partition("e")
    return f"{digits.removesuffix('.0')}e{int(power)}"
