"""LoRAs and their kin: which algorithm, and which base model they were trained on.

The names of what they change come in two spellings (`double_blocks.0.img_attn.qkv`, and sd-scripts' with `_` for every
dot) and under several prefixes; the shapes of an adapter's matrices show the width of the layer that they are added to.
Endings as the trainers write them: sd-scripts (lora_down), peft (lora_A), diffusers before peft (lora.down), LyCORIS
4.1 (hada, lokr, oft, glora, ia3, full difference).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.checkpoint.header import Tensor

FORMS: tuple[tuple[str, str], ...] = (
    ("dora", r"\.(dora_scale|lora_magnitude_vector(\.\w+)*(\.weight)?)$"),
    ("loha", r"\.hada_[wt]\d(_[ab])?$"),
    ("lokr", r"\.lokr_(w\d(_[ab])?|t2)$"),
    ("boft", r"\.boft_[RS]$"),
    ("oft", r"\.(oft_blocks|oft_diag|oft_[rR](\.\w+)?(\.weight)?)$"),
    ("glora", r"\.[ab][12]\.weight$"),
    ("ia3", r"\.(on_input|ia3_l(\.\w+)?)$"),
    ("lora", r"[._]lora(_linear_layer)?\d?[._](down|up|mid)(\.weight)?$|\.lora_[AB](\.\w+)?(\.weight)?$"),
    ("full", r"\.(diff|diff_b|set_weight)$"),
)
"""Algorithm, and the ending of its tensors' names; the first that is found names the file."""
ENDING = re.compile("|".join(f"(?:{pattern})" for _, pattern in FORMS))
MARKS = ("lora", "hada_", "lokr_", "oft_", "dora_scale", ".on_input", "ia3_l", ".a1.weight", ".diff\n", ".set_weight")
"""One of them is in every adapter: a look for plain text spares the other files the patterns."""
OTHER_ENDING = re.compile(r"\.(alpha|rank|bias|scale|w_norm|b_norm|dora_scale|rescale)$")
TEXT_ENCODER = re.compile(r"^(lora_te\d?_|lycoris_te|text_encoder|te\d?[._]|text_model|lora_prior_te)")
UNET_BLOCK = re.compile(r"(?:^|[._])(down_blocks|up_blocks|mid_block|input_blocks|output_blocks|middle_block)[._]")
TEXT_WIDTHS = {768: "sd15", 1024: "sd2", 2048: "sdxl"}
"""Width of the text that a UNet's cross-attention reads."""


@dataclass(slots=True)
class Layer:
    """One layer of the base model that is changed; its widths, as far as the adapter shows them."""

    name: str
    tensors: dict[str, Tensor] = field(default_factory=dict)
    """By their endings."""

    @property
    def inputs(self) -> int | None:
        """Width of what the layer reads."""
        for ending, tensor in self.tensors.items():
            if _is_down(ending) and len(tensor.shape) > 1:
                return tensor.shape[1]
        return self._kronecker(1) or next((t.shape[1] for e, t in self.tensors.items() if _is_whole(e, t)), None)

    @property
    def outputs(self) -> int | None:
        """Width of what the layer gives."""
        for ending, tensor in self.tensors.items():
            if _is_up(ending) and len(tensor.shape) > 1:
                return tensor.shape[0]
        return self._kronecker(0) or next((t.shape[0] for e, t in self.tensors.items() if _is_whole(e, t)), None)

    @property
    def is_3x3(self) -> bool:
        return any(tensor.shape[2:] == (3, 3) for tensor in self.tensors.values())

    def _kronecker(self, axis: int) -> int | None:
        """LoKr: the layer's matrix is the Kronecker product of two, each whole or as a product a x b."""
        sides = [self._factor(which, axis) for which in ("w1", "w2")]
        return sides[0] * sides[1] if sides[0] and sides[1] else None

    def _factor(self, which: str, axis: int) -> int | None:
        whole = self.tensors.get(f".lokr_{which}") or self.tensors.get(f".lokr_{which}_{'ab'[axis]}")
        return whole.shape[axis] if whole and len(whole.shape) > 1 else None


def _is_down(ending: str) -> bool:
    return re.search(r"down|lora_A|hada_w1_b|\.a1\.", ending) is not None


def _is_up(ending: str) -> bool:
    return re.search(r"[._]up\b|lora_up|lora_B|hada_w1_a", ending) is not None


def _is_whole(ending: str, tensor: Tensor) -> bool:
    return ending in (".diff", ".set_weight") and len(tensor.shape) > 1


@dataclass(frozen=True, slots=True)
class Lora:
    """What an adapter is."""

    algorithm: str
    family: str | None
    """Of the base model; None where the tensors can't tell."""
    signs: tuple[str, ...]


def lora_of(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Lora | None:
    """None for what is no LoRA nor one of its kin."""
    names = "\n".join((*tensors, ""))
    if not any(mark in names for mark in MARKS) or "lora_controlnet" in tensors:
        return None
    sign = next((name for name in tensors if ENDING.search(name)), None)
    if sign is None:
        return None
    layers = _layers(tensors)
    family, reason = _family(layers, metadata)
    told = f"{sign} is {list(tensors[sign].shape)}"
    return Lora(_algorithm(layers), family, (told, *([reason] if reason else [])))


def _layers(tensors: Mapping[str, Tensor]) -> list[Layer]:
    layers: dict[str, Layer] = {}
    for name, tensor in tensors.items():
        match = ENDING.search(name) or OTHER_ENDING.search(name)
        module = name[: match.start()] if match else name
        layers.setdefault(module, Layer(module)).tensors[name[len(module) :]] = tensor
    return list(layers.values())


def _algorithm(layers: Sequence[Layer]) -> str:
    endings = {ending for layer in layers for ending in layer.tensors}
    found = next(name for name, pattern in FORMS if any(re.search(pattern, ending) for ending in endings))
    if found == "oft" and any(len(t.shape) == 4 for layer in layers for t in layer.tensors.values()):
        return "boft"
    return "locon" if found == "lora" and any(layer.is_3x3 for layer in layers) else found


# -------------------------------------------------------------------------------------------------- the base's family


def _family(layers: Sequence[Layer], metadata: Mapping[str, str]) -> tuple[str | None, str]:
    """The family, and the sign that told it."""
    denoiser = [layer for layer in layers if not TEXT_ENCODER.match(layer.name)]
    for told in (_unet(denoiser), _transformer(denoiser), _text_encoder(layers)):
        if told:
            return _by_metadata(told, metadata)
    return None, ""


def _by_metadata(told: tuple[str, str], metadata: Mapping[str, str]) -> tuple[str, str]:
    """Chroma's blocks are FLUX.1's: only what the trainer wrote tells their adapters apart."""
    for key in ("ss_base_model_version", "modelspec.architecture"):
        if told[0] == "flux1" and "chroma" in metadata.get(key, "").lower():
            return "chroma", f"{key} is {metadata[key][:60]}"
    return told


def _unet(layers: Sequence[Layer]) -> tuple[str, str] | None:
    """By the width of the text that cross-attention reads; else by where and how deep its transformers are."""
    unet = [layer for layer in layers if UNET_BLOCK.search(layer.name)]
    for layer in unet:
        family = TEXT_WIDTHS.get(layer.inputs or 0) if re.search(r"attn2[._].*to_[kv]", layer.name) else None
        if family:
            return family, f"{layer.name} reads text of width {layer.inputs}"
    for layer in unet:
        if re.search(r"transformer_blocks[._][2-9]", layer.name):
            return "sdxl", f"{layer.name}: only its transformers are so deep"
    for layer in unet:
        if re.search(r"(down_blocks[._]0[._]attentions|input_blocks[._]1[._]1[._])", layer.name):
            return "sd15", f"{layer.name}: SDXL has none there"
    return None


Told = str | Callable[[Sequence[Layer]], str | None]


def _transformer(layers: Sequence[Layer]) -> tuple[str, str] | None:
    for family, pattern in TRANSFORMERS:
        found = [layer for layer in layers if re.search(pattern, layer.name)]
        chosen = family(found) if callable(family) and found else family if found else None
        if isinstance(chosen, str):
            return chosen, f"changes {found[0].name}" + (f", {found[0].inputs} wide" if found[0].inputs else "")
    return None


def _flux_or_kin(layers: Sequence[Layer]) -> str | None:
    """FLUX.1, FLUX.2 and the Hunyuans name their blocks alike."""
    inputs = _widths(layers, "inputs", r"qkv|linear1|to_q|proj_mlp|add_q|mod|norm")
    if 3584 in inputs:
        return "hunyuan_image21"
    if any(re.search(r"img_mlp[._]fc\d|txt_mlp[._]fc\d", layer.name) for layer in layers):
        return "hunyuan_video"
    wide = _widths(layers, "outputs", r"img_mlp[._]0|single_blocks[._]\d+[._]linear1")
    return "flux2" if inputs & {4096, 6144} or wide & {18432, 27648} else "flux1"


def _lumina_or_z_image(layers: Sequence[Layer]) -> str | None:
    inputs = _widths(layers, "inputs")
    return "z_image" if inputs & {3840, 10240} else "lumina2" if inputs & {2304, 9216} else None


def _sd3_or_kin(layers: Sequence[Layer]) -> str | None:
    """Blocks of two streams alone: SD3's by their width, else Qwen-Image's by their number."""
    inputs = _widths(layers, "inputs")
    if inputs & {1536, 2432, 6144, 9728}:
        return "sd3"
    numbers = (re.search(r"transformer_blocks[._](\d+)", layer.name) for layer in layers)
    deepest = max(int(match[1]) for match in numbers if match)
    return ("qwen_image" if deepest >= 19 else "flux1") if 3072 in inputs else None


def _widths(layers: Sequence[Layer], side: str, pattern: str = "") -> set[int]:
    return set(_widths_of(layers, side, pattern))


def _widths_of(layers: Sequence[Layer], side: str, pattern: str) -> Iterator[int]:
    for layer in layers:
        width = getattr(layer, side) if re.search(pattern, layer.name) else None
        if width:
            yield width


TRANSFORMERS: tuple[tuple[Told, str], ...] = (
    ("chroma", r"distilled_guidance_layer"),
    ("flux2", r"(double|single)_stream_modulation|to_qkv_mlp_proj"),
    ("hunyuan_image21", r"byt5_in"),
    ("anima", r"llm_adapter"),
    ("anima", r"(?:^|\.|lora_unet_)blocks[._]\d+[._](self|cross)_attn[._](q_proj|k_proj|v_proj|output_proj)"),
    ("wan21", r"blocks[._]\d+[._](self|cross)_attn[._](q|k|v|o|k_img|v_img)$"),
    ("wan21", r"(?:^|\.)blocks\.\d+\.attn[12]\.to_"),
    ("qwen_image", r"transformer_blocks[._]\d+[._](img_mlp|txt_mlp|img_mod|txt_mod)"),
    (_flux_or_kin, r"(double_blocks|single_blocks|single_transformer_blocks)[._]\d+"),
    ("sd3", r"joint_blocks[._]\d+"),
    (_sd3_or_kin, r"(?<!single_)transformer_blocks[._]\d+[._](attn2?|ff|ff_context|norm1|norm1_context)[._]"),
    (_lumina_or_z_image, r"(layers|noise_refiner|context_refiner)[._]\d+[._](attention|attn|feed_forward|adaLN)"),
)
"""Family, or what tells it, and what its layers are called; the more special come first."""


def _text_encoder(layers: Sequence[Layer]) -> tuple[str, str] | None:
    """Of a file that only changes text encoders: SDXL has two, and those of SD1 and SD2 differ in width."""
    text = [layer for layer in layers if TEXT_ENCODER.match(layer.name)]
    for layer in text:
        if re.match(r"lora_te2_|text_encoder_2\.|te2[._]", layer.name):
            return ("flux1" if "encoder_block" in layer.name.replace(".", "_") else "sdxl"), f"changes {layer.name}"
    for layer in text:
        if "te1" not in layer.name and layer.inputs in (768, 1024) and "q_proj" in layer.name:
            return TEXT_WIDTHS[layer.inputs], f"{layer.name} is {layer.inputs} wide"
    return None
