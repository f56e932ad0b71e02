"""What published recipes keep to: rates, ranks, noise and captions, and that our own profiles keep to it too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from pipeline.backends.kohya.rules import rule_problems, rule_warnings
from pipeline.backends.kohya.scripts import CHECKPOINTS, FLOW
from pipeline.backends.kohya.support import Script
from pipeline.backends.kohya.translation import script_for
from pipeline.checkpoint.catalog import with_defaults
from pipeline.checks.families import family_warnings, fixed_problems
from pipeline.checks.rates import ANY_FINETUNE, comparable_rate, rate_warnings
from pipeline.checks.recipes import RULES, recipe_warnings
from pipeline.figures import found, rows_of
from pipeline.optimizer.catalog import options
from pipeline.records import Dataset, Picture
from pipeline.settings import PROJECT, Algorithm, Model, Profile, RateMeaning, Settings, from_config
from pipeline.validate import validate
from pipeline.wording import plan_lines
from tests import given
from tests.golden_kohya import sized

CONF = PROJECT / "conf"
MODELS = sorted(file.stem for file in (CONF / "model").glob("*.yaml") if file.stem != "auto")
PROFILES = sorted(file.stem for file in (CONF / "profile").glob("*.yaml"))
MODES = ("lora", "finetune")


def composed(model: str, *typed: str, **values: object) -> Settings:
    path = () if model == "demo" else ("model.path=x", "data=folder", "data.dir=x")
    return given.settings(f"model={model}", *path, *typed, **values)


def told(settings: Settings, captions: Iterator[str] | None = None) -> list[str]:
    """Captions that nothing is to be said of: several tags each."""
    dataset = of_captions(captions or (f"dog {i}, a meadow, a stick" for i in range(5)))
    return list(recipe_warnings(settings, dataset))


def of_captions(captions: Iterator[str]) -> Dataset:
    pictures = (Picture(Path(f"{i}.png"), caption, 64, 64, f"{i:064}") for i, caption in enumerate(captions))
    return replace(given.dataset(), train=tuple(pictures))


# --------------------------------------------------------------------------------------------------- comparable rates


def adapter(rank: int, alpha: float, lr: float, *typed: str, **values: object) -> Settings:
    own = {"network__rank": rank, "network__alpha": alpha, "optimizer__lr": lr}
    return composed("flux_dev", "profile=style", "mode=lora", *typed, **own, **values)


@pytest.mark.parametrize(("rank", "alpha", "lr"), [(16, 16, 1e-4), (32, 16, 2e-4), (16, 1, 1.6e-3), (4, 8, 5e-5)])
def test_recipes_with_other_ranks_and_alphas_have_one_rate(rank: int, alpha: float, lr: float) -> None:
    rate = comparable_rate(adapter(rank, alpha, lr))
    assert rate is not None
    assert rate.value == pytest.approx(1e-4)
    assert (rate.low, rate.high) == (2e-5, 2e-4)


@pytest.mark.parametrize(("rank", "alpha", "lr"), [(16, 16, 2e-5), (16, 16, 2e-4), (32, 16, 1e-4), (16, 1, 1e-3)])
def test_usual_rates_are_not_told(rank: int, alpha: float, lr: float) -> None:
    assert list(rate_warnings(adapter(rank, alpha, lr))) == []


def test_an_unusual_rate_is_told_with_rates_to_type() -> None:
    (warning,) = rate_warnings(adapter(16, 1, 1e-4))
    assert warning == (
        "optimizer.lr=0.0001 x network.alpha=1 / network.rank=16 = 6.3e-06 lies outside of what most recipes for"
        " FLUX.1 [dev] use, 2e-05 to 0.0002; try optimizer.lr=0.00032 to 0.0032"
    )


@pytest.mark.parametrize("rank", [3, 7, 16, 24, 100])
@pytest.mark.parametrize("typed", [(), ("optimizer=lion",), ("optimizer=came",)], ids=str)
def test_what_is_told_to_be_typed_is_usual(rank: int, typed: tuple[str, ...]) -> None:
    for lr in (1e-9, 1.0):
        (warning,) = rate_warnings(adapter(rank, 5, lr, *typed))
        low, high = warning.rpartition("optimizer.lr=")[2].split(" to ")
        assert list(rate_warnings(adapter(rank, 5, float(low), *typed))) == []
        assert list(rate_warnings(adapter(rank, 5, float(high), *typed))) == []


def test_the_root_of_the_rank_stands_for_it_with_rs_lora() -> None:
    rate = comparable_rate(adapter(64, 16, 1e-4, network__args={"rs_lora": True}))
    assert rate is not None
    assert rate.value == pytest.approx(1e-4 * 16 / 8)


@pytest.mark.parametrize("name", [name for name, option in options().items() if option.known])
def test_a_rate_that_was_converted_for_another_optimizer_stays_comparable(name: str) -> None:
    """`optimizer=lion` makes a third of a profile's rate for itself; a multiplier is nothing to compare."""
    known = options()[name].known
    assert known is not None
    if known.rate is RateMeaning.rate and known.times_adamws is None:
        assert name == "sgd"
        return
    usual = comparable_rate(composed("sdxl", "profile=style", "optimizer=adamw"))
    rate = comparable_rate(composed("sdxl", "profile=style", f"optimizer={name}"))
    assert usual is not None
    if known.rate is RateMeaning.multiplier:
        assert rate is None
    else:
        assert rate is not None
        assert rate.value == pytest.approx(usual.value, rel=1e-4)


@pytest.mark.parametrize(
    "values",
    [
        {"optimizer__target": "torch.optim.SGD"},
        {"optimizer__target": "prodigyopt.Prodigy"},
        {"optimizer__target": "dadaptation.DAdaptAdam"},
        {"network__algo": Algorithm.ia3},
        {"network__algo": Algorithm.lokr},
    ],
    ids=str,
)
def test_rates_that_mean_something_else_are_not_judged(values: dict[str, object]) -> None:
    settings = adapter(16, 16, 1.0, **values)
    assert comparable_rate(settings) is None
    assert list(rate_warnings(settings)) == []


@pytest.mark.parametrize(("lr", "count"), [(1e-7, 1), (1e-6, 0), (5e-6, 0), (1e-4, 1)])
def test_unusual_rates_of_finetunes_are_told(lr: float, count: int) -> None:
    warnings = list(rate_warnings(composed("sd15", "mode=finetune", optimizer__lr=lr)))
    assert len(warnings) == count
    assert all("try optimizer.lr=1e-06 to 5e-06" in text and "network" not in text for text in warnings)


@pytest.mark.parametrize(("lr", "count"), [(1e-8, 1), (1e-7, 0), (5e-5, 0), (1e-4, 1)])
def test_a_model_without_a_band_for_finetunes_has_that_of_all(lr: float, count: int) -> None:
    settings = composed("hunyuan_image21", "mode=finetune", optimizer__lr=lr)
    rate = comparable_rate(settings)
    assert rate is not None
    assert (rate.low, rate.high) == ANY_FINETUNE
    assert len(list(rate_warnings(settings))) == count


def test_a_plan_shows_the_comparable_rate() -> None:
    plan = validate(given.settings(network__rank=32, network__alpha=8, optimizer__lr=2e-3), given.facts())
    (line,) = (line for line in plan_lines(plan) if "comparable" in line)
    assert "optimizer.lr=0.002 x network.alpha=8 / network.rank=32 = 0.0005, usual 0.0001 to 0.002" in line


def test_a_plan_without_one_shows_none() -> None:
    plan = validate(given.settings(optimizer__target="torch.optim.SGD"), given.facts())
    assert plan.rate is None
    assert not [line for line in plan_lines(plan) if "comparable" in line]


# -------------------------------------------------------------------------------------------------------------- rules


def usual(**values: object) -> Settings:
    return composed("sdxl", "profile=character", "mode=lora", **values)


@pytest.mark.parametrize(
    ("key", "inside", "outside"),
    [
        ("train.min_snr_gamma", (None, 1.0, 5.0, 20.0), (0.5, 25.0)),
        ("train.noise_offset", (0.0, 0.0357, 0.15), (0.2,)),
        ("train.caption_dropout", (0.0, 0.1, 0.2), (0.25, 1.0)),
        ("train.samples_floor", (500, 2000), (0, 499)),
        ("network.rank", (1, 16, 128), (129, 256)),
        ("mode.text_encoder_lr", (0.0, 5e-5), (6e-5, 1e-4)),
    ],
)
def test_figures_that_no_recipe_has_are_told_with_one_to_type(
    key: str, inside: tuple[float | None, ...], outside: tuple[float, ...]
) -> None:
    name = key.replace(".", "__")
    for value in inside:
        assert told(usual(**{name: value})) == []
    for value in outside:
        (warning,) = told(usual(**{name: value}))
        assert warning.startswith(f"{key}={value:g}: usual is ")
        fixed, _, number = warning.rpartition("; try ")[2].partition("=")
        assert fixed == key
        assert told(usual(**{name: float(number)})) == []


@pytest.mark.parametrize(
    ("model", "algo", "widest"),
    [
        *(("sdxl", "lora", 128), ("sdxl", "dylora", 128), ("sdxl", "locon", 64), ("sdxl", "dora", 64)),
        *(("sdxl", "loha", 32), ("flux_dev", "lora", 64), ("flux_dev", "loha", 32), ("qwen_image", "lora", 64)),
    ],
)
def test_the_widest_rank_is_the_models_and_the_algorithms(model: str, algo: str, widest: int) -> None:
    def rank(rank: int) -> list[str]:
        values = {"network__algo": Algorithm(algo), "network__rank": rank, "network__alpha": 1, "network__conv_rank": 0}
        return told(composed(model, "mode=lora", **values))

    assert rank(widest) == []
    (warning,) = rank(widest + 1)
    assert warning.endswith(f"; try network.rank={widest}")


@pytest.mark.parametrize("algo", ["lokr", "boft", "diag_oft", "full", "ia3"])
def test_a_rank_that_is_none_is_not_judged(algo: str) -> None:
    assert told(usual(network__algo=Algorithm(algo), network__rank=1000)) == []


def test_convolutions_are_not_wider_than_the_rest() -> None:
    values = {"network__algo": Algorithm.locon, "network__rank": 16, "network__conv_alpha": 8}
    assert told(usual(**values, network__conv_rank=16)) == []
    (warning,) = told(usual(**values, network__conv_rank=32))
    assert warning.startswith("network.conv_rank=32: ")
    assert warning.endswith("; try network.conv_rank=16")


def test_loha_is_strong_as_it_is() -> None:
    values = {"network__algo": Algorithm.loha, "network__rank": 16}
    assert told(usual(**values, network__alpha=8)) == []
    (warning,) = told(usual(**values, network__alpha=16))
    assert warning.endswith("; try network.alpha=8")


def test_a_finetune_may_train_its_text_encoder_at_the_same_rate() -> None:
    lr = composed("sd15", "mode=finetune").optimizer.lr
    assert told(composed("sd15", "mode=finetune", mode__text_encoder_lr=lr)) == []
    assert len(told(composed("sd15", "mode=finetune", mode__text_encoder_lr=2 * lr))) == 1


def test_an_optimizer_that_wants_one_rate_has_one() -> None:
    settings = composed("sd15", "profile=character", "optimizer=prodigy")
    assert settings.mode.text_encoder_lr == settings.optimizer.lr == 1.0
    assert told(settings) == []


def test_the_floor_is_not_judged_beside_a_number_of_steps() -> None:
    assert told(usual(train__samples_floor=1, train__max_steps=100)) == []


TRIGGERED = [f"ohwx, a dog, number {i}" for i in range(20)]
PLAIN = [f"dog {i}, a meadow" for i in range(20)]
SENTENCES = [f"A dog, number {i}, runs over a meadow." for i in range(20)]


@pytest.mark.parametrize(
    ("captions", "shuffle", "keep", "says"),
    [
        (TRIGGERED, True, 0, "captions begin with 'ohwx' ... train.keep_tags=1"),
        (TRIGGERED[:3] + PLAIN, True, 0, ""),
        (TRIGGERED, True, 1, ""),
        (TRIGGERED, False, 0, ""),
        (PLAIN, True, 0, ""),
        (SENTENCES, True, 1, "20 of 20 captions are sentences ... train.shuffle_tags=false"),
        (SENTENCES, False, 0, ""),
        (SENTENCES[:3] + PLAIN, True, 1, ""),
        (["ohwx dog"] * 20, True, 0, "train.keep_tags=0, and the longest caption has 1 ... train.shuffle_tags=false"),
        (PLAIN, True, 1, "train.keep_tags=1, and the longest caption has 2 ... train.shuffle_tags=false"),
    ],
    ids=["trigger", "few", "kept", "in order", "none", "sentences", "whole", "few sentences", "no tags", "all kept"],
)
def test_captions_that_shuffling_would_spoil_are_told(captions: list[str], shuffle: bool, keep: int, says: str) -> None:
    warnings = told(usual(train__shuffle_tags=shuffle, train__keep_tags=keep), iter(captions))
    assert len(warnings) == bool(says)
    assert all(words in text for text in warnings for words in says.split(" ... "))


@pytest.mark.parametrize(
    ("captions", "keep", "says"),
    [
        (TRIGGERED, 0, "captions begin with 'ohwx' ... train.keep_tags=1"),
        (TRIGGERED, 1, ""),
        (SENTENCES, 1, "20 of 20 captions are sentences ... train.tag_dropout=0"),
        (PLAIN, 1, ""),
        (PLAIN, 2, "train.keep_tags=2, and the longest caption has 2 ... train.tag_dropout=0"),
    ],
    ids=["trigger", "kept", "sentences", "one to drop", "none to drop"],
)
def test_captions_that_leaving_out_parts_would_spoil_are_told(captions: list[str], keep: int, says: str) -> None:
    values = {"train__shuffle_tags": False, "train__tag_dropout": 0.1, "train__keep_tags": keep}
    warnings = told(usual(**values), iter(captions))
    assert len(warnings) == bool(says)
    assert all(words in text for text in warnings for words in says.split(" ... "))


def test_shuffling_sentences_of_a_model_that_reads_them_is_an_error() -> None:
    settings = composed("flux_dev", train__shuffle_tags=True)
    (problem,) = (each for each in fixed_problems(settings) if each.key == "train.shuffle_tags")
    assert problem.fix == "train.shuffle_tags=false"
    assert "T5 reads sentences" in problem.reason


def test_a_warning_has_value_bounds_reason_and_what_to_type() -> None:
    (warning,) = told(usual(train__noise_offset=0.3))
    assert warning == (
        "train.noise_offset=0.3: usual is 0 to 0.15 (0.1 changes the contrast of all pictures for the eye already);"
        " try train.noise_offset=0.15"
    )


def test_warnings_are_part_of_the_plan() -> None:
    plan = validate(given.settings("train.noise_offset=0.3", "optimizer.lr=1"), given.facts())
    assert any(text.startswith("train.noise_offset=0.3") for text in plan.warnings)
    assert any("optimizer.lr=1 x " in text for text in plan.warnings)


# ----------------------------------------------------------------------------------------------------------- profiles


TYPED = ("data=folder", "data.dir=x")
TRAINS_IN_BF16 = "trains the weights themselves in bf16"
"""Told of every finetune of a flow by sd-scripts: it is the price of their memory, and no figure of a profile."""


@cache
def _composed(mode: str, backend: str) -> DictConfig:
    return given.config("model=sdxl", "model.path=x", *TYPED, f"mode={mode}", f"backend={backend}")


@cache
def _model(name: str) -> Any:
    return OmegaConf.merge(OmegaConf.structured(Model), with_defaults(CONF / "model" / f"{name}.yaml"))


@cache
def _profile(name: str) -> Any:
    return OmegaConf.merge(OmegaConf.structured(Profile), OmegaConf.load(CONF / "profile" / f"{name}.yaml"))


def swapped(model: str, profile: str, mode: str, backend: str) -> Settings:
    """What composing comes to, in a part of the time: other models and profiles are put in before it is resolved. An
    optimizer of another class comes from a file of its own, and is composed."""
    figure = found("optimizer", rows_of(_model(model), _profile(profile), mode))
    if figure is not None and figure.value != USUAL_OPTIMIZER:
        return given.settings(*typed(model, profile, mode, backend))
    config = _composed(mode, backend)
    config.model, config.profile = _model(model), _profile(profile)
    config.model.path = "x"
    return from_config(config)


USUAL_OPTIMIZER = "adamw8bit"


def typed(model: str, profile: str, mode: str, backend: str) -> tuple[str, ...]:
    return (f"model={model}", "model.path=x", *TYPED, f"profile={profile}", f"mode={mode}", f"backend={backend}")


@pytest.mark.parametrize(
    ("model", "profile", "mode", "backend"),
    [
        ("demo", "anime", "lora", "native"),
        ("pony", "character", "lora", "kohya"),
        ("flux_dev", "photoreal", "finetune", "kohya"),
    ],
)
def test_a_swapped_model_is_as_a_composed_one(model: str, profile: str, mode: str, backend: str) -> None:
    assert swapped(model, profile, mode, backend) == given.settings(*typed(model, profile, mode, backend))


@pytest.mark.parametrize("model", MODELS)
def test_every_profile_keeps_to_the_rules(model: str) -> None:
    """No exception is known."""
    for profile, mode in product(PROFILES, MODES):
        settings = swapped(model, profile, mode, "native")
        warnings = [*family_warnings(settings), *rate_warnings(settings), *told(settings)]
        assert (warnings, list(fixed_problems(settings))) == ([], []), (profile, mode)


@pytest.mark.parametrize("model", MODELS)
def test_every_profile_keeps_to_the_rules_of_sd_scripts(model: str) -> None:
    for profile, mode in product(PROFILES, MODES):
        settings = swapped(model, profile, mode, "kohya")
        name = script_for(settings)
        if name is None:
            continue
        checkpoint = replace(given.CHECKPOINT, prediction=settings.model.signature.get("predicts"))
        asked = Script(sized(settings), given.facts(machine=given.CARD, checkpoint=checkpoint), name).asked()
        in_bf16, others = _parted(rule_warnings(asked))
        assert (others, list(rule_problems(asked))) == ([], []), (profile, mode)
        assert bool(in_bf16) == (name in FLOW & CHECKPOINTS)


def _parted(warnings: Iterator[str]) -> tuple[list[str], list[str]]:
    every = list(warnings)
    return [text for text in every if TRAINS_IN_BF16 in text], [text for text in every if TRAINS_IN_BF16 not in text]


def test_every_rule_says_what_is_usual_and_why() -> None:
    assert len({rule.about for rule in RULES}) == len(RULES)
    assert all(rule.usual and rule.reason for rule in RULES)
