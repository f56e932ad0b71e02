from __future__ import annotations

import ast
import importlib.util
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.checkpoint.recognise import recognise
from pipeline.checks.claims import is_refuted, predicts
from pipeline.checks.limits import LIMITS
from pipeline.checks.networks import ARGUMENTS, WORDS
from pipeline.errors import InvalidSettings, Problem
from pipeline.memory.profiles import first_candidate
from pipeline.records import Dataset, Facts, Plan, Variable
from pipeline.settings import (
    Algorithm,
    PlatformName,
    Precision,
    Prediction,
    Settings,
)
from pipeline.validate import validate
from tests import given, header_cases


def problems(settings: Settings, facts: Facts | None = None) -> tuple[Problem, ...]:
    with pytest.raises(InvalidSettings) as caught:
        validate(settings, facts or given.facts())
    return caught.value.problems


def problem(settings: Settings, facts: Facts | None = None) -> Problem:
    told = problems(settings, facts)
    assert len(told) == 1, told
    return told[0]


def plan(settings: Settings, facts: Facts | None = None) -> Plan:
    return validate(settings, facts or given.facts())


def with_args(algo: Algorithm, **args: Any) -> Settings:
    return given.settings(network__algo=algo, network__args=args)


# --------------------------------------------------------------------------------------------------------- all at once


def test_the_demo_is_runnable() -> None:
    assert plan(given.settings()).steps > 0


def test_everything_wrong_is_told_at_once() -> None:
    found = Problem("data.dir", "/x", "there is no such folder", "data.dir=FOLDER")
    settings = given.settings(train__batch_size=0, optimizer__lr=-1.0, optimizer__target="no_such_package.Adam")
    told = problems(settings, given.facts(dataset=None, problems=(found,)))
    assert [one.key for one in told] == ["data.dir", "optimizer.lr", "train.batch_size", "optimizer.target"]


def test_a_problem_of_the_facts_alone_stops_the_run() -> None:
    found = Problem("model.path", "/x", "there is no such file", "model.path=PATH")
    assert problems(given.settings(), given.facts(checkpoint=None, problems=(found,))) == (found,)


def test_problems_name_key_value_limits_and_what_to_type() -> None:
    told = str(problem(given.settings(train__warmup_fraction=0.7)))
    assert told == "train.warmup_fraction=0.7: must be 0 to 0.5\n    try: train.warmup_fraction=0.05"


# ------------------------------------------------------------------------------------------------------------- ranges


def test_every_number_of_the_settings_has_a_limit() -> None:
    set_here = {"max_steps": 1, "epochs": 1.0, "min_snr_gamma": 1.0, "warmup_steps": 1, "timestep_shift": 1.0}
    values = {f"train__{name}": value for name, value in set_here.items()}
    made = given.settings("model=sd15", "model.path=x", **values)
    every = first_candidate(made, 0).flat()
    numbers = {
        key
        for key, value in every.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and ".args." not in key
    }
    assert numbers == set(LIMITS)


@pytest.mark.parametrize("key", LIMITS)
def test_limits_hold_on_both_sides_and_for_nan(key: str) -> None:
    limit = LIMITS[key]
    assert limit.holds(limit.typical)
    assert limit.holds(limit.high)
    assert limit.holds(limit.low) != limit.open
    for value in (limit.low - 1, limit.high * 1.01 + 1, math.nan, math.inf):
        assert not limit.holds(value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("optimizer__lr", math.nan),
        ("optimizer__lr", 0.0),
        ("network__rank", 0),
        ("network__alpha", 0.0),
        ("network__dropout", 1.0),
        ("train__min_snr_gamma", 0.0),
        ("train__noise_offset", 0.6),
        ("train__max_steps", 0),
        ("train__keep_checkpoints", 0),
        ("train__checkpoint_every_steps", 0),
        ("train__caption_dropout", 1.1),
        ("sample__num_inference_steps", 1001),
        ("seed", 2**32),
        ("mode__text_encoder_lr", -1e-5),
        ("hardware__num_processes", 0),
        ("model__clip_skip", 12),
    ],
)
def test_numbers_out_of_range_are_told(name: str, value: float) -> None:
    assert problem(given.settings(**{name: value})).key == name.replace("__", ".")


def test_null_is_offered_where_it_has_a_meaning() -> None:
    assert "or null to weigh every timestep the same" in problem(given.settings(train__min_snr_gamma=0.0)).reason


# ------------------------------------------------------------------------------------------------------------ network


def lycoris_parameters(algo: Algorithm) -> set[str]:
    """What the module's constructor takes, read from its source: importing it would load torch."""
    spec = importlib.util.find_spec("lycoris")
    assert spec is not None
    assert spec.origin is not None
    name = {"lora": "locon", "dora": "locon"}.get(algo.value, algo.value)
    tree = ast.parse((Path(spec.origin).parent / "modules" / f"{name}.py").read_text())
    constructors = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
    return {argument.arg for function in constructors for argument in function.args.args}


@pytest.mark.parametrize("algo", Algorithm)
def test_the_arguments_of_every_algorithm_are_known_to_lycoris(algo: Algorithm) -> None:
    assert set(ARGUMENTS[algo]) <= lycoris_parameters(algo)
    assert set(ARGUMENTS[algo].values()) <= set(WORDS)


def test_an_argument_that_the_algorithm_ignores_is_told_with_the_nearest() -> None:
    told = problem(with_args(Algorithm.lokr, factr=8))
    assert told.key == "network.args.factr"
    assert "Did you mean factor?" in told.reason
    assert told.fix == "~network.args.factr"


def test_another_algorithms_argument_is_told() -> None:
    assert problem(with_args(Algorithm.locon, factor=8)).key == "network.args.factor"


@pytest.mark.parametrize(
    ("algo", "args"),
    [
        (Algorithm.lokr, {"factor": "8"}),
        (Algorithm.lokr, {"factor": 8.0}),
        (Algorithm.lokr, {"factor": True}),
        (Algorithm.lokr, {"factor": None}),
        (Algorithm.lokr, {"full_matrix": 1}),
        (Algorithm.locon, {"rank_dropout": 1.0}),
        (Algorithm.locon, {"module_dropout": True}),
        (Algorithm.tlora, {"sig_type": "first"}),
        (Algorithm.dylora, {"block_size": 0}),
        (Algorithm.dylora, {"block_size": 5}),
    ],
)
def test_arguments_of_another_kind_are_told(algo: Algorithm, args: dict[str, object]) -> None:
    assert problems(with_args(algo, **args))


@pytest.mark.parametrize(
    ("algo", "args"),
    [
        (Algorithm.lokr, {"factor": -1, "decompose_both": True, "rank_dropout": 0}),
        (Algorithm.loha, {"weight_decompose": True}),
        (Algorithm.dylora, {"block_size": 8}),
        (Algorithm.diag_oft, {"constraint": 0.001}),
    ],
)
def test_good_arguments_are_taken(algo: Algorithm, args: dict[str, object]) -> None:
    plan(with_args(algo, **args))


@pytest.mark.parametrize("algo", [Algorithm.lora, Algorithm.tlora])
def test_a_rank_of_convolutions_is_without_effect_for_some_algorithms(algo: Algorithm) -> None:
    told = problem(given.settings(network__algo=algo, network__conv_rank=8))
    assert told.key == "network.conv_rank"
    assert "network=locon" in told.fix


def test_dropout_is_without_effect_for_some_algorithms() -> None:
    assert problem(given.settings("network=ia3", network__dropout=0.1)).key == "network.dropout"


def test_ranks_of_dylora_are_whole_blocks() -> None:
    told = problem(given.settings("network=dylora", network__rank=18, network__conv_rank=8))
    assert told.fix == "network.rank=20"


def test_lora_needs_a_network_and_finetune_has_none() -> None:
    assert problem(given.settings(network=None)).key == "network"
    network = given.settings().network
    assert problem(given.settings("mode=finetune", network=network)).key == "network"


# ---------------------------------------------------------------------------------------------------------- optimizer


def test_a_package_that_is_missing_is_told_with_its_install_line() -> None:
    told = problem(given.settings(optimizer__target="no_such_package.optim.Adam"))
    assert "pip install no-such-package" in told.fix


@pytest.mark.parametrize("target", ["", "AdamW", ".x.y", "torch..AdamW", "torch.optim.", "a b.c", "../x.y"])
def test_a_target_that_is_no_import_path_is_told(target: str) -> None:
    assert "not the import path" in problem(given.settings(optimizer__target=target)).reason


def test_an_argument_without_a_value_is_told() -> None:
    assert problem(given.settings(optimizer__args={"weight_decay": None})).fix == "~optimizer.args.weight_decay"


# -------------------------------------------------------------------------------------------------------------- model


FLUX = replace(
    given.CHECKPOINT,
    family="flux1",
    title="FLUX.1 [dev]",
    variant="dev",
    prediction="flow",
    prediction_sure=True,
    models=("flux_dev",),
    parts=("denoiser",),
    evidence=("family: img_in.weight is [3072, 64]; txt_in.weight is [3072, 4096]; more (certain)", "metadata: x"),
)
SDXL = replace(given.CHECKPOINT, family="sdxl", title="Stable Diffusion XL", models=("sdxl", "pony", "sdxl_vpred"))
SDXL_SETTINGS = ("model.path=x", "train.resolution_px=1024")


def test_a_claim_that_the_header_refutes_is_told_with_both_names_and_the_evidence() -> None:
    told = problem(given.settings(), given.facts(checkpoint=FLUX))
    assert (told.key, told.value) == ("model", "demo")
    assert "is FLUX.1 [dev] (dev), model=flux_dev, by its header, not the demo model" in told.reason
    assert "img_in.weight is [3072, 64]" in told.reason
    assert told.fix.startswith("model=flux_dev, or model.trust_header=false")


def test_a_sister_of_another_size_is_a_contradiction(tmp_path: Path) -> None:
    medium = recognise(header_cases.write(header_cases.read("sd35_medium"), tmp_path))
    told = problem(given.settings("model=sd35_large", "model.path=x"), given.facts(checkpoint=medium))
    assert "is Stable Diffusion 3.5 Medium (3.5-medium), model=sd35_medium" in told.reason
    assert "not Stable Diffusion 3.5 Large" in told.reason
    assert "[4608, 1536]" in told.reason


def test_a_claim_that_is_refuted_is_told_alone() -> None:
    """What the wrong model needs, and what trains it, is beside the point."""
    told = problem(given.settings("model=sdxl", *SDXL_SETTINGS), given.facts(checkpoint=FLUX))
    assert told.key == "model"


@pytest.mark.parametrize(
    ("metadata", "refuted"), [({}, False), ({"modelspec.prediction_type": "epsilon"}, True)], ids=["silent", "epsilon"]
)
def test_a_v_model_may_be_claimed_where_nothing_says_epsilon(
    metadata: dict[str, str], refuted: bool, tmp_path: Path
) -> None:
    silent = replace(header_cases.read("sdxl_base_full_fp16"), metadata=metadata)
    checkpoint = recognise(header_cases.write(silent, tmp_path))
    settings = given.settings("model=noobai_vpred", *SDXL_SETTINGS)
    assert is_refuted(settings, checkpoint) is refuted
    assert predicts(settings, checkpoint) == ("epsilon" if refuted else "v_prediction")


def test_a_header_that_is_not_trusted_is_warned_about() -> None:
    other = replace(given.CHECKPOINT, models=("sd15",), title="Stable Diffusion 1.x", variant="base")
    made = plan(given.settings(model__trust_header=False), given.facts(checkpoint=other))
    assert any("model.trust_header=false" in warning and "model=sd15" in warning for warning in made.warnings)


def test_without_trust_in_the_header_everything_else_is_still_checked() -> None:
    settings = given.settings("model=sdxl", *SDXL_SETTINGS, model__trust_header=False)
    keys = {each.key for each in problems(settings, given.facts(checkpoint=FLUX))}
    assert keys == {"model.parts.clip_l", "model.parts.clip_g", "model.parts.vae", "model"}


def test_a_model_that_is_not_known_is_trained_when_the_user_insists() -> None:
    unknown = replace(given.CHECKPOINT, family="unknown", models=(), refused="is of no kind that is known here")
    settings = given.settings(model__trust_header=False)
    assert any("is of no kind" in warning for warning in plan(settings, given.facts(checkpoint=unknown)).warnings)


def test_a_narrower_name_may_be_claimed() -> None:
    told = problems(given.settings("model=pony", *SDXL_SETTINGS), given.facts(checkpoint=SDXL))
    assert [each.reason for each in told] == [
        "backend=native can't train Pony Diffusion XL yet: it trains Stable Diffusion 1 only"
    ]


@pytest.mark.parametrize(
    ("name", "sure", "predicted"), [("sdxl_vpred", False, "v_prediction"), ("sdxl", True, "epsilon")]
)
def test_where_the_files_say_nothing_the_model_predicts_what_it_does(name: str, sure: bool, predicted: str) -> None:
    settings = given.settings(f"model={name}", *SDXL_SETTINGS)
    assert predicts(settings, replace(SDXL, prediction_sure=sure)) == predicted


def test_a_prediction_that_nothing_tells_must_be_said() -> None:
    unknown = replace(given.CHECKPOINT, models=("sd2",), prediction=None)
    settings = given.settings("model=sd2", "model.path=x")
    told = next(each for each in problems(settings, given.facts(checkpoint=unknown)) if each.key == "model.prediction")
    assert told.fix == "model.prediction=epsilon, or model.prediction=v_prediction"


def test_a_prediction_that_was_said_is_not_asked_for() -> None:
    unknown = replace(given.CHECKPOINT, models=("sd2",), prediction=None)
    settings = given.settings("model=sd2", "model.path=x", model__prediction=Prediction.v_prediction)
    assert "model.prediction" not in {each.key for each in problems(settings, given.facts(checkpoint=unknown))}


def test_a_flow_predicts_nothing_else() -> None:
    settings = given.settings("model=flux_dev", "model.path=x", model__prediction=Prediction.epsilon)
    told = problems(settings, given.facts(checkpoint=FLUX))
    assert "FLUX.1 [dev] is a flow" in [each.reason for each in told if each.key == "model.prediction"]


def test_parts_that_are_nowhere_are_told_one_by_one() -> None:
    told = problems(given.settings("model=flux_dev", "model.path=x"), given.facts(checkpoint=FLUX))
    assert {"model.parts.clip_l", "model.parts.t5xxl", "model.parts.vae"} <= {each.key for each in told}


def test_why_a_folders_part_can_not_be_read_is_told_with_it() -> None:
    lacking = replace(given.CHECKPOINT, parts=("denoiser", "vae"), lacking=("text_encoder has only .bin pickles",))
    told = problem(given.settings(), given.facts(checkpoint=lacking))
    assert told.key == "model.parts.clip_l"
    assert "text_encoder has only .bin pickles" in told.reason


def test_the_native_backend_refuses_what_is_quantised() -> None:
    quantised = replace(given.CHECKPOINT, dtype="fp8_e4m3_scaled")
    told = problem(given.settings(), given.facts(checkpoint=quantised))
    assert "is stored as fp8_e4m3_scaled" in told.reason


def test_the_native_backend_refuses_parts_that_it_would_not_read(tmp_path: Path) -> None:
    settings = given.settings(f"model.parts.vae={tmp_path}")
    assert problem(settings).fix == "leave model.parts.vae out"


def test_a_setting_with_one_right_value_is_held_to_it() -> None:
    told = problems(given.settings("model=sdxl", *SDXL_SETTINGS, model__clip_skip=1), given.facts(checkpoint=SDXL))
    assert "model.clip_skip=0" in [each.fix for each in told]


def test_a_learning_rate_outside_the_usual_band_is_warned_about() -> None:
    assert any("optimizer.lr=1 " in warning for warning in plan(given.settings(optimizer__lr=1.0)).warnings)


def test_clip_skip_leaves_a_layer() -> None:
    assert problem(given.settings(model__clip_skip=3)).fix == "model.clip_skip=2, or model.clip_skip=0"
    plan(given.settings(model__clip_skip=2))


def test_sides_are_multiples_of_the_models_step() -> None:
    settings = given.settings(model__resolution_step_px=64, train__resolution_px=500)
    assert problem(settings).fix == "train.resolution_px=512"


def test_the_models_step_is_a_multiple_of_a_latents_pixels() -> None:
    assert problem(given.settings(model__resolution_step_px=12)).key == "model.resolution_step_px"


def test_a_tokenizer_is_a_folder_with_a_vocabulary(tmp_path: Path) -> None:
    settings = given.settings(model__tokenizer=str(tmp_path))
    assert problem(settings).key == "model.tokenizer"
    (tmp_path / "vocab.json").write_text("{}")
    plan(settings)


def test_the_asked_prediction_replaces_the_models_with_a_warning() -> None:
    made = plan(given.settings(model__prediction=Prediction.v_prediction))
    assert made.checkpoint.prediction == "v_prediction"
    assert any("model.prediction=v_prediction" in warning for warning in made.warnings)


# ------------------------------------------------------------------------------------------------------------ machine


def test_automatic_choices_are_kept_with_their_reasons() -> None:
    settings = given.settings(data__heldout_dir=None, data__heldout_fraction=0.2)
    keys = [choice.key for choice in plan(settings).choices]
    assert keys == [
        *("profile", "hardware", "hardware.precision", "model.prediction", "data.heldout_fraction"),
        *("train.max_steps", "sample.prompts", "memory", "train.batch_size", "memory.peak", "disk"),
    ]
    assert all(choice.reason for choice in plan(settings).choices)


def test_what_was_asked_for_is_no_choice() -> None:
    settings = given.settings(
        hardware__name=PlatformName.cpu,
        hardware__precision=Precision.fp32,
        model__prediction=Prediction.epsilon,
        train__max_steps=5,
        sample__prompts=["a"],
    )
    left = ["profile", "memory", "train.batch_size", "memory.peak", "disk"]
    assert [choice.key for choice in plan(settings).choices] == left


@pytest.mark.parametrize("precision", [Precision.bf16, Precision.fp16])
def test_narrow_precision_is_refused_on_a_cpu(precision: Precision) -> None:
    assert problem(given.settings(hardware__precision=precision)).fix == "hardware.precision=auto"


def test_a_card_trains_in_bfloat16() -> None:
    assert plan(given.settings(), given.facts(machine=given.CARD)).precision == "bf16"


def test_processes_have_a_device_or_core_each() -> None:
    assert problem(given.settings(hardware__num_processes=5)).fix == "hardware.num_processes=4"
    told = problem(given.settings(hardware__num_processes=2), given.facts(machine=given.CARD))
    assert "1 cuda devices" in told.reason
    assert plan(given.settings(hardware__num_processes=4)).num_processes == 4


@pytest.mark.parametrize(
    ("told", "key"),
    [
        ({"num_machines": 2}, "main_address"),
        ({"num_machines": 2, "main_address": "node0", "machine_rank": 2}, "machine_rank"),
        ({"machine_rank": 1}, "machine_rank"),
        ({"main_address": "node0"}, "main_address"),
        ({"main_port": 29501}, "main_port"),
    ],
)
def test_machines_must_be_able_to_meet(told: dict[str, Any], key: str) -> None:
    assert (
        problem(given.settings(**{f"hardware__{name}": value for name, value in told.items()})).key == f"hardware.{key}"
    )


def of_two_machines(rank: int) -> Settings:
    return given.settings(
        hardware__num_machines=2, hardware__num_processes=3, hardware__machine_rank=rank, hardware__main_address="node0"
    )


def test_the_processes_of_all_machines_share_the_samples() -> None:
    choice = next(choice for choice in plan(of_two_machines(0)).choices if choice.key == "train.max_steps")
    assert "/ batch 6 = " in choice.reason  # one picture in each of six processes is nearest to eight
    assert plan(of_two_machines(0)).num_processes == 6


def test_all_but_the_first_machine_keep_no_record() -> None:
    first, second = plan(of_two_machines(0)), plan(of_two_machines(1))
    assert (first.settings.tracking.enabled, second.settings.tracking.enabled) == (True, False)
    assert ("tracking", "off") in [(choice.key, choice.value) for choice in second.choices]
    assert first.fingerprint == second.fingerprint


def test_limits_of_the_cpu_are_not_told_when_the_card_could_not_be_asked() -> None:
    found = Problem("hardware", "cuda", "torch can't drive cuda here", "hardware=auto")
    settings = given.settings(hardware__precision=Precision.bf16, hardware__num_processes=8)
    assert problems(settings, given.facts(problems=(found,))) == (found,)


def test_a_full_disk_is_told_with_both_figures() -> None:
    checkpoint = replace(given.CHECKPOINT, parameters=860_000_000, bytes=4 * 2**30)
    settings = given.settings("mode=finetune")
    told = problem(settings, given.facts(checkpoint=checkpoint, disk_free_bytes=10 * 2**30))
    assert told.key == "hydra.run.dir"
    assert "10.0 GiB are free" in told.reason
    assert "about 32.8 GiB" in told.reason


def test_an_adapter_needs_far_less_disk() -> None:
    checkpoint = replace(given.CHECKPOINT, parameters=860_000_000, bytes=4 * 2**30)
    plan(given.settings(), given.facts(checkpoint=checkpoint, disk_free_bytes=10 * 2**30))


@pytest.mark.parametrize("name", ["", "a/b", "../a", ".hidden", "a\nb", "x" * 300])
def test_weights_have_a_plain_file_name(name: str) -> None:
    assert problem(given.settings(backend__weights_name=name)).key == "backend.weights_name"


# -------------------------------------------------------------------------------------------------------------- steps


def steps_of(pictures: int, **values: object) -> tuple[int, str]:
    """Steps and their reason, from figures that are easy to follow."""
    figures: dict[str, object] = {
        "train__samples_per_image": 100,
        "train__samples_floor": 1600,
        "train__samples_cap": 3200,
        "train__min_steps": 100,
        "train__batch_size": 8,
    }
    made = plan(given.settings(**(figures | values)), given.facts(dataset=given.dataset(pictures, 2)))
    choice = next(choice for choice in made.choices if choice.key == "train.max_steps")
    return made.steps, choice.reason


def test_steps_say_how_they_come_about() -> None:
    steps, reason = steps_of(24)
    equation = "24 pictures x 1 repeat x 100 epochs / batch 8 = 300 steps"
    assert (steps, reason) == (300, f"{equation}; 100 a picture = 2400, within 1600..3200 = 2400 samples")


@pytest.mark.parametrize(
    ("pictures", "values", "steps"),
    [
        (5, {}, 200),  # the floor
        (100, {}, 400),  # the cap
        (1000, {}, 1250),  # ten looks at each picture
        (25, {"train__batch_size": 7}, 358),  # rounded up
        (24, {"train__accumulation_steps": 2}, 150),
        (24, {"hardware__num_processes": 3}, 100),
        (24, {"train__accumulation_steps": 30}, 100),  # min_steps
    ],
)
def test_steps_follow_pictures_and_batch(pictures: int, values: dict[str, object], steps: int) -> None:
    assert steps_of(pictures, **values)[0] == steps


def test_the_least_steps_are_told() -> None:
    reason = steps_of(24, train__accumulation_steps=30)[1]
    assert reason.startswith("24 pictures x 1 repeat x 1000 epochs / batch 240 = 100 steps")
    assert reason.endswith("= 2400 samples, and at least 100 steps")


def test_a_floor_over_the_cap_is_told() -> None:
    assert problem(given.settings(train__samples_floor=9000, train__samples_cap=100)).key == "train.samples_floor"


def test_asked_for_steps_are_taken() -> None:
    assert plan(given.settings(train__max_steps=7, train__min_steps=400)).steps == 7


@pytest.mark.parametrize(
    ("pictures", "epochs", "steps"), [(24, 10.0, 30), (24, 0.5, 2), (25, 1.0, 4), (30, 0.1, 1), (8, 0.01, 1)]
)
def test_passes_over_the_pictures_make_steps(pictures: int, epochs: float, steps: int) -> None:
    made, reason = steps_of(pictures, train__epochs=epochs)
    assert made == steps
    assert reason.endswith(f"/ batch 8 = {steps} step{'s' * (steps > 1)}; train.epochs={epochs:g}")


@pytest.mark.parametrize("pictures", [3, 24, 25, 997])
@pytest.mark.parametrize("batch", [1, 7, 8, 30])
def test_the_numbers_of_the_length_come_out(pictures: int, batch: int) -> None:
    steps, reason = steps_of(pictures, train__batch_size=batch, train__accumulation_steps=1)
    told = re.match(r"(\d+) pictures x (\d+) repeat x ([\d.]+) epochs / batch (\d+) = (\d+) steps", reason)
    assert told is not None
    shown, repeats, epochs, of, result = map(float, told.groups())
    assert (shown, of, result) == (pictures, batch, steps)
    assert round(shown * repeats * epochs / of) == steps


def test_two_lengths_are_one_too_many() -> None:
    told = str(problem(given.settings(train__max_steps=7, train__epochs=2.0)))
    assert "train.epochs=2: is a second length beside train.max_steps=7" in told


@pytest.mark.parametrize(("fraction", "steps"), [(0.05, 5), (0.1, 10), (0.3, 10)])
def test_a_warm_up_is_at_most_a_tenth(fraction: float, steps: int) -> None:
    made = plan(given.settings(train__max_steps=100, train__warmup_fraction=fraction))
    assert made.warmup_steps == steps
    told = [choice.reason for choice in made.choices if choice.key == "train.warmup_fraction"]
    assert told == (["10 of 100 steps, not 30: at most a tenth, unless it is typed"] if fraction > 0.1 else [])


def test_a_warm_up_that_was_typed_stays() -> None:
    settings = given.settings(train__max_steps=100, train__warmup_fraction=0.3)
    made = validate(settings, given.facts(), typed={"train.warmup_fraction"})
    assert made.warmup_steps == 30
    assert "train.warmup_fraction" not in {choice.key for choice in made.choices}


# ----------------------------------------------------------------------------------------------------------- warnings


def warned(settings: Settings, dataset: Dataset) -> str:
    return "\n".join(plan(settings, given.facts(dataset=dataset)).warnings)


def test_the_demo_has_no_warnings() -> None:
    assert plan(given.settings()).warnings == ()


def test_no_heldout_pictures_are_warned_of() -> None:
    assert "no pictures are held out" in warned(given.settings(), given.dataset(24, 0))


def test_a_batch_larger_than_the_dataset_is_warned_of() -> None:
    few = given.dataset(5, 1)
    assert "train.batch_size=8 is more than the 5 pictures of an epoch" in warned(given.settings(), few)
    twice = replace(few, train=tuple(replace(picture, repeats=2) for picture in few.train))
    assert "of an epoch" not in warned(given.settings(), twice)


def test_one_caption_for_nearly_all_is_warned_of() -> None:
    same = replace(given.dataset(), train=given.pictures(20, caption="sks dog"))
    assert "20 of 20 pictures have one caption, 'sks dog'" in warned(given.settings(), same)


def test_small_pictures_are_warned_of() -> None:
    assert "24 pictures of fewer pixels" in warned(given.settings(train__resolution_px=128), given.dataset())


# -------------------------------------------------------------------------------------------------------- fingerprint


def fingerprint(values: dict[str, object]) -> str:
    return plan(given.settings(**values)).fingerprint


@pytest.mark.parametrize(
    "values",
    [
        {"train__checkpoint_every_steps": 7},
        {"train__keep_checkpoints": 5},
        {"train__heldout_every_steps": 0},
        {"train__gradient_checkpointing": True},
        {"sample__num_inference_steps": 3},
        {"sample__prompts": ["x"]},
        {"tracking__enabled": False},
        {"data__dir": "/elsewhere"},
        {"model__path": "/elsewhere"},
        {"model__prediction": Prediction.epsilon},
        {"hardware__name": PlatformName.cpu},
        {"hardware__precision": Precision.fp32},
        {"backend__weights_name": "other"},
        {"profile__name": "other"},
    ],
)
def test_the_fingerprint_stays_for_what_changes_no_weight(values: dict[str, object]) -> None:
    assert fingerprint(values) == fingerprint({})


@pytest.mark.parametrize(
    "values",
    [
        {"seed": 1},
        {"optimizer__lr": 1e-5},
        {"optimizer__args": {"weight_decay": 0.5}},
        {"network__rank": 4},
        {"network__args": {"rank_dropout": 0.1}},
        {"train__max_steps": 5},
        {"train__batch_size": 4},
        {"train__noise_offset": 0.1},
        {"train__warmup_fraction": 0.02},
        {"model__prediction": Prediction.v_prediction},
        {"model__clip_skip": 1},
        {"hardware__num_processes": 2},
    ],
)
def test_the_fingerprint_follows_what_changes_the_weights(values: dict[str, object]) -> None:
    assert fingerprint(values) != fingerprint({})


def test_what_was_chosen_for_the_devices_is_told() -> None:
    card = replace(
        given.CARD,
        architectures=("sm_89",),
        attention=("flash", "math"),
        variables=(Variable("CUDA_DEVICE_ORDER", "PCI_BUS_ID", "as nvidia-smi counts"),),
        warnings=("it is hot",),
    )
    made = plan(given.settings(), given.facts(machine=card))
    chosen = {choice.key: choice.value for choice in made.choices}
    assert (chosen["attention"], chosen["CUDA_DEVICE_ORDER"]) == ("sdpa", "PCI_BUS_ID")
    assert "it is hot" in made.warnings


def test_the_fingerprint_follows_model_pictures_machine_and_torch() -> None:
    facts = [
        given.facts(),
        given.facts(checkpoint=replace(given.CHECKPOINT, digest="e" * 64)),
        given.facts(dataset=replace(given.dataset(), digest="f" * 64)),
        given.facts(machine=given.CARD),
        given.facts(machine=replace(given.CPU, torch_version="2.14.0")),
    ]
    assert len({plan(given.settings(), each).fingerprint for each in facts}) == len(facts)
