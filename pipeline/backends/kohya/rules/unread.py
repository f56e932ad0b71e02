"""Arguments that a script takes and has no use for: at all, without another one, or beside another one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.backends.kohya.asked import Asked
from pipeline.backends.kohya.rules.reading import is_changed, is_on
from pipeline.backends.kohya.rules.wording import line_of, problem_of, switched_off
from pipeline.backends.kohya.scripts import (
    ADAPTERS,
    ANIMA,
    CHECKPOINTS,
    EVERY,
    FLOW,
    FLUX,
    HUNYUAN,
    LUMINA,
    NOISE,
    SD,
    SD3,
    SD_CHECKPOINTS,
    SDXL,
)
from pipeline.errors import Problem

# ------------------------------------------------------------------------------------ arguments that a script can't use


@dataclass(frozen=True, slots=True)
class Unusable:
    """Arguments that scripts take, and don't use."""

    names: tuple[str, ...]
    scripts: frozenset[str]
    reason: str


SNR_WEIGHTS = ("min_snr_gamma", "debiased_estimation_loss", "v_pred_like_loss", "scale_v_pred_loss_like_noise_pred")
SHAPED_NOISE = (
    *("noise_offset", "noise_offset_random_strength", "adaptive_noise_scale"),
    *("multires_noise_iterations", "multires_noise_discount"),
)
PART_RATES = ("self_attn_lr", "cross_attn_lr", "mlp_lr", "mod_lr", "llm_adapter_lr")
NEVER = "{script} takes it and never reads it"

UNUSABLE: tuple[Unusable, ...] = (
    # post_process_loss of the flow scripts returns the loss as it is; their finetunes don't weigh it at all
    Unusable(SNR_WEIGHTS, FLOW, "a flow has no signal-to-noise ratio to weigh its loss by: {script} ignores it"),
    # they call torch.randn_like, where the others call get_noise_noisy_latents_and_timesteps of train_util.py
    Unusable(SHAPED_NOISE, FLOW, "a flow's noise is plain: {script} ignores it"),
    Unusable(("zero_terminal_snr",), FLOW, "a flow ends in pure noise as it is: {script} ignores it"),
    Unusable(("v_parameterization",), FLOW, "{script} trains flows, and ignores it"),
    # library/sd3_train_utils.py; those of FLUX and Lumina have it
    Unusable(("ip_noise_gamma", "ip_noise_gamma_random_strength"), SD3, "{script} ignores it"),
    # library/flux_train_utils.py and lumina_train_util.py draw from all timesteps, sd3_train_utils.py within the limits
    Unusable(("min_timestep", "max_timestep"), FLOW - SD3, "{script} draws from all timesteps, and ignores it"),
    Unusable(("max_token_length",), FLOW, "{script} ignores it: it is for CLIP's captions of more than 75 tokens"),
    # strategy_sd.py alone; verify_sdxl_training_args of sdxl_train_util.py warns
    Unusable(("clip_skip",), FLOW | SDXL, "{script} ignores it"),
    Unusable(("v2",), SDXL, "it means Stable Diffusion 2, and {script} refuses it"),
    Unusable(("v2",), FLOW, "it means Stable Diffusion 2, and {script} ignores it"),
    # strategy_base.py raises NotImplementedError, strategy_lumina.py returns three things where two are unpacked
    Unusable(("weighted_captions",), FLOW & ADAPTERS, "{script} can't weigh words: it ignores it, or dies of it"),
    Unusable(("weighted_captions",), FLOW & CHECKPOINTS, "{script} can't weigh words, and ignores it"),
    Unusable(("v_pred_like_loss", "full_bf16"), SD_CHECKPOINTS, NEVER),
    Unusable(("fp8_base",), CHECKPOINTS, NEVER),
    Unusable(("fp8_base", "fp8_base_unet"), ANIMA & ADAPTERS, "{script} supports no fp8 and switches it off"),
    Unusable(("fp8_base", "fp8_base_unet"), HUNYUAN, "{script} supports fp8 by backend.args.fp8_scaled=true only"),
    Unusable(("xformers", "mem_eff_attn"), SD3 | FLUX | LUMINA | {"anima_train.py"}, NEVER),
    Unusable(("mem_eff_attn",), HUNYUAN | {"anima_train_network.py"}, NEVER),
    Unusable(("no_half_vae",), HUNYUAN, "its VAE always works in fp16: {script} ignores it"),
    Unusable(("alpha_mask",), frozenset({"fine_tune.py"}), "{script} masks no loss, and ignores it"),
    # train_util.get_optimizer checks it for all, sdxl_train.py and the finetunes of flows alone do it
    Unusable(("fused_backward_pass",), ADAPTERS | SD_CHECKPOINTS, "{script} ignores it: it is for whole checkpoints"),
    Unusable(("fused_optimizer_groups",), frozenset({"sd3_train.py", "flux_train.py", "lumina_train.py"}), NEVER),
    Unusable(("blocks_to_swap", "use_sage_attn"), frozenset({"lumina_train.py"}), NEVER),
    Unusable(("save_clip", "save_t5xxl", "t5xxl_device", "t5xxl_dtype"), SD3, NEVER),
    Unusable(("controlnet_model_name_or_path",), FLUX, NEVER),
    Unusable(("model_type",), frozenset({"flux_train.py"}), "{script} never reads it, and trains FLUX only"),
    Unusable(("tokenizer_cache_dir",), (SD3 | FLUX | LUMINA) & CHECKPOINTS | ANIMA, NEVER),
    Unusable(("llm_adapter_path",), ANIMA, NEVER),
    Unusable(PART_RATES, ANIMA & ADAPTERS, NEVER + ": an adapter's is backend.network_args.network_reg_lrs"),
    # enable_gradient_checkpointing of original_unet.py, sdxl_original_unet.py and sd3_models.py takes no argument
    Unusable(
        ("cpu_offload_checkpointing",),
        frozenset({"train_network.py", "sdxl_train_network.py", "sd3_train_network.py"}),
        "the model of {script} can't, and dies of it",
    ),
)


def never_read(asked: Asked) -> Iterator[Problem]:
    """Arguments that every script takes because they stand in a shared parser, and that this one has no use for."""
    for entry in UNUSABLE:
        if asked.parser.script in entry.scripts:
            for name in entry.names:
                if is_changed(asked, name):
                    yield problem_of(
                        asked, name, entry.reason.format(script=asked.parser.script), switched_off(asked, name)
                    )


def is_unusable(asked: Asked, name: str) -> bool:
    return any(name in entry.names and asked.parser.script in entry.scripts for entry in UNUSABLE)


# -------------------------------------------------------------------------------------- arguments that need another one


@dataclass(frozen=True, slots=True)
class Need:
    """Arguments that do nothing, or harm, unless one of others is there."""

    names: tuple[str, ...]
    others: tuple[str, ...]
    scripts: frozenset[str] = EVERY
    dies: bool = False


NEEDS: tuple[Need, ...] = (
    # train_util.verify_training_args raises
    Need(("adaptive_noise_scale",), ("noise_offset",), dies=True),
    Need(("scale_v_pred_loss_like_noise_pred",), ("v_parameterization",), dies=True),
    # train_util.get_noise_noisy_latents_and_timesteps
    Need(("noise_offset_random_strength",), ("noise_offset",)),
    Need(("ip_noise_gamma_random_strength",), ("ip_noise_gamma",)),
    Need(("multires_noise_discount",), ("multires_noise_iterations",)),
    Need(("token_warmup_min",), ("token_warmup_step",)),
    Need(("save_last_n_epochs",), ("save_every_n_epochs", "save_n_epoch_ratio")),
    Need(("save_last_n_steps",), ("save_every_n_steps",)),
    Need(("save_last_n_epochs_state", "save_last_n_steps_state"), ("save_state",)),
    # os.path.isfile(None) in every sample_images
    Need(("sample_every_n_steps", "sample_every_n_epochs", "sample_at_first"), ("sample_prompts",), dies=True),
    Need(("dynamo_backend",), ("torch_compile",)),
    # deepspeed_utils.prepare_deepspeed_plugin
    Need(("zero_stage", "offload_optimizer_device", "offload_optimizer_nvme_path"), ("deepspeed",)),
    Need(("offload_param_device", "offload_param_nvme_path", "zero3_init_flag"), ("deepspeed",)),
    Need(("zero3_save_16bit_model", "fp16_master_weights_and_gradients"), ("deepspeed",)),
    # torch's DataLoader raises
    Need(("persistent_data_loader_workers",), ("max_data_loader_n_workers",), dies=True),
    Need(("base_weights_multiplier",), ("base_weights",)),
    Need(("dim_from_weights",), ("network_weights",), dies=True),
    # train_network.py: without it only the epoch's number changes
    Need(("initial_epoch", "initial_step"), ("skip_until_initial_step",)),
    # the finetunes switch it on themselves
    Need(("cpu_offload_checkpointing",), ("gradient_checkpointing",), ADAPTERS),
    Need(("learning_rate_te", "learning_rate_te1", "learning_rate_te2"), ("train_text_encoder",)),
    Need(("train_t5xxl",), ("train_text_encoder",), dies=True),
    Need(("learning_rate_te3",), ("train_t5xxl",)),
)


def missing_companion(asked: Asked) -> Iterator[Problem]:
    """An argument that is only read beside another one."""
    for need in NEEDS:
        others = [other for other in need.others if other in asked.parser.arguments]
        if asked.parser.script not in need.scripts or not others or any(is_on(asked, other) for other in others):
            continue
        for name in need.names:
            if is_changed(asked, name) and not is_unusable(asked, name):
                end = "and sd-scripts dies without it" if need.dies else "and has no effect without it"
                fix = f"{asked.key(others[0])}=..., or {switched_off(asked, name)}"
                yield problem_of(asked, name, f"it needs {' or '.join(others)}, {end}", fix)


# ----------------------------------------------------------------------------------- arguments that put another one out


@dataclass(frozen=True, slots=True)
class Shadow:
    """Arguments that are not looked at beside another one."""

    names: tuple[str, ...]
    other: str
    scripts: frozenset[str] = EVERY


SHADOWS: tuple[Shadow, ...] = (
    # sample_images of every script
    Shadow(("sample_every_n_steps",), "sample_every_n_epochs"),
    Shadow(("save_every_n_epochs",), "save_n_epoch_ratio"),
    Shadow(("full_bf16",), "full_fp16"),
    # train_util.replace_unet_modules takes the first of the three
    Shadow(("xformers", "sdpa"), "mem_eff_attn", NOISE),
    Shadow(("sdpa",), "xformers", NOISE),
    Shadow(("xformers",), "attn_mode", HUNYUAN | ANIMA),
    Shadow(("split_mode", "double_blocks_to_swap", "single_blocks_to_swap"), "blocks_to_swap"),
    Shadow(("initial_epoch",), "initial_step"),
    Shadow(("text_encoder_lr",), "network_train_unet_only"),
    # custom_train_functions.apply_masked_loss
    Shadow(("alpha_mask",), "conditioning_data_dir"),
)


def ignored_beside(asked: Asked) -> Iterator[Problem]:
    """Of two arguments for the same thing, the one that loses."""
    for shadow in SHADOWS:
        if asked.parser.script in shadow.scripts and is_on(asked, shadow.other):
            for name in shadow.names:
                if is_on(asked, name) and not is_unusable(asked, name):
                    reason = f"sd-scripts does not look at it beside {line_of(asked, shadow.other)}"
                    yield problem_of(
                        asked, name, reason, f"{switched_off(asked, name)}, or {switched_off(asked, shadow.other)}"
                    )


@dataclass(frozen=True, slots=True)
class Clash:
    """Two arguments that can't stand together."""

    name: str
    """The one to give up."""
    other: str
    reason: str = "sd-scripts refuses the two together"
    scripts: frozenset[str] = EVERY


CLASHES: tuple[Clash, ...] = (
    # train_util.verify_training_args and get_optimizer
    Clash("v_pred_like_loss", "v_parameterization"),
    Clash("clip_skip", "v2", "Stable Diffusion 2 is read one layer before the last as it is", SD),
    Clash("use_8bit_adam", "optimizer_type"),
    Clash("use_lion_optimizer", "optimizer_type"),
    Clash("use_8bit_adam", "use_lion_optimizer"),
    # asserts of the flux, sd3 and anima scripts; those of Lumina and HunyuanImage let it pass
    Clash("blocks_to_swap", "cpu_offload_checkpointing", scripts=FLUX | SD3 | ANIMA),
    Clash("blocks_to_swap", "unsloth_offload_checkpointing", scripts=ANIMA),
    Clash("unsloth_offload_checkpointing", "cpu_offload_checkpointing", scripts=ANIMA),
    Clash("weighted_captions", "cache_text_encoder_outputs", scripts=SDXL & CHECKPOINTS),
    Clash("train_t5xxl", "cache_text_encoder_outputs", scripts=SD3 & CHECKPOINTS),
    Clash("network_train_text_encoder_only", "network_train_unet_only", "together they leave nothing to train"),
    # the optimizer of the first group alone is patched: the other groups are never trained
    Clash("fused_backward_pass", "fused_optimizer_groups", "together they train the first group of weights only"),
    Clash("fused_backward_pass", "blockwise_fused_optimizers", "together they train the first block of weights only"),
    Clash("num_last_block_to_freeze", "blockwise_fused_optimizers", scripts=SD3 & CHECKPOINTS),
)


def refused_together(asked: Asked) -> Iterator[Problem]:
    """Pairs of arguments of which either is sound alone."""
    for clash in CLASHES:
        if asked.parser.script not in clash.scripts or not (is_on(asked, clash.name) and is_on(asked, clash.other)):
            continue
        if not (is_unusable(asked, clash.name) or is_unusable(asked, clash.other)):
            reason = f"beside {line_of(asked, clash.other)}: {clash.reason}"
            yield problem_of(asked, clash.name, reason, switched_off(asked, clash.name))
