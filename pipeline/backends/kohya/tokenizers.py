"""The tokenizer of a Stable Diffusion 1 or XL where sd-scripts looks for it before it asks the hub: in a folder under
the hub's name, with _ for / (`_load_tokenizer`, library/strategy_base.py)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pipeline.files import write_text
from pipeline.records import Plan

NAMES = {
    **dict.fromkeys(("train_network.py", "fine_tune.py"), ("openai_clip-vit-large-patch14",)),
    **dict.fromkeys(
        ("sdxl_train_network.py", "sdxl_train.py"),
        ("openai_clip-vit-large-patch14", "laion_CLIP-ViT-bigG-14-laion2B-39B-b160k"),
    ),
}
"""XL's second tokenizer has the same vocabulary, and gets its padding from the script (library/strategy_sdxl.py)."""
V2_NAME = "stabilityai_stable-diffusion-2"
FILES = ("vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json", "tokenizer_config.json")
CONFIG = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}
"""Where the folder says nothing: without a length sd-scripts pads to the largest number that there is, and dies."""
V2_CONFIG = {**CONFIG, "pad_token": "!"}


def tokenizer_links(plan: Plan, script: str, folder: Path) -> Path | None:
    """The folder of links, made where the tokenizer is here: named, or inside of the model; else None, and sd-scripts
    asks the hub's cache, then the hub."""
    source, names = _source(plan), NAMES.get(script, ())
    if source is None or not names or "tokenizer_cache_dir" in plan.settings.backend.args:
        return None
    is_v2 = bool(plan.settings.model.known.kohya.arguments.get("v2"))
    for name in (V2_NAME,) if is_v2 else names:
        _link(source, folder / name, V2_CONFIG if is_v2 else CONFIG)
    return folder


def is_slow_tokenizer(folder: Path) -> bool:
    """What sd-scripts loads, CLIPTokenizer, reads these two."""
    return all((folder / name).is_file() for name in ("vocab.json", "merges.txt"))


def _link(source: Path, folder: Path, config: Mapping[str, object]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        link = folder / name
        link.unlink(missing_ok=True)
        if (source / name).is_file():
            link.symlink_to(source / name)
    if not (folder / "tokenizer_config.json").exists():
        write_text(folder / "tokenizer_config.json", json.dumps(config, indent=1) + "\n")


def _source(plan: Plan) -> Path | None:
    named, model = plan.settings.model.tokenizer, plan.checkpoint.path
    folder = Path(named) if named else (model if model.is_dir() else model.parent) / "tokenizer"
    return folder.absolute() if is_slow_tokenizer(folder) else None
