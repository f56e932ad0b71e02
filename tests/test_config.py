from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from pipeline.checks.limits import out_of_range
from pipeline.checks.networks import network_problems
from pipeline.settings import PROJECT, from_config
from tests import given

CONF = PROJECT / "conf"
FILES = sorted(CONF.rglob("*.yaml"))
MODELS = {"demo": ("model=demo",), "sd15": ("model=sd15", "model.path=/models/x.safetensors")}
NEEDS = {
    "data=folder": ("data.dir=/pictures",),
    **{f"model={name}": overrides[1:] for name, overrides in MODELS.items()},
}
"""What must be typed along with a choice that leaves a value to the user."""


def options(group: str) -> list[str]:
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


def groups() -> list[str]:
    return sorted(folder.name for folder in CONF.iterdir() if folder.is_dir())


def choices() -> Iterator[tuple[str, str]]:
    """Every option of every group, in every mode that has it."""
    for group in groups():
        modes = {"network": ["lora"], "mode": [""], "experiment": [""]}.get(group, options("mode"))
        yield from ((mode, f"{group}={option}") for mode, option in product(modes, options(group)))


def composed(*overrides: str) -> Any:
    return from_config(given.config(*overrides))


@pytest.fixture(autouse=True)
def _server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")


def test_there_are_configs() -> None:
    assert {"model", "profile", "hardware", "mode", "network", "optimizer"} <= set(groups())
    assert len(FILES) > 30


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(CONF)))
def test_every_file_opens_with_its_purpose_and_a_command(file: Path) -> None:
    lines = [line for line in file.read_text().splitlines() if line != "# @package _global_"]
    head = lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]
    assert head, "the first line says what the file is for"
    assert re.match(r"# \w.{15,}", head[0])
    assert any(re.search(r"python run\.py", line) for line in head)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(CONF)))
def test_the_command_of_every_file_uses_it(file: Path) -> None:
    if file.parent == CONF:
        return
    head = "\n".join(line for line in file.read_text().splitlines() if line.startswith("#"))
    assert f"{file.parent.name}={file.stem}" in head


@pytest.mark.parametrize(("mode", "choice"), list(choices()), ids=lambda value: value)
def test_every_option_composes_and_resolves(mode: str, choice: str) -> None:
    overrides = [choice, *NEEDS.get(choice, ())]
    composed(*([f"mode={mode}"] if mode else []), *overrides)


@pytest.mark.parametrize(
    ("profile", "mode", "model"), [*product(options("profile"), options("mode"), MODELS)], ids=lambda value: value
)
def test_every_profile_has_all_figures_in_range(profile: str, mode: str, model: str) -> None:
    settings = composed(f"profile={profile}", f"mode={mode}", *MODELS[model])
    assert list(out_of_range(settings)) == []
    assert settings.network is None or list(network_problems(settings.network)) == []


@pytest.mark.parametrize("network", options("network"))
def test_every_network_is_one_that_its_algorithm_can_be(network: str) -> None:
    settings = composed(f"network={network}")
    assert list(network_problems(settings.network)) == []


def test_all_models_are_in_the_matrix() -> None:
    assert set(options("model")) == set(MODELS)


# ------------------------------------------------------------------------------------------------------------ figures


def used_figures() -> set[str]:
    return {name for file in FILES for name in re.findall(r"\$\{figure:(\w+)\}", file.read_text())}


def figure_rows() -> dict[str, dict[str, Any]]:
    """Every row of figures, by where it stands."""
    rows: dict[str, dict[str, Any]] = {}
    for profile in options("profile"):
        by_mode = yaml.safe_load((CONF / "profile" / f"{profile}.yaml").read_text())["figures"]
        rows |= {f"{profile} {mode} {kin}": row for mode, by_kin in by_mode.items() for kin, row in by_kin.items()}
    for model in options("model"):
        by_mode = yaml.safe_load((CONF / "model" / f"{model}.yaml").read_text())["figures"]
        rows |= {f"{model} {mode}": row for mode, row in by_mode.items()}
    return rows


def test_figures_are_used_and_given() -> None:
    assert used_figures()
    assert len(figure_rows()) >= 2 * len(options("profile"))


@pytest.mark.parametrize("row", figure_rows())
def test_every_figure_of_a_row_is_used_by_the_config(row: str) -> None:
    """A misspelt figure would be read by nobody."""
    assert set(figure_rows()[row]) - used_figures() == set()


def test_rows_stand_under_known_modes_and_families() -> None:
    families = {yaml.safe_load((CONF / "model" / f"{model}.yaml").read_text())["family"] for model in options("model")}
    for profile in options("profile"):
        by_mode = yaml.safe_load((CONF / "profile" / f"{profile}.yaml").read_text())["figures"]
        assert set(by_mode) == set(options("mode"))
        assert all(set(by_kin) <= families | set(options("model")) for by_kin in by_mode.values())


def test_a_figure_that_no_row_has_is_an_error_that_names_profile_and_model() -> None:
    config = given.config("++train.batch_size=${figure:no_such_figure}")
    with pytest.raises(Exception, match="profile 'style' has no figure 'no_such_figure' for model 'demo'"):
        OmegaConf.to_container(config, resolve=True)
