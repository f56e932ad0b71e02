"""What a script of sd-scripts is asked, as the tests of its rules ask it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from pipeline.backends.kohya import manifest
from pipeline.backends.kohya.asked import Asked
from pipeline.backends.kohya.rules import rule_problems
from pipeline.errors import Problem
from pipeline.records import Predicted
from pipeline.settings import Settings
from tests import given

MODELS: Mapping[str, tuple[str, Predicted]] = {
    **dict.fromkeys(("train_network.py", "fine_tune.py", "train_db.py"), ("sd15", "epsilon")),
    **dict.fromkeys(("sdxl_train_network.py", "sdxl_train.py"), ("sdxl", "epsilon")),
    **dict.fromkeys(("sd3_train_network.py", "sd3_train.py"), ("sd35_medium", "flow")),
    **dict.fromkeys(("flux_train_network.py", "flux_train.py"), ("flux_dev", "flow")),
    **dict.fromkeys(("lumina_train_network.py", "lumina_train.py"), ("lumina2", "flow")),
    **dict.fromkeys(("anima_train_network.py", "anima_train.py"), ("anima", "flow")),
    "hunyuan_image_train_network.py": ("hunyuan_image21", "flow"),
}
KEYS = {
    "shuffle_caption": "train.shuffle_tags",
    "caption_dropout_rate": "train.caption_dropout",
    "caption_tag_dropout_rate": "train.tag_dropout",
    "enable_wildcard": "data.wildcards",
    "max_token_length": "train.caption_tokens",
    "gradient_accumulation_steps": "train.accumulation_steps",
    "max_grad_norm": "train.max_grad_norm",
    "optimizer_type": "optimizer.target",
    "optimizer_args": "optimizer.args",
    "learning_rate": "optimizer.lr",
    "unet_lr": "optimizer.lr",
    "text_encoder_lr": "mode.text_encoder_lr",
    "lr_scheduler": "train.scheduler",
    "lr_warmup_steps": "train.warmup_fraction",
    "min_snr_gamma": "train.min_snr_gamma",
    "noise_offset": "train.noise_offset",
    "mixed_precision": "hardware.precision",
    "network_dim": "network.rank",
    "network_alpha": "network.alpha",
    "cache_latents": "backend.cache_latents",
    "cache_text_encoder_outputs": "backend.cache_text",
    "sample_every_n_steps": "sample.every_steps",
}
TEXT_CACHE = {"cache_text_encoder_outputs": True, "network_train_unet_only": True}
PRODIGY = {"optimizer_type": "Prodigy", "network_train_unet_only": True}
LYCORIS = {"network_module": "lycoris.kohya"}
DYLORA = {**LYCORIS, "network_args": {"algo": "dylora", "block_size": 4}}
FREE = {"optimizer_type": "AdamWScheduleFree", "lr_scheduler": "constant"}
FUSED = {"fused_backward_pass": True, "optimizer_type": "Adafactor", "max_grad_norm": 0.0}
STEADY_ADAFACTOR = {"optimizer_args": ["relative_step=False", "scale_parameter=False"]}


@cache
def settings_for(model: str) -> Settings:
    return given.settings(f"model={model}", "model.path=x", "data=folder", "data.dir=x")


def asked(script: str = "sdxl_train_network.py", /, predicts: Predicted | None = None, **values: object) -> Asked:
    """Of a script, with some arguments written; `network_args` is a mapping here."""
    model, prediction = MODELS[script]
    network_args = values.pop("network_args", {})
    assert isinstance(network_args, dict)
    return Asked(
        settings=settings_for(model),
        parser=manifest.load().parsers[script],
        is_lora=script.endswith("train_network.py"),
        values=values,
        network_args=network_args,
        predicts=predicts or prediction,
        keys=KEYS,
    )


def problems(script: str = "sdxl_train_network.py", /, **values: object) -> list[Problem]:
    return list(rule_problems(asked(script, **values)))  # type: ignore[arg-type]


def keys(script: str = "sdxl_train_network.py", /, **values: object) -> list[str]:
    return [problem.key for problem in problems(script, **values)]
