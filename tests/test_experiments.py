"""The examples of conf/experiment: each is whole but for the paths that only a user can name, and would run."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from pipeline.settings import PROJECT, Settings, from_config
from pipeline.validate import validate
from tests import given
from tests.golden_kohya import facts_of, models

EXPERIMENTS = sorted(file.stem for file in (PROJECT / "conf" / "experiment").glob("*.yaml"))
DEMOS = [name for name in EXPERIMENTS if name.startswith(("demo_", "sweep_"))]
TRIED = "demo_photoreal"
"""Of the examples on the demo model, the one that has most settings of its own: noise offset, dropped captions."""


@cache
def needed(name: str) -> tuple[str, ...]:
    """Settings without a value, and the parts that the model has not inside."""
    config = given.config(f"experiment={name}")
    parts = (f"model.parts.{part}" for part, known in config.model.known.parts.items() if not known.inside)
    return *sorted(OmegaConf.missing_keys(config)), *parts


@cache
def whole(name: str) -> Settings:
    """With a file for each of them."""
    return from_config(given.config(f"experiment={name}", *(f"{key}={models() / key}" for key in needed(name))))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_example_leaves_nothing_but_paths_to_the_user(name: str) -> None:
    assert {key for key in needed(name) if not key.startswith("model.parts.")} == (
        set() if name in DEMOS else {"model.path", "data.dir"}
    )


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_command_of_an_example_names_all_paths(name: str) -> None:
    text = (PROJECT / "conf" / "experiment" / f"{name}.yaml").read_text()
    (command,) = (line for line in text.splitlines() if line.startswith("#   python run.py"))
    assert f"experiment={name}" in command
    for key in needed(name):
        assert f" {key}=" in command
    assert (" backend.root=" in command) == (whole(name).backend.name == "kohya")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_example_validates(name: str) -> None:
    for key in needed(name):
        (models() / key).touch()
    settings = whole(name)
    facts = facts_of(settings)
    assert facts.dataset is not None
    tagged = tuple(replace(picture, caption="red hat, a meadow, dusk") for picture in facts.dataset.train)
    plan = validate(settings, replace(facts, dataset=replace(facts.dataset, train=tagged)))
    assert plan.steps >= settings.train.min_steps
    assert not [text for text in plan.warnings if "usual is" in text or "lies outside" in text]


def test_every_purpose_has_an_example() -> None:
    """A profile that a newcomer adds needs none."""
    shown = {whole(name).profile.name for name in EXPERIMENTS if name not in DEMOS}
    assert shown >= {"character", "style", "concept", "photoreal", "anime"}


def test_examples_are_of_both_backends_and_more_than_one_family() -> None:
    every = [whole(name) for name in EXPERIMENTS if name not in DEMOS]
    assert {settings.backend.name for settings in every} == {"native", "kohya"}
    assert len({settings.model.family for settings in every}) >= 3


@pytest.mark.parametrize("name", DEMOS)
def test_an_example_on_the_demo_model_is_named_for_what_it_shows(name: str) -> None:
    settings = whole(name)
    assert (settings.model.name, settings.data.name) == ("demo", "demo")
    assert name.startswith("sweep_") or name in (f"demo_{settings.profile.name}", f"demo_{settings.mode.name}")


@pytest.mark.slow
def test_an_example_runs(tmp_path: Path) -> None:
    few = ("train.max_steps=2", "sample.num_inference_steps=1", "tracking=off", "hydra.run.dir=here")
    command = [sys.executable, str(PROJECT / "run.py"), f"experiment={TRIED}", *few]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    outcome = json.loads((tmp_path / "here" / "outcome.json").read_text())
    assert (outcome["status"], outcome["steps"]) == ("finished", 2)
    assert (tmp_path / "here" / outcome["weights"]).is_file()
    assert outcome["heldout_after"] > 0
