"""What sd-scripts would ignore, refuse or die of: each rule fires where it should, and lets sound runs be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import product

import pytest
import yaml

from pipeline.backends.kohya import manifest, rules, scripts
from pipeline.backends.kohya.rules import rule_problems, rule_warnings
from pipeline.backends.kohya.rules.recipes import USUAL as USUAL_FIGURES
from pipeline.backends.kohya.support import Script
from pipeline.backends.kohya.translation import script_for
from pipeline.settings import PROJECT, Algorithm
from tests import given
from tests.golden_kohya import sized
from tests.kohya_asked import (
    DYLORA,
    FREE,
    FUSED,
    LYCORIS,
    MODELS,
    PRODIGY,
    STEADY_ADAFACTOR,
    TEXT_CACHE,
    asked,
    keys,
    problems,
    settings_for,
)


@dataclass(frozen=True)
class Case:
    """A script with arguments that a rule has something to say of, and what would be right instead."""

    script: str
    wrong: Mapping[str, object]
    key: str
    """Of the only problem; for advice, what its line holds."""
    right: Mapping[str, object] = field(default_factory=dict)
    """Changed arguments; None: not written."""

    def mended(self) -> dict[str, object]:
        whole = {**self.wrong, **self.right}
        return {name: value for name, value in whole.items() if value is not None}


CASES: Mapping[str, Case] = {
    "captions_behind_a_cache": Case(
        "sdxl_train_network.py",
        {**TEXT_CACHE, "shuffle_caption": True},
        "train.shuffle_tags",
        {"cache_text_encoder_outputs": False},
    ),
    "text_encoders_behind_a_cache": Case(
        "sdxl_train_network.py",
        {"cache_text_encoder_outputs": True},
        "backend.cache_text",
        {"network_train_unet_only": True},
    ),
    "t5_behind_a_cache": Case(
        "flux_train_network.py",
        {"cache_text_encoder_outputs": True, "network_args": {"train_t5xxl": "True"}},
        "backend.network_args.train_t5xxl",
        {"network_args": {"train_t5xxl": "False"}},
    ),
    "pictures_behind_a_cache": Case(
        "train_network.py",
        {"cache_latents_to_disk": True, "color_aug": True},
        "backend.args.color_aug",
        {"color_aug": None, "flip_aug": True},
    ),
    "optimizer_names": Case(
        "train_network.py", {"optimizer_type": "AdEMAMix8bit"}, "optimizer.target", {"optimizer_type": "PagedAdamW8bit"}
    ),
    "written_arguments": Case(
        "train_network.py",
        {"optimizer_type": "Lion", "optimizer_args": ["weight_decay=none"]},
        "optimizer.args",
        {"optimizer_args": ["weight_decay=0.1", "betas=0.9,0.99"]},
    ),
    "fused_steps": Case(
        "sdxl_train.py",
        {**FUSED, **STEADY_ADAFACTOR, "gradient_accumulation_steps": 4},
        "train.accumulation_steps",
        {"gradient_accumulation_steps": 1},
    ),
    "adafactor_steps": Case("train_network.py", {"optimizer_type": "Adafactor"}, "optimizer.args", STEADY_ADAFACTOR),
    "adapting_rates": Case("train_network.py", {**PRODIGY, "unet_lr": 1e-4}, "optimizer.lr", {"unet_lr": 1.0}),
    "one_adapting_rate": Case(
        "train_network.py",
        {"optimizer_type": "prodigyopt.Prodigy", "unet_lr": 1.0, "text_encoder_lr": 0.5},
        "mode.text_encoder_lr",
        {"text_encoder_lr": 1.0},
    ),
    "uneven_adapting_rates": Case(
        "train_network.py",
        {**PRODIGY, "unet_lr": 1.0, "network_args": {"loraplus_lr_ratio": 4.0}},
        "backend.network_args.loraplus_lr_ratio",
        {"network_args": {}},
    ),
    "schedule_free_weights": Case("sdxl_train.py", FREE, "optimizer.target", {"optimizer_type": "AdamW8bit"}),
    "scheduler_names": Case(
        "train_network.py", {"lr_scheduler": "rex"}, "train.scheduler", {"lr_scheduler": "polynomial"}
    ),
    "scheduler_arguments": Case(
        "train_network.py",
        {"lr_scheduler": "cosine", "lr_scheduler_power": 2.0},
        "backend.args.lr_scheduler_power",
        {"lr_scheduler": "polynomial"},
    ),
    "warm_up": Case(
        "train_network.py",
        {"lr_scheduler": "constant", "lr_warmup_steps": 100},
        "train.warmup_fraction",
        {"lr_scheduler": "constant_with_warmup"},
    ),
    "unused_schedules": Case(
        "train_network.py", {**FREE, "lr_scheduler": "cosine"}, "train.scheduler", {"lr_scheduler": "constant"}
    ),
    "kind_of_prediction": Case("sdxl_train_network.py", {"predicts": "flow"}, "model.prediction", {"predicts": None}),
    "v_parameterization": Case(
        "sdxl_train_network.py",
        {"predicts": "v_prediction"},
        "backend.args.v_parameterization",
        {"v_parameterization": True},
    ),
    "terminal_snr": Case(
        "sdxl_train_network.py",
        {"zero_terminal_snr": True},
        "backend.args.zero_terminal_snr",
        {"predicts": "v_prediction", "v_parameterization": True},
    ),
    "huber_threshold": Case(
        "flux_train_network.py", {"loss_type": "huber"}, "backend.args.huber_schedule", {"huber_schedule": "constant"}
    ),
    "flow_timesteps": Case(
        "flux_train_network.py",
        {"timestep_sampling": "flux_shift", "discrete_flow_shift": 2.0},
        "backend.args.discrete_flow_shift",
        {"timestep_sampling": "shift"},
    ),
    "flow_weighting": Case(
        "flux_train_network.py",
        {"timestep_sampling": "sigmoid", "weighting_scheme": "logit_normal"},
        "backend.args.weighting_scheme",
        {"timestep_sampling": "sigma"},
    ),
    "timestep_range": Case(
        "train_network.py", {"min_timestep": 500, "max_timestep": 500}, "backend.args.min_timestep", {"min_timestep": 0}
    ),
    "swapped_blocks": Case(
        "flux_train_network.py", {"blocks_to_swap": 36}, "backend.args.blocks_to_swap", {"blocks_to_swap": 35}
    ),
    "precision": Case(
        "sdxl_train_network.py",
        {"full_bf16": True, "mixed_precision": "fp16"},
        "backend.args.full_bf16",
        {"mixed_precision": "bf16"},
    ),
    "halved_weights": Case(
        "flux_train.py", {"mixed_precision": "fp16"}, "hardware.precision", {"mixed_precision": "bf16"}
    ),
    "epochs": Case(
        "train_network.py", {"max_train_epochs": 10}, "backend.args.max_train_epochs", {"max_train_epochs": None}
    ),
    "attention_without_gradient": Case(
        "anima_train_network.py", {"attn_mode": "sageattn"}, "backend.args.attn_mode", {"attn_mode": "flash"}
    ),
    "masks": Case("train_network.py", {"masked_loss": True}, "backend.args.masked_loss", {"alpha_mask": True}),
    "chroma_padding": Case(
        "flux_train_network.py",
        {"model_type": "chroma"},
        "backend.args.apply_t5_attn_mask",
        {"apply_t5_attn_mask": True},
    ),
    "timesteps_of_tlora": Case(
        "train_network.py",
        {**LYCORIS, "network_args": {"algo": "tlora"}},
        "network.algo",
        {"network_args": {"algo": "lora"}},
    ),
    "whole_blocks": Case("train_network.py", {**DYLORA, "network_dim": 10}, "network.rank", {"network_dim": 12}),
    "weight_norms": Case(
        "train_network.py",
        {"network_module": "networks.dylora", "scale_weight_norms": 1.0},
        "backend.args.scale_weight_norms",
        {"network_module": "networks.lora"},
    ),
    "decomposition": Case(
        "train_network.py",
        {"network_module": "networks.lora", "network_args": {"dora_wd": True}},
        "backend.network_args.dora_wd",
        LYCORIS,
    ),
    "never_read": Case("fine_tune.py", {"full_bf16": True}, "backend.args.full_bf16", {"full_bf16": False}),
    "missing_companion": Case(
        "train_network.py",
        {"adaptive_noise_scale": 0.01},
        "backend.args.adaptive_noise_scale",
        {"noise_offset": 0.05},
    ),
    "ignored_beside": Case(
        "train_network.py",
        {"sample_prompts": "p.txt", "sample_every_n_steps": 100, "sample_every_n_epochs": 1},
        "sample.every_steps",
        {"sample_every_n_epochs": None},
    ),
    "refused_together": Case(
        "flux_train_network.py",
        {"blocks_to_swap": 8, "cpu_offload_checkpointing": True, "gradient_checkpointing": True},
        "backend.args.blocks_to_swap",
        {"blocks_to_swap": 0},
    ),
}
ADVISED: Mapping[str, Case] = {
    "full_lokr": Case(
        "train_network.py",
        {**LYCORIS, "network_dim": 10_000, "network_args": {"algo": "lokr"}},
        "network.alpha",
        {"network_dim": 64},
    ),
    "noise_on_noise": Case(
        "train_network.py",
        {"noise_offset": 0.05, "multires_noise_iterations": 6},
        "train.noise_offset=",
        {"multires_noise_iterations": None},
    ),
    "unusual_terminal_snr": Case(
        "sdxl_train_network.py",
        {"predicts": "v_prediction", "v_parameterization": True, "zero_terminal_snr": True},
        "zero_terminal_snr=true",
        {"zero_terminal_snr": False},
    ),
    "narrow_weights": Case(
        "flux_train.py", {"mixed_precision": "bf16"}, "hardware.precision=fp32", {"mixed_precision": "no"}
    ),
    "restless_encoders": Case(
        "flux_train_network.py",
        {"gradient_checkpointing": True},
        "train.caption_dropout=0",
        {"cache_text_encoder_outputs": True},
    ),
    "unusual_figures": Case(
        "sdxl_train_network.py", {"ip_noise_gamma": 0.3}, "backend.args.ip_noise_gamma=0.1", {"ip_noise_gamma": 0.1}
    ),
    "unlike_the_family": Case(
        "flux_train_network.py",
        {"guidance_scale": 3.5},
        "backend.args.guidance_scale=1",
        {"guidance_scale": 1.0},
    ),
    "weighed_twice": Case(
        "train_network.py",
        {"min_snr_gamma": 5.0, "debiased_estimation_loss": True},
        "train.min_snr_gamma=null",
        {"min_snr_gamma": None},
    ),
}


FIGURES: Mapping[str, tuple[str, Mapping[str, object], tuple[float, ...], tuple[float, ...]]] = {
    "ip_noise_gamma": ("train_network.py", {}, (0.05, 0.1), (0.2,)),
    "multires_noise_discount": (
        *("train_network.py", {"multires_noise_iterations": 6}),
        *((0.1, 0.3, 0.4), (0.05, 0.8)),
    ),
    "discrete_flow_shift": ("flux_train_network.py", {"timestep_sampling": "shift"}, (0.5, 3.1582, 8.0), (0.1, 12.0)),
    "training_shift": ("sd3_train_network.py", {}, (0.5, 1.0, 8.0), (0.1, 12.0)),
    "scale_weight_norms": ("flux_train_network.py", {}, (3.0, 5.0), (1.0,)),
}
"""Argument -> a script, what it is read beside, usual values and others."""


def told_of(name: str, value: float) -> list[str]:
    """But for what a family of its own has to say."""
    script, beside, _, _ = FIGURES[name]
    values: dict[str, object] = {**beside, name: value}
    whole = asked(script, **values)  # type: ignore[arg-type]
    return [line for line in rule_warnings(whole) if "usual is" in line]


def test_every_figure_of_sd_scripts_is_tried() -> None:
    assert set(FIGURES) == {usual.argument for usual in USUAL_FIGURES}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_outside_of_what_recipes_use_are_told_with_one_inside(name: str) -> None:
    for value in FIGURES[name][2]:
        assert told_of(name, value) == []
    for value in FIGURES[name][3]:
        (line,) = told_of(name, value)
        assert line.startswith(f"backend.args.{name}={value}: usual is ")
        assert told_of(name, float(line.rpartition("=")[2])) == []


def test_weights_of_a_unet_may_be_held_short() -> None:
    assert list(rule_warnings(asked("train_network.py", scale_weight_norms=1.0))) == []


def test_chroma_is_trained_without_guidance() -> None:
    chroma = replace(asked("flux_train_network.py", guidance_scale=3.5), settings=settings_for("chroma"))
    assert any("Chroma is trained with 0 (" in line for line in rule_warnings(chroma))


@pytest.mark.parametrize("optimizer", ["Prodigy", "AdamW8bit"])
def test_two_rates_by_lora_plus_are_for_optimizers_that_take_two(optimizer: str) -> None:
    values = {"optimizer_type": optimizer, "network_train_unet_only": True, "unet_lr": 1.0}
    told = keys("train_network.py", **values, network_args={"loraplus_unet_lr_ratio": 16})
    assert told == ["backend.network_args.loraplus_unet_lr_ratio"] * (optimizer == "Prodigy")


def test_every_rule_has_a_case() -> None:
    assert set(CASES) == {rule.__name__ for rule in rules.RULES}
    assert set(ADVISED) == {advice.__name__ for advice in rules.ADVICE}


@pytest.mark.parametrize("name", CASES)
def test_a_rule_names_the_setting_that_is_wrong(name: str) -> None:
    case = CASES[name]
    (rule,) = (rule for rule in rules.RULES if rule.__name__ == name)
    assert [problem.key for problem in rule(asked(case.script, **case.wrong))] == [case.key]  # type: ignore[arg-type]
    assert keys(case.script, **case.wrong) == [case.key]


@pytest.mark.parametrize("name", CASES)
def test_a_rule_lets_what_is_right_pass(name: str) -> None:
    assert problems(CASES[name].script, **CASES[name].mended()) == []


@pytest.mark.parametrize("name", CASES)
def test_a_problem_says_what_to_type(name: str) -> None:
    (problem,) = problems(CASES[name].script, **CASES[name].wrong)
    assert "=" in problem.fix or problem.fix.startswith("leave ")
    assert "{" not in problem.reason


@pytest.mark.parametrize("name", ADVISED)
def test_advice_tells_of_the_line_and_stops_when_it_is_taken(name: str) -> None:
    case = ADVISED[name]
    (line,) = rule_warnings(asked(case.script, **case.wrong))  # type: ignore[arg-type]
    assert case.key in line
    assert list(rule_warnings(asked(case.script, **case.mended()))) == []  # type: ignore[arg-type]


USUAL = {
    **{"optimizer_type": "AdamW8bit", "optimizer_args": ["weight_decay=0.1"], "learning_rate": 1e-4},
    **{"lr_scheduler": "cosine_with_restarts", "lr_scheduler_num_cycles": 3, "lr_warmup_steps": 0.05},
    **{"mixed_precision": "bf16", "gradient_checkpointing": True, "gradient_accumulation_steps": 4, "sdpa": True},
    **{"max_grad_norm": 1.0, "cache_latents": True, "flip_aug": True, "save_every_n_steps": 200, "seed": 1},
    **{"max_train_steps": 1000, "sample_prompts": "prompts.txt", "sample_every_n_steps": 200, "v2": False},
    **{"min_snr_gamma": None, "noise_offset": 0.0, "zero_terminal_snr": False, "v_parameterization": False},
}


@pytest.mark.parametrize("script", manifest.SCRIPTS)
def test_a_usual_run_of_every_script_is_sound(script: str) -> None:
    own = settings_for(MODELS[script][0]).model.known.kohya.arguments
    assert problems(script, **USUAL, **own) == []
    warnings = list(rule_warnings(asked(script, **{**USUAL, "mixed_precision": "no"}, **own, **cached(script))))  # type: ignore[arg-type]
    assert warnings == []


def cached(script: str) -> dict[str, object]:
    """Captions are encoded once, as is usual, where the script can."""
    name = "cache_text_encoder_outputs"
    return {name: True} if name in manifest.load().parsers[script].arguments else {}


@pytest.mark.parametrize("script", manifest.SCRIPTS)
def test_a_script_that_is_asked_for_nothing_has_no_problem(script: str) -> None:
    assert problems(script) == []


# ------------------------------------------------------------------------------------------------- what nobody changed


SCRIPTS_OF_MODES = {"lora": "lora_script", "finetune": "finetune_script"}


def compositions() -> dict[tuple[str, str], str]:
    """Model and mode -> the script, of all that have one; by the files, since composing them all takes seconds."""
    models = {path.stem: yaml.safe_load(path.read_text()) for path in (PROJECT / "conf" / "model").glob("*.yaml")}

    def script(model: str, mode: str) -> str | None:
        known = models[model].get("known", {}).get("kohya", {})
        name = SCRIPTS_OF_MODES[mode]
        return known[name] if name in known else script(models[model]["defaults"][0], mode)

    every = product(sorted(models.keys() - {"auto"}), SCRIPTS_OF_MODES)
    return {each: found for each in every if (found := script(*each)) is not None}


COMPOSITIONS = compositions()


def test_the_catalogue_has_a_model_for_every_script_but_the_oldest() -> None:
    assert {*COMPOSITIONS.values()} == set(manifest.SCRIPTS) - {"train_db.py"}


@pytest.mark.parametrize(("model", "mode"), COMPOSITIONS)
def test_a_model_as_it_is_in_the_catalogue_is_sound(model: str, mode: str) -> None:
    settings = given.settings(
        *("backend=kohya", f"model={model}", "model.path=x", "data=folder", "data.dir=x"),
        *("profile=style", f"mode={mode}"),
    )
    script = COMPOSITIONS[model, mode]
    assert script_for(settings) == script
    checkpoint = replace(given.CHECKPOINT, prediction=settings.model.signature.get("predicts"))
    whole = Script(sized(settings), given.facts(machine=given.CARD, checkpoint=checkpoint), script).asked()
    assert whole.values["mixed_precision"] == "bf16"
    assert list(rule_problems(whole)) == []
    told = list(rule_warnings(whole))
    assert all("trains the weights themselves in bf16" in text for text in told)
    assert len(told) == (script in scripts.FLOW & scripts.CHECKPOINTS)


# ------------------------------------------------------------------------------------------------------ how it is told


def test_the_scripts_of_the_rules_are_those_of_the_manifest() -> None:
    assert set(manifest.SCRIPTS) == scripts.EVERY
    assert set(manifest.LORA_SCRIPTS) == scripts.ADAPTERS


def test_a_setting_is_told_with_its_own_value() -> None:
    settings = given.settings(
        "model=sd15", "model.path=x", "data=folder", "data.dir=x", train__warmup_fraction=0.1, optimizer__target="x.Y"
    )
    whole = replace(asked("train_network.py", lr_scheduler="constant", lr_warmup_steps=100), settings=settings)
    (problem,) = rule_problems(whole)
    assert (problem.key, problem.value) == ("train.warmup_fraction", 0.1)


# ----------------------------------------------------------------------------------------------------- what others tell


def test_what_has_one_right_value_for_the_model_is_told_once() -> None:
    whole = asked("flux_train_network.py", min_snr_gamma=5.0)
    assert [problem.key for problem in rule_problems(whole)] == ["train.min_snr_gamma"]
    settings = given.settings(
        "model=flux_dev", "model.path=x", "data=folder", "data.dir=x", "train.min_snr_gamma=5", "train.noise_offset=0"
    )
    assert list(rule_problems(replace(whole, settings=settings))) == []


def test_ranks_of_dylora_that_any_backend_refuses_are_told_once() -> None:
    settings = given.settings("model=sd15", "model.path=x", "data=folder", "data.dir=x", network__rank=10)
    assert settings.network is not None
    settings.network.algo = Algorithm.dylora
    whole = replace(asked("train_network.py", **DYLORA, network_dim=10), settings=settings)  # type: ignore[arg-type]
    assert list(rule_problems(whole)) == []


def test_arguments_that_the_script_lacks_are_left_to_others() -> None:
    assert problems("train_network.py", cache_text_encoder_outputs=True, shuffle_caption=True) == []
    assert problems("sdxl_train_network.py", blocks_to_swap=99, cpu_offload_to_moon=True) == []
