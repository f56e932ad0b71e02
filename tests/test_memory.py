from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given as drawn
from hypothesis import strategies

from docs.memory_page import figures, shape_of, unaccounted
from pipeline.backends.native.memory import native_load
from pipeline.errors import InvalidSettings, Problem
from pipeline.memory.estimate import MemoryEstimate, estimate
from pipeline.memory.load import Load
from pipeline.memory.profiles import first_candidate
from pipeline.records import Checkpoint, Facts, Machine
from pipeline.settings import Settings, decided
from pipeline.validate import validate
from tests import given, golden_kohya

GIB = 2**30
SDXL = shape_of("sdxl")
LOAD = Load(
    shape=SDXL,
    parameters=SDXL.parameters,
    weight_bytes=2,
    adapter_parameters=20e6,
    trained_bytes=4,
    compute_bytes=2,
    state_bytes_per_parameter=8.0,
    eight_bits=False,
    side_px=1024,
    batch=1,
    accumulation=1,
    gradient_checkpointing=True,
    encoder_parameters=818e6,
)
LOADS = strategies.builds(
    replace,
    strategies.just(LOAD),
    shape=strategies.sampled_from([shape_of(name) for name in ("sd15", "sdxl", "flux_dev", "qwen_image")]),
    side_px=strategies.integers(4, 32).map(lambda side: side * 64),
    batch=strategies.integers(1, 16),
    accumulation=strategies.integers(1, 8),
    adapter_parameters=strategies.sampled_from([0.0, 1e6, 2e8]),
    gradient_checkpointing=strategies.booleans(),
    plain_attention=strategies.booleans(),
    fused_backward=strategies.booleans(),
    encodes=strategies.booleans(),
    encoders_stay=strategies.booleans(),
)


# ------------------------------------------------------------------------------------------------- published figures


def test_four_in_five_of_the_measured_figures_with_complete_settings_are_met_within_15_percent() -> None:
    complete = [figure for figure in figures() if figure.measured and figure.complete]
    assert sum(figure.holds for figure in complete) >= 0.8 * len(complete)


def test_every_row_of_the_collection_is_compared_or_left_out_with_a_reason() -> None:
    assert not unaccounted()


def test_what_is_said_to_fit_in_a_card_fits() -> None:
    over = [figure.said["name"] for figure in figures() if figure.fits and not figure.holds]
    assert not over


# ---------------------------------------------------------------------------------------------------------- the shape


@drawn(LOADS)
def test_more_of_anything_never_takes_less(load: Load) -> None:
    more: dict[str, Any] = {
        "batch": load.batch + 1,
        "side_px": load.side_px + 64,
        "accumulation": load.accumulation + 1,
        "state_bytes_per_parameter": load.state_bytes_per_parameter + 1,
        "plain_attention": True,
        "encoders_stay": True,
    }
    for name, value in more.items():
        _never_less(estimate(load), estimate(replace(load, **{name: value})))


@drawn(LOADS, strategies.floats(1.0, 100.0))
def test_a_larger_adapter_never_takes_less(load: Load, times: float) -> None:
    _never_less(estimate(load), estimate(replace(load, adapter_parameters=load.adapter_parameters * times)))


@drawn(LOADS)
def test_what_saves_memory_never_takes_more(load: Load) -> None:
    whole = replace(load, gradient_checkpointing=False, fused_backward=False)
    _never_less(estimate(replace(whole, fused_backward=True)), estimate(whole))
    _never_less(estimate(replace(whole, blocks_to_swap=8)), estimate(whole))


@drawn(LOADS)
def test_a_range_holds_the_estimate(load: Load) -> None:
    found = estimate(load)
    assert 0 < found.low_bytes <= found.peak.bytes <= found.high_bytes
    assert found.largest in found.peak.terms
    assert all(term.bytes >= 0 and term.why for phase in found.phases for term in phase.terms)


def _never_less(less: MemoryEstimate, more: MemoryEstimate) -> None:
    for before, after in zip(less.phases, more.phases, strict=True):
        assert before.bytes <= after.bytes * (1 + 1e-9)
        assert before.low_bytes <= after.low_bytes * (1 + 1e-9)
        assert before.high_bytes <= after.high_bytes * (1 + 1e-9)


@drawn(LOADS)
def test_on_a_card_the_prediction_is_of_tensors_alone(load: Load) -> None:
    found = estimate(replace(load, context_bytes=GIB))
    on_card, on_cpu = found.as_measured("cuda"), found.as_measured("cpu")
    assert on_cpu.bytes == int(found.peak.bytes)
    assert on_card.bytes < on_cpu.bytes - GIB
    assert on_card.low_bytes <= on_card.bytes <= on_card.high_bytes


def test_the_second_pass_of_an_accumulation_has_gradients_beside_copies() -> None:
    whole = replace(LOAD, adapter_parameters=0, weight_bytes=4)
    names = [{term.name for term in _training(replace(whole, accumulation=count)).terms} for count in (1, 2)]
    assert names[1] - names[0] == {"autocast copies"}


def test_plain_attention_grows_with_the_square_of_the_tokens() -> None:
    plain = replace(LOAD, plain_attention=True, gradient_checkpointing=False)
    small, large = (_kept(replace(plain, side_px=side)) - _kept(_with_kernels(plain, side)) for side in (1024, 2048))
    assert large == pytest.approx(16 * small)


def _with_kernels(load: Load, side: int) -> Load:
    return replace(load, plain_attention=False, side_px=side)


def _kept(load: Load) -> float:
    return next(term.bytes for term in _training(load).terms if term.name == "activations")


def _training(load: Load) -> Any:
    return next(phase for phase in estimate(load).phases if phase.name == "training")


# ------------------------------------------------------------------------------------------------------- in validate


def test_a_plan_tells_what_it_will_take() -> None:
    plan = golden_kohya.plan_of("sdxl", "lora")
    told = next(choice for choice in plan.choices if choice.key == "memory.peak")
    assert str(told.value).endswith(" GiB")
    assert "largest: " in told.reason
    assert told.reason.endswith("of 24.0 GiB free")


def test_what_cannot_fit_is_refused_with_a_change_that_fits() -> None:
    settings = golden_kohya.composed("sdxl", "lora", "train.batch_size=8", "train.gradient_checkpointing=false")
    told = _refused(settings, _facts(settings, total=16))
    assert told.key == "memory"
    assert told.fix == "train.gradient_checkpointing=true"
    validate(golden_kohya.composed("sdxl", "lora", "train.batch_size=8", told.fix), _facts(settings, total=16))


def test_changes_are_put_together_where_one_is_not_enough() -> None:
    typed = ("sdxl", "lora", "optimizer=adamw", "train.batch_size=16", "train.resolution_px=1536")
    settings = golden_kohya.composed(*typed, "train.gradient_checkpointing=false")
    told = _refused(settings, _facts(settings, total=13))
    assert told.fix.startswith("train.gradient_checkpointing=true optimizer=adamw8bit train.batch_size=")
    again = golden_kohya.composed(*typed, *told.fix.split())
    assert decided(again.train.batch_size) * decided(again.train.accumulation_steps) == 16
    validate(again, _facts(settings, total=13))


def test_where_nothing_helps_a_larger_device_is_named() -> None:
    settings = golden_kohya.composed("flux_dev", "lora")
    assert _refused(settings, _facts(settings, total=2)).fix.startswith("a smaller model, or a device of ")


def test_a_device_whose_size_is_not_known_refuses_nothing() -> None:
    settings = golden_kohya.composed("flux_dev", "lora")
    plan = validate(settings, _facts(settings, total=0, free=4))
    assert any(warning.startswith("memory: ") for warning in plan.warnings)


@pytest.mark.parametrize(("caption", "stays"), [("a cat", False), ("a cat, black, asleep", True)])
def test_the_encoder_stays_only_for_captions_that_change(caption: str, stays: bool) -> None:
    facts = given.facts()
    dataset, checkpoint = facts.dataset, facts.checkpoint
    assert dataset is not None and checkpoint is not None
    pictures = tuple(replace(picture, caption=caption) for picture in dataset.train)
    facts = replace(facts, dataset=replace(dataset, train=pictures, heldout=()))
    settings = first_candidate(given.settings(train__shuffle_tags=True, train__keep_tags=1), 0)
    assert native_load(settings, facts, checkpoint).encoders_stay == stays


@pytest.mark.parametrize(
    ("wildcards", "trigger", "stays"), [(True, None, True), (False, None, True), (False, "a", False)]
)
def test_the_encoder_stays_as_the_trainer_keeps_it(wildcards: bool, trigger: str | None, stays: bool) -> None:
    """A caption of one tag, which is left out unless it is the trigger, and may be drawn."""
    facts = given.facts()
    dataset, checkpoint = facts.dataset, facts.checkpoint
    assert dataset is not None and checkpoint is not None
    pictures = tuple(replace(picture, caption="a {b|c}") for picture in dataset.train)
    facts = replace(facts, dataset=replace(dataset, train=pictures, heldout=()))
    values = {"train__tag_dropout": 0.1, "train__keep_tags": 0, "data__trigger": trigger, "data__wildcards": wildcards}
    settings = first_candidate(given.settings(**values), 0)
    assert native_load(settings, facts, checkpoint).encoders_stay == stays


def test_a_cpu_is_only_warned_of() -> None:
    few = replace(given.CPU, memory_bytes=GIB // 4)
    plan = validate(given.settings(), given.facts(machine=few))
    assert any(warning.startswith("memory: ") for warning in plan.warnings)


def _refused(settings: Settings, facts: Facts) -> Problem:
    with pytest.raises(InvalidSettings) as caught:
        validate(settings, facts)
    assert len(caught.value.problems) == 1
    return caught.value.problems[0]


def _facts(settings: Settings, *, total: int, free: int | None = None) -> Facts:
    """Of a card of so many GiB."""
    facts = golden_kohya.facts_of(settings)
    machine: Machine = replace(
        facts.machine, total_memory_bytes=total * GIB, memory_bytes=(total if free is None else free) * GIB
    )
    checkpoint = facts.checkpoint
    assert checkpoint is not None
    real: Checkpoint = replace(checkpoint, parameters=int(settings.model.known.shape.parameters), bytes=30 * 10**9)
    return replace(facts, machine=machine, checkpoint=real)
