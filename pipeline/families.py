"""What is known of a model family: the shape of `known:` in `conf/model/<family>.yaml`. Nothing in it is a setting.

As in `pipeline.settings`, no field has a default: what a family has no use for is said to be null or empty there.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, Optional

# OmegaConf reads the annotations at run time and knows Optional[X], not X | None.
# ruff: noqa: UP045


class PartKind(Enum):
    """What a file beside the denoiser is."""

    text_encoder = "text_encoder"
    vae = "vae"


@dataclass
class Part:
    """A file that the family needs beside its denoiser."""

    kind: PartKind
    family: str
    """What its header must show (clip_l, t5xxl, flux-16ch, ...), as `python -m pipeline detect` names it."""
    inside: bool
    """A single-file checkpoint of this family usually brings it."""
    hub: Optional[str]
    """The repository that it may be had from, and the folder or file in it; null: none that is open to everyone."""


@dataclass
class Resolution:
    """Sides and areas of training pictures; a limit is on the side of the square with the same area."""

    native_px: int
    min_px: int
    """Smaller pictures than this teach a shape of noise that the model was never shown."""
    max_px: int


@dataclass
class Noise:
    """How noise is added to a picture, and what the model says of it."""

    zero_terminal_snr: bool
    """The last timestep is pure noise (arXiv 2305.08891)."""
    timestep_shift: Optional[float]
    """Of a flow's timesteps towards noise; null: none, or not a flow."""


@dataclass
class Fixed:
    """A setting that has one right value for this family."""

    key: str
    """Dotted name."""
    value: Any
    reason: str


@dataclass
class Text:
    """What the text encoders make of a caption."""

    token_limit: int
    """Tokens of the longest caption that is read whole, special tokens included."""
    attention_mask: bool
    """Padding must be masked when training."""
    clip_skip: str
    """What `model.clip_skip` means here."""
    trainable: list[str]
    """The text encoders that an adapter may train, by their names among the parts."""


@dataclass
class LearningRates:
    """Bands that hold most recipes that people report; see docs/models.md."""

    lora_low: float
    """lr x alpha / rank, under optimizers of Adam's kind."""
    lora_high: float
    finetune_low: Optional[float]
    """lr; null: too few recipes are known for a band."""
    finetune_high: Optional[float]


@dataclass
class Kohya:
    """What sd-scripts trains the family with."""

    lora_script: Optional[str]
    lora_module: Optional[str]
    finetune_script: Optional[str]
    drops_captions: bool
    """Captions can be dropped at a bearable price: its encoders are small enough to stay, or what was encoded once can
    be dropped too."""
    arguments: dict[str, Any]
    """Arguments of those scripts that must be so for this family, by sd-scripts' own names."""


class PromptForm(Enum):
    """phrases: a few between commas, in words of every day; tags: those of Danbooru."""

    phrases = "phrases"
    sentences = "sentences"
    tags = "tags"


@dataclass
class Prompts:
    """How the family is spoken to."""

    form: str
    """In a few words: tags, sentences, what comes first."""
    kind: PromptForm
    """Which of a profile's sample prompts suit it."""
    template: str
    """Where such a prompt goes, in place of {}, among the words that this family always wants."""
    examples: list[str]
    """Sample prompts, for datasets that bring none."""
    negative: str
    """What samples are guided away from; empty for none."""
    guidance_scale: float
    """Of samples; 1 for none."""
    num_inference_steps: int


@dataclass
class Level:
    """Layers of the denoiser that work at one width and one resolution."""

    px: int
    """Side of the square of pixels that one of its tokens stands for."""
    width: int
    """Numbers a token."""
    layers: int
    """Transformer layers."""
    convolutions: int
    """Residual blocks, of two 3x3 convolutions each."""


@dataclass
class Shape:
    """What the memory estimate needs to know of the denoiser; a checkpoint's header has the last word on parameters."""

    parameters: float
    levels: list[Level]
    """One of a transformer, one a resolution of a U-Net."""
    text_tokens: int
    """Of the caption, where they run through the layers beside the picture's; 0 where layers only look at them."""
    blocks: int
    """Of equal size, as sd-scripts' blocks_to_swap counts them: two of FLUX's single blocks are one."""


@dataclass
class Known:
    """All that is known of a family."""

    title: str
    """Its name in words."""
    native: Optional[str]
    """The module of `pipeline.backends.native` that trains its architecture; null: none does yet."""
    convolutions: bool
    """Its denoiser has 3x3 convolutions that an adapter can train."""
    shape: Shape
    parts: dict[str, Part]
    alternatives: list[list[str]]
    """Parts of which one is enough, where sizes of the family differ in them."""
    resolution: Resolution
    noise: Noise
    fixed: list[Fixed]
    text: Text
    learning_rates: LearningRates
    kohya: Kohya
    prompts: Prompts
    notes: list[str]
    """What people get wrong with it."""
    sources: list[str]
    """Keys of the list in docs/models.md."""
