"""Where the parts of a Stable Diffusion 1 lie, in a diffusers folder and in a single file. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.backends.native.job import ModelPart
from pipeline.checkpoint.bundle import weight_files

HUB_TOKENIZER = "openai/clip-vit-large-patch14"
TEXT_PREFIX = "cond_stage_model.transformer."
SINGLE_FILE_PREFIXES = {
    **{"unet": "model.diffusion_model.", "vae": "first_stage_model."},
    "text_encoder": TEXT_PREFIX,
}
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")


def part_files(model: ModelPart, part: str) -> tuple[Sequence[Path], str]:
    """Files that hold the part's weights, and the beginning of their names in there. Raises UnreadableFile."""
    if model.layout == "diffusers":
        return weight_files(Path(model.path) / part), ""
    return [Path(model.path)], SINGLE_FILE_PREFIXES[part]


def part_config(model: ModelPart, part: str) -> str:
    """What the folder says of the part; a single file says nothing."""
    config = Path(model.path) / part / "config.json"
    return config.read_text(encoding="utf-8") if model.layout == "diffusers" and config.exists() else ""


def tokenizer_folder(model: ModelPart) -> Path | None:
    """The named folder, the model's own, or the one beside a single file; None: the hub's cache, or the hub."""
    beside = Path(model.path) if model.layout == "diffusers" else Path(model.path).parent
    folder = Path(model.tokenizer) if model.tokenizer else beside / "tokenizer"
    return folder if any((folder / name).exists() for name in ("vocab.json", "tokenizer.json")) else None
