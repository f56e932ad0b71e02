"""The one place where our settings get sd-scripts' names.

`TABLE` is what train.toml says, `DATASET` what dataset.toml says, `OWN` what this program needs of a script to run and
to follow it. An argument of a script is in one of them, or passed on by `backend.args`, or `WITHHELD`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.backends.kohya.manifest import load
from pipeline.backends.kohya.network import NetworkPart, network_part
from pipeline.backends.kohya.scripts import ADAPTERS as LORA
from pipeline.backends.kohya.scripts import CHECKPOINTS as FINETUNE
from pipeline.backends.kohya.scripts import EVERY, FINE_TUNE, FLOW, LUMINA, NOISE, SD, SD3, SWAPPING, WEIGHS_REG
from pipeline.dataset.tokens import CAPTION_TOKENS
from pipeline.records import Plan, Predicted
from pipeline.settings import Scheduler, Settings, TimestepSampling, decided


@dataclass(frozen=True, slots=True)
class Context:
    """What the values are made of: a plan, or what is known before there is one."""

    settings: Settings
    script: str
    model: Path
    predicts: Predicted | None
    precision: str
    num_processes: int
    steps: int
    warmup_steps: int
    draws_samples: bool
    folder: Path
    """Where the job's files are."""

    @property
    def network(self) -> NetworkPart | None:
        return network_part(self.settings, self.folder)


@dataclass(frozen=True, slots=True)
class Row:
    """A setting, the argument that it becomes, and what the argument is given; None leaves the argument out."""

    setting: str
    argument: str
    value: Callable[[Context], object]
    scripts: frozenset[str] = EVERY


PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
SAVE_PRECISIONS = {"fp32": "float", "bf16": "bf16", "fp16": "fp16"}
SCHEDULERS = {
    **{Scheduler.constant: "constant", Scheduler.linear: "linear", Scheduler.cosine: "cosine"},
    Scheduler.cosine_restarts: "cosine_with_restarts",
}
OPTIMIZERS = {
    **{"torch.optim.AdamW": "AdamW", "bitsandbytes.optim.AdamW8bit": "AdamW8bit"},
    **{"bitsandbytes.optim.PagedAdamW8bit": "PagedAdamW8bit", "bitsandbytes.optim.Lion8bit": "Lion8bit"},
    **{"bitsandbytes.optim.PagedLion8bit": "PagedLion8bit", "lion_pytorch.Lion": "Lion"},
    **{"transformers.optimization.Adafactor": "Adafactor", "transformers.Adafactor": "Adafactor"},
    **{"prodigyopt.Prodigy": "Prodigy", "schedulefree.AdamWScheduleFree": "AdamWScheduleFree"},
    "schedulefree.RAdamScheduleFree": "RAdamScheduleFree",
}
"""Classes that sd-scripts has a name of its own for, and looks after; any other goes by its import path."""
PARTS = {
    **{"clip_l": ("clip_l",), "clip_g": ("clip_g",), "t5xxl": ("t5xxl",), "vae": ("ae", "vae")},
    **{"gemma2_2b": ("gemma2",), "qwen25_vl_7b": ("text_encoder",), "byt5": ("byt5",), "qwen3_06b": ("qwen3",)},
}
"""`model.parts` -> the argument, the first of them that the script has."""
TEXT_ENCODER_RATES = {
    **{"fine_tune.py": ("learning_rate_te",), "train_db.py": ("learning_rate_te",)},
    **{"sdxl_train.py": ("learning_rate_te1", "learning_rate_te2")},
    **{"sd3_train.py": ("learning_rate_te1", "learning_rate_te2")},
}
"""Scripts that finetune text encoders; sd3_train.py trains its two CLIPs, and T5 only when it is told so."""


def _text_encoder_lr(c: Context) -> float:
    return float(c.settings.mode.text_encoder_lr)


def _text_rate(name: str) -> Callable[[Context], object]:
    def value(c: Context) -> object:
        return _text_encoder_lr(c) or None if name in TEXT_ENCODER_RATES.get(c.script, ()) else None

    return value


def _scheduler(c: Context) -> str:
    """sd-scripts' constant refuses a warm-up."""
    scheduler = c.settings.train.scheduler
    return "constant_with_warmup" if scheduler is Scheduler.constant and c.warmup_steps else SCHEDULERS[scheduler]


def _warmup_steps(c: Context) -> int:
    """accelerate steps the scheduler once a process and update."""
    return c.warmup_steps * c.num_processes


def _timestep_sampling(c: Context) -> str | None:
    """get_noisy_model_input_and_timesteps of flux_train_utils.py and lumina_train_util.py: sigma is uniform, and it and
    shift are shifted."""
    sampling, shifted = c.settings.train.timestep_sampling, _timestep_shift(c) is not None
    by_resolution = "nextdit_shift" if c.script in LUMINA else "flux_shift"
    names = {
        None: None,
        TimestepSampling.uniform: "sigma" if shifted else "uniform",
        TimestepSampling.logit_normal: "shift" if shifted else "sigmoid",
        TimestepSampling.by_resolution: by_resolution,
    }
    return names[sampling]


def _timestep_shift(c: Context) -> float | None:
    shift = c.settings.train.timestep_shift
    return None if shift is None or shift == 1 else float(shift)


def _sd3_sampling(c: Context) -> str | None:
    """compute_density_for_timestep_sampling of sd3_train_utils.py, which has no shift by resolution."""
    sampling = c.settings.train.timestep_sampling
    return None if sampling is None else sampling.value


def _masked_loss(c: Context) -> bool | None:
    """sdxl_train.py looks at the transparency of pictures only where it is said too."""
    data = c.settings.data
    return True if data.masks_dir or (data.alpha_masks and c.script == "sdxl_train.py") else None


def _optimizer_args(c: Context) -> list[str]:
    """Read back by `ast.literal_eval`."""
    return [f"{name}={_literal(value)}" for name, value in c.settings.optimizer.args.items()]


def _literal(value: Any) -> str:
    """A list becomes a tuple: betas are one everywhere."""
    return repr(tuple(value)) if isinstance(value, list) else repr(value)


def _save_precision(c: Context) -> str:
    network = c.settings.network
    return SAVE_PRECISIONS[(c.settings.mode if network is None else network).save_dtype.value]


def _of_network(pick: Callable[[NetworkPart], object]) -> Callable[[Context], object]:
    return lambda c: None if c.network is None else pick(c.network)


TABLE: tuple[Row, ...] = (
    Row("model.path", "pretrained_model_name_or_path", lambda c: str(c.model)),
    Row("model.prediction", "v_parameterization", lambda c: c.predicts == "v_prediction", NOISE),
    Row(
        "model.clip_skip",
        "clip_skip",
        lambda c: c.settings.model.clip_skip + 1 if c.settings.model.clip_skip else None,
        SD,
    ),
    Row(
        "train.caption_tokens",
        "max_token_length",
        lambda c: c.settings.train.caption_tokens if c.settings.train.caption_tokens > CAPTION_TOKENS[0] else None,
    ),
    Row("seed", "seed", lambda c: c.settings.seed),
    Row("train.max_steps", "max_train_steps", lambda c: c.steps),
    Row(
        "train.accumulation_steps",
        "gradient_accumulation_steps",
        lambda c: decided(c.settings.train.accumulation_steps),
    ),
    Row("train.max_grad_norm", "max_grad_norm", lambda c: float(c.settings.train.max_grad_norm)),
    Row(
        "train.prior_loss_weight",
        "prior_loss_weight",
        lambda c: float(c.settings.train.prior_loss_weight) if c.settings.data.reg_dir else None,
        WEIGHS_REG,
    ),
    Row("data.masks_dir", "masked_loss", _masked_loss, EVERY - FINE_TUNE),
    Row("memory.blocks_to_swap", "blocks_to_swap", lambda c: c.settings.memory.blocks_to_swap or None, SWAPPING),
    Row(
        "train.gradient_checkpointing",
        "gradient_checkpointing",
        lambda c: decided(c.settings.train.gradient_checkpointing),
    ),
    Row("train.scheduler", "lr_scheduler", _scheduler),
    Row("train.warmup_fraction", "lr_warmup_steps", _warmup_steps),
    Row(
        "train.scheduler_cycles",
        "lr_scheduler_num_cycles",
        lambda c: (
            c.settings.train.scheduler_cycles if c.settings.train.scheduler is Scheduler.cosine_restarts else None
        ),
    ),
    Row("train.min_snr_gamma", "min_snr_gamma", lambda c: c.settings.train.min_snr_gamma, NOISE),
    Row("train.timestep_sampling", "timestep_sampling", _timestep_sampling, FLOW - SD3),
    Row("train.timestep_shift", "discrete_flow_shift", _timestep_shift, FLOW - SD3),
    Row("train.timestep_sampling", "weighting_scheme", _sd3_sampling, SD3),
    Row("train.timestep_shift", "training_shift", lambda c: c.settings.train.timestep_shift, SD3),
    Row("train.noise_offset", "noise_offset", lambda c: float(c.settings.train.noise_offset), NOISE),
    Row(
        "optimizer.target",
        "optimizer_type",
        lambda c: OPTIMIZERS.get(c.settings.optimizer.target) or c.settings.optimizer.target,
    ),
    Row("optimizer.args", "optimizer_args", _optimizer_args),
    Row("optimizer.lr", "unet_lr", lambda c: float(c.settings.optimizer.lr), LORA),
    Row("optimizer.lr", "learning_rate", lambda c: float(c.settings.optimizer.lr), FINETUNE),
    Row(
        "mode.text_encoder_lr",
        "text_encoder_lr",
        lambda c: [_text_encoder_lr(c)] if _text_encoder_lr(c) else None,
        LORA,
    ),
    Row("mode.text_encoder_lr", "network_train_unet_only", lambda c: not _text_encoder_lr(c), LORA),
    Row(
        "mode.text_encoder_lr",
        "train_text_encoder",
        lambda c: bool(_text_encoder_lr(c)),
        frozenset(TEXT_ENCODER_RATES) - {"train_db.py"},
    ),
    *(
        Row(
            "mode.text_encoder_lr",
            name,
            _text_rate(name),
            frozenset(s for s in TEXT_ENCODER_RATES if name in TEXT_ENCODER_RATES[s]),
        )
        for name in ("learning_rate_te", "learning_rate_te1", "learning_rate_te2")
    ),
    Row("network.algo", "network_module", _of_network(lambda n: n.module), LORA),
    Row("network.rank", "network_dim", _of_network(lambda n: n.dim), LORA),
    Row("network.alpha", "network_alpha", _of_network(lambda n: n.alpha), LORA),
    Row(
        "network.dropout",
        "network_dropout",
        lambda c: float(c.settings.network.dropout) if c.settings.network and c.settings.network.dropout else None,
        LORA,
    ),
    Row("network.args", "network_args", _of_network(lambda n: n.lines() or None), LORA),
    Row("network.save_dtype", "save_precision", _save_precision, LORA),
    Row("mode.save_dtype", "save_precision", _save_precision, FINETUNE),
    Row("hardware.precision", "mixed_precision", lambda c: PRECISIONS[c.precision]),
    Row("backend.weights_name", "output_name", lambda c: c.settings.backend.weights_name),
    Row(
        "sample.every_steps",
        "sample_every_n_steps",
        lambda c: (c.settings.sample.every_steps or c.steps) if c.draws_samples else None,
    ),
)

DATASET: Mapping[str, str] = {
    **{"train_batch_size": "train.batch_size", "resolution": "train.resolution_px"},
    **{"bucket_reso_steps": "model.resolution_step_px", "shuffle_caption": "train.shuffle_tags"},
    **{"keep_tokens": "train.keep_tags", "caption_dropout_rate": "train.caption_dropout"},
    **{"caption_tag_dropout_rate": "train.tag_dropout", "enable_wildcard": "data.wildcards"},
    **{"alpha_mask": "data.alpha_masks", "flip_aug": "train.flip"},
    **{"enable_bucket": "train.resolution_px", "min_bucket_reso": "train.resolution_px"},
    "max_bucket_reso": "train.resolution_px",
}
"""Argument -> the setting; dataset.toml has it, under the argument's name or, for train_batch_size, `batch_size`."""

OWN: Mapping[str, str] = {
    **{"dataset_config": "data.dir", "output_dir": "hydra.run.dir", "logging_dir": "hydra.run.dir"},
    **{"log_with": "hydra.run.dir", "save_model_as": "backend.weights_name"},
    **{"save_state": "train.checkpoint_every_steps", "save_every_n_steps": "train.checkpoint_every_steps"},
    **{"save_last_n_steps": "train.keep_checkpoints", "save_last_n_steps_state": "train.keep_checkpoints"},
    **{"sample_prompts": "sample.prompts", "sample_at_first": "sample.prompts"},
    **{"resume": "resume", "initial_step": "resume", "skip_until_initial_step": "resume"},
    **{"lr_scheduler_type": "train.scheduler", "lr_scheduler_args": "train.scheduler"},
    **{"validate_every_n_epochs": "train.heldout_every_steps"},
    **{"caption_prefix": "data.caption_prefix", "caption_suffix": "data.caption_suffix"},
    **{"cache_latents": "backend.cache_latents", "cache_latents_to_disk": "backend.cache_latents"},
    **{"cache_text_encoder_outputs": "backend.cache_text", "cache_text_encoder_outputs_to_disk": "backend.cache_text"},
    **{argument: f"model.parts.{part}" for part, arguments in PARTS.items() for argument in arguments},
}
"""Argument -> the setting that decides it; the rest of `arguments_of` writes these. Captions are written with what
stands around them, so that the script is told of none."""

ELSEWHERE: Mapping[str, str] = {
    **dict.fromkeys(("until", "explain", "resume", "backend.name"), "what is done, and by whom"),
    **dict.fromkeys(("model.name", "model.kin", "model.family", "model.trust_header"), "which model it is taken for"),
    "model.tokenizer": "links in job/tokenizers",
    "model.parts": "PARTS",
    **dict.fromkeys(("profile", "mode.name", "optimizer.name", "memory.name"), "the option of a group"),
    **dict.fromkeys(("hardware.name", "data.name"), "the option of a group"),
    "train.effective_batch_size": "accumulation_steps, where that is null",
    "train.more_resolutions_px": "a dataset for each in dataset.toml",
    **dict.fromkeys(("optimizer.fallback", "optimizer.falls_back_to"), "before the start"),
    **dict.fromkeys(("data.dir", "data.heldout_dir", "data.heldout_fraction"), "pictures.jsonl and job/heldout"),
    **dict.fromkeys(
        (
            *("data.caption_extension", "data.metadata", "data.caption_column", "data.caption", "data.layout"),
            *("data.concepts", "data.repeats", "data.strip_weights"),
        ),
        "pictures.jsonl has the captions, dataset.toml the repeats",
    ),
    **dict.fromkeys(("data.reg_dir", "data.reg_caption"), "the links in job/"),
    "data.trigger": "pictures.jsonl, and keep_tokens with train.keep_tags",
    "data.on_bad": "before the start",
    **dict.fromkeys(("data.prompts", "sample"), "prompts.json"),
    **dict.fromkeys(("network.conv_rank", "network.conv_alpha"), "network_args"),
    **dict.fromkeys(
        ("train.epochs", "train.samples_per_image", "train.samples_floor", "train.samples_cap", "train.min_steps"),
        "the number of steps",
    ),
    "train.warmup_steps": "lr_warmup_steps, with train.warmup_fraction",
    **dict.fromkeys(
        (
            *("hardware.num_processes", "hardware.num_machines", "hardware.machine_rank"),
            *("hardware.main_address", "hardware.main_port", "hardware.probe_seconds", "hardware.facts"),
        ),
        "accelerate.yaml; before the start",
    ),
    **dict.fromkeys(("backend.root", "backend.python"), "command.json"),
    "backend.stale_cache": "before the start",
    **dict.fromkeys(("backend.args", "backend.network_args"), "passed on"),
    **dict.fromkeys(("cache", "preflight", "tracking"), "this program"),
}
"""Settings that no argument stands for, or a whole group of them, and where they have their effect."""

DEFAULTS: Mapping[str, object] = {"sdpa": True, "max_data_loader_n_workers": 2, "persistent_data_loader_workers": True}
"""What a script gets where `backend.args` says nothing else."""
INSTEAD_OF = {"sdpa": ("xformers", "mem_eff_attn")}
"""What one of these makes needless."""

PATHS = (
    *("network_weights", "base_weights", "llm_adapter_path", "t5_tokenizer_path", "offload_optimizer_nvme_path"),
    *("offload_param_nvme_path", "vae", "tokenizer_cache_dir"),
)
"""Arguments that name files: the script runs in its own folder, so that what is relative to ours is made absolute."""
MAY_BE_MISSING = ("tokenizer_cache_dir", "t5_tokenizer_path", "vae")
"""Made by the script, or ids of the hub."""

_SECOND_TRACKER = "runs are recorded in MLflow, and a key would stand in files"
_UPLOAD = "nothing is sent away while training, and a token would stand in files"
_OUR_DATASET = "the dataset's files, which this program writes, stand in its place"
_OUR_COUNT = "this program counts the steps: train.max_steps or train.epochs"
WITHHELD: Mapping[str, str] = {
    **dict.fromkeys(("wandb_api_key", "wandb_run_name", "log_tracker_name", "log_tracker_config"), _SECOND_TRACKER),
    **dict.fromkeys(
        (
            *("huggingface_repo_id", "huggingface_repo_type", "huggingface_path_in_repo", "huggingface_token"),
            *("huggingface_repo_visibility", "save_state_to_huggingface", "resume_from_huggingface", "async_upload"),
        ),
        _UPLOAD,
    ),
    **dict.fromkeys(
        (
            *("train_data_dir", "reg_data_dir", "in_json", "dataset_repeats", "caption_extension"),
            *("caption_extention", "cache_info", "conditioning_data_dir"),
        ),
        _OUR_DATASET,
    ),
    "dataset_class": "it would run other code in place of the dataset's files",
    **dict.fromkeys(("max_train_epochs", "initial_epoch"), _OUR_COUNT),
    **dict.fromkeys(
        ("save_every_n_epochs", "save_n_epoch_ratio", "save_last_n_epochs", "save_last_n_epochs_state"),
        "states are saved by steps: train.checkpoint_every_steps",
    ),
    "save_state_on_train_end": "a finished run is not gone on with",
    "sample_every_n_epochs": "it would leave sample.every_steps without effect",
    "sample_sampler": "samples are drawn with ddim, as the scripts do by themselves",
    "validation_split": "pictures are held out by their content: data.heldout_fraction, data.heldout_dir",
    "validate_every_n_steps": "sd-scripts averages its figures over all validations of the first epoch",
    **dict.fromkeys(("use_8bit_adam", "use_lion_optimizer"), "an old name of optimizer="),
    **dict.fromkeys(("console_log_file", "console_log_simple", "console_log_level"), "the output is read to follow it"),
    **dict.fromkeys(("output_config", "debug_dataset"), "it would end before it trains"),
    "config_file": "it is the file that this program writes",
    "no_metadata": "the finished adapter is held against what was asked by its metadata",
    "use_safetensors": "save_model_as says it",
    "network_train_text_encoder_only": "the denoiser is what is trained: mode.text_encoder_lr adds the text encoders",
    "dim_from_weights": "rank and alpha are those of network.*",
    "stop_text_encoder_training": "train_db.py is not used here",
    "no_token_padding": "train_db.py is not used here",
}
"""Argument -> why it is not offered."""
FREE_WHERE_NULL = {"train.timestep_sampling", "train.timestep_shift"}
"""Settings that leave their argument to `backend.args` where they are null: it takes values that they have not."""
NOT_FOR_ADAPTERS = {"learning_rate": "the LoRA scripts take optimizer.lr as unet_lr"}


def script_for(settings: Settings) -> str | None:
    """The script that trains this model in this mode; None where there is none."""
    kohya = settings.model.known.kohya
    return kohya.finetune_script if settings.network is None else kohya.lora_script


def context_of(plan: Plan, script: str, folder: Path) -> Context:
    return Context(
        settings=plan.settings,
        script=script,
        model=plan.checkpoint.path,
        predicts=plan.checkpoint.prediction,
        precision=plan.precision,
        num_processes=plan.num_processes,
        steps=plan.steps,
        warmup_steps=plan.warmup_steps,
        draws_samples=bool(plan.sample_prompts),
        folder=folder,
    )


def translated(context: Context) -> dict[str, object]:
    """What TABLE says, in its order."""
    values = {row.argument: row.value(context) for row in TABLE if context.script in row.scripts}
    return {name: value for name, value in values.items() if value is not None}


def settings_of(script: str) -> dict[str, str]:
    """Argument -> the setting that writes it, of one script."""
    own = {name: setting for name, setting in OWN.items() if _is_own_argument(script, name)}
    return own | dict(DATASET) | {row.argument: row.setting for row in TABLE if script in row.scripts}


def withheld_of(script: str) -> dict[str, str]:
    """Argument -> why it is not offered, of one script."""
    return {**WITHHELD, **(NOT_FOR_ADAPTERS if script in LORA else {})}


def part_argument(part: str, arguments: Mapping[str, object]) -> str | None:
    """The argument that takes a part of the model; None where the script takes that from the model itself."""
    return next((name for name in PARTS.get(part, ()) if name in arguments), None)


def _is_own_argument(script: str, name: str) -> bool:
    """What only some scripts have is reached in these, by the audited version."""
    return name in load().parsers[script].arguments
