"""How a flow's timesteps are drawn, as sd-scripts is told."""

from __future__ import annotations

import pytest

from pipeline.backends.kohya.support import kohya_problems
from pipeline.backends.kohya.translation import context_of, translated
from tests.golden_kohya import composed, facts_of, plan_of, sized

FIRST = "memory=low_memory"
SD3 = ("weighting_scheme", "training_shift")
OTHERS = ("timestep_sampling", "discrete_flow_shift")


def written(model: str, *overrides: str) -> dict[str, object]:
    plan = plan_of(model, "lora", FIRST, *overrides)
    script = plan.settings.model.known.kohya.lora_script
    assert script is not None
    values = translated(context_of(plan, script, plan.dataset.dir))
    return {name: values[name] for name in (*OTHERS, *SD3) if name in values}


@pytest.mark.parametrize(
    ("sampling", "shift", "expected"),
    [
        ("logit_normal", "null", {"timestep_sampling": "sigmoid"}),
        ("logit_normal", "1", {"timestep_sampling": "sigmoid"}),
        ("logit_normal", "3", {"timestep_sampling": "shift", "discrete_flow_shift": 3.0}),
        ("uniform", "null", {"timestep_sampling": "uniform"}),
        ("uniform", "5", {"timestep_sampling": "sigma", "discrete_flow_shift": 5.0}),
        ("by_resolution", "null", {"timestep_sampling": "flux_shift"}),
        ("null", "null", {}),
    ],
)
def test_timesteps_have_sd_scripts_names(sampling: str, shift: str, expected: dict[str, object]) -> None:
    asked = (f"train.timestep_sampling={sampling}", f"train.timestep_shift={shift}")
    assert written("flux_dev", *asked) == expected


def test_lumina_has_a_shift_by_resolution_of_its_own() -> None:
    assert written("lumina2") == {"timestep_sampling": "nextdit_shift"}


@pytest.mark.parametrize(("profile", "shift"), [("character", 1.0), ("style", 3.0)])
def test_sd3_is_told_in_its_own_words(profile: str, shift: float) -> None:
    expected = {"weighting_scheme": "logit_normal", "training_shift": shift}
    assert written("sd35_large", f"profile={profile}") == expected


def test_what_an_argument_has_beyond_a_setting_is_passed_where_that_is_null() -> None:
    open_ = ("train.timestep_sampling=null", "train.timestep_shift=null", "++backend.args.weighting_scheme=mode")
    assert problems("sd35_large", *open_) == []
    assert problems("sd35_large", open_[-1]) == ["backend.args.weighting_scheme"]


def test_a_shift_beside_one_by_resolution_has_no_effect_and_is_told() -> None:
    assert problems("lumina2", "train.timestep_shift=3") == ["train.timestep_shift"]


def test_a_way_that_the_script_does_not_have_is_told() -> None:
    assert problems("sd35_large", "train.timestep_sampling=by_resolution") == ["train.timestep_sampling"]


def test_models_that_are_no_flow_have_none() -> None:
    assert written("sdxl") == {}


def problems(model: str, *overrides: str) -> list[str]:
    settings = sized(composed(model, "lora", *overrides))
    return [problem.key for problem in kohya_problems(settings, facts_of(settings))]
