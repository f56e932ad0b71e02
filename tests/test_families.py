"""The catalog of conf/model, and what settings are checked for against it."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pipeline.checks.families import family_warnings, fixed_problems, parts_problems
from pipeline.families import Known, PartKind
from pipeline.settings import PROJECT, Settings
from tests import given

CONF = PROJECT / "conf" / "model"
NAMES = {
    *("demo", "sd15", "sd2", "sdxl", "sdxl_vpred", "pony", "illustrious", "noobai_vpred"),
    *("sd3", "sd35_medium", "sd35_large", "flux_dev", "flux_schnell", "chroma", "lumina2", "hunyuan_image21"),
    *("qwen_image", "z_image", "flux2_dev", "flux2_klein", "anima"),
}
FAMILIES = {
    *("sd15", "sd2", "sdxl", "sd3", "flux1", "flux2", "chroma", "lumina2", "hunyuan_image21", "qwen_image"),
    *("z_image", "anima"),
}
FOUND = sorted(file.stem for file in CONF.glob("*.yaml"))
MODELS = [name for name in FOUND if name != "auto"]
MODES = ("lora", "finetune")


@cache
def _of(model: str, mode: str) -> Settings:
    path = () if model == "demo" else ("model.path=/models/x.safetensors",)
    return given.settings(f"model={model}", *path, f"mode={mode}")


def chosen(model: str, mode: str = "lora", **values: object) -> Settings:
    """With every setting that the model fixes as it must be, and these values."""
    made = copy.deepcopy(_of(model, mode))
    for key, value in {fixed.key: fixed.value for fixed in made.model.known.fixed}.items():
        _set(made, key, value)
    for name, value in values.items():
        _set(made, name.replace("__", "."), value)
    return made


def _set(settings: Settings, key: str, value: object) -> None:
    owner: Any = settings
    *groups, name = key.split(".")
    for group in groups:
        owner = getattr(owner, group)
    if isinstance(owner, dict):
        owner[name] = value
    else:
        assert hasattr(owner, name), key
        setattr(owner, name, value)


def known(model: str) -> Known:
    return _of(model, "lora").model.known


# ----------------------------------------------------------------------------------------------------------- catalog


def test_the_catalog_has_every_model() -> None:
    assert {*MODELS} >= NAMES
    assert "auto" in FOUND


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", FOUND)
def test_every_model_composes(name: str, mode: str) -> None:
    settings = _of(name, mode)
    assert settings.model.name == name
    assert settings.model.family in FAMILIES
    assert settings.model.prediction.value == "auto"
    assert settings.model.kin in NAMES


@pytest.mark.parametrize("name", FOUND)
def test_parts_that_can_be_given_are_those_that_are_known(name: str) -> None:
    model = _of(name, "lora").model
    assert {*model.parts} == {*model.known.parts}
    assert set(model.parts.values()) == {None}
    alternatives = {part for names in model.known.alternatives for part in names}
    assert alternatives | {*model.known.text.trainable} <= {*model.known.parts}
    assert [part.kind.value for part in model.known.parts.values()].count("vae") == 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", FOUND)
def test_what_is_fixed_are_settings_with_a_reason(name: str, mode: str) -> None:
    settings = _of(name, mode)
    assert {fixed.key for fixed in settings.model.known.fixed} <= {*settings.flat()}
    assert all(len(fixed.reason) > 10 for fixed in settings.model.known.fixed)


@pytest.mark.parametrize("name", FOUND)
def test_bands_and_sizes_are_in_order(name: str) -> None:
    rates, sizes = known(name).learning_rates, known(name).resolution
    assert 0 < rates.lora_low < rates.lora_high
    assert (rates.finetune_low is None) == (rates.finetune_high is None)
    assert rates.finetune_low is None or rates.finetune_high is None or 0 < rates.finetune_low < rates.finetune_high
    assert sizes.min_px <= sizes.native_px <= sizes.max_px


@pytest.mark.parametrize("name", FOUND)
def test_samples_can_be_drawn_without_a_word(name: str) -> None:
    settings, prompts = _of(name, "lora"), known(name).prompts
    assert 3 <= len(prompts.examples) <= 4
    assert all(example.strip() and "${" not in example for example in prompts.examples)
    assert prompts.form
    assert settings.sample.negative_prompt == prompts.negative
    assert settings.sample.guidance_scale == prompts.guidance_scale
    assert settings.sample.num_inference_steps == prompts.num_inference_steps


@pytest.mark.parametrize("name", [name for name in FOUND if known(name).noise.zero_terminal_snr])
def test_zero_terminal_snr_has_no_noise_offset(name: str) -> None:
    assert "train.noise_offset" in {fixed.key for fixed in known(name).fixed}


@pytest.mark.parametrize("name", [name for name in MODELS if not known(name).text.trainable])
def test_text_encoders_that_nobody_trains_have_no_rate(name: str) -> None:
    assert "mode.text_encoder_lr" in {fixed.key for fixed in known(name).fixed}


CLIPS = {"clip_l", "clip_g", "openclip_h"}
READS_TAGS_TOO = {"anima"}
"""It is spoken to in Danbooru tags as well."""


@pytest.mark.parametrize("name", MODELS)
def test_tags_are_shuffled_for_those_that_read_tags(name: str) -> None:
    families = {part.family for part in known(name).parts.values() if part.kind is PartKind.text_encoder}
    reads_sentences = bool(families - CLIPS) and name not in READS_TAGS_TOO
    problems = [problem.fix for problem in fixed_problems(chosen(name, train__shuffle_tags=True))]
    assert problems == ["train.shuffle_tags=false"] * reads_sentences


@pytest.mark.parametrize("name", MODELS)
def test_scripts_of_sd_scripts_come_with_their_network(name: str) -> None:
    kohya = known(name).kohya
    assert (kohya.lora_script is None) == (kohya.lora_module is None)
    assert all(script.endswith(".py") for script in (kohya.lora_script, kohya.finetune_script) if script)


def test_some_but_not_all_models_are_trained_by_sd_scripts() -> None:
    by_script = {name: known(name).kohya.lora_script for name in MODELS}
    assert by_script["sdxl"] == by_script["noobai_vpred"] == "sdxl_train_network.py"
    assert by_script["z_image"] is None


@pytest.mark.parametrize("name", MODELS)
def test_every_source_is_listed(name: str) -> None:
    page = (PROJECT / "docs" / "models.md").read_text(encoding="utf-8").partition("## Sources")[2]
    listed = {key.strip() for line in page.splitlines() for key in line.partition("|")[2].partition("|")[0].split(",")}
    assert {*known(name).sources} <= listed
    assert known(name).sources or name == "demo"


def test_a_model_that_says_differences_has_the_rest_of_the_other() -> None:
    assert known("noobai_vpred").kohya.arguments == {"no_half_vae": True, "zero_terminal_snr": True}
    assert known("noobai_vpred").text == known("sdxl").text
    assert known("flux_schnell").text.token_limit == 256


# ------------------------------------------------------------------------------------------------------------- fixed


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", MODELS)
def test_right_values_are_no_problem(name: str, mode: str) -> None:
    assert list(fixed_problems(chosen(name, mode))) == []


def test_min_snr_on_a_flow_is_a_problem() -> None:
    (problem,) = fixed_problems(chosen("flux_dev", train__min_snr_gamma=5.0))
    assert (problem.key, problem.value, problem.fix) == ("train.min_snr_gamma", "5", "train.min_snr_gamma=null")
    assert "FLUX.1 [dev]" in problem.reason


def test_every_wrong_value_is_told() -> None:
    wrong = chosen("noobai_vpred", train__noise_offset=0.03, model__clip_skip=1)
    assert [problem.fix for problem in fixed_problems(wrong)] == ["model.clip_skip=0", "train.noise_offset=0"]


def test_text_encoders_that_cannot_be_trained_are_a_problem_in_both_modes() -> None:
    for mode in MODES:
        (problem,) = fixed_problems(chosen("qwen_image", mode, mode__text_encoder_lr=1e-5))
        assert problem.fix == "mode.text_encoder_lr=0"


# ------------------------------------------------------------------------------------------------------------- parts


def test_what_is_inside_need_not_be_given() -> None:
    assert list(parts_problems(chosen("sdxl"), {"clip_l", "clip_g", "vae"})) == []


def test_what_is_neither_inside_nor_given_is_a_problem_with_a_place_to_have_it() -> None:
    problems = list(parts_problems(chosen("flux_dev"), {"vae"}))
    assert [problem.key for problem in problems] == ["model.parts.clip_l", "model.parts.t5xxl"]
    assert "FLUX.1 [dev] needs its text encoder (t5xxl), and /models/x.safetensors has none" in problems[1].reason
    assert problems[1].fix.startswith("model.parts.t5xxl=FILE, FOLDER or hub id (comfyanonymous/")


def test_a_missing_vae_is_called_so() -> None:
    (problem,) = parts_problems(chosen("sd15"), {"clip_l"})
    assert "needs its VAE" in problem.reason


@pytest.mark.parametrize("one", ["qwen3_4b", "qwen3_8b"])
def test_one_of_two_is_enough(one: str) -> None:
    assert list(parts_problems(chosen("flux2_klein"), {"vae", one})) == []


def test_none_of_two_is_one_problem_that_names_both() -> None:
    (problem,) = parts_problems(chosen("flux2_klein"), {"vae"})
    assert "qwen3_4b or qwen3_8b" in problem.reason
    assert "model.parts.qwen3_4b=" in problem.fix
    assert "model.parts.qwen3_8b=" in problem.fix


@pytest.mark.parametrize(
    "value",
    ["google/t5-v1_1-xxl", "comfyanonymous/flux_text_encoders/t5xxl_fp16.safetensors", "Qwen/Qwen-Image/text_encoder"],
)
def test_hub_ids_are_taken_at_their_word(value: str) -> None:
    settings = chosen("chroma", model__parts__t5xxl=value)
    assert list(parts_problems(settings, {"vae"})) == []


def test_files_and_folders_that_are_there_are_taken(tmp_path: Path) -> None:
    file = tmp_path / "t5xxl.safetensors"
    file.touch()
    for value in (file, tmp_path):
        assert list(parts_problems(chosen("chroma", model__parts__t5xxl=str(value)), {"vae"})) == []


@pytest.mark.parametrize(
    "value",
    [
        "/models/no.safetensors",
        "models/no.safetensors",
        "./no",
        "t5xxl",
        "here/no/such.safetensors",
        "",
        "a//b",
        "~/t5",
    ],
)
def test_files_that_are_not_there_are_a_problem(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    (problem,) = parts_problems(chosen("chroma", model__parts__t5xxl=value), {"vae"})
    assert (problem.key, problem.value) == ("model.parts.t5xxl", value)


def test_a_part_that_the_model_has_not_is_a_problem() -> None:
    settings = chosen("chroma", model__parts__t5xl="google/t5-v1_1-xxl")
    (problem,) = parts_problems(settings, {"vae", "t5xxl"})
    assert "Did you mean t5xxl?" in problem.reason
    assert problem.fix == "leave model.parts.t5xl out"


# ---------------------------------------------------------------------------------------------------------- warnings


@pytest.mark.parametrize("mode", MODES)
def test_the_demo_warns_of_nothing(mode: str) -> None:
    assert list(family_warnings(given.settings(f"mode={mode}"))) == []


@pytest.mark.parametrize(("asked", "word"), [(448, "smaller than 512"), (2048, "larger than 1536")])
def test_unusual_sizes_are_told(asked: int, word: str) -> None:
    warnings = list(family_warnings(chosen("sdxl", train__resolution_px=asked)))
    assert any(word in warning and "1024 is its own" in warning for warning in warnings)
