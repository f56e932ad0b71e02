"""train.toml: flat keys, each checked against the script's own parser before anything is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.backends.kohya.arguments import Parser, check_value, unknown_reason
from pipeline.backends.kohya.resuming import Resumed
from pipeline.backends.kohya.scripts import DROPS_CACHED_CAPTIONS, NOISE
from pipeline.backends.kohya.translation import (
    DEFAULTS,
    INSTEAD_OF,
    PATHS,
    Context,
    context_of,
    part_argument,
    settings_of,
    translated,
)
from pipeline.dataset.captions import kept_tags
from pipeline.errors import Problem
from pipeline.records import Plan
from pipeline.settings import KohyaCache, Settings

CACHES_TEXT = "cache_text_encoder_outputs"
NEEDS_FRESH_PICTURES = ("color_aug", "random_crop", "face_crop_aug_range")
"""Augmentations that change a picture's pixels each time it is shown."""
NEEDS_FRESH_TEXT = ("shuffle_caption", "caption_tag_dropout_rate", "token_warmup_step")
"""What changes a caption each time it is shown."""


@dataclass(frozen=True, slots=True)
class Places:
    """Files and folders that train.toml names."""

    dataset: Path
    output: Path
    logging: Path
    prompts: Path | None
    tokenizers: Path | None


def asked_values(context: Context, parser: Parser) -> dict[str, object]:
    """All that decides what is trained: our settings, the family's own arguments, `backend.args`."""
    ours, family = translated(context), context.settings.model.known.kohya.arguments
    passed = {name: _passed(name, value) for name, value in context.settings.backend.args.items() if value is not None}
    defaults = _defaults(context.settings)
    parts = _parts(context.settings, parser)
    values = defaults | family | ours | parts | passed
    in_order = dict.fromkeys((*ours, *parts, *family, *passed, *defaults))
    return {name: values[name] for name in in_order}


def dataset_values(settings: Settings) -> dict[str, object]:
    """What dataset.toml says of pictures and captions that are trained, by the arguments' names."""
    train = settings.train
    return {
        "flip_aug": train.flip,
        "shuffle_caption": train.shuffle_tags,
        "keep_tokens": kept_tags(settings),
        "caption_dropout_rate": float(train.caption_dropout),
        "caption_tag_dropout_rate": float(train.tag_dropout),
        "enable_wildcard": settings.data.wildcards,
        **({"alpha_mask": True} if settings.data.alpha_masks else {}),
    }


def train_values(
    plan: Plan, parser: Parser, places: Places, resumed: Resumed | None, every: int | None
) -> dict[str, Any]:
    """All of train.toml. `every` is how many epochs lie between two measures of the held-out loss; None: none is."""
    context = context_of(plan, parser.script, places.dataset.parent)
    values = asked_values(context, parser) | cache_values(plan.settings, parser) | own_values(plan.settings, places)
    if every is not None:
        values["validate_every_n_epochs"] = every
    return values if resumed is None else resumed.changed(values)


def cache_values(settings: Settings, parser: Parser) -> dict[str, bool]:
    """Where latents and text are kept; nothing of what the script has no argument for."""
    latents, text = chosen_caches(settings, parser)
    values = {"cache_latents": latents in ("memory", "disk"), "cache_latents_to_disk": latents == "disk"}
    if CACHES_TEXT in parser.arguments:
        values |= {CACHES_TEXT: text in ("memory", "disk"), f"{CACHES_TEXT}_to_disk": text == "disk"}
    return values


def chosen_caches(settings: Settings, parser: Parser) -> tuple[str, str]:
    """Of latents and of text: memory, disk or off. auto keeps what does not change from one showing to the next,
    where the memory profile says."""
    backend = settings.backend
    latents, text = backend.cache_latents, backend.cache_text
    known = settings.memory.known
    place = KohyaCache.memory if known is None else KohyaCache(known.caches.value)
    if latents is KohyaCache.auto:
        alone = KohyaCache.memory if keeps_one_size(settings, parser) else place
        latents = KohyaCache.off if changing_pictures(settings) else alone
    if text is KohyaCache.auto:
        can_cache = CACHES_TEXT in parser.arguments and not changing_text(settings, parser)
        text = place if can_cache else KohyaCache.off
    return latents.value, text.value


def keeps_one_size(settings: Settings, parser: Parser) -> bool:
    """Several resolutions are asked for, and a file of the script would hold a picture at the last of them alone: the
    strategies of Stable Diffusion 1, 2 and XL write no size into it (multi_resolution, library/strategy_base.py)."""
    return bool(settings.train.more_resolutions_px) and parser.script in NOISE


def changing_pictures(settings: Settings) -> list[str]:
    """The settings that change a picture's pixels each time."""
    return [f"backend.args.{name}" for name in NEEDS_FRESH_PICTURES if settings.backend.args.get(name)]


def changing_text(settings: Settings, parser: Parser) -> list[str]:
    """The settings for which the text encoders are needed at every step."""
    drops = settings.train.caption_dropout > 0 and parser.script not in DROPS_CACHED_CAPTIONS
    ours = {
        "mode.text_encoder_lr": settings.mode.text_encoder_lr > 0,
        "train.shuffle_tags": settings.train.shuffle_tags,
        "train.tag_dropout": settings.train.tag_dropout > 0,
        "train.caption_dropout": drops,
        "data.wildcards": settings.data.wildcards,
    }
    passed = [f"backend.args.{name}" for name in NEEDS_FRESH_TEXT if settings.backend.args.get(name)]
    return [name for name, changes in ours.items() if changes] + passed


def _defaults(settings: Settings) -> dict[str, object]:
    passed = settings.backend.args
    defaults = {
        name: value
        for name, value in DEFAULTS.items()
        if not any(passed.get(other) for other in INSTEAD_OF.get(name, ()))
    }
    if passed.get("max_data_loader_n_workers") == 0:  # torch refuses to keep workers where there are none
        del defaults["persistent_data_loader_workers"]
    return defaults


def _parts(settings: Settings, parser: Parser) -> dict[str, object]:
    """Paths are made absolute: the script runs in its own folder."""
    given = {part_argument(name, parser.arguments): value for name, value in settings.model.parts.items()}
    return {name: _absolute(value) for name, value in given.items() if name is not None and value is not None}


def _passed(name: str, value: Any) -> Any:
    if name not in PATHS:
        return value
    return [_absolute(each) for each in value] if isinstance(value, list) else _absolute(value)


def _absolute(value: str) -> str:
    return str(Path(value).absolute()) if Path(value).exists() else value


def own_values(settings: Settings, places: Places) -> dict[str, Any]:
    """What this program needs of the script, to run it and to follow it."""
    train = settings.train
    kept_steps = max(0, train.keep_checkpoints - 1) * train.checkpoint_every_steps
    values: dict[str, Any] = {
        "dataset_config": str(places.dataset),
        "output_dir": str(places.output),
        "save_model_as": "safetensors",
        "save_state": True,
        "save_every_n_steps": train.checkpoint_every_steps,
        "save_last_n_steps": kept_steps,
        "save_last_n_steps_state": kept_steps,
        "logging_dir": str(places.logging),
        "log_with": "tensorboard",
    }
    if places.prompts is not None:
        values |= {"sample_prompts": str(places.prompts), "sample_at_first": True}
    if places.tokenizers is not None:
        values["tokenizer_cache_dir"] = str(places.tokenizers)
    return values


# ----------------------------------------------------------------------------------------------------------- checking


def value_problems(values: Mapping[str, object], parser: Parser) -> Iterator[Problem]:
    """Every line that the script's own parser has no argument for, or no such value of; told by our settings."""
    settings = settings_of(parser.script)
    for name, value in values.items():
        argument = parser.arguments.get(name)
        reason = unknown_reason(parser, name) if argument is None else check_value(argument, value)
        if reason is not None:
            key = settings.get(name, f"backend.args.{name}")
            yield Problem(
                key, value, f"{name} of {parser.script}: {reason}", f"python -m pipeline audit; or leave {key} out"
            )
