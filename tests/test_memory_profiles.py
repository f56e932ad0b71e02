from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given as drawn
from hypothesis import strategies

from pipeline.backends.kohya.manifest import parser_for
from pipeline.backends.kohya.memory import kohya_load, most_blocks
from pipeline.errors import InvalidSettings, Problem, RunError
from pipeline.memory.estimate import MemoryEstimate, estimate
from pipeline.memory.profiles import AUTO, FOLDER, computes_twice, profiles, under
from pipeline.records import Event, Facts, Plan
from pipeline.resume import Claim
from pipeline.runner import PLAN_NAME, Notes, _as_it_began, _plan_record, _simple, _validate
from pipeline.settings import Settings, decided
from pipeline.validate import validate
from tests import given, golden_kohya

GIB = 2**30
PLAIN = given.settings()
NAMES = ["high_performance", "standard", "low_memory", "ultra_low_memory"]
SIZES_GIB = (6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 32, 40, 48, 80, 141)


# ------------------------------------------------------------------------------------------------------ the options


def test_every_file_is_a_profile_or_auto() -> None:
    files = {path.stem for path in FOLDER.glob("*.yaml")}
    assert files == {*NAMES, AUTO}
    assert [*profiles()] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_named_profile_is_composed_as_its_file_has_it(name: str) -> None:
    memory = given.settings(f"memory={name}").memory
    assert (memory.name, memory.known) == (name, profiles()[name])


def test_the_profiles_do_what_their_names_have_always_meant() -> None:
    """The table of LoRA Easy Training; its caches are told apart below."""
    unet = PLAIN.model.known.shape
    table = [(p.batch_size, computes_twice(p, unet), p.eight_bits, p.blocks_to_swap) for p in profiles().values()]
    assert table == [(4, False, False, 0), (2, False, False, 0), (1, True, True, 4), (1, True, True, 8)]


@pytest.mark.parametrize("name", NAMES)
def test_no_profile_trains_a_transformer_without_checkpoints(name: str) -> None:
    settings = golden_kohya.composed("flux_dev", "lora")
    assert under(settings, name, 0).train.gradient_checkpointing


@pytest.mark.parametrize(("model", "mode"), golden_kohya.CASES)
def test_each_saving_profile_needs_no_more_than_the_one_before_it(model: str, mode: str) -> None:
    """high_performance may need less than standard: an update in one pass keeps no gradients from another."""
    settings = golden_kohya.composed(model, mode)
    facts = facts_of(settings, free=24)
    needs = [estimate_of(under(settings, name, most_blocks(settings)), facts).peak.bytes for name in NAMES[1:]]
    assert needs == sorted(needs, reverse=True)


# --------------------------------------------------------------------------------------------------- pictures an update


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("model", golden_kohya.MODELS)
def test_no_profile_changes_how_many_pictures_make_an_update(model: str, name: str) -> None:
    settings = golden_kohya.composed(model, "lora")
    train = under(settings, name, 0).train
    assert decided(train.batch_size) * decided(train.accumulation_steps) == settings.train.effective_batch_size


@drawn(strategies.integers(1, 64), strategies.integers(1, 8), strategies.sampled_from(NAMES))
def test_a_share_of_an_update_is_split_without_a_rest(share: int, processes: int, name: str) -> None:
    train = replace(PLAIN.train, effective_batch_size=share * processes)
    hardware = replace(PLAIN.hardware, num_processes=processes)
    train = under(replace(PLAIN, train=train, hardware=hardware), name, 0).train
    assert decided(train.batch_size) * decided(train.accumulation_steps) == share
    assert decided(train.batch_size) <= profiles()[name].batch_size


@pytest.mark.parametrize(
    ("typed", "batch"),
    [
        (["train.batch_size=2"], (2, 4)),
        (["train.accumulation_steps=2"], (4, 2)),
        (["train.batch_size=3", "train.accumulation_steps=5"], (3, 5)),
        (["train.effective_batch_size=6"], (1, 6)),
    ],
)
def test_what_is_typed_stays_and_the_rest_follows(typed: list[str], batch: tuple[int, int]) -> None:
    train = planned(given.settings("memory=low_memory", *typed)).settings.train
    assert (train.batch_size, train.accumulation_steps) == batch


def test_an_update_of_another_size_is_told_with_the_rate_that_goes_with_it() -> None:
    plan = planned(given.settings("train.batch_size=32", "optimizer.lr=1e-4"))
    told = "32 pictures make an update, not train.effective_batch_size=8; by the rule of the square root"
    assert any(f"{told} optimizer.lr=0.0002" in warning for warning in plan.warnings)


def test_a_multiplier_is_not_told_to_follow_the_batch() -> None:
    warnings = golden_kohya.plan_of("sdxl", "lora", "train.batch_size=32", "optimizer=prodigy").warnings
    told = next(warning for warning in warnings if "make an update" in warning)
    assert "optimizer.lr" not in told


def test_gradient_checkpointing_that_is_typed_stays() -> None:
    settings = given.settings("memory=low_memory", "train.gradient_checkpointing=false")
    assert planned(settings).settings.train.gradient_checkpointing is False


# ---------------------------------------------------------------------------------------------------------- optimizer


def test_optimizer_auto_keeps_its_state_in_8_bits_where_the_profile_saves() -> None:
    chosen = [planned(given.settings(f"memory={name}")).settings.optimizer for name in NAMES]
    assert [optimizer.name for optimizer in chosen] == ["adamw", "adamw", "adamw8bit", "adamw8bit"]
    assert chosen[-1].target == "bitsandbytes.optim.AdamW8bit"
    assert chosen[-1].falls_back_to == "adamw"


def test_its_arguments_are_the_same_in_8_bits() -> None:
    args = planned(given.settings("memory=low_memory", "optimizer.args.weight_decay=0.3")).settings.optimizer.args
    assert args == {"betas": [0.9, 0.99], "weight_decay": 0.3}


def test_an_optimizer_that_is_named_stays() -> None:
    assert planned(given.settings("memory=low_memory", "optimizer=adamw")).settings.optimizer.name == "adamw"


def test_a_class_that_is_named_stays() -> None:
    optimizer = planned(given.settings("memory=low_memory", "optimizer.target=torch.optim.RAdam")).settings.optimizer
    assert optimizer.target == "torch.optim.RAdam"


# ---------------------------------------------------------------------------------------------------- caches, precision


def test_the_lowest_profile_keeps_caches_on_the_disk() -> None:
    asked = [_caches(golden_kohya.plan_of("sdxl", "lora", f"memory={name}").settings) for name in NAMES]
    assert asked == [("memory", "memory")] * 3 + [("disk", "disk")]


def test_a_place_that_is_typed_stays() -> None:
    plan = golden_kohya.plan_of("sdxl", "lora", "memory=ultra_low_memory", "backend.cache_latents=memory")
    assert _caches(plan.settings)[0] == "memory"


def _caches(settings: Settings) -> tuple[str, str]:
    from pipeline.backends.kohya.train_file import chosen_caches

    quiet = replace(settings, train=replace(settings.train, shuffle_tags=False, caption_dropout=0.0))
    return chosen_caches(quiet, parser_for(None, "sdxl_train_network.py"))


@pytest.mark.parametrize("name", NAMES)
def test_a_card_without_bfloat16_trains_in_fp16_under_every_profile(name: str) -> None:
    plan = validate(
        given.settings(f"memory={name}"), given.facts(machine=replace(given.OLD_CARD, architectures=("sm_75",)))
    )
    assert plan.precision == "fp16"


# ---------------------------------------------------------------------------------------------------------------- auto


@pytest.mark.parametrize(
    ("model", "mode"), [("sd15", "lora"), ("sdxl", "lora"), ("sdxl", "finetune"), ("flux_dev", "lora")]
)
@pytest.mark.parametrize("free", SIZES_GIB)
def test_auto_takes_the_first_that_fits(model: str, mode: str, free: int) -> None:
    settings = golden_kohya.composed(model, mode)
    facts, most = facts_of(settings, free=free, total=1000), most_blocks(settings)
    needs = [_highest(settings, name, most, facts) for name in NAMES]
    fits = [name for name, need in zip(NAMES, needs, strict=True) if need.high_bytes <= free * GIB]
    trains = [name for name, need in zip(NAMES, needs, strict=True) if need.training.high_bytes <= free * GIB]
    chosen = validate(settings, facts).settings.memory.name
    assert chosen == [*fits, *trains, "ultra_low_memory"][0]


def _highest(settings: Settings, name: str, most: int, facts: Facts) -> MemoryEstimate:
    """With all the blocks swapped that the profile lets auto swap."""
    profile = profiles()[name]
    settings = under(settings, name, most)
    blocks = most if profile.more_blocks else min(profile.blocks_to_swap, most)
    return estimate_of(replace(settings, memory=replace(settings.memory, blocks_to_swap=blocks)), facts)


def test_more_memory_never_leads_to_a_slower_profile() -> None:
    settings = golden_kohya.composed("sdxl", "lora")
    chosen = [validate(settings, facts_of(settings, free=free, total=141)) for free in SIZES_GIB]
    names = [plan.settings.memory.name for plan in chosen]
    places = [NAMES.index(name) for name in names]
    assert places == sorted(places, reverse=True)
    assert len(set(places)) >= 3


def test_a_card_with_room_takes_all_pictures_of_an_update_at_once() -> None:
    settings = golden_kohya.composed("sdxl", "lora", "train.effective_batch_size=16")
    train = validate(settings, facts_of(settings, free=1000)).settings.train
    assert (train.batch_size, train.accumulation_steps) == (16, 1)


def test_auto_swaps_as_few_blocks_as_fit() -> None:
    settings = golden_kohya.composed("flux_dev", "lora")
    facts = facts_of(settings, free=20)
    chosen = validate(settings, facts).settings
    blocks = decided(chosen.memory.blocks_to_swap)
    fewer = replace(chosen, memory=replace(chosen.memory, blocks_to_swap=blocks - 1))
    assert blocks > profiles()["ultra_low_memory"].blocks_to_swap
    assert estimate_of(chosen, facts).high_bytes <= 20 * GIB < estimate_of(fewer, facts).high_bytes


def test_it_is_free_memory_that_counts() -> None:
    settings = golden_kohya.composed("sdxl", "lora")
    whole, occupied = (facts_of(settings, free=free, total=80) for free in (80, 12))
    assert validate(settings, whole).settings.memory.name == "high_performance"
    assert validate(settings, occupied).settings.memory.name in ("low_memory", "ultra_low_memory")


def test_the_reason_has_what_is_free_and_what_the_others_would_need() -> None:
    settings = golden_kohya.composed("sdxl", "lora")
    told = next(choice for choice in validate(settings, facts_of(settings, free=12)).choices if choice.key == "memory")
    assert told.value == "low_memory"
    for part in (
        "of 12.0 GiB free",
        "high_performance ",
        "standard ",
        "1 at once",
        "gradient checkpointing",
        "adamw8bit",
    ):
        assert part in told.reason


def test_where_nothing_tells_of_the_memory_the_run_is_made_to_fit() -> None:
    settings = golden_kohya.composed("sdxl", "lora")
    plan = validate(settings, facts_of(settings, free=0))
    told = next(choice for choice in plan.choices if choice.key == "memory")
    assert (told.value, "nothing tells" in told.reason) == ("low_memory", True)


# -------------------------------------------------------------------------------------------------------------- blocks


@pytest.mark.parametrize("typed", [["backend=native"], []], ids=["native", "kohya"])
def test_blocks_that_nobody_swaps_are_refused(typed: list[str]) -> None:
    settings = given.settings(*typed) if typed else golden_kohya.composed("sdxl", "lora")
    asked = replace(settings, memory=replace(settings.memory, blocks_to_swap=4))
    facts = given.facts() if typed else facts_of(settings, free=24)
    assert "memory.blocks_to_swap" in {problem.key for problem in refused(asked, facts)}


def test_more_blocks_than_the_model_has_are_refused() -> None:
    settings = golden_kohya.composed("flux_dev", "lora", "memory.blocks_to_swap=99")
    assert [problem.fix for problem in refused(settings, facts_of(settings, free=24))] == ["memory.blocks_to_swap=35"]


def test_another_way_of_moving_blocks_keeps_them_from_being_swapped() -> None:
    typed = ("backend.args.cpu_offload_checkpointing=true", "memory=low_memory")
    settings = golden_kohya.composed(
        "flux_dev", "lora", *(f"++{each}" if each.startswith("backend") else each for each in typed)
    )
    assert validate(settings, facts_of(settings, free=24)).settings.memory.blocks_to_swap == 0


# ------------------------------------------------------------------------------------------------------------- refused


def test_a_named_profile_that_cannot_fit_leads_to_a_smaller_one() -> None:
    settings = golden_kohya.composed("sdxl", "lora", "memory=high_performance")
    (told,) = refused(settings, facts_of(settings, free=12))
    assert told.fix == "memory=low_memory"
    validate(golden_kohya.composed("sdxl", "lora", told.fix), facts_of(settings, free=12))


# ------------------------------------------------------------------------------------------------------------- resuming


def test_a_run_is_the_same_whatever_memory_is_free_when_it_starts_again() -> None:
    roomy, tight = (planned(given.settings(), free=free) for free in (8 * GIB, GIB // 8))
    assert roomy.settings.train.batch_size != tight.settings.train.batch_size
    assert roomy.fingerprint == tight.fingerprint


@pytest.mark.parametrize("typed", ["memory=low_memory", "train.batch_size=2", "train.effective_batch_size=4"])
def test_a_run_with_other_batches_by_name_is_another(typed: str) -> None:
    assert planned(given.settings(typed)).fingerprint != planned(given.settings()).fingerprint


def validated(notes: Notes) -> Callable[..., Plan]:
    return partial(_validate, facts=given.facts(), notes=notes, origins=())


@pytest.mark.slow
def test_a_run_that_goes_on_keeps_the_profile_that_it_began_with(tmp_path: Path) -> None:
    began = planned(given.settings(), free=GIB // 8)
    write_plan(began, tmp_path)
    again = _as_it_began(planned(given.settings()), claim(tmp_path), given.settings(), validated(notes()), notes())
    assert (again.settings.memory, again.settings.train) == (began.settings.memory, began.settings.train)
    assert again.settings.optimizer.name == began.settings.optimizer.name == "adamw8bit"
    assert again.fingerprint == began.fingerprint


@pytest.mark.slow
def test_only_what_is_different_is_told_again(tmp_path: Path) -> None:
    write_plan(planned(given.settings(), free=GIB // 8), tmp_path)
    heard = Heard()
    _as_it_began(planned(given.settings()), claim(tmp_path), given.settings(), validated(heard.notes()), heard.notes())
    assert "memory" in heard.keys
    assert "train.max_steps" not in heard.keys


def test_a_fresh_run_takes_what_fits_now(tmp_path: Path) -> None:
    write_plan(planned(given.settings(), free=GIB // 8), tmp_path)
    plan = planned(given.settings())
    assert _as_it_began(plan, claim(tmp_path, step=None), given.settings(), validated(notes()), notes()) is plan


def test_a_plan_that_is_lost_is_told_with_the_ways_out(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="resume=never"):
        _as_it_began(planned(given.settings()), claim(tmp_path), given.settings(), validated(notes()), notes())


def write_plan(plan: Plan, folder: Path) -> None:
    (folder / PLAN_NAME).write_text(json.dumps(_simple(_plan_record(plan))), encoding="utf-8")


def claim(folder: Path, *, step: int | None = 50) -> Claim:
    return Claim(folder, -1, step)


def notes() -> Notes:
    return Heard().notes()


class Heard:
    """A display that remembers the keys of the choices that it was shown."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    def show(self, event: Event) -> None:
        if event.kind == "choice":
            self.keys.append(str(event.data["key"]))

    def say(self, _: object) -> None: ...

    def notes(self) -> Notes:
        display: Any = self
        return Notes(display)


# -------------------------------------------------------------------------------------------------------------- helpers


def planned(settings: Settings, *, free: int = 8 * GIB) -> Plan:
    return validate(settings, given.facts(machine=replace(given.CPU, memory_bytes=free)))


def refused(settings: Settings, facts: Facts) -> tuple[Problem, ...]:
    with pytest.raises(InvalidSettings) as caught:
        validate(settings, facts)
    return caught.value.problems


def estimate_of(settings: Settings, facts: Facts) -> MemoryEstimate:
    assert facts.checkpoint is not None
    return estimate(kohya_load(settings, facts, facts.checkpoint))


def facts_of(settings: Settings, *, free: int, total: int | None = None) -> Facts:
    """Of a card of so many GiB, and a model of the real size."""
    facts = golden_kohya.facts_of(settings)
    whole = free if total is None else total
    machine = replace(facts.machine, memory_bytes=free * GIB, total_memory_bytes=whole * GIB)
    assert facts.checkpoint is not None
    real = replace(facts.checkpoint, parameters=int(settings.model.known.shape.parameters), bytes=30 * 10**9)
    return replace(facts, machine=machine, checkpoint=real)
