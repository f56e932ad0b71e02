"""What is rendered for every model, mode and algorithm: as the golden files have it, as the audited parsers take it."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from pipeline.backends.kohya.arguments import check_value
from pipeline.backends.kohya.manifest import load
from pipeline.backends.kohya.network import LYCORIS
from pipeline.backends.kohya.render import render
from pipeline.backends.kohya.translation import script_for
from pipeline.errors import InvalidSettings
from pipeline.settings import PROJECT, Algorithm
from tests.golden_kohya import (
    CASES,
    FOLDER,
    MODELS,
    composed,
    facts_of,
    golden,
    has_script,
    networks,
    plan_of,
    resolutions,
    texts,
)

REGENERATE = "python -m tests.golden_kohya makes them anew and shows what differs"
LORA_ONLY = {"unet_lr", "text_encoder_lr", "network_train_unet_only", "network_module", "network_dim", "network_alpha"}
FINETUNE_ONLY = {"learning_rate", "train_text_encoder", "learning_rate_te", "learning_rate_te1", "learning_rate_te2"}
GENERAL = {"resolution", "enable_bucket", "bucket_reso_steps", "min_bucket_reso", "max_bucket_reso"}
DATASETS = {"batch_size", "validation_split", "validation_seed", "subsets"}
SUBSETS = {
    "flip_aug",
    "shuffle_caption",
    "keep_tokens",
    "caption_dropout_rate",
    "caption_tag_dropout_rate",
    "num_repeats",
    "enable_wildcard",
}
METADATA = {"metadata_file"}
PICTURES = {"image_dir", "caption_extension", "color_aug", "random_crop"} | {
    *("caption_tag_dropout_rate", "caption_dropout_every_n_epochs", "token_warmup_step")
}
"""What the strict schema of dataset.toml knows, of what we write (ConfigSanitizer, library/config_util.py)."""


@pytest.mark.parametrize(("model", "mode"), CASES)
def test_a_run_is_rendered_as_the_golden_file_says(model: str, mode: str) -> None:
    assert golden(model, mode) == (FOLDER / f"{model}-{mode}.toml").read_text(encoding="utf-8"), REGENERATE


def test_networks_travel_as_the_golden_file_says() -> None:
    assert networks() == (FOLDER / "networks.toml").read_text(encoding="utf-8"), REGENERATE


def test_several_resolutions_are_rendered_as_the_golden_file_says() -> None:
    assert resolutions() == (FOLDER / "resolutions.toml").read_text(encoding="utf-8"), REGENERATE


def test_there_is_a_golden_file_for_everything_and_nothing_else() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {name for name, _ in texts()}
    assert len(CASES) > 20


def read(model: str, mode: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """train.toml and dataset.toml of a golden file."""
    train, dataset = (FOLDER / f"{model}-{mode}.toml").read_text(encoding="utf-8").split("# dataset.toml\n")
    return tomllib.loads(train), tomllib.loads(dataset)


@pytest.mark.parametrize(("model", "mode"), CASES)
def test_every_line_is_an_argument_of_the_script_and_of_its_kind(model: str, mode: str) -> None:
    script = script_for(composed(model, mode))
    assert script is not None
    arguments, (train, _) = load().parsers[script].arguments, read(model, mode)
    assert train
    assert {name: check_value(arguments[name], value) for name, value in train.items()} == dict.fromkeys(train)


@pytest.mark.parametrize(("model", "mode"), CASES)
def test_a_mode_has_no_line_of_the_other(model: str, mode: str) -> None:
    train, _ = read(model, mode)
    assert not train.keys() & (FINETUNE_ONLY if mode == "lora" else LORA_ONLY)
    assert ("unet_lr" in train, "learning_rate" in train) == (mode == "lora", mode == "finetune")


@pytest.mark.parametrize(("model", "mode"), CASES)
def test_the_seed_is_always_there_and_keys_are_flat(model: str, mode: str) -> None:
    train, _ = read(model, mode)
    assert train["seed"] == 0
    assert not [name for name, value in train.items() if isinstance(value, dict)]


@pytest.mark.parametrize(("model", "mode"), CASES)
def test_the_dataset_has_only_what_its_strict_schema_knows(model: str, mode: str) -> None:
    _, dataset = read(model, mode)
    assert dataset["general"].keys() == GENERAL
    for entry in dataset["datasets"]:
        assert entry.keys() <= DATASETS
        for subset in entry["subsets"]:
            assert subset.keys() <= SUBSETS | (METADATA if "metadata_file" in subset else PICTURES)


@pytest.mark.parametrize("algorithm", [each for each in Algorithm if each is not Algorithm.tlora])
@pytest.mark.parametrize("model", ["sd15", "sdxl", "flux_dev"])
def test_every_algorithm_is_rendered(model: str, algorithm: Algorithm, tmp_path: Path) -> None:
    render(plan_of(model, "lora", f"network={algorithm.value}"), tmp_path)
    train = tomllib.loads((tmp_path / "job" / "train.toml").read_text(encoding="utf-8"))
    assert train["network_module"].startswith("networks.") or train["network_module"] == LYCORIS
    assert (train["network_module"] == LYCORIS) == (
        algorithm not in (Algorithm.lora, Algorithm.locon) or (model == "flux_dev" and algorithm is Algorithm.locon)
    )


@pytest.mark.parametrize("profile", sorted(path.stem for path in (PROJECT / "conf" / "profile").glob("*.yaml")))
@pytest.mark.parametrize(("model", "mode"), CASES)
def test_every_profile_is_rendered(profile: str, model: str, mode: str, tmp_path: Path) -> None:
    job = render(plan_of(model, mode, f"profile={profile}"), tmp_path)
    assert all(file.is_file() for file in job.files)


NONE = [(model, mode) for model in MODELS for mode in ("lora", "finetune") if not has_script(model, mode)]


@pytest.mark.parametrize(("model", "mode"), NONE)
def test_what_sd_scripts_does_not_train_is_told(model: str, mode: str) -> None:
    with pytest.raises(InvalidSettings, match=r"sd-scripts (does not train|has no script that finetunes)"):
        plan_of(model, mode)


def test_facts_are_of_a_model_that_trains() -> None:
    """Else the tests above would render for something that no user has."""
    assert facts_of(composed("sdxl", "lora")).problems == ()
