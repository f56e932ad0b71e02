"""The rules for arguments that are not read, refused or spoiled: beside caches, in flows, to save memory."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.backends.kohya import manifest, scripts
from pipeline.backends.kohya.rules import (
    attention,
    caches,
    optimizers,
    rule_problems,
    schedules,
    timesteps,
    unread,
)
from tests.kohya_asked import KEYS, LYCORIS, TEXT_CACHE, asked, keys, problems, settings_for


def test_the_tables_name_arguments_that_their_scripts_have() -> None:
    parsers = manifest.load().parsers
    for entry in unread.UNUSABLE:
        for script in entry.scripts:
            assert set(entry.names) <= set(parsers[script].arguments), script
    together = {name for parser in parsers.values() for name in parser.arguments}
    for need in unread.NEEDS:
        assert {*need.names, *need.others} <= together
    for shadow in unread.SHADOWS:
        assert {*shadow.names, shadow.other} <= together
    for clash in unread.CLASHES:
        assert {clash.name, clash.other} <= together
    for table in (schedules.READ_BY_SCHEDULER, timesteps.READ_BY_SAMPLING, timesteps.READ_BY_WEIGHTING, attention.SAGE):
        assert set(table) <= together
    assert {*caches.REFUSED_WORDINGS, *caches.LOST_WORDINGS, *caches.TEXT_CACHES, *optimizers.FUSED} <= together


# --------------------------------------------------------------------------------------------------------------- caches


@pytest.mark.parametrize("cache", ["cache_text_encoder_outputs", "cache_text_encoder_outputs_to_disk"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("shuffle_caption", True),
        ("caption_dropout_rate", 0.1),
        ("caption_tag_dropout_rate", 0.1),
        ("token_warmup_step", 10),
        ("caption_dropout_every_n_epochs", 2),
        ("secondary_separator", ";;;"),
        ("enable_wildcard", True),
    ],
)
def test_a_cached_caption_does_not_change(cache: str, name: str, value: object) -> None:
    values = {cache: True, "network_train_unet_only": True, name: value}
    assert keys("sdxl_train_network.py", **values) == [KEYS.get(name, f"backend.args.{name}")]


@pytest.mark.parametrize("script", ["anima_train_network.py", "anima_train.py"])
def test_anima_drops_cached_captions(script: str) -> None:
    unet_only = {"network_train_unet_only": True} if "network" in script else {}
    assert problems(script, cache_text_encoder_outputs=True, caption_dropout_rate=0.1, **unet_only) == []
    assert keys(script, cache_text_encoder_outputs=True, shuffle_caption=True, **unet_only) == ["train.shuffle_tags"]


def test_lumina_loses_the_shuffling_without_a_word() -> None:
    (problem,) = problems("lumina_train_network.py", **TEXT_CACHE, shuffle_caption=True)
    assert "no effect" in problem.reason


@pytest.mark.parametrize("script", ["anima_train_network.py", "hunyuan_image_train_network.py"])
def test_a_text_encoder_is_not_trained_behind_its_cache(script: str) -> None:
    (problem,) = problems(script, cache_text_encoder_outputs=True)
    assert problem.key == "backend.cache_text"
    assert problem.fix == "mode.text_encoder_lr=0, or backend.cache_text=off"


@pytest.mark.parametrize("script", ["flux_train_network.py", "sd3_train_network.py"])
def test_clip_is_trained_beside_cached_t5(script: str) -> None:
    assert problems(script, cache_text_encoder_outputs=True) == []


def test_a_finetune_of_sd3_caches_t5_alone() -> None:
    values = {"train_text_encoder": True, "cache_text_encoder_outputs": True}
    assert keys("sd3_train.py", **values) == ["backend.cache_text"]
    assert problems("sd3_train.py", **values, use_t5xxl_cache_only=True) == []


def test_a_finetune_of_sdxl_trains_no_cached_text_encoder() -> None:
    assert keys("sdxl_train.py", train_text_encoder=True, cache_text_encoder_outputs=True) == ["backend.cache_text"]


def test_lycoris_trains_no_t5_behind_a_cache() -> None:
    values = {**TEXT_CACHE, **LYCORIS, "network_args": {"train_t5xxl": True}}
    assert keys("sd3_train_network.py", **values) == ["backend.network_args.train_t5xxl"]


@pytest.mark.parametrize("against", ["cache_latents", "enable_bucket"])
def test_faces_are_cropped_from_plain_pictures_only(against: str) -> None:
    assert keys("train_network.py", face_crop_aug_range="2.0,4.0", **{against: True}) == [
        "backend.args.face_crop_aug_range"
    ]
    assert problems("train_network.py", face_crop_aug_range="2.0,4.0") == []


# ------------------------------------------------------------------------------------------------------- noise and loss


def test_noise_is_not_predicted_as_v() -> None:
    (problem,) = problems("train_network.py", v_parameterization=True)
    assert (problem.key, problem.value) == ("backend.args.v_parameterization", "true")


def test_a_flow_script_trains_nothing_but_flows() -> None:
    assert keys("flux_train_network.py", predicts="epsilon") == ["model.prediction"]


def test_scaling_the_loss_of_v_needs_v() -> None:
    name = "scale_v_pred_loss_like_noise_pred"
    assert keys("train_network.py", **{name: True}) == [f"backend.args.{name}"]
    assert problems("train_network.py", predicts="v_prediction", v_parameterization=True, **{name: True}) == []


def test_a_loss_like_that_of_v_is_for_noise() -> None:
    values = {"predicts": "v_prediction", "v_parameterization": True}
    assert keys("train_network.py", **values, v_pred_like_loss=0.5) == ["backend.args.v_pred_like_loss"]
    assert problems("train_network.py", v_pred_like_loss=0.5) == []


@pytest.mark.parametrize("script", sorted(scripts.FLOW))
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("min_snr_gamma", 5.0),
        ("debiased_estimation_loss", True),
        ("noise_offset", 0.05),
        ("multires_noise_iterations", 6),
        ("zero_terminal_snr", True),
        ("max_token_length", 225),
        ("clip_skip", 2),
        ("weighted_captions", True),
    ],
)
def test_a_flow_script_ignores_what_is_for_noise(script: str, name: str, value: object) -> None:
    assert keys(script, **{name: value}) == [KEYS.get(name, f"backend.args.{name}")]


@pytest.mark.parametrize("script", sorted(scripts.FLOW))
def test_perturbed_inputs_are_for_all_flows_but_sd3(script: str) -> None:
    ignored = ["backend.args.ip_noise_gamma"] if script in scripts.SD3 else []
    assert keys(script, ip_noise_gamma=0.1) == ignored


@pytest.mark.parametrize("script", sorted(scripts.FLOW))
def test_a_range_of_timesteps_is_for_sd3_of_all_flows(script: str) -> None:
    ignored = [] if script in scripts.SD3 else ["backend.args.max_timestep"]
    assert keys(script, max_timestep=800) == ignored


@pytest.mark.parametrize("schedule", ["snr", "exponential"])
def test_anima_has_one_threshold_for_all_timesteps(schedule: str) -> None:
    values = {"loss_type": "smooth_l1", "huber_schedule": schedule}
    assert keys("anima_train_network.py", **values) == ["backend.args.huber_schedule"]


@pytest.mark.parametrize("schedule", ["snr", "exponential", "constant"])
def test_noise_has_every_schedule_of_the_threshold(schedule: str) -> None:
    assert problems("train_network.py", loss_type="huber", huber_schedule=schedule) == []


@pytest.mark.parametrize("name", ["huber_c", "huber_scale"])
def test_a_threshold_needs_a_loss_that_has_one(name: str) -> None:
    assert keys("train_network.py", **{name: 0.5}) == [f"backend.args.{name}"]


def test_the_threshold_by_snr_has_no_scale() -> None:
    assert keys("train_network.py", loss_type="huber", huber_scale=2.0) == ["backend.args.huber_scale"]


def test_sigmoid_scale_needs_a_sigmoid() -> None:
    values = {"timestep_sampling": "uniform", "sigmoid_scale": 2.0}
    assert keys("lumina_train_network.py", **values) == ["backend.args.sigmoid_scale"]


def test_a_scheme_that_weighs_needs_scaled_predictions() -> None:
    values = {"timestep_sampling": "shift", "weighting_scheme": "cosmap"}
    assert keys("flux_train_network.py", **values, model_prediction_type="raw") == ["backend.args.weighting_scheme"]
    assert problems("flux_train_network.py", **values, model_prediction_type="sigma_scaled") == []
    assert problems("sd3_train_network.py", weighting_scheme="cosmap") == []


def test_the_mean_of_a_scheme_that_is_not_chosen() -> None:
    assert keys("sd3_train_network.py", logit_mean=0.5) == ["backend.args.logit_mean"]
    assert problems("sd3_train_network.py", logit_mean=0.5, weighting_scheme="logit_normal") == []


# ------------------------------------------------------------------------------------------ memory, precision and files


@pytest.mark.parametrize(
    ("script", "most"),
    [
        ("flux_train.py", 35),
        ("hunyuan_image_train_network.py", 37),
        ("anima_train.py", 26),
        ("lumina_train_network.py", 24),
        ("sd3_train_network.py", 22),
    ],
)
def test_as_many_blocks_as_the_model_can_spare(script: str, most: int) -> None:
    assert problems(script, blocks_to_swap=most) == []
    assert [problem.fix for problem in problems(script, blocks_to_swap=most + 1)] == [
        f"backend.args.blocks_to_swap={most}"
    ]


def test_a_larger_model_of_the_script_can_spare_more() -> None:
    large = replace(asked("sd3_train_network.py", blocks_to_swap=36), settings=settings_for("sd35_large"))
    assert list(rule_problems(large)) == []


def test_lumina_swaps_blocks_for_adapters_only() -> None:
    assert keys("lumina_train.py", blocks_to_swap=8) == ["backend.args.blocks_to_swap"]


@pytest.mark.parametrize("script", ["train_network.py", "sdxl_train_network.py", "sd3_train_network.py"])
def test_models_that_can_not_offload_their_checkpointing(script: str) -> None:
    values = {"cpu_offload_checkpointing": True, "gradient_checkpointing": True}
    assert keys(script, **values) == ["backend.args.cpu_offload_checkpointing"]


def test_offloaded_checkpointing_needs_checkpointing() -> None:
    assert keys("flux_train_network.py", cpu_offload_checkpointing=True) == ["backend.args.cpu_offload_checkpointing"]
    assert problems("flux_train.py", cpu_offload_checkpointing=True) == []


def test_8_bits_need_mixed_precision() -> None:
    assert keys("flux_train_network.py", fp8_base=True) == ["backend.args.fp8_base"]
    assert problems("flux_train_network.py", fp8_base=True, mixed_precision="bf16") == []


@pytest.mark.parametrize("script", ["anima_train_network.py", "hunyuan_image_train_network.py", "sdxl_train.py"])
def test_8_bits_are_not_for_all(script: str) -> None:
    assert keys(script, fp8_base=True, mixed_precision="bf16") == ["backend.args.fp8_base"]


def test_the_first_kind_of_attention_wins() -> None:
    assert keys("train_network.py", xformers=True, sdpa=True) == ["backend.args.sdpa"]
    assert keys("flux_train_network.py", xformers=True) == ["backend.args.xformers"]


def test_sage_attention_of_lumina_does_not_train() -> None:
    assert keys("lumina_train_network.py", use_sage_attn=True) == ["backend.args.use_sage_attn"]


def test_sdxl_looks_at_masks_beside_masked_loss() -> None:
    assert keys("sdxl_train.py", alpha_mask=True) == ["backend.args.alpha_mask"]
    assert problems("sdxl_train.py", alpha_mask=True, masked_loss=True) == []
    assert problems("train_network.py", alpha_mask=True) == []


@pytest.mark.parametrize("name", ["sample_every_n_steps", "sample_every_n_epochs", "sample_at_first"])
def test_samples_need_prompts(name: str) -> None:
    assert keys("train_network.py", **{name: 1}) == [KEYS.get(name, f"backend.args.{name}")]


def test_workers_that_stay_need_workers() -> None:
    values = {"persistent_data_loader_workers": True}
    assert keys("train_network.py", **values, max_data_loader_n_workers=0) == [
        "backend.args.persistent_data_loader_workers"
    ]
    assert problems("train_network.py", **values) == []


def test_a_first_step_is_only_skipped_to_when_asked_for() -> None:
    assert keys("train_network.py", initial_step=100) == ["backend.args.initial_step"]
    assert problems("train_network.py", initial_step=100, skip_until_initial_step=True) == []


def test_a_rate_of_text_encoders_that_are_not_trained() -> None:
    assert keys("fine_tune.py", learning_rate_te=1e-6) == ["backend.args.learning_rate_te"]
    assert problems("fine_tune.py", learning_rate_te=1e-6, train_text_encoder=True) == []
    assert problems("train_db.py", learning_rate_te=1e-6) == []
    (problem,) = problems("train_network.py", text_encoder_lr=[1e-5], network_train_unet_only=True)
    assert (problem.key, problem.fix.partition(",")[0]) == ("mode.text_encoder_lr", "mode.text_encoder_lr=0")
    assert problems("train_network.py", text_encoder_lr=[0.0], network_train_unet_only=True) == []


def test_an_adapter_of_nothing() -> None:
    values = {"network_train_unet_only": True, "network_train_text_encoder_only": True}
    assert keys("train_network.py", **values) == ["backend.args.network_train_text_encoder_only"]


def test_deepspeeds_arguments_need_deepspeed() -> None:
    assert keys("train_network.py", zero_stage=3) == ["backend.args.zero_stage"]
    assert problems("train_network.py", zero_stage=3, deepspeed=True) == []


def test_clip_is_skipped_in_sd1_alone() -> None:
    assert problems("train_network.py", clip_skip=2) == []
    assert keys("sdxl_train_network.py", clip_skip=2) == ["backend.args.clip_skip"]
    assert keys("train_network.py", clip_skip=2, v2=True) == ["backend.args.clip_skip"]
