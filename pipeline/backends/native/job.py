"""The native trainer's job: what its TOML file holds, written by the renderer and read by the trainer."""

from __future__ import annotations

import json
import tomllib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Protocol, Self, get_type_hints

from pipeline.dataset.captions import may_vary
from pipeline.errors import UnreadableFile

Dtype = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPart:
    """The base model."""

    path: str
    layout: str
    prediction: str
    clip_skip: int
    caption_tokens: int
    tokenizer: str = ""
    """Folder; empty: inside or beside the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkPart:
    """The adapter."""

    algo: str
    rank: int
    alpha: float
    conv_rank: int
    conv_alpha: float
    dropout: float
    args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerPart:
    """What updates the trained weights."""

    target: str
    lr: float
    text_encoder_lr: float
    args: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainPart:
    """The loop's figures; the names and units are those of `pipeline.settings.Train`."""

    steps: int
    warmup_steps: int
    batch_size: int
    accumulation_steps: int
    max_grad_norm: float
    prior_loss_weight: float
    resolution_px: int
    more_resolutions_px: list[int]
    resolution_step_px: int
    flip: bool
    scheduler: str
    scheduler_cycles: int
    min_snr_gamma: float = 0.0
    """0: every timestep weighs the same."""
    noise_offset: float
    caption_dropout: float
    shuffle_tags: bool
    tag_dropout: float
    keep_tags: int
    """A trigger is the first of them."""
    wildcards: bool
    gradient_checkpointing: bool
    checkpoint_every_steps: int
    keep_checkpoints: int
    heldout_every_steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplePart:
    """The pictures that are drawn before, while and after."""

    prompts: list[str]
    negative_prompt: str
    every_steps: int
    num_inference_steps: int
    guidance_scale: float
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeJob:
    """All that the trainer is told. Paths are absolute."""

    run_dir: str
    dataset: str
    """A JSON-lines file: {"split": "train" | "heldout" | "reg", "path", "digest", "caption", "width_px", "height_px"} a
    picture; "repeats" where it is not 1, "mask_path" and "mask_digest" where it has a mask."""
    mode: str
    seed: int
    device: str
    precision: Dtype
    num_processes: int
    """Of all machines."""
    num_machines: int
    machine_rank: int
    cpu_threads: int
    before_dir: str = ""
    """Folder of what the base model can do before the training; empty: it is found out, and kept nowhere."""
    cache_dir: str
    """Folder of what encoders made, for all runs."""
    cache_max_bytes: float
    """It may take so much."""
    fingerprint: str
    weights_name: str
    save_dtype: Dtype
    model: ModelPart
    network: NetworkPart | None
    optimizer: OptimizerPart
    train: TrainPart
    sample: SamplePart
    metadata: dict[str, str]
    """What the saved weights say of themselves."""

    def to_toml(self) -> dict[str, Any]:
        """Plain tables; a finetune has no [network]."""
        tables = asdict(self)
        if self.network is None:
            del tables["network"]
        return tables

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises UnreadableFile for a file that is not a job."""
        try:
            tables = tomllib.loads(path.read_text(encoding="utf-8"))
            return cls(**_parts(cls, tables))
        except (OSError, tomllib.TOMLDecodeError, TypeError, KeyError) as error:
            raise UnreadableFile(f"{path} is not a job of the native trainer: {error}") from error

    def pictures(self) -> list[dict[str, Any]]:
        """The rows of the dataset file, in their order."""
        return [json.loads(line) for line in Path(self.dataset).read_text(encoding="utf-8").splitlines()]


def _parts(record: type[NativeJob], tables: dict[str, Any]) -> dict[str, Any]:
    known = {part.name for part in fields(record)}
    unknown = sorted(set(tables) - known)
    if unknown:
        raise KeyError(f"unknown keys {unknown}")
    kinds = get_type_hints(record)
    network = tables.get("network")
    parts = {name: kinds[name](**tables[name]) for name in ("model", "optimizer", "train", "sample")}
    return {**tables, **parts, "network": None if network is None else NetworkPart(**network)}


class Wording(Protocol):
    """What of the settings, or of a job, says which captions change."""

    @property
    def shuffle_tags(self) -> bool: ...

    @property
    def tag_dropout(self) -> float: ...

    @property
    def keep_tags(self) -> int: ...

    @property
    def wildcards(self) -> bool: ...


def changes(caption: str, train: Wording) -> bool:
    """Whether its text is another from one time to the next, so that its embedding can't be kept."""
    if train.wildcards and may_vary(caption):
        return True
    free = caption.count(",") + 1 - train.keep_tags
    return (train.shuffle_tags and free > 1) or (train.tag_dropout > 0 and free > 0)
