"""Stable Diffusion 1.x: loading its parts at any size, encoding prompts, and what the denoiser takes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from pipeline.backends.native.job import ModelPart
from pipeline.backends.native.layout import (
    HUB_TOKENIZER,
    SINGLE_FILE_PREFIXES,
    TEXT_PREFIX,
    part_files,
    tokenizer_folder,
)
from pipeline.backends.native.weights import filled, read_float32
from pipeline.checkpoint.bundle import weight_files
from pipeline.checkpoint.header import read_header
from pipeline.dataset.tokens import ENDS, chunks_of
from pipeline.errors import UnreadableFile

OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}

# The noise of Stable Diffusion 1: 1000 steps, betas linear in their square roots (Rombach et al. 2022, its v1 configs).
NOISE_SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
}


@dataclass(slots=True)
class TextParts:
    """The tokenizer and the text encoder."""

    tokenizer: CLIPTokenizer
    encoder: CLIPTextModel
    clip_skip: int
    chunks: int
    """How many times as long captions are as what the encoder reads at once."""

    def tokens(self, captions: list[str]) -> Tensor:
        """Token ids (captions, chunks, positions), cut at the end of the last chunk. Each chunk has a begin, an end and
        padding of its own, as sd-scripts' _get_input_ids has them (library/strategy_base.py)."""
        read = self.tokenizer.model_max_length - ENDS
        encoded = self.tokenizer(captions, truncation=True, max_length=self.chunks * read + ENDS)
        return torch.tensor([self._chunked(ids, read) for ids in encoded.input_ids])

    def _chunked(self, ids: list[int], read: int) -> list[list[int]]:
        begin, *inner, end = ids
        parts = [inner[number * read : (number + 1) * read] for number in range(self.chunks)]
        padding: int = self.tokenizer.pad_token_id
        return [[begin, *part, end, *[padding] * (read - len(part))] for part in parts]

    def length(self, caption: str) -> int:
        """Number of tokens of a caption, its two ends included, before it is cut."""
        return len(self.tokenizer(caption).input_ids)

    def encode(self, tokens: Tensor) -> Tensor:
        """(captions, positions, width): the last layer's output, or that of `clip_skip` layers before, normalised.
        Between chunks there is neither begin nor end, as in sd-scripts' encode_tokens (library/strategy_sd.py)."""
        states = self._states(tokens.flatten(0, 1).to(self.encoder.device)).unflatten(0, tokens.shape[:2])
        return torch.cat([states[:, 0, :1], states[:, :, 1:-1].flatten(1, 2), states[:, -1, -1:]], dim=1)

    def _states(self, tokens: Tensor) -> Tensor:
        """Of chunks, each by itself."""
        if not self.clip_skip:
            last: Tensor = self.encoder(tokens).last_hidden_state
            return last
        layers = self.encoder(tokens, output_hidden_states=True).hidden_states
        normalised: Tensor = _text_model(self.encoder).final_layer_norm(layers[-1 - self.clip_skip])
        return normalised


def load_denoiser(model: ModelPart) -> UNet2DConditionModel:
    """In float32, frozen. Raises UnreadableFile."""
    return _frozen(_load_part(UNet2DConditionModel, model, "unet"))


def load_autoencoder(model: ModelPart) -> AutoencoderKL:
    """In float32, frozen. Raises UnreadableFile."""
    return _frozen(_load_part(AutoencoderKL, model, "vae"))


def load_text_parts(model: ModelPart) -> TextParts:
    """In float32, frozen. Raises UnreadableFile."""
    tokenizer = load_tokenizer(model)
    encoder = _load_text_encoder(model, tokenizer)
    return TextParts(tokenizer, _frozen(encoder), model.clip_skip, chunks_of(model.caption_tokens))


def load_tokenizer(model: ModelPart) -> CLIPTokenizer:
    """With the limit of the model's encoder. Raises UnreadableFile."""
    tokenizer = _load_tokenizer(model)
    tokenizer.model_max_length = _positions(model)
    return tokenizer


def _positions(model: ModelPart) -> int:
    """How many tokens the text encoder takes, both ends included; by its file's header."""
    files, prefix = part_files(model, "text_encoder")
    shapes = (read_header(file).tensors.items() for file in files)
    found = [tensor.shape[0] for each in shapes for name, tensor in each if _is_of_positions(name, prefix)]
    if not found:
        raise UnreadableFile(f"model.path={model.path}: its text_encoder has no embedding of positions")
    return found[0]


def _is_of_positions(name: str, prefix: str) -> bool:
    return name.startswith(prefix) and name.endswith("embeddings.position_embedding.weight")


def noise_schedule(model: ModelPart) -> DDPMScheduler:
    """The schedule that noise is added with: the folder's own, or Stable Diffusion 1's."""
    config = dict(NOISE_SCHEDULE)
    own = Path(model.path) / "scheduler" / "scheduler_config.json"
    if model.layout == "diffusers" and own.exists():
        said = json.loads(own.read_text(encoding="utf-8"))
        config |= {key: said[key] for key in config if key in said}
    return DDPMScheduler(**config, prediction_type=model.prediction)


def _load_part(kind: Any, model: ModelPart, part: str) -> Any:
    try:
        return _from_folder(kind, model, part) if model.layout == "diffusers" else _from_file(kind, model, part)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UnreadableFile(f"model.path={model.path}: its {part} can't be loaded: {error}") from error


def _from_folder(kind: Any, model: ModelPart, part: str) -> Any:
    folder = Path(model.path) / part
    config = kind.load_config(str(folder), local_files_only=True)
    weights = {_as_today(key): value for key, value in read_float32(weight_files(folder)).items()}
    return filled(lambda: kind.from_config(config), weights)


def _as_today(key: str) -> str:
    """The attention of older autoencoders has names of its own."""
    for old, new in OLD_ATTENTION.items():
        key = key.replace(f".attentions.0.{old}.", f".attentions.0.{new}.")
    return key


def _from_file(kind: Any, model: ModelPart, part: str) -> Any:
    """Given the path, diffusers would read the whole file for each part."""
    weights = read_float32([Path(model.path)], SINGLE_FILE_PREFIXES[part])
    with TemporaryDirectory() as configs:
        _write_configs(Path(model.path), Path(configs))
        return kind.from_single_file(
            weights, config=configs, subfolder=part, torch_dtype=torch.float32, local_files_only=True
        )


def _load_text_encoder(model: ModelPart, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    try:
        if model.layout == "diffusers":
            folder = Path(model.path) / "text_encoder"
            weights = read_float32(weight_files(folder))
            config = CLIPTextConfig.from_pretrained(str(folder), local_files_only=True)
            return _text_encoder(config, weights)
        named = read_float32([Path(model.path)], TEXT_PREFIX)
        weights = {key.removeprefix(TEXT_PREFIX): value for key, value in named.items()}
        return _text_encoder(CLIPTextConfig(**_text_config(weights, tokenizer)), weights)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UnreadableFile(f"model.path={model.path}: its text_encoder can't be loaded: {error}") from error


def _text_encoder(config: CLIPTextConfig, weights: Mapping[str, Tensor]) -> CLIPTextModel:
    """transformers 4 has the layers in a part of the model, 5 on the model itself; files have either."""
    with init_empty_weights():
        inner = "text_model." if hasattr(CLIPTextModel(config), "text_model") else ""
    layers = {key.removeprefix("text_model."): value for key, value in weights.items() if "position_ids" not in key}
    return filled(lambda: CLIPTextModel(config), {inner + key: value for key, value in layers.items()})


def _text_config(weights: dict[str, Tensor], tokenizer: CLIPTokenizer) -> dict[str, Any]:
    """From the shapes; heads are 64 wide, as in every CLIP. `eos_token_id` is for the pooled output, unused here."""
    vocabulary, width = weights["text_model.embeddings.token_embedding.weight"].shape
    layers = {key.split(".")[3] for key in weights if key.startswith("text_model.encoder.layers.")}
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "projection_dim": width,
        "intermediate_size": weights["text_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": len(layers),
        "num_attention_heads": width // 64,
        "max_position_embeddings": weights["text_model.embeddings.position_embedding.weight"].shape[0],
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _load_tokenizer(model: ModelPart) -> CLIPTokenizer:
    """The named folder, the model's own, the one beside a single file, else the hub's cache or the hub."""
    folder = tokenizer_folder(model)
    if folder is not None:
        return CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    try:
        return CLIPTokenizer.from_pretrained(HUB_TOKENIZER)
    except OSError as error:
        raise UnreadableFile(
            f"no tokenizer: there is none in or beside {model.path}, and {HUB_TOKENIZER} is neither in the hub's cache"
            " nor can it be fetched. Put CLIP's vocab.json and merges.txt into a folder and type model.tokenizer=FOLDER"
        ) from error


def _text_model(encoder: CLIPTextModel) -> Any:
    """transformers 5 has the layers on the model itself, 4 in a part of it."""
    return getattr(encoder, "text_model", encoder)


def _frozen(module: Any) -> Any:
    module.requires_grad_(False)
    return module.eval()


# ------------------------------------------------------------------------- configs of a single file, from its shapes


def _write_configs(checkpoint: Path, folder: Path) -> None:
    """The configs that diffusers needs to read a single file: what can't be seen in shapes is Stable Diffusion 1's."""
    with safe_open(checkpoint, framework="pt") as file:
        shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 (not a dict)
    for part, config in (("unet", _denoiser_config(shapes)), ("vae", _autoencoder_config(shapes))):
        (folder / part).mkdir()
        (folder / part / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}), encoding="utf-8")


def _denoiser_config(shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    prefix = "model.diffusion_model."
    unet = {key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)}
    levels = _denoiser_levels(unet)
    width, attended = [level.width for level in levels], [level.attended for level in levels]
    context = next(shape[1] for key, shape in unet.items() if key.endswith("attn2.to_k.weight"))
    return {
        "_class_name": "UNet2DConditionModel",
        "in_channels": unet["input_blocks.0.0.weight"][1],
        "out_channels": unet["out.2.weight"][0],
        "block_out_channels": width,
        "layers_per_block": levels[0].blocks,
        "down_block_types": ["CrossAttnDownBlock2D" if cross else "DownBlock2D" for cross in attended],
        "up_block_types": ["CrossAttnUpBlock2D" if cross else "UpBlock2D" for cross in reversed(attended)],
        "cross_attention_dim": context,
        "attention_head_dim": 8,
        "norm_num_groups": _groups(width[0]),
        "sample_size": 64,
    }


@dataclass(slots=True)
class _Level:
    width: int
    blocks: int = 0
    attended: bool = False


def _denoiser_levels(unet: dict[str, tuple[int, ...]]) -> list[_Level]:
    """Widths, residual blocks and attention of each resolution: a downsampling (`.0.op`) ends a level."""
    levels = [_Level(unet["input_blocks.0.0.weight"][0])]
    index = 1
    while any(key.startswith(f"input_blocks.{index}.") for key in unet):
        if f"input_blocks.{index}.0.op.weight" in unet:
            levels.append(_Level(levels[-1].width))
        else:
            levels[-1].width = unet[f"input_blocks.{index}.0.in_layers.2.weight"][0]
            levels[-1].blocks += 1
            levels[-1].attended |= f"input_blocks.{index}.1.norm.weight" in unet
        index += 1
    return levels


def _autoencoder_config(shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    prefix = "first_stage_model."
    vae = {key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)}
    width, level = [], 0
    while f"encoder.down.{level}.block.0.conv1.weight" in vae:
        width.append(vae[f"encoder.down.{level}.block.0.conv1.weight"][0])
        level += 1
    blocks = sum(key.startswith("encoder.down.0.block.") and key.endswith("conv1.weight") for key in vae)
    return {
        "_class_name": "AutoencoderKL",
        "block_out_channels": width,
        "layers_per_block": blocks,
        "down_block_types": ["DownEncoderBlock2D"] * level,
        "up_block_types": ["UpDecoderBlock2D"] * level,
        "latent_channels": vae["decoder.conv_in.weight"][1],
        "norm_num_groups": _groups(width[0]),
        "scaling_factor": 0.18215,
    }


def _groups(width: int) -> int:
    """Stable Diffusion 1 normalises in 32 groups; a smaller model needs at least two channels in each."""
    return min(32, width // 2)
