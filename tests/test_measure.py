"""How long a run will take: a few steps of it, timed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import Problem
from pipeline.measure import Measured, foreseen_seconds, looks, measure, measured, shortened
from pipeline.records import Event
from pipeline.settings import Until
from pipeline.validate import CHECKS
from tests import given
from tests.conftest import PlanFor


def journal(*events: tuple[float, str, Mapping[str, object]]) -> list[Event]:
    return [Event(kind, time, data) for time, kind, data in events]  # type: ignore[arg-type]


EVENTS = journal(
    (102.0, "phase", {"text": "encoding 10 pictures"}),
    (104.0, "phase", {"text": "encoding 10 pictures, 4 done"}),
    (107.0, "phase", {"text": "loading the model"}),
    (109.0, "metric", {"step": 0, "values": {"heldout/loss": 0.5}}),
    *((110.0 + at, "step", {"step": number}) for number, at in enumerate((3, 5, 6, 7, 8, 9), start=1)),
    (123.0, "metric", {"step": 6, "values": {"heldout/loss": 0.4}}),
    (125.0, "sample", {"step": 6}),
    (128.0, "sample", {"step": 6}),
    (130.0, "weights", {}),
)


def test_each_part_of_a_run_is_timed_apart() -> None:
    found = measured(EVENTS, 100.0, None)
    assert found == Measured(
        steps=6,
        begin_seconds=12.0,
        step_seconds=1.0,
        heldout_seconds=4.0,
        sampling_seconds=5.0,
        end_seconds=2.0,
        encoding_seconds=0.5,
        peak_memory_bytes=None,
    )


def test_what_comes_several_times_is_foreseen_as_often(plan_for: PlanFor) -> None:
    plan = plan_for("train.heldout_every_steps=25", "sample.every_steps=50", steps=100)
    found = measured(EVENTS, 100.0, None)
    assert foreseen_seconds(plan, found, left_to_encode=20) == 12 + 20 * 0.5 + 100 * 1 + 4 * 4 + 2 * 5 + 2


@pytest.mark.parametrize(
    ("steps", "every", "count"), [(100, 25, 4), (101, 25, 5), (99, 25, 4), (10, 25, 1), (10, 0, 1), (1, 1, 1)]
)
def test_looks_are_those_of_the_loop(steps: int, every: int, count: int) -> None:
    in_the_loop = sum(step == steps or (every > 0 and step % every == 0) for step in range(1, steps + 1))
    assert looks(steps, every) == count == in_the_loop


def test_a_short_run_has_the_pictures_that_it_needs(plan_for: PlanFor) -> None:
    plan = plan_for("train.batch_size=1", "train.accumulation_steps=1", steps=500)
    short = shortened(plan)
    assert (short.steps, len(short.dataset.train), len(short.dataset.heldout)) == (8, 8, len(plan.dataset.heldout))
    assert shortened(replace(plan, steps=3)).steps == 3


def test_a_size_that_none_of_its_pictures_is_large_enough_for_is_left_out(plan_for: PlanFor) -> None:
    plan = plan_for("train.batch_size=1", "train.accumulation_steps=1", "train.more_resolutions_px=[48,96]", steps=500)
    large = replace(plan.dataset.train[-1], width_px=96, height_px=96)
    plan = replace(plan, dataset=replace(plan.dataset, train=(*plan.dataset.train[:-1], large)))
    assert shortened(plan).settings.train.more_resolutions_px == [48]


def problems(**values: object) -> list[Problem]:
    settings = given.settings(preflight__measure=True, **values)
    return [each for check in CHECKS for each in check(settings, given.facts()) if each.key == "preflight.measure"]


def test_measuring_belongs_to_until_validate() -> None:
    assert len(problems()) == 1
    assert not problems(until=Until.validate)
    assert not problems(explain=True)
    assert len(problems(until=Until.validate, hardware__facts="facts.json")) == 1


@pytest.mark.slow
def test_a_few_steps_are_trained_and_leave_only_the_cache(plan_for: PlanFor, tmp_path: Path) -> None:
    plan = plan_for(f"cache.dir={tmp_path / 'cache'}", steps=100, prompts=("a cat",))
    found = measure(plan, tmp_path / "runs" / "one", lambda _event: None)
    assert found.steps == 8
    for seconds in (found.begin_seconds, found.step_seconds, found.heldout_seconds, found.sampling_seconds):
        assert seconds > 0
    assert found.encoding_seconds is not None
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


@pytest.mark.slow
def test_what_the_run_would_die_of_is_told(plan_for: PlanFor, tmp_path: Path) -> None:
    plan = plan_for(f"cache.dir={tmp_path / 'cache'}", "optimizer=sgd", "optimizer.lr=1e30", "train.max_grad_norm=0")
    with pytest.raises(Exception, match="not a finite number"):
        measure(replace(plan, steps=100), tmp_path, lambda _event: None)
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
