"""Stands for library/train_util.py: some of its arguments, how it reads a configuration, and the names it gives."""

import argparse
import json
import os
import sys
import time
import tomllib

SAMPLERS = (
    "ddim", "pndm", "lms", "euler", "euler_a", "heun", "dpm_2", "dpm_2_a", "dpmsolver",
    "dpmsolver++", "dpmsingle", "k_lms", "k_euler", "k_euler_a", "k_dpm_2", "k_dpm_2_a",
)  # fmt: skip
INTERPOLATIONS = ["lanczos", "nearest", "bilinear", "linear", "bicubic", "cubic", "area"]


def log(message, level="INFO"):
    """As its logger does: to stderr, with the level in front."""
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {level:<8} {message}", file=sys.stderr, flush=True)


def int_or_float(value):
    if value.isdigit():
        return int(value)
    return float(value)


def add_sd_models_arguments(parser):
    parser.add_argument("--v2", action="store_true")
    parser.add_argument("--v_parameterization", action="store_true")
    parser.add_argument("--pretrained_model_name_or_path", type=str)
    parser.add_argument("--tokenizer_cache_dir", type=str)


def add_dataset_arguments(parser, support_dreambooth, support_caption, support_caption_dropout):
    parser.add_argument("--shuffle_caption", action="store_true")
    parser.add_argument("--train_data_dir", type=str)
    parser.add_argument("--cache_info", action="store_true")
    parser.add_argument("--caption_separator", type=str, default=",")
    parser.add_argument("--keep_tokens_separator", type=str, default="")
    parser.add_argument("--secondary_separator", type=str)
    parser.add_argument("--enable_wildcard", action="store_true")
    parser.add_argument("--caption_prefix", type=str)
    parser.add_argument("--caption_suffix", type=str)
    parser.add_argument("--face_crop_aug_range", type=str)
    parser.add_argument("--debug_dataset", action="store_true")
    parser.add_argument("--resize_interpolation", type=str, choices=INTERPOLATIONS)
    parser.add_argument("--token_warmup_min", type=int, default=1)
    parser.add_argument("--token_warmup_step", type=float, default=0)
    parser.add_argument("--alpha_mask", action="store_true")
    parser.add_argument("--dataset_class", type=str)
    parser.add_argument("--caption_extension", type=str, default=".caption")
    parser.add_argument("--keep_tokens", type=int, default=0)
    parser.add_argument("--color_aug", action="store_true")
    parser.add_argument("--flip_aug", action="store_true")
    parser.add_argument("--random_crop", action="store_true")
    parser.add_argument("--resolution", type=str)
    parser.add_argument("--cache_latents", action="store_true")
    parser.add_argument("--vae_batch_size", type=int, default=1)
    parser.add_argument("--cache_latents_to_disk", action="store_true")
    parser.add_argument("--skip_cache_check", action="store_true")
    parser.add_argument("--enable_bucket", action="store_true")
    parser.add_argument("--min_bucket_reso", type=int, default=256)
    parser.add_argument("--max_bucket_reso", type=int, default=1024)
    parser.add_argument("--bucket_reso_steps", type=int, default=64)
    parser.add_argument("--bucket_no_upscale", action="store_true")
    if support_dreambooth:
        parser.add_argument("--reg_data_dir", type=str)
    if support_caption:
        parser.add_argument("--in_json", type=str)
        parser.add_argument("--dataset_repeats", type=int, default=1)
    if support_caption_dropout:
        parser.add_argument("--caption_dropout_rate", type=float, default=0.0)
        parser.add_argument("--caption_dropout_every_n_epochs", type=int, default=0)
        parser.add_argument("--caption_tag_dropout_rate", type=float, default=0.0)


def add_training_arguments(parser, support_dreambooth):
    parser.add_argument("--output_dir", type=str)
    parser.add_argument("--output_name", type=str)
    parser.add_argument("--async_upload", action="store_true")
    parser.add_argument("--save_precision", type=str, choices=[None, "float", "fp16", "bf16"])
    parser.add_argument("--save_every_n_epochs", type=int)
    parser.add_argument("--save_every_n_steps", type=int)
    parser.add_argument("--save_last_n_epochs", type=int)
    parser.add_argument("--save_last_n_epochs_state", type=int)
    parser.add_argument("--save_last_n_steps", type=int)
    parser.add_argument("--save_last_n_steps_state", type=int)
    parser.add_argument("--save_state", action="store_true")
    parser.add_argument("--save_state_on_train_end", action="store_true")
    parser.add_argument("--resume", type=str)
    parser.add_argument("--train_batch_size", type=int, default=1)
    parser.add_argument("--max_token_length", type=int, choices=[None, 150, 225])
    parser.add_argument("--xformers", action="store_true")
    parser.add_argument("--mem_eff_attn", action="store_true")
    parser.add_argument("--torch_compile", action="store_true")
    parser.add_argument("--sdpa", action="store_true")
    parser.add_argument("--vae", type=str)
    parser.add_argument("--max_train_steps", type=int, default=1600)
    parser.add_argument("--max_train_epochs", type=int)
    parser.add_argument("--max_data_loader_n_workers", type=int, default=8)
    parser.add_argument("--persistent_data_loader_workers", action="store_true")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--gradient_checkpointing", action="store_true")
    parser.add_argument("--gradient_accumulation_steps", type=int, default=1)
    parser.add_argument("--mixed_precision", type=str, choices=["no", "fp16", "bf16"], default="no")
    parser.add_argument("--full_fp16", action="store_true")
    parser.add_argument("--full_bf16", action="store_true")
    parser.add_argument("--fp8_base", action="store_true")
    parser.add_argument("--clip_skip", type=int)
    parser.add_argument("--logging_dir", type=str)
    parser.add_argument("--log_with", type=str, choices=["tensorboard", "wandb", "all"])
    parser.add_argument("--log_prefix", type=str)
    parser.add_argument("--log_tracker_name", type=str)
    parser.add_argument("--wandb_run_name", type=str)
    parser.add_argument("--wandb_api_key", type=str)
    parser.add_argument("--log_config", action="store_true")
    parser.add_argument("--noise_offset_random_strength", action="store_true")
    parser.add_argument("--ip_noise_gamma_random_strength", action="store_true")
    parser.add_argument("--adaptive_noise_scale", type=float)
    parser.add_argument("--noise_offset", type=float)
    parser.add_argument("--multires_noise_iterations", type=int)
    parser.add_argument("--ip_noise_gamma", type=float)
    parser.add_argument("--multires_noise_discount", type=float, default=0.3)
    parser.add_argument("--zero_terminal_snr", action="store_true")
    parser.add_argument("--min_timestep", type=int)
    parser.add_argument("--max_timestep", type=int)
    parser.add_argument("--loss_type", type=str, choices=["l1", "l2", "huber", "smooth_l1"], default="l2")
    parser.add_argument("--huber_schedule", type=str, choices=["constant", "exponential", "snr"], default="snr")
    parser.add_argument("--huber_c", type=float, default=0.1)
    parser.add_argument("--huber_scale", type=float, default=1.0)
    parser.add_argument("--lowram", action="store_true")
    parser.add_argument("--highvram", action="store_true")
    parser.add_argument("--sample_every_n_steps", type=int)
    parser.add_argument("--sample_at_first", action="store_true")
    parser.add_argument("--sample_every_n_epochs", type=int)
    parser.add_argument("--sample_prompts", type=str)
    parser.add_argument("--sample_sampler", type=str, choices=SAMPLERS, default="ddim")
    parser.add_argument("--config_file", type=str)
    parser.add_argument("--output_config", action="store_true")
    if support_dreambooth:
        parser.add_argument("--prior_loss_weight", type=float, default=1.0)


def add_optimizer_arguments(parser):
    parser.add_argument("--optimizer_type", type=str, default="")
    parser.add_argument("--use_8bit_adam", action="store_true")
    parser.add_argument("--use_lion_optimizer", action="store_true")
    parser.add_argument("--learning_rate", type=float, default=2e-06)
    parser.add_argument("--max_grad_norm", type=float, default=1.0)
    parser.add_argument("--optimizer_args", type=str, nargs="*")
    parser.add_argument("--lr_scheduler_type", type=str, default="")
    parser.add_argument("--lr_scheduler_args", type=str, nargs="*")
    parser.add_argument("--lr_scheduler", type=str, default="constant")
    parser.add_argument("--lr_warmup_steps", type=int_or_float, default=0)
    parser.add_argument("--lr_decay_steps", type=int_or_float, default=0)
    parser.add_argument("--lr_scheduler_num_cycles", type=int, default=1)
    parser.add_argument("--lr_scheduler_power", type=float, default=1)
    parser.add_argument("--lr_scheduler_timescale", type=int)
    parser.add_argument("--lr_scheduler_min_lr_ratio", type=float)
    parser.add_argument("--fused_backward_pass", action="store_true")


def add_masked_loss_arguments(parser):
    parser.add_argument("--conditioning_data_dir", type=str)
    parser.add_argument("--masked_loss", action="store_true")


def add_dit_training_arguments(parser):
    parser.add_argument("--cache_text_encoder_outputs", action="store_true")
    parser.add_argument("--cache_text_encoder_outputs_to_disk", action="store_true")
    parser.add_argument("--text_encoder_batch_size", type=int)
    parser.add_argument("--disable_mmap_load_safetensors", action="store_true")
    parser.add_argument(
        "--weighting_scheme",
        type=str,
        choices=["sigma_sqrt", "logit_normal", "mode", "cosmap", "none", "uniform"],
        default="uniform",
    )
    parser.add_argument("--logit_mean", type=float, default=0.0)
    parser.add_argument("--logit_std", type=float, default=1.0)
    parser.add_argument("--mode_scale", type=float, default=1.29)
    parser.add_argument("--blocks_to_swap", type=int)


def add_sd_saving_arguments(parser):
    parser.add_argument(
        "--save_model_as", type=str, choices=[None, "ckpt", "safetensors", "diffusers", "diffusers_safetensors"]
    )
    parser.add_argument("--use_safetensors", action="store_true")


def read_config_from_file(args, parser):
    """Sections are flattened; a key that no argument has stays in the namespace and does nothing."""
    if not args.config_file:
        return args
    path = args.config_file if args.config_file.endswith(".toml") else args.config_file + ".toml"
    if not os.path.exists(path):
        log(f"{path} not found.")
        sys.exit(1)
    log(f"Loading settings from {path}...")
    with open(path, "rb") as file:
        sections = tomllib.load(file)
    flat = {}
    for name, value in sections.items():
        flat.update(value if isinstance(value, dict) else {name: value})
    return parser.parse_args(namespace=argparse.Namespace(**flat))


def get_step_ckpt_name(args, ext, step_no):
    return f"{args.output_name}-step{step_no:08d}{ext}"


def get_epoch_ckpt_name(args, ext, epoch_no):
    return f"{args.output_name}-{epoch_no:06d}{ext}"


def get_last_ckpt_name(args, ext):
    return args.output_name + ext


def get_remove_step_no(args, step_no):
    """0 is a number like any other here: with save_last_n_steps=0 only the newest stays."""
    if args.save_last_n_steps is None:
        return None
    old = step_no - args.save_last_n_steps - 1
    return old - old % args.save_every_n_steps


def load_prompts(path):
    """(prompt, seed) of each line or table."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    if path.endswith(".txt"):
        lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
        return [(line.partition(" --")[0], _seed(line)) for line in lines]
    if path.endswith(".toml"):
        shared = tomllib.loads(text)["prompt"]
        entries = [{**shared, **subset} for subset in shared["subset"]]
    else:
        entries = json.loads(text)
    return [(entry.get("prompt", ""), entry.get("seed")) for entry in entries]


def _seed(line):
    words = line.split()
    return int(words[words.index("--d") + 1]) if "--d" in words else None
