"""The rules for optimizers, schedules and networks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.backends.kohya.rules import optimizers, rule_problems, rule_warnings
from tests.kohya_asked import FREE, FUSED, KEYS, LYCORIS, PRODIGY, STEADY_ADAFACTOR, asked, keys, problems

# ----------------------------------------------------------------------------------------------------------- optimizers


@pytest.mark.parametrize("script", ["train_network.py", "flux_train_network.py", "fine_tune.py"])
def test_fused_steps_are_for_checkpoints(script: str) -> None:
    assert keys(script, **FUSED, **STEADY_ADAFACTOR) == ["backend.args.fused_backward_pass"]


@pytest.mark.parametrize("script", ["sdxl_train.py", "sd3_train.py", "flux_train.py", "lumina_train.py"])
def test_fused_steps_of_a_finetune_are_sound(script: str) -> None:
    assert problems(script, **FUSED, **STEADY_ADAFACTOR) == []


def test_fused_steps_clip_each_matrix_alone() -> None:
    values = {**FUSED, **STEADY_ADAFACTOR, "max_grad_norm": 1.0}
    (problem,) = problems("sdxl_train.py", **values)
    assert (problem.key, problem.fix) == ("train.max_grad_norm", "train.max_grad_norm=0")


def test_fused_steps_need_adafactor() -> None:
    values = {"fused_backward_pass": True, "max_grad_norm": 0.0, "optimizer_type": "AdamW8bit"}
    assert keys("flux_train.py", **values) == ["backend.args.fused_backward_pass"]


def test_blockwise_steps_need_an_optimizer_with_a_schedule() -> None:
    values = {**FREE, "blockwise_fused_optimizers": True, "max_grad_norm": 0.0}
    assert keys("flux_train.py", **values) == ["backend.args.blockwise_fused_optimizers"]


def test_two_kinds_of_fused_steps_train_one_block() -> None:
    values = {**FUSED, **STEADY_ADAFACTOR, "blockwise_fused_optimizers": True}
    assert keys("flux_train.py", **values) == ["backend.args.fused_backward_pass"]


def test_groups_of_fused_steps_are_for_sdxl() -> None:
    assert keys("flux_train.py", fused_optimizer_groups=10) == ["backend.args.fused_optimizer_groups"]
    assert problems("sdxl_train.py", fused_optimizer_groups=10, max_grad_norm=0.0) == []


@pytest.mark.parametrize("name", ["adamw8bit", "CAME.CAME", "RAdam", "Lion", "DAdaptation", "bitsandbytes.optim.Lion"])
def test_an_optimizer_that_sd_scripts_finds(name: str) -> None:
    assert list(optimizers.optimizer_names(asked("train_network.py", optimizer_type=name))) == []


@pytest.mark.parametrize("text", ["weight_decay", "betas=(0.9", "decouple=true", "d_coef=1=2"])
def test_an_argument_that_python_can_not_read(text: str) -> None:
    assert keys("train_network.py", optimizer_type="Lion", optimizer_args=[text]) == ["optimizer.args"]


def test_the_class_of_adafactor_raises_for_a_rate() -> None:
    (problem,) = problems("train_network.py", optimizer_type="transformers.optimization.Adafactor")
    assert "raises" in problem.reason
    assert problem.fix == "+optimizer.args.relative_step=false"


def test_adafactor_that_warms_up_takes_relative_steps() -> None:
    values = {"optimizer_type": "adafactor", "optimizer_args": ["relative_step=False", "warmup_init=True"]}
    (problem,) = problems("train_network.py", **values)
    assert problem.value == "warmup_init=True"


def test_the_adafactor_of_torch_has_no_relative_steps() -> None:
    assert problems("train_network.py", optimizer_type="torch.optim.Adafactor") == []


@pytest.mark.parametrize("name", ["DAdaptAdam", "dadaptation.DAdaptLion", "prodigyplus.ProdigyPlusScheduleFree"])
def test_a_rate_that_is_found_is_multiplied_by_one(name: str) -> None:
    values = {"optimizer_type": name, "network_train_unet_only": True}
    assert keys("train_network.py", **values, unet_lr=1e-4) == ["optimizer.lr"]
    assert problems("train_network.py", **values, unet_lr=1.0) == []


def test_a_rate_that_is_not_set_is_the_common_one() -> None:
    assert keys("train_network.py", **PRODIGY) == ["optimizer.lr"]
    assert problems("train_network.py", **PRODIGY, learning_rate=1.0) == []


def test_text_encoders_of_a_finetune_share_the_found_rate() -> None:
    values = {"optimizer_type": "Prodigy", "learning_rate": 1.0, "train_text_encoder": True}
    assert keys("sdxl_train.py", **values, learning_rate_te1=0.5) == ["backend.args.learning_rate_te1"]
    assert problems("sdxl_train.py", **values, learning_rate_te1=0.0) == []


def test_rates_may_differ_with_prodigy_plus() -> None:
    values = {"optimizer_type": "prodigyplus.ProdigyPlusScheduleFree", "unet_lr": 1.0, "text_encoder_lr": [0.5]}
    assert problems("train_network.py", **values) == []


@pytest.mark.parametrize("name", ["use_8bit_adam", "use_lion_optimizer"])
def test_an_old_flag_beside_the_optimizer(name: str) -> None:
    assert keys("train_network.py", optimizer_type="AdamW", **{name: True}) == [f"backend.args.{name}"]


@pytest.mark.parametrize("script", ["train_network.py", "flux_train.py"])
def test_schedule_free_weights_are_averaged_where_the_script_knows_how(script: str) -> None:
    assert problems(script, **FREE) == []


# ----------------------------------------------------------------------------------------------------------- schedulers


@pytest.mark.parametrize("name", ["reduce_lr_on_plateau", "cosine_warmup_with_min_lr", "cosine_annealing"])
def test_a_scheduler_that_dies_late(name: str) -> None:
    assert keys("train_network.py", lr_scheduler=name) == ["train.scheduler"]


@pytest.mark.parametrize("name", ["adafactor", "adafactor:1e-3"])
def test_the_schedule_of_adafactor_is_for_adafactor(name: str) -> None:
    assert keys("train_network.py", lr_scheduler=name) == ["train.scheduler"]
    assert (
        problems("train_network.py", lr_scheduler="adafactor:1e-3", optimizer_type="Adafactor", **STEADY_ADAFACTOR)
        == []
    )


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("cosine_with_min_lr", {"lr_scheduler_min_lr_ratio": 0.0}),
        ("cosine_with_min_lr", {"lr_scheduler_args": ["min_lr=1e-6"]}),
        ("piecewise_constant", {"lr_scheduler_args": ["step_rules='1:500,0.1'"]}),
    ],
)
def test_a_scheduler_with_an_argument_of_its_own(name: str, values: dict[str, object]) -> None:
    assert keys("train_network.py", lr_scheduler=name) == ["train.scheduler"]
    assert problems("train_network.py", lr_scheduler=name, **values) == []


def test_a_figure_of_ours_for_other_schedulers_is_no_problem() -> None:
    whole = asked("train_network.py", lr_scheduler="cosine", lr_scheduler_num_cycles=3)
    assert [problem.key for problem in rule_problems(whole)] == ["backend.args.lr_scheduler_num_cycles"]
    ours = replace(whole, keys={**KEYS, "lr_scheduler_num_cycles": "train.scheduler_cycles"})
    assert list(rule_problems(ours)) == []


@pytest.mark.parametrize(
    "values",
    [
        FREE,
        {"lr_scheduler_type": "pytorch_optimizer.REXScheduler", "lr_scheduler": "constant"},
        {"lr_scheduler": "piecewise_constant", "lr_scheduler_args": ["step_rules='1:500,0.1'"]},
    ],
)
def test_a_schedule_without_room_for_a_warm_up(values: dict[str, object]) -> None:
    assert keys("train_network.py", **values, lr_warmup_steps=0.1) == ["train.warmup_fraction"]
    assert problems("train_network.py", **values, lr_warmup_steps=0) == []


def test_a_class_of_scheduler_takes_the_place_of_the_name() -> None:
    values = {"lr_scheduler_type": "pytorch_optimizer.REXScheduler", "lr_scheduler": "cosine"}
    (problem,) = problems("train_network.py", **values)
    assert (problem.key, problem.fix) == ("train.scheduler", "train.scheduler=constant")


# ------------------------------------------------------------------------------------------------------------- networks


def test_units_of_the_other_dylora() -> None:
    values = {"network_module": "networks.dylora", "network_dim": 10, "network_args": {"unit": "4"}}
    assert keys("train_network.py", **values) == ["network.rank"]
    assert problems("train_network.py", network_module="networks.dylora", network_dim=10) == []


def test_a_wide_adapter_without_the_trouble_is_let_be() -> None:
    values = {**LYCORIS, "network_dim": 128, "network_args": {"algo": "lora"}}
    assert list(rule_warnings(asked("train_network.py", **values))) == []  # type: ignore[arg-type]
