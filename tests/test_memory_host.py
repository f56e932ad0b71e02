from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest

from pipeline.backends.kohya.memory import kohya_kept
from pipeline.backends.native.memory import native_kept
from pipeline.memory.host import LATENT_NUMBERS, TEXT_WIDTHS, Kept, cached_bytes, disk_need, host_need
from pipeline.records import Facts, Plan
from pipeline.settings import Settings
from pipeline.validate import validate
from tests import given, golden_kohya
from tests.test_memory import LOAD
from tests.test_memory_profiles import facts_of

GIB = 2**30
NOTHING = Kept("off", "off")
QUIET = ("train.shuffle_tags=false", "train.caption_dropout=0")


# --------------------------------------------------------------------------------------------------------------- caches


def test_latents_and_text_are_counted_for_every_picture() -> None:
    """SDXL at 1024 px: four channels of 128 x 128; 77 tokens of 768 and 1280 numbers."""
    settings, dataset = sized("sdxl"), given.dataset(10, 2)
    assert cached_bytes(settings, dataset, Kept("memory", "off"), "memory") == 12 * 4 * 128 * 128 * 4
    assert cached_bytes(settings, dataset, Kept("off", "memory"), "memory") == 12 * 77 * (768 + 1280) * 4


def test_what_is_kept_elsewhere_is_not_counted() -> None:
    settings, dataset = sized("sdxl"), given.dataset(10, 2)
    assert cached_bytes(settings, dataset, Kept("disk", "off"), "memory") == 0
    assert cached_bytes(settings, dataset, Kept("disk", "disk"), "disk") > 0


@pytest.mark.parametrize("model", golden_kohya.MODELS)
def test_every_model_has_a_size_for_what_its_encoders_make(model: str) -> None:
    parts = sized(model).model.known.parts.values()
    families = {part.family for part in parts}
    assert families <= LATENT_NUMBERS.keys() | TEXT_WIDTHS.keys()
    assert families & LATENT_NUMBERS.keys()
    assert families & TEXT_WIDTHS.keys()


def test_our_own_trainer_keeps_a_mean_and_a_deviation() -> None:
    settings = given.settings("train.shuffle_tags=false")
    assert native_kept(settings, given.facts()) == Kept("disk", "disk", latent_copies=2, files="in cache.dir")


def test_captions_that_change_are_not_kept() -> None:
    tags = replace(given.dataset(), train=given.pictures(3, caption="a cat, sitting, picture {}"))
    settings = given.settings("train.shuffle_tags=true")
    assert native_kept(settings, given.facts(dataset=tags)).text == "off"


@pytest.mark.parametrize(("name", "place"), [("low_memory", "memory"), ("ultra_low_memory", "disk")])
def test_sd_scripts_keeps_them_where_the_profile_says(name: str, place: str) -> None:
    settings = sized("sdxl", f"memory={name}", *QUIET)
    assert kohya_kept(settings, facts_of(settings, free=24)) == Kept(place, place, files="beside the pictures")  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------------------------------- host


def test_swapped_blocks_move_to_the_computers_memory() -> None:
    flux = sized("flux_dev", "memory.blocks_to_swap=19", "memory=low_memory")
    facts = facts_of(flux, free=24)
    assert facts.checkpoint is not None
    load = replace(LOAD, shape=flux.model.known.shape, parameters=12e9, blocks_to_swap=19)
    need = host_need(flux, load, facts.checkpoint, given.dataset(), NOTHING)
    assert next(term.bytes for term in need.terms if term.name == "swapped blocks") == 12e9 * 2 / 2


def test_a_single_file_is_read_whole() -> None:
    assert _way("single_file") == 30 * 10**9


def test_of_a_folder_one_part_after_the_other_is_read() -> None:
    assert _way("diffusers") == LOAD.parameters * LOAD.weight_bytes


def _way(layout: Literal["single_file", "diffusers"]) -> float:
    settings = sized("sdxl")
    checkpoint = facts_of(settings, free=24).checkpoint
    assert checkpoint is not None
    need = host_need(settings, LOAD, replace(checkpoint, layout=layout), given.dataset(), NOTHING)
    return next(term.bytes for term in need.terms if term.name == "model on its way")


def test_a_plan_for_a_card_tells_what_the_computer_needs() -> None:
    told = {choice.key: choice for choice in planned(host_gib=64).choices}
    assert "of 64.0 GiB free" in told["memory.host"].reason


def test_a_plan_for_a_cpu_has_one_memory() -> None:
    assert "memory.host" not in {choice.key for choice in validate(given.settings(), given.facts()).choices}


def test_too_little_of_it_is_warned_of_with_what_helps() -> None:
    (told,) = (warning for warning in planned(host_gib=8).warnings if "computer's own memory" in warning)
    assert "largest: model on its way 27.9 GiB" in told
    assert told.endswith("8.0 GiB are free; try backend.args.lowram=true")


@pytest.mark.parametrize("host_gib", [0, 64])
def test_enough_or_unknown_is_not_warned_of(host_gib: int) -> None:
    assert not any("computer's own memory" in warning for warning in planned(host_gib=host_gib).warnings)


# ----------------------------------------------------------------------------------------------------------------- disk


def test_checkpoints_have_the_weights_and_the_optimizers_state() -> None:
    settings = sized("sdxl", "mode=finetune", "optimizer=adamw", "train.keep_checkpoints=2")
    checkpoint = facts_of(settings, free=24).checkpoint
    assert checkpoint is not None
    need = disk_need(settings, checkpoint, None, NOTHING, weights_with_checkpoints=False)
    assert need.checkpoints == 3 * 12 * checkpoint.parameters
    assert need.weights == checkpoint.bytes


def test_an_optimizer_in_8_bits_has_smaller_ones() -> None:
    small, large = (_checkpoints(f"optimizer={name}") for name in ("adamw8bit", "adamw"))
    assert small < 0.6 * large


def _checkpoints(typed: str) -> float:
    settings = sized("sdxl", "mode=finetune", typed)
    checkpoint = facts_of(settings, free=24).checkpoint
    assert checkpoint is not None
    return disk_need(settings, checkpoint, None, NOTHING, weights_with_checkpoints=False).checkpoints


def test_the_plan_tells_of_the_disk_and_of_caches_beside_the_pictures() -> None:
    plan = planned("memory=ultra_low_memory", *QUIET, host_gib=64)
    told = next(choice for choice in plan.choices if choice.key == "disk")
    assert "checkpoints" in told.reason
    assert told.reason.endswith("beside the pictures")


# -------------------------------------------------------------------------------------------------------------- helpers


def sized(model: str, *typed: str) -> Settings:
    mode = "finetune" if "mode=finetune" in typed else "lora"
    return golden_kohya.sized(golden_kohya.composed(model, mode, *(each for each in typed if each != "mode=finetune")))


def planned(*typed: str, host_gib: int) -> Plan:
    settings = golden_kohya.composed("sdxl", "lora", *typed)
    facts: Facts = facts_of(settings, free=24)
    return validate(settings, replace(facts, machine=replace(facts.machine, host_memory_bytes=host_gib * GIB)))
