"""Who beats whom: the command line, an experiment, the profile's row, the model's own figures, its kin's row, the row
`all`; for every key, in whatever order things are typed."""

from __future__ import annotations

import random
import re
import typing
from collections.abc import Iterator
from dataclasses import asdict, is_dataclass
from enum import Enum
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from pipeline.checks.limits import LIMITS
from pipeline.mistakes import _schema
from pipeline.settings import PROJECT, Concept, Settings, from_config
from tests import given

CONF = PROJECT / "conf"
MODES = ("lora", "finetune")
PLACES = ("the row of its name", "its own figures", "the row of its kin", "the row for all")
CHOICES = ("model=probe", "profile=probe", "optimizer=adamw", "network=auto", "backend=native", "data=demo")
ORDERS = 4
Figures = dict[str, Any]


@cache
def figured(mode: str) -> dict[str, str]:
    """Every key that a figure gives a value to, and the figure."""
    raw = OmegaConf.to_container(given.config(f"mode={mode}", "optimizer=adamw"), resolve=False)
    found = {key: re.search(r"\$\{figure:(\w+)\}", str(value)) for key, value in flattened("", raw)}
    return {key: match[1] for key, match in found.items() if match is not None}


def flattened(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, each in value.items():
            yield from flattened(f"{prefix}{name}.", each)
    else:
        yield prefix[:-1], value


@cache
def two_values(mode: str) -> dict[str, tuple[Any, Any]]:
    """Figure -> two values of it that profiles really have; where all have one, a number beside it."""
    seen: dict[str, list[Any]] = {}
    for file in [*(CONF / "profile").glob("*.yaml"), *(CONF / "model").glob("*.yaml")]:
        figures = yaml.safe_load(file.read_text()).get("figures", {}).get(mode, {})
        for row in figures.values() if file.parent.name == "profile" else [figures]:
            for name, value in row.items():
                seen.setdefault(name, [])
                seen[name] += [value] if value is not None and value not in seen[name] else []
    return {name: (values[0], values[1] if len(values) > 1 else beside(values[0])) for name, values in seen.items()}


def beside(value: Any) -> Any:
    """Another value of its kind; an optimizer is the one name that all rows of a mode share."""
    if isinstance(value, list):
        return [each / 2 for each in value]
    return "adamw" if isinstance(value, str) else value + 1


def row(mode: str, which: int) -> Figures:
    return {name: values[which] for name, values in two_values(mode).items()}


def probe(folder: Path, mode: str, rows: list[Figures]) -> None:
    """A profile and a model whose figures stand in the four places, in the order of PLACES."""
    of_name, own, of_kin, of_all = rows
    made = yaml.safe_load((CONF / "profile" / "style.yaml").read_text())
    made |= {"name": "probe", "figures": {mode: {"probe": of_name, "relative": of_kin, "all": of_all}}}
    model = {"defaults": ["sdxl", "_self_"], "name": "probe", "kin": "relative", "path": "x", "figures": {mode: own}}
    write(folder / "profile" / "probe.yaml", yaml.safe_dump(made))
    write(folder / "model" / "probe.yaml", yaml.safe_dump(model))


def write(file: Path, text: str) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)


def composed(folder: Path, *typed: str) -> Settings:
    return from_config(given.config(f"hydra.searchpath=['file://{folder}']", *typed))


def wrong(settings: Settings, mode: str, expected: int) -> dict[str, Any]:
    """Keys whose value is not that of the layer that should count."""
    values = settings.flat()
    return {
        key: values[key] for key, figure in figured(mode).items() if values[key] != two_values(mode)[figure][expected]
    }


def choices(mode: str) -> list[str]:
    return [f"mode={mode}", *(each for each in CHOICES if mode == "lora" or not each.startswith("network"))]


def test_there_are_keys_with_figures() -> None:
    assert len(figured("lora")) >= 20
    assert set(figured("lora")) - set(figured("finetune")) == {key for key in figured("lora") if "network" in key}
    assert all(first != second for mode in MODES for first, second in two_values(mode).values())


@pytest.mark.parametrize(("place", "mode"), list(product(range(len(PLACES)), MODES)))
def test_a_figure_beats_those_of_all_places_below(place: int, mode: str, tmp_path: Path) -> None:
    above: list[Figures] = [{} for _ in range(place)]
    below = [row(mode, 1) for _ in PLACES[place + 1 :]]
    probe(tmp_path, mode, [*above, row(mode, 0), *below])
    assert wrong(composed(tmp_path, *choices(mode)), mode, 0) == {}, PLACES[place]


@pytest.mark.parametrize(("order", "mode"), list(product(range(ORDERS), MODES)))
def test_an_experiment_beats_every_row(order: int, mode: str, tmp_path: Path) -> None:
    probe(tmp_path, mode, [row(mode, 1)] * 4)
    experiment(tmp_path, mode)
    assert wrong(composed(tmp_path, *shuffled([*choices(mode), "experiment=probe"], order)), mode, 0) == {}


@pytest.mark.parametrize(("order", "mode"), list(product(range(ORDERS), MODES)))
def test_the_command_line_beats_every_row_and_an_experiment(order: int, mode: str, tmp_path: Path) -> None:
    probe(tmp_path, mode, [row(mode, 0)] * 4)
    experiment(tmp_path, mode)
    values = {key: two_values(mode)[figure][1] for key, figure in figured(mode).items()}
    typed = [*choices(mode), "experiment=probe", *(f"{key}={as_typed(value)}" for key, value in values.items())]
    assert wrong(composed(tmp_path, *shuffled(typed, order)), mode, 1) == {}


def experiment(folder: Path, mode: str) -> None:
    """A whole example, with the first value of every key."""
    nested: dict[str, Any] = {}
    for key, figure in figured(mode).items():
        *groups, name = key.split(".")
        here = nested
        for group in groups:
            here = here.setdefault(group, {})
        here[name] = two_values(mode)[figure][0]
    write(folder / "experiment" / "probe.yaml", f"# @package _global_\n{yaml.safe_dump(nested)}")


def shuffled(typed: list[str], seed: int) -> list[str]:
    return random.Random(seed).sample(typed, len(typed))


@pytest.mark.parametrize("order", range(ORDERS))
def test_an_option_that_is_typed_beats_that_of_an_experiment(order: int, tmp_path: Path) -> None:
    defaults = ["override /profile: anime", "override /mode: finetune", "override /optimizer: lion"]
    text = "# @package _global_\ndefaults:\n" + "".join(f"  - {each}\n" for each in defaults)
    write(tmp_path / "experiment" / "probe.yaml", text)
    alone = composed(tmp_path, "experiment=probe")
    assert (alone.profile.name, alone.mode.name, alone.optimizer.name) == ("anime", "finetune", "lion")
    typed = shuffled(["experiment=probe", "profile=photoreal", "mode=lora", "optimizer=adamw"], order)
    made = composed(tmp_path, *typed)
    assert (made.profile.name, made.mode.name, made.optimizer.name) == ("photoreal", "lora", "adamw")


@pytest.mark.parametrize(("backend", "mode", "order"), list(product(("native", "kohya"), MODES, range(2))))
def test_every_key_can_be_typed_and_is_what_was_typed(backend: str, mode: str, order: int) -> None:
    """With a figure or without one; the options of the groups have names of their own."""
    options = [f"backend={backend}", f"mode={mode}", "model=sd15", "model.path=x", "data=folder", "data.dir=x"]
    before = given.settings(*options).flat()
    wanted = {key: other for key, value in before.items() if (other := another(key, value)) is not None}
    assert len(wanted) > 50
    typed = shuffled(
        [*options[:3], "data=folder", *(f"{key}={as_typed(value)}" for key, value in wanted.items())], order
    )
    after = from_config(given.config(*typed)).flat()
    assert {key: after[key] for key in wanted} == wanted


def another(key: str, value: object) -> object:
    """A value of the same type that is not the present one; None for sets of names and values, and for names."""
    kind = _schema().get(key)
    kinds = [each for each in typing.get_args(kind) if each is not type(None)]
    kind = kinds[0] if typing.get_origin(kind) is typing.Union else kind
    if key.endswith(".name") or kind is None or is_dataclass(kind) or typing.get_origin(kind) is dict:
        return None
    if isinstance(kind, type) and issubclass(kind, Enum):
        return next(each.value for each in kind if each.value != value)
    if kind is bool:
        return not value
    if kind in (int, float):
        limit = LIMITS[key]
        return kind(next(each for each in (limit.typical, limit.low, limit.low + 1) if each != value))
    if kind == list[int]:
        return [7]
    if kind == list[Concept]:
        return [asdict(Concept("typed"))]
    return ["typed"] if typing.get_origin(kind) is list else "typed"


def as_typed(value: object) -> str:
    """On the command line."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[{dir:typed}]"
    return (
        {True: "true", False: "false"}[value]
        if isinstance(value, bool)
        else str(value).replace("'", "").replace(" ", "")
    )
