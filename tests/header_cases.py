"""Kinds of model files as their headers describe them, each with the answer that is right for it.

`tests/headers/` keeps the headers that are themselves a source; here they are read, and others made of them: another
precision, another prefix, one shard of several, a broken download. Nothing here knows how the detector decides.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

HEADERS = Path(__file__).parent / "headers"

Tensor = tuple[str, tuple[int, ...]]
Tensors = dict[str, Tensor]

# In the order in which the safetensors serializer writes them: the last first.
BITS = {
    "BOOL": 8,
    "F4": 4,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
FLOATS = ("F8_E5M2", "F8_E4M3", "F16", "BF16", "F32", "F64")
DTYPE_ORDER = {dtype: -i for i, dtype in enumerate(BITS)}

# The reference calls these otherwise.
FAMILIES = {"sd1": "sd15"}

UNET = "model.diffusion_model."
FP8_QUANT = b'{"format": "float8_e4m3fn"}'


@dataclass(frozen=True)
class Expect:
    """The right answer; `accept_*` name others that are right too, `prediction` None means the header cannot tell."""

    kind: str
    family: str
    prediction: str | None = None
    variant: str = "base"
    accept_kind: tuple[str, ...] = ()
    accept_family: tuple[str, ...] = ()
    accept_prediction: tuple[str | None, ...] = ()
    truth: str | None = None  # the prediction that it really is, where the header cannot tell
    notes: str = ""
    source: str = ""

    @property
    def kinds(self) -> frozenset[str]:
        return frozenset((self.kind, *self.accept_kind))

    @property
    def families(self) -> frozenset[str]:
        return frozenset((self.family, *self.accept_family))

    @property
    def predictions(self) -> frozenset[str | None]:
        return frozenset((self.prediction, *self.accept_prediction))


@dataclass(frozen=True)
class Case:
    name: str
    file_name: str
    tensors: Tensors
    metadata: dict[str, str]
    expect: Expect
    raw: bytes | None = None  # the first bytes of what is no safetensors file
    size: int = 0  # of that file
    cut: int | None = None  # bytes that are there of a file that is cut short
    fill: tuple[tuple[str, float], ...] = ()  # of these tensors every second value is this one, the others its negative


# ----------------------------------------------------------------------------------------------------------- reading


def _expect(facts: Mapping[str, Any]) -> Expect:
    told = facts["expect"]
    size_check = facts.get("size_check", "")
    return Expect(
        kind=told["kind"],
        family=_family(told["family"]),
        prediction=told["prediction"],
        variant=told.get("variant") or "base",
        accept_kind=tuple(facts.get("accept_kind", ())),
        accept_family=tuple(_family(name) for name in facts.get("accept_family", ())),
        truth=facts.get("prediction_true"),
        notes=told.get("notes", ""),
        source=facts.get("source") or f"the reference's recorded headers{'; ' if size_check else ''}{size_check}",
    )


def _family(name: str) -> str:
    return FAMILIES.get(name, name)


@cache
def read(name: str) -> Case:
    """The case that `tests/headers/<name>.json.gz` holds."""
    facts = json.loads(gzip.decompress((HEADERS / f"{name}.json.gz").read_bytes()))
    return Case(
        name=name,
        file_name=facts["file_name"],
        tensors={tensor: (dtype, tuple(shape)) for tensor, (dtype, shape) in facts.get("tensors", {}).items()},
        metadata=facts.get("metadata") or {},
        expect=_expect(facts),
        raw=base64.b64decode(facts["raw_head_b64"]) if "raw_head_b64" in facts else None,
        size=facts.get("raw_total_size", 0),
        cut=facts.get("truncate_at"),
        fill=tuple((tensor, how["amplitude"]) for tensor, how in facts.get("data_fill", {}).items()),
    )


# ----------------------------------------------------------------------------------------------------------- writing


def header(case: Case) -> bytes:
    """The bytes before the tensors: eight for the length, then JSON."""
    told: dict[str, Any] = {"__metadata__": case.metadata} if case.metadata else {}
    for name, dtype, shape, begin, end in _places(case.tensors):
        told[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(told, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def file_size(case: Case) -> int:
    """Of the whole file, were it not cut short."""
    return len(header(case)) + sum(_bytes(*tensor) for tensor in case.tensors.values())


def write(case: Case, folder: Path) -> Path:
    """A file of the real size whose tensors are a hole, so that it takes the header's place on the disk."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / case.file_name
    if case.raw is not None:
        path.write_bytes(case.raw)
        _resize(path, max(len(case.raw), case.size))
        return path
    path.write_bytes(header(case))
    _resize(path, file_size(case))
    _write_values(case, path)
    if case.cut is not None:
        _resize(path, case.cut)
    return path


def _resize(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)


def _write_values(case: Case, path: Path) -> None:
    places = {name: (dtype, shape, begin) for name, dtype, shape, begin, _ in _places(case.tensors)}
    start = len(header(case))
    with path.open("r+b") as file:
        for name, value in case.fill:
            dtype, shape, begin = places[name]
            file.seek(start + begin)
            file.write((_encoded(dtype, value) + _encoded(dtype, -value)) * (math.prod(shape) // 2))


def _encoded(dtype: str, value: float) -> bytes:
    if dtype == "BF16":
        return struct.pack("<f", value)[2:]
    return struct.pack({"F16": "<e", "F32": "<f"}[dtype], value)


def _places(tensors: Tensors) -> list[tuple[str, str, tuple[int, ...], int, int]]:
    places = []
    begin = 0
    for name, (dtype, shape) in tensors.items():
        end = begin + _bytes(dtype, shape)
        places.append((name, dtype, shape, begin, end))
        begin = end
    return places


def _bytes(dtype: str, shape: tuple[int, ...]) -> int:
    return math.prod(shape) * BITS[dtype] // 8


def in_file_order(tensors: Mapping[str, Tensor]) -> Tensors:
    """Wide dtypes first, then by name, as the safetensors serializer writes."""
    return dict(sorted(tensors.items(), key=lambda item: (DTYPE_ORDER[item[1][0]], item[0])))


# ------------------------------------------------------------------------------------------------------- derivations


def like(case: Case, name: str, file_name: str | None = None, **expect: Any) -> Case:
    """The same under another name, with some of the answer changed."""
    told = {"source": f"{case.expect.source}; changed here", "notes": ""} | expect
    return replace(case, name=name, file_name=file_name or case.file_name, expect=replace(case.expect, **told))


def with_tensors(case: Case, tensors: Mapping[str, Tensor]) -> Case:
    kept = tuple((name, value) for name, value in case.fill if name in tensors)
    return replace(case, tensors=in_file_order(tensors), fill=kept)


def with_metadata(case: Case, **metadata: str) -> Case:
    """Only this metadata; two underscores stand for a point."""
    return replace(case, metadata={key.replace("__", "."): value for key, value in metadata.items()})


def joined(case: Case, *others: Case) -> Case:
    return with_tensors(case, {name: tensor for part in (case, *others) for name, tensor in part.tensors.items()})


def plus(case: Case, **tensors: Tensor) -> Case:
    """Further tensors; two underscores stand for a point."""
    return with_tensors(case, case.tensors | {name.replace("__", "."): tensor for name, tensor in tensors.items()})


def renamed(case: Case, pattern: str, replacement: str) -> Case:
    return with_tensors(case, {re.sub(pattern, replacement, name): tensor for name, tensor in case.tensors.items()})


def with_prefix(case: Case, prefix: str) -> Case:
    return with_tensors(case, {prefix + name: tensor for name, tensor in case.tensors.items()})


def without_prefix(case: Case, prefix: str) -> Case:
    """Only what has the prefix, and without it."""
    return renamed(only(case, prefix), f"^{re.escape(prefix)}", "")


def only(case: Case, *prefixes: str) -> Case:
    return with_tensors(case, {name: tensor for name, tensor in case.tensors.items() if name.startswith(prefixes)})


def less(case: Case, pattern: str) -> Case:
    """Without the tensors in whose names the pattern is found."""
    return with_tensors(case, {name: tensor for name, tensor in case.tensors.items() if not re.search(pattern, name)})


def as_dtype(case: Case, dtype: str, pattern: str = "") -> Case:
    """Plainly cast: the floats, or those of them in whose names the pattern is found."""
    return with_tensors(
        case,
        {
            name: (dtype if found in FLOATS and re.search(pattern, name) else found, shape)
            for name, (found, shape) in case.tensors.items()
        },
    )


def reshaped(case: Case, name: str, *shape: int) -> Case:
    assert name in case.tensors
    return with_tensors(case, case.tensors | {name: (case.tensors[name][0], shape)})


Packed = Callable[[str, Tensor], Tensors]


def quantised(case: Case, pattern: str, packed: Packed) -> Case:
    """What `packed` makes of each matrix in whose name the pattern is found, instead of it."""
    tensors: Tensors = {}
    for name, tensor in case.tensors.items():
        matrix = name.endswith(".weight") and len(tensor[1]) == 2 and re.search(pattern, name)
        tensors |= packed(name, tensor) if matrix else {name: tensor}
    return with_tensors(case, tensors)


def with_scaled_fp8(case: Case, pattern: str = "blocks", prefix: str = "", *, scale_input: bool = False) -> Case:
    """ComfyUI's first scaled fp8: `scaled_fp8` once, `.scale_weight` beside every matrix."""

    def packed(name: str, tensor: Tensor) -> Tensors:
        stem = name.removesuffix("weight")
        scales: Tensors = {f"{stem}scale_weight": ("F32", ())}
        if scale_input:
            scales[f"{stem}scale_input"] = ("F32", ())
        return {name: ("F8_E4M3", tensor[1])} | scales

    made = quantised(case, pattern, packed)
    return with_tensors(made, made.tensors | {f"{prefix}scaled_fp8": ("F8_E4M3", (0 if scale_input else 2,))})


def with_comfy_quant(case: Case, pattern: str = "blocks") -> Case:
    """ComfyUI's later scaled fp8: `.comfy_quant` (JSON as bytes) and `.weight_scale` beside every matrix."""

    def packed(name: str, tensor: Tensor) -> Tensors:
        stem = name.removesuffix("weight")
        return {
            name: ("F8_E4M3", tensor[1]),
            f"{stem}weight_scale": ("F32", ()),
            f"{stem}comfy_quant": ("U8", (len(FP8_QUANT),)),
        }

    return quantised(case, pattern, packed)


def with_quantisation_metadata(case: Case, pattern: str = "blocks") -> Case:
    """The same told by one entry of the metadata instead of a tensor for each layer."""
    made = less(with_comfy_quant(case, pattern), r"\.comfy_quant$")
    scales = [name.removesuffix(".weight_scale") for name in made.tensors if name.endswith(".weight_scale")]
    layers = {name: {"format": "float8_e4m3fn"} for name in scales}
    told = json.dumps({"format_version": "1.0", "layers": layers})
    return replace(made, metadata=made.metadata | {"_quantization_metadata": told})


def with_nvfp4(case: Case, pattern: str = "blocks") -> Case:
    """Two four-bit values a byte, a scale for every sixteen of them and one for the matrix."""

    def packed(name: str, tensor: Tensor) -> Tensors:
        rows, columns = tensor[1]
        stem = name.removesuffix("weight")
        return {
            name: ("U8", (rows, columns // 2)),
            f"{stem}weight_scale": ("F8_E4M3", (rows, columns // 16)),
            f"{stem}weight_scale_2": ("F32", ()),
            f"{stem}comfy_quant": ("U8", (19,)),
        }

    return quantised(case, pattern, packed)


def with_nf4(case: Case, pattern: str = "blocks") -> Case:
    """Bitsandbytes: one column of bytes, and how to undo it beside."""

    def packed(name: str, tensor: Tensor) -> Tensors:
        count = math.prod(tensor[1])
        return {
            name: ("U8", (count // 2, 1)),
            f"{name}.absmax": ("F32", (count // 64,)),
            f"{name}.quant_map": ("F32", (16,)),
            f"{name}.quant_state.bitsandbytes__nf4": ("U8", (80 + len(str(tensor[1])),)),
        }

    return quantised(case, pattern, packed)


def with_ema(case: Case) -> Case:
    """The averaged weights as the first code kept them: below `model_ema.`, the points left out of the names."""
    averaged = {
        "model_ema." + name.removeprefix("model.").replace(".", ""): ("F32", tensor[1])
        for name, tensor in case.tensors.items()
        if name.startswith(UNET)
    }
    counters: Tensors = {"model_ema.decay": ("F32", ()), "model_ema.num_updates": ("I32", ())}
    return with_tensors(case, case.tensors | averaged | counters)


def truncated(case: Case, share: float = 0.6) -> Case:
    """Cut after that share of the file."""
    return replace(case, cut=int(file_size(case) * share))


def truncated_in_header(case: Case) -> Case:
    return replace(case, cut=len(header(case)) // 2)


def shard(
    case: Case, number: int, count: int, stem: str = "diffusion_pytorch_model", order: tuple[str, ...] = ()
) -> Case:
    """One file of a model saved in `count`, each of about as many bytes; `order` is that of the model's parts."""
    share = sum(_bytes(*tensor) for tensor in case.tensors.values()) / count
    tensors: Tensors = {}
    before = 0

    def place(name: str) -> tuple[int, list[tuple[int, str]]]:
        first = next((i for i, part in enumerate(order) if name.startswith(part)), len(order))
        return first, [(int(part) if part.isdigit() else 0, part) for part in name.split(".")]

    for name, tensor in sorted(case.tensors.items(), key=lambda item: place(item[0])):
        if int(before / share) == number - 1:
            tensors[name] = tensor
        before += _bytes(*tensor)
    made = with_tensors(case, tensors)
    return replace(made, file_name=f"{stem}-{number:05}-of-{count:05}.safetensors")


# ---------------------------------------------------------------------------------------------------------- adapters

Shape = tuple[int, ...]
Weights = Callable[[Shape], dict[str, Shape]]

RANK = 16


def lora(
    down: str = "lora_down.weight", up: str = "lora_up.weight", rank: int = RANK, *, alpha: bool = True
) -> Weights:
    """Two thin matrices; of a convolution the first keeps the kernel."""

    def weights(shape: Shape) -> dict[str, Shape]:
        rows, columns, *kernel = shape
        pair = {down: (rank, columns, *kernel), up: (rows, rank, *(1 for _ in kernel))}
        return pair | ({"alpha": ()} if alpha else {})

    return weights


def peft(rank: int = RANK) -> Weights:
    return lora("lora_A.weight", "lora_B.weight", rank, alpha=False)


def dora(weights: Weights, magnitude: str, *, column: bool) -> Weights:
    """A length for each row besides."""

    def both(shape: Shape) -> dict[str, Shape]:
        return weights(shape) | {magnitude: (shape[0], *(1 for _ in shape[1:])) if column else (shape[0],)}

    return both


def loha(shape: Shape) -> dict[str, Shape]:
    rows, columns = shape[0], math.prod(shape[1:])
    pair = ((rows, 8), (8, columns))
    return {"hada_w1_a": pair[0], "hada_w1_b": pair[1], "hada_w2_a": pair[0], "hada_w2_b": pair[1], "alpha": ()}


def loha_tucker(shape: Shape) -> dict[str, Shape]:
    if len(shape) == 2 or shape[2] == 1:
        return loha(shape)
    one = {f"hada_w{i}_{side}": (8, size) for i in (1, 2) for side, size in (("a", shape[0]), ("b", shape[1]))}
    return one | {"hada_t1": (8, 8, *shape[2:]), "hada_t2": (8, 8, *shape[2:]), "alpha": ()}


def lokr(shape: Shape, *, factor: int = 8, rank: int = 4, small_too: bool = False) -> dict[str, Shape]:
    """A Kronecker product whose bigger half is two thin matrices; `small_too`, the smaller half as well."""
    rows, columns = shape[0] // factor, shape[1] // factor * math.prod(shape[2:])
    big = {"lokr_w2_a": (rows, rank), "lokr_w2_b": (rank, columns)}
    small = {"lokr_w1_a": (factor, rank), "lokr_w1_b": (rank, factor)} if small_too else {"lokr_w1": (factor, factor)}
    return small | big | {"alpha": ()}


def oft(shape: Shape) -> dict[str, Shape]:
    return {"oft_blocks": (shape[0] // 4, 4, 4), "alpha": ()}


def boft(shape: Shape) -> dict[str, Shape]:
    """The blocks of each butterfly."""
    return {"oft_blocks": (4, shape[0] // 8, 8, 8), "alpha": ()}


def glora(shape: Shape) -> dict[str, Shape]:
    rows, columns = shape[:2]
    return {
        "a1.weight": (columns, 8),
        "a2.weight": (8, columns),
        "b1.weight": (rows, 8),
        "b2.weight": (8, columns),
        "alpha": (),
    }


def ia3(shape: Shape) -> dict[str, Shape]:
    return {"weight": (shape[0],), "on_input": ()}


def full(shape: Shape) -> dict[str, Shape]:
    return {"diff": shape, "diff_b": shape[:1]}


def kohya(prefix: str) -> Callable[[str], str]:
    """`lora_unet_` and the module's path, its points turned into lines."""
    return lambda path: f"{prefix}_{path.replace('.', '_')}"


def dotted(prefix: str = "") -> Callable[[str], str]:
    return lambda path: prefix + path


def adapter(model: Case, pattern: str, naming: Callable[[str], str], weights: Weights, *, dtype: str = "BF16") -> Case:
    """What is trained of those modules of a model in whose paths the pattern is found."""
    tensors: Tensors = {}
    for name, (_, shape) in model.tensors.items():
        path = name.removesuffix(".weight")
        if name.endswith(".weight") and len(shape) in (2, 4) and re.search(pattern, path):
            tensors |= {f"{naming(path)}.{suffix}": (dtype, made) for suffix, made in weights(shape).items()}
    assert tensors
    family = {"sd-4ch": "sd15"}.get(model.expect.family, model.expect.family)
    source = f"modules of {model.name}; names and shapes by the rules of sd-scripts, LyCORIS, PEFT and diffusers"
    made = with_tensors(model, tensors)
    return replace(made, metadata={}, expect=Expect("lora", family, None, "lora", source=source))


# ------------------------------------------------------------------------------------------------- cases: SD 1 and 2

MARKER: Tensor = ("F32", (0,))
CLIP_IN_SD1 = r"^cond_stage_model\.transformer\.text_model\."
FIRST_CONV = f"{UNET}input_blocks.0.0.weight"


def _recorded() -> tuple[Case, ...]:
    return tuple(read(path.name.removesuffix(".json.gz")) for path in sorted(HEADERS.glob("*.json.gz")))


def _sd1() -> tuple[Case, ...]:
    whole = read("sd15_full_fp16")
    plain = less(whole, r"^model_ema|_cumprod|^betas|posterior|^log_one|^sqrt")
    single = as_dtype(whole, "F32")
    denoiser = only(plain, UNET)
    merged = {"modelspec__architecture": "stable-diffusion-v1", "modelspec__sai_model_spec": "1.0.0"}
    recipe = {"sd_merge_recipe": '{"type": "webui", "interp_method": "Weighted sum"}', "format": "pt"}
    return (
        like(single, "sd14_full_fp32", "sd-v1-4.safetensors"),
        like(with_ema(single), "sd15_full_ema_fp32", "v1-5-pruned.safetensors", notes="averaged weights besides"),
        like(as_dtype(plain, "BF16"), "sd15_full_bf16", "dreamshaper_8.safetensors"),
        like(as_dtype(plain, "F8_E4M3", "^model"), "sd15_full_fp8", "realistic_fp8.safetensors"),
        like(with_metadata(plain, **merged), "sd15_full_modelspec", "merge.safetensors"),
        like(with_metadata(plain, **recipe), "sd15_full_merge_recipe", "anylora.safetensors"),
        like(
            with_metadata(plain, modelspec__prediction_type="v", **merged),
            "sd15_full_modelspec_v",
            "sd15_vpred.safetensors",
            prediction="v",
        ),
        like(renamed(plain, CLIP_IN_SD1, "cond_stage_model.transformer."), "sd15_full_old_text_names"),
        like(
            with_tensors(plain, plain.tensors | {_position_ids("cond_stage_model.transformer."): ("F32", (1, 77))}),
            "sd15_full_position_ids_fp32",
        ),
        like(reshaped(whole, FIRST_CONV, 320, 9, 3, 3), "sd15_inpainting_full", variant="inpaint"),
        like(reshaped(whole, FIRST_CONV, 320, 8, 3, 3), "sd15_pix2pix_full", variant="pix2pix"),
        like(less(plain, "^cond_stage"), "sd15_no_text_encoder", "model.safetensors"),
        like(less(plain, "^first_stage"), "sd15_no_vae", "model.safetensors"),
        like(denoiser, "sd15_unet_original", kind="denoiser"),
        like(without_prefix(denoiser, UNET), "sd15_unet_original_no_prefix", kind="denoiser"),
        *_sd1_diffusers(),
    )


def _position_ids(prefix: str) -> str:
    return f"{prefix}text_model.embeddings.position_ids"


def _sd1_diffusers() -> tuple[Case, ...]:
    unet = read("sd15_unet_diffusers")
    ids: Tensors = {_position_ids(""): ("I64", (1, 77))}
    clip = as_dtype(read("clip_l_alone"), "F32")
    lcm = plus(unet, time_embedding__cond_proj__weight=("F16", (320, 256)))
    return (
        like(as_dtype(unet, "F32"), "sd15_unet_diffusers_fp32", "diffusion_pytorch_model.safetensors"),
        like(reshaped(unet, "conv_in.weight", 320, 9, 3, 3), "sd15_inpainting_unet_diffusers", variant="inpaint"),
        like(reshaped(unet, "conv_in.weight", 320, 8, 3, 3), "sd15_pix2pix_unet_diffusers", variant="pix2pix"),
        like(lcm, "sd15_lcm_unet_diffusers", variant="lcm"),
        like(with_tensors(clip, clip.tensors | ids), "sd15_text_encoder_diffusers"),
    )


def _sd2() -> tuple[Case, ...]:
    base, v, unet = read("sd2_base_512"), read("sd21_768_v"), read("sd2_unet_diffusers")
    text = "cond_stage_model.model."
    as_v = {"modelspec__architecture": "stable-diffusion-v2-768-v", "modelspec__prediction_type": "v"}
    return (
        like(as_dtype(base, "BF16"), "sd2_base_bf16", "sd2-base-bf16.safetensors"),
        like(as_dtype(v, "F16"), "sd21_768_v_fp16", "v2-1_768-ema-pruned-fp16.safetensors"),
        like(with_metadata(v, **as_v), "sd21_768_v_modelspec", prediction="v"),
        like(with_metadata(v, modelspec__predict_key="v"), "sd21_768_v_predict_key", prediction="v", notes="ComfyUI's"),
        like(with_metadata(base, modelspec__prediction_type="epsilon"), "sd2_base_modelspec", prediction="eps"),
        like(renamed(v, f"^{re.escape(text)}", "conditioner.embedders.0.model."), "sd21_768_v_sgm_names"),
        like(
            reshaped(base, FIRST_CONV, 320, 9, 3, 3),
            "sd2_inpainting_full",
            "512-inpainting-ema.safetensors",
            prediction="eps",
            accept_prediction=(None,),
            variant="inpaint",
        ),
        like(
            reshaped(base, FIRST_CONV, 320, 5, 3, 3),
            "sd2_depth_full",
            "512-depth-ema.safetensors",
            prediction="eps",
            accept_prediction=(None,),
            variant="depth",
        ),
        like(only(base, UNET), "sd2_unet_original", kind="denoiser"),
        like(as_dtype(unet, "F32"), "sd2_unet_diffusers_fp32"),
        like(
            reshaped(unet, "conv_in.weight", 320, 9, 3, 3),
            "sd2_inpainting_unet_diffusers",
            accept_prediction=("eps",),
            variant="inpaint",
        ),
        like(without_prefix(v, text), "openclip_h_original", "open_clip_h.safetensors", **_text_encoder("openclip_h")),
    )


def _text_encoder(family: str, *also: str) -> dict[str, Any]:
    told = {"kind": "text_encoder", "family": family, "prediction": None, "truth": None, "variant": "base"}
    return told | {"accept_kind": (), "accept_family": also, "accept_prediction": ()}


def _vae(family: str, *also: str) -> dict[str, Any]:
    return _text_encoder(family, *also) | {"kind": "vae"}


# ------------------------------------------------------------------------------------------------------- cases: SDXL


def _sdxl() -> tuple[Case, ...]:
    whole = read("sdxl_base_full_fp16")
    bare = with_metadata(whole)
    denoiser = only(bare, UNET)
    model = rf"^{re.escape(UNET)}.*(transformer_blocks|proj_in|proj_out)"
    distils = [read(name) for name in ("ssd_1b_unet_original", "segmind_vega_unet_original")]
    return (
        like(as_dtype(bare, "BF16"), "sdxl_full_bf16", "model_bf16.safetensors"),
        like(as_dtype(bare, "F32"), "sdxl_full_fp32", "model_fp32.safetensors"),
        like(as_dtype(bare, "F8_E4M3", "^model"), "sdxl_full_unet_fp8", "model_fp8.safetensors"),
        like(as_dtype(bare, "F8_E4M3"), "sdxl_full_fp8_e4m3", "everything_fp8.safetensors"),
        like(as_dtype(denoiser, "F8_E5M2"), "sdxl_unet_fp8_e5m2", kind="denoiser"),
        like(with_scaled_fp8(bare, model, UNET), "sdxl_full_scaled_fp8"),
        like(with_comfy_quant(bare, model), "sdxl_full_comfy_quant"),
        like(with_quantisation_metadata(bare, model), "sdxl_full_quantisation_metadata"),
        like(with_nf4(bare, model), "sdxl_full_nf4", "sdxl-bnb-nf4.safetensors"),
        like(denoiser, "sdxl_unet_original", kind="denoiser"),
        like(without_prefix(denoiser, UNET), "sdxl_unet_original_no_prefix", kind="denoiser"),
        like(less(bare, "^first_stage"), "sdxl_no_vae"),
        like(less(bare, "^conditioner"), "sdxl_no_text_encoders"),
        like(reshaped(bare, FIRST_CONV, 320, 9, 3, 3), "sdxl_inpainting_full", variant="inpaint"),
        like(reshaped(bare, FIRST_CONV, 320, 8, 3, 3), "sdxl_pix2pix_full", variant="pix2pix"),
        *(
            like(joined(case, less(bare, "^model")), f"{case.expect.variant}_full", kind="checkpoint")
            for case in distils
        ),
        *_sdxl_predictions(bare),
        *_sdxl_metadata(bare),
        *_sdxl_diffusers(),
        *_sdxl_parts(bare),
    )


def _sdxl_predictions(bare: Case) -> tuple[Case, ...]:
    v = with_tensors(bare, bare.tensors | {"v_pred": MARKER})
    ztsnr = with_tensors(v, v.tensors | {"ztsnr": MARKER})
    edm = with_tensors(bare, bare.tensors | {"edm_mean": ("F32", (4,)), "edm_std": ("F32", (4,))})
    cosxl = with_tensors(bare, bare.tensors | {"edm_vpred.sigma_max": ("F32", ())})
    edit = reshaped(cosxl, FIRST_CONV, 320, 8, 3, 3)
    as_v = {"modelspec__prediction_type": "v", "modelspec__architecture": "stable-diffusion-xl-v1-base"}
    odd: dict[str, Any] = {"prediction": None, "accept_prediction": ("edm", "v")}
    return (
        like(v, "sdxl_v_pred", "NoobAI-XL-Vpred-v1.0.safetensors", prediction="v"),
        like(ztsnr, "sdxl_v_pred_ztsnr", "vpred-ztsnr.safetensors", prediction="v"),
        like(
            only(ztsnr, UNET, "v_pred", "ztsnr"),
            "sdxl_unet_v_pred",
            "unet.safetensors",
            kind="denoiser",
            prediction="v",
        ),
        like(with_metadata(bare, **as_v), "sdxl_v_modelspec", "model.safetensors", prediction="v"),
        like(with_metadata(bare, modelspec__predict_key="v"), "sdxl_v_predict_key", prediction="v"),
        like(
            with_metadata(v, modelspec__prediction_type="epsilon"),
            "sdxl_v_pred_against_metadata",
            prediction="v",
            notes="a merge that copied the metadata of a model with eps; the marker decides",
        ),
        like(
            edm, "playground_25_full", "playground-v2.5-1024px-aesthetic.fp16.safetensors", variant="playground", **odd
        ),
        like(cosxl, "cosxl_full", "cosxl.safetensors", variant="cosxl", **odd),
        like(edit, "cosxl_edit_full", "cosxl_edit.safetensors", variant="cosxl-edit", **odd),
    )


def _sdxl_metadata(bare: Case) -> tuple[Case, ...]:
    refiner = read("sdxl_refiner_full_fp16")
    sd1 = read("sd15_full_fp16")
    architecture = "stable-diffusion-xl-v1-base"
    thumbnail = "data:image/jpeg;base64," + "A" * 50_000
    return (
        like(with_metadata(bare, format="pt"), "animagine_xl", "animagine-xl-4.0.safetensors"),
        like(bare, "pony_v6", "ponyDiffusionV6XL_v6StartWithThisOne.safetensors"),
        like(
            with_metadata(bare, modelspec__architecture=architecture, modelspec__title="Illustrious XL"),
            "illustrious_xl",
            "Illustrious-XL-v0.1.safetensors",
        ),
        like(
            with_metadata(bare, modelspec__architecture=architecture, modelspec__thumbnail=thumbnail), "sdxl_thumbnail"
        ),
        like(with_metadata(bare, prompt='{"3": {"class_type": "ModelMergeSimple"}}'), "sdxl_saved_by_comfyui"),
        like(with_metadata(refiner, modelspec__architecture=architecture), "sdxl_refiner_wrong_metadata"),
        like(with_metadata(sd1, modelspec__architecture=architecture), "sd15_wrong_metadata"),
    )


def _sdxl_diffusers() -> tuple[Case, ...]:
    unet = read("sdxl_unet_diffusers")
    playground = with_metadata(unet, format="pt")
    return (
        like(as_dtype(unet, "F32"), "sdxl_unet_diffusers_fp32"),
        like(reshaped(unet, "conv_in.weight", 320, 9, 3, 3), "sdxl_inpainting_unet_diffusers", variant="inpaint"),
        like(reshaped(unet, "conv_in.weight", 320, 8, 3, 3), "sdxl_pix2pix_unet_diffusers", variant="pix2pix"),
        like(
            plus(unet, time_embedding__cond_proj__weight=("F16", (320, 256))), "sdxl_lcm_unet_diffusers", variant="lcm"
        ),
        like(
            playground,
            "playground_25_unet_diffusers",
            prediction="eps",
            accept_prediction=(None,),
            notes="nothing in this header tells it from SDXL's UNet",
        ),
    )


def _sdxl_parts(bare: Case) -> tuple[Case, ...]:
    clip_g = without_prefix(bare, "conditioner.embedders.1.model.")
    sliced = [shard(bare, number, 2, "model") for number in (1, 2)]
    part: dict[str, Any] = {
        "accept_kind": ("checkpoint", "denoiser", "unknown"),
        "accept_family": ("unknown", "shard"),
        "variant": "shard",
    }
    return (
        like(clip_g, "openclip_g_original", "open_clip_g.safetensors", **_text_encoder("clip_g", "openclip_g")),
        *(like(case, f"sdxl_shard_{i}_of_2", accept_prediction=(None,), **part) for i, case in enumerate(sliced, 1)),
    )


# ------------------------------------------------------------------------------------------------ cases: transformers

CLIP_IN_FILE = "text_encoders.clip_l.transformer."
T5_IN_FILE = "text_encoders.t5xxl.transformer."
FLUX_ORDER = ("time_text", "context_", "x_embedder", "transformer_blocks", "single_transformer_blocks", "norm_out")
SHARD: dict[str, Any] = {"variant": "shard", "accept_kind": ("unknown",), "accept_family": ("unknown", "shard")}


def _in_one(denoiser: Case, vae: Case, vae_prefix: str = "vae.", **encoders: Case) -> Case:
    """Everything in one file, as ComfyUI saves it."""
    parts = [with_prefix(case, f"text_encoders.{name}.transformer.") for name, case in encoders.items()]
    return like(joined(with_prefix(denoiser, UNET), with_prefix(vae, vae_prefix), *parts), "", kind="checkpoint")


def _sd3() -> tuple[Case, ...]:
    medium, large = read("sd3_medium"), read("sd35_large")
    clips = joined(
        medium,
        with_prefix(read("clip_l_with_projection"), CLIP_IN_FILE),
        with_prefix(read("clip_g_alone"), "text_encoders.clip_g.transformer."),
    )
    t5 = with_prefix(as_dtype(read("t5xxl_alone"), "F8_E4M3"), T5_IN_FILE)
    blocks = rf"^{re.escape(UNET)}joint_blocks"
    scaled = with_scaled_fp8(large, blocks, UNET)
    scaled_t5 = with_prefix(with_scaled_fp8(read("t5xxl_alone"), "block"), T5_IN_FILE)
    return (
        like(clips, "sd3_medium_incl_clips", "sd3_medium_incl_clips.safetensors"),
        like(joined(clips, t5), "sd3_medium_incl_clips_t5xxlfp8", "sd3_medium_incl_clips_t5xxlfp8.safetensors"),
        like(joined(scaled, scaled_t5), "sd35_large_fp8_scaled", "sd3.5_large_fp8_scaled.safetensors"),
        like(as_dtype(only(large, UNET), "F8_E4M3"), "sd35_large_unet_fp8", kind="denoiser"),
        like(without_prefix(large, UNET), "sd35_large_no_prefix", kind="denoiser"),
        like(without_prefix(read("sd35_medium"), UNET), "sd35_medium_no_prefix", kind="denoiser"),
        like(shard(read("sd35_large_diffusers"), 1, 2), "sd35_large_diffusers_shard_1_of_2", **SHARD),
    )


def _flux1() -> tuple[Case, ...]:
    dev, schnell, ae = read("flux1_dev_bfl"), read("flux1_schnell_bfl"), read("flux1_ae")
    fp8 = as_dtype(dev, "F8_E4M3")
    clip, t5 = read("clip_l_with_projection"), as_dtype(read("t5xxl_alone"), "F8_E4M3")
    nf4 = with_nf4(dev)
    newer = renamed(dev, r"(query|key)_norm\.scale$", r"\1_norm.weight")
    return (
        like(fp8, "flux1_dev_fp8_e4m3", "flux1-dev-fp8-e4m3fn.safetensors"),
        like(as_dtype(dev, "F8_E5M2"), "flux1_dev_fp8_e5m2", "flux1-dev-fp8-e5m2.safetensors"),
        like(with_scaled_fp8(dev), "flux1_dev_fp8_scaled", "flux_dev_fp8_scaled_diffusion_model.safetensors"),
        like(with_scaled_fp8(dev, scale_input=True), "flux1_dev_fp8_scaled_input"),
        like(with_comfy_quant(dev), "flux1_dev_comfy_quant"),
        like(with_quantisation_metadata(dev), "flux1_dev_quantisation_metadata"),
        like(with_nvfp4(dev), "flux1_dev_nvfp4", "flux1-dev-nvfp4.safetensors"),
        like(nf4, "flux1_dev_nf4_unet", "flux1-dev-bnb-nf4-unet.safetensors"),
        like(_in_one(fp8, ae, clip_l=clip, t5xxl=t5), "flux1_dev_fp8_full", "flux1-dev-fp8.safetensors"),
        like(_in_one(nf4, ae, clip_l=clip, t5xxl=t5), "flux1_dev_nf4_full", "flux1-dev-bnb-nf4-v2.safetensors"),
        like(
            _in_one(as_dtype(schnell, "F8_E4M3"), ae, clip_l=clip, t5xxl=t5),
            "flux1_schnell_fp8_full",
            "flux1-schnell-fp8.safetensors",
        ),
        like(with_prefix(dev, UNET), "flux1_dev_prefix", "fluxFinetune.safetensors"),
        like(as_dtype(dev, "F16"), "flux1_dev_fp16", "flux1-dev-fp16.safetensors"),
        like(newer, "flux1_dev_newer_norm_names", "flux1-dev-resaved.safetensors"),
        like(dev, "flux1_kontext_dev", "flux1-kontext-dev.safetensors", notes="the same header as dev"),
        like(dev, "flux1_krea_dev", "flux1-krea-dev.safetensors", notes="the same header as dev"),
        like(reshaped(dev, "img_in.weight", 3072, 384), "flux1_fill_bfl", "flux1-fill-dev.safetensors", variant="fill"),
        like(
            reshaped(dev, "img_in.weight", 3072, 128),
            "flux1_canny_bfl",
            "flux1-canny-dev.safetensors",
            variant="control",
        ),
        like(less(dev, r"^double_blocks\.(8|9|1\d)\."), "flux1_lite_bfl", "flux.1-lite-8B.safetensors", variant="lite"),
        *_flux1_diffusers(),
        *_flux1_not_models(),
    )


def _flux1_diffusers() -> tuple[Case, ...]:
    dev = read("flux1_dev_diffusers")
    parts = [shard(dev, number, 3, order=FLUX_ORDER) for number in (1, 2, 3)]
    return (
        like(as_dtype(dev, "F8_E4M3"), "flux1_dev_diffusers_fp8"),
        like(with_nf4(dev), "flux1_dev_diffusers_nf4"),
        *(like(part, f"flux1_dev_diffusers_shard_{i}_of_3", **SHARD) for i, part in enumerate(parts, 1)),
    )


def _flux1_not_models() -> tuple[Case, ...]:
    redux: Tensors = {
        "redux_down.bias": ("BF16", (4096,)),
        "redux_down.weight": ("BF16", (4096, 12288)),
        "redux_up.bias": ("BF16", (12288,)),
        "redux_up.weight": ("BF16", (12288, 1152)),
    }
    told = Expect(
        "unknown", "flux1_redux", None, "redux", (), ("unknown", "flux1"), source="ComfyUI a125cd84 ReduxImageEncoder"
    )
    return (Case("flux1_redux", "flux1-redux-dev.safetensors", redux, {}, told),)


def _flux2_and_chroma() -> tuple[Case, ...]:
    dev, klein, chroma = read("flux2_dev_bfl"), read("flux2_klein_4b_bfl"), read("chroma1_hd")
    return (
        like(
            with_comfy_quant(dev, r"^(double|single)_blocks"), "flux2_dev_fp8_mixed", "flux2_dev_fp8mixed.safetensors"
        ),
        like(with_prefix(dev, UNET), "flux2_dev_prefix"),
        like(with_nvfp4(dev), "flux2_dev_nvfp4", "flux2-dev-nvfp4.safetensors"),
        like(with_scaled_fp8(klein), "flux2_klein_4b_fp8_scaled", "flux-2-klein-4b-fp8.safetensors"),
        like(as_dtype(klein, "F8_E4M3"), "flux2_klein_4b_fp8", "flux-2-klein-4b-fp8.safetensors"),
        like(
            _in_one(klein, read("flux2_vae_bfl"), qwen3_4b=read("qwen3_4b")),
            "flux2_klein_4b_full",
            "flux2-klein-4b-aio.safetensors",
        ),
        like(shard(read("flux2_dev_diffusers"), 3, 7), "flux2_dev_diffusers_shard_3_of_7", **SHARD),
        like(chroma, "chroma1_base", "Chroma1-Base.safetensors"),
        like(with_prefix(chroma, UNET), "chroma1_prefix", "chroma-unlocked-v50.safetensors"),
        like(with_scaled_fp8(chroma), "chroma1_fp8_scaled", "chroma-unlocked-v48_fp8_scaled.safetensors"),
        like(as_dtype(chroma, "F8_E4M3"), "chroma1_fp8", "chroma1-hd-fp8.safetensors"),
        like(
            _in_one(chroma, read("flux1_ae"), t5xxl=as_dtype(read("t5xxl_alone"), "F8_E4M3")),
            "chroma1_full",
            "chroma-aio.safetensors",
        ),
    )


def _newbie() -> Case:
    """Lumina 2 with ten layers more, Gemma 3's width and what a pooled CLIP adds."""
    lumina = read("lumina_image2")
    last = only(lumina, "layers.25.")
    more = [renamed(last, r"^layers\.25\.", f"layers.{i}.") for i in range(26, 36)]
    grown = reshaped(
        reshaped(joined(lumina, *more), "cap_embedder.0.weight", 2560), "cap_embedder.1.weight", 2304, 2560
    )
    added = {
        "clip_img_pooled_embedder.0.weight": (1024,),
        "clip_img_pooled_embedder.1.bias": (1024,),
        "clip_img_pooled_embedder.1.weight": (1024, 1024),
        "clip_text_pooled_proj.0.weight": (1024,),
        "clip_text_pooled_proj.1.bias": (1024,),
        "clip_text_pooled_proj.1.weight": (1024, 1024),
        "time_text_embed.1.bias": (1024,),
        "time_text_embed.1.weight": (1024, 2048),
    }
    made = with_tensors(grown, grown.tensors | {name: ("BF16", shape) for name, shape in added.items()})
    told = {"family": "newbie", "accept_family": ("unknown",), "accept_kind": ("unknown",), "prediction": "flow"}
    source = "Lumina 2's recorded header; what NewBie adds as its own and ComfyUI's model code say"
    return like(made, "newbie", "NewBie-Image-Exp0.1-bf16.safetensors", source=source, **told)


def _lumina_and_z_image() -> tuple[Case, ...]:
    lumina, z_image, ae = read("lumina_image2"), read("z_image_comfy"), read("flux1_ae")
    gemma = plus(read("gemma2_2b"), spiece_model=("U8", (4_241_003,)))
    diffusers = read("z_image_diffusers")
    return (
        like(_in_one(lumina, ae, gemma2_2b=gemma), "lumina_image2_full", "lumina_2.safetensors"),
        like(with_prefix(lumina, UNET), "lumina_image2_prefix"),
        like(as_dtype(lumina, "F8_E4M3"), "lumina_image2_fp8"),
        _newbie(),
        like(as_dtype(z_image, "F8_E4M3"), "z_image_fp8", "z_image_turbo_fp8_e4m3fn.safetensors"),
        like(with_scaled_fp8(z_image, "layers|refiner"), "z_image_fp8_scaled", "z_image_turbo_fp8_scaled.safetensors"),
        like(with_nvfp4(z_image, "layers|refiner"), "z_image_nvfp4", "z_image_turbo_nvfp4.safetensors"),
        like(with_prefix(z_image, UNET), "z_image_prefix", "zImageFinetune.safetensors"),
        like(_in_one(z_image, ae, qwen3_4b=read("qwen3_4b")), "z_image_full", "z-image-aio.safetensors"),
        like(as_dtype(diffusers, "BF16"), "z_image_base_diffusers"),
        like(shard(diffusers, 1, 3), "z_image_diffusers_shard_1_of_3", **SHARD),
        like(shard(diffusers, 3, 3), "z_image_diffusers_shard_3_of_3", **SHARD),
    )


def _qwen_and_hunyuan() -> tuple[Case, ...]:
    qwen, hunyuan = read("qwen_image"), read("hunyuan_image21")
    video, wan = read("hunyuan_video_original"), read("wan21_t2v_14b_original")
    encoder = read("qwen25_vl_7b")
    return (
        like(as_dtype(qwen, "F8_E4M3"), "qwen_image_fp8", "qwen_image_fp8_e4m3fn.safetensors"),
        like(with_scaled_fp8(qwen), "qwen_image_fp8_scaled", "qwen_image_2512_fp8_scaled.safetensors"),
        like(with_comfy_quant(qwen), "qwen_image_comfy_quant"),
        like(with_prefix(qwen, UNET), "qwen_image_prefix"),
        like(
            with_tensors(qwen, qwen.tensors | {"__index_timestep_zero__": MARKER}),
            "qwen_image_edit_2511",
            "qwen_image_edit_2511_bf16.safetensors",
            notes="ComfyUI's marker",
        ),
        like(qwen, "qwen_image_edit", "qwen_image_edit_2509_bf16.safetensors", notes="the same header"),
        like(
            _in_one(as_dtype(qwen, "F8_E4M3"), read("qwen_image_vae"), qwen25_7b=as_dtype(encoder, "F8_E4M3")),
            "qwen_image_full",
            "Qwen-Rapid-AIO.safetensors",
        ),
        *(like(shard(qwen, i, 9), f"qwen_image_diffusers_shard_{i}_of_9", **SHARD) for i in (1, 5, 9)),
        like(as_dtype(hunyuan, "F8_E4M3"), "hunyuan_image21_fp8"),
        like(_tencent_to_comfy(hunyuan), "hunyuan_image21_saved_by_comfyui", notes="prefix model.model."),
        like(_tencent_to_comfy(video), "hunyuan_video_saved_by_comfyui", notes="prefix model.model."),
        like(with_prefix(video, UNET), "hunyuan_video_prefix"),
        like(with_scaled_fp8(wan), "wan22_t2v_14b_fp8_scaled", "wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors"),
        like(with_prefix(wan, UNET), "wan21_t2v_14b_prefix"),
        like(shard(read("wan21_i2v_14b_diffusers"), 2, 4), "wan21_i2v_14b_diffusers_shard_2_of_4", **SHARD),
    )


def _tencent_to_comfy(case: Case) -> Case:
    """Hunyuan's names as ComfyUI keeps them in memory and saves them."""
    for old, new in (
        (r"txt_in\.t_embedder\.mlp\.0\.", "txt_in.t_embedder.in_layer."),
        (r"txt_in\.t_embedder\.mlp\.2\.", "txt_in.t_embedder.out_layer."),
        (r"txt_in\.c_embedder\.linear_1\.", "txt_in.c_embedder.in_layer."),
        (r"txt_in\.c_embedder\.linear_2\.", "txt_in.c_embedder.out_layer."),
        (r"_mod\.linear\.", "_mod.lin."),
        (r"_attn_qkv\.", "_attn.qkv."),
        (r"mlp\.fc1\.", "mlp.0."),
        (r"mlp\.fc2\.", "mlp.2."),
        (r"(_attn_|\.)q_norm\.weight$", r"\1norm.query_norm.scale"),
        (r"(_attn_|\.)k_norm\.weight$", r"\1norm.key_norm.scale"),
        (r"_attn_norm\.", "_attn.norm."),
        (r"_attn_proj\.", "_attn.proj."),
        (r"\.modulation\.linear\.", ".modulation.lin."),
        (r"_in\.mlp\.0\.", "_in.in_layer."),
        (r"_in\.mlp\.2\.", "_in.out_layer."),
    ):
        case = renamed(case, old, new)
    return with_prefix(case, "model.model.")


def _anima() -> tuple[Case, ...]:
    anima = read("anima")
    bare = without_prefix(anima, "net.")
    body = less(anima, "llm_adapter")
    cosmos: dict[str, Any] = {
        "family": "cosmos_predict2",
        "accept_family": ("unknown", "cosmos"),
        "accept_kind": ("unknown",),
    }
    return (
        like(bare, "anima_no_prefix", "anima-base.safetensors"),
        like(with_prefix(bare, UNET), "anima_comfy_prefix", "animaFinetune.safetensors"),
        like(as_dtype(anima, "F8_E4M3"), "anima_fp8", "anima_fp8.safetensors"),
        like(_in_one(bare, read("qwen_image_vae"), qwen3_06b=read("qwen3_06b")), "anima_full", "anima-aio.safetensors"),
        like(body, "cosmos_predict2_2b_original", "cosmos_predict2_2B_t2i.safetensors", **cosmos),
        like(without_prefix(body, "net."), "cosmos_predict2_2b_no_prefix", **cosmos),
    )


# --------------------------------------------------------------------------------------------- cases: encoders, VAEs


def _encoders() -> tuple[Case, ...]:
    t5, umt5, qwen_vl = read("t5xxl_alone"), read("umt5xxl_alone"), read("qwen25_vl_7b")
    gemma, qwen3, llama = read("gemma2_2b"), read("qwen3_4b"), read("llama31_8b")
    part = SHARD | {"variant": "shard"}
    return (
        like(as_dtype(t5, "F8_E4M3"), "t5xxl_fp8", "t5xxl_fp8_e4m3fn.safetensors"),
        like(with_scaled_fp8(t5, "block"), "t5xxl_fp8_scaled", "t5xxl_fp8_e4m3fn_scaled.safetensors"),
        *(like(shard(read("t5xxl_v11_encoder"), i, 2, "model"), f"t5xxl_shard_{i}_of_2", **part) for i in (1, 2)),
        like(with_scaled_fp8(umt5, "block"), "umt5xxl_fp8_scaled", "umt5_xxl_fp8_e4m3fn_scaled.safetensors"),
        like(
            with_scaled_fp8(qwen_vl, r"^model\.layers"),
            "qwen25_vl_7b_fp8_scaled",
            "qwen_2.5_vl_7b_fp8_scaled.safetensors",
        ),
        like(
            shard(qwen_vl, 2, 4, "model"),
            "qwen25_vl_7b_shard_2_of_4",
            **part | {"accept_family": ("unknown", "shard", "qwen2", "qwen25")},
        ),
        like(as_dtype(gemma, "F8_E4M3"), "gemma2_2b_fp8"),
        like(with_comfy_quant(qwen3, "layers"), "qwen3_4b_comfy_quant", "qwen_3_4b_fp8_mixed.safetensors"),
        like(
            shard(qwen3, 1, 3, "model"),
            "qwen3_4b_shard_1_of_3",
            **part | {"accept_family": ("unknown", "shard", "qwen3")},
        ),
        like(
            shard(llama, 2, 4, "model"),
            "llama31_8b_shard_2_of_4",
            **part
            | {
                "accept_kind": ("unknown", "text_encoder"),
                "accept_family": ("unknown", "shard", *llama.expect.accept_family),
            },
        ),
    )


def _vaes() -> tuple[Case, ...]:
    sd, flux = read("sdxl_vae_alone"), read("flux1_ae")
    diffusers = read("sd15_vae_diffusers")
    older = diffusers
    for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), (r"to_out\.0", "proj_attn")):
        older = renamed(older, rf"attentions\.0\.{new}\.", f"attentions.0.{old}.")
    return (
        like(as_dtype(sd, "F16"), "sdxl_vae_fp16_fix", "sdxl_vae_fp16_fix.safetensors"),
        like(with_prefix(sd, "first_stage_model."), "sd_vae_with_prefix", "vae.safetensors"),
        like(as_dtype(diffusers, "F16"), "sdxl_vae_diffusers_fp16"),
        like(older, "sd15_vae_diffusers_old_names", notes="diffusers before 0.15"),
        like(as_dtype(flux, "F16"), "sd3_vae", "sd3_vae.safetensors"),
        like(flux, "z_image_vae", "z_image_vae.safetensors"),
        like(as_dtype(read("qwen_image_vae"), "F32"), "wan21_vae", "Wan2_1_VAE_fp32.safetensors"),
        like(as_dtype(read("flux2_vae_bfl"), "BF16"), "flux2_vae_bf16", "flux2_ae.safetensors"),
    )


# ------------------------------------------------------------------------------------------------------ cases: LoRAs

SD_LINEAR = r"attn[12]\.to_(q|k|v|out\.0)$|ff\.net\.(0\.proj|2)$"
SD_ATTENTION = r"attn[12]\.to_(q|k|v|out\.0)$"
SD_LAYERS = rf"{SD_LINEAR}|proj_(in|out)$"
SD_EVERYTHING = rf"{SD_LAYERS}|resnets\.\d+\.(conv[12]|conv_shortcut|time_emb_proj)$|samplers\.0\.conv$"


def _lycoris(algo: str, version: str) -> dict[str, str]:
    return {
        "ss_network_module": "lycoris.kohya",
        "ss_network_args": json.dumps({"algo": algo}),
        "ss_base_model_version": version,
    }


def _sd_loras() -> tuple[Case, ...]:
    unet, sd2, xl = read("sd15_unet_diffusers"), read("sd2_unet_diffusers"), read("sdxl_unet_diffusers")
    unet_names, plain = kohya("lora_unet"), lora()

    def lycoris(name: str, algo: str, pattern: str, weights: Weights, model: Case = unet) -> Case:
        version = {"sd15": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}[model.expect.family]
        made = adapter(model, pattern, unet_names, weights, dtype="F16")
        return like(replace(made, metadata=_lycoris(algo, version)), name, f"{name}.safetensors", variant=algo)

    return (
        lycoris("sd15_locon", "locon", SD_EVERYTHING, plain),
        lycoris("sd15_loha", "loha", SD_EVERYTHING, loha),
        lycoris("sd15_loha_tucker", "loha", SD_EVERYTHING, loha_tucker),
        lycoris("sd15_lokr_factored", "lokr", SD_LINEAR, lokr),
        lycoris("sd15_lokr_both_factored", "lokr", SD_LINEAR, lambda shape: lokr(shape, small_too=True)),
        lycoris("sd15_oft", "oft", SD_LINEAR, oft),
        lycoris("sd15_boft", "boft", SD_LINEAR, boft),
        lycoris("sd15_glora", "glora", SD_LINEAR, glora),
        lycoris("sd15_ia3", "ia3", r"attn[12]\.to_(k|v)$|ff\.net\.2$", ia3),
        lycoris("sd15_full_diff", "full", SD_LINEAR, full),
        lycoris("sd15_dora", "dora", SD_LINEAR, dora(plain, "dora_scale", column=True)),
        lycoris("sd2_locon", "locon", SD_EVERYTHING, plain, sd2),
        lycoris("sd2_lokr_factored", "lokr", SD_LINEAR, lokr, sd2),
        lycoris("sdxl_loha_diffusers_names", "loha", SD_LINEAR, loha, xl),
        lycoris("sdxl_lokr_diffusers_names", "lokr", SD_LINEAR, lambda shape: lokr(shape, small_too=True), xl),
        lycoris("sdxl_dora_diffusers_names", "dora", SD_LINEAR, dora(plain, "dora_scale", column=True), xl),
        like(adapter(sd2, SD_LAYERS, unet_names, plain), "sd2_lora_kohya", "sd21_lora.safetensors"),
        like(adapter(xl, SD_LAYERS, unet_names, plain), "sdxl_lora_diffusers_names", "onetrainer.safetensors"),
        *_sd_loras_diffusers(unet, sd2, xl),
        *_kohya_loras_without_metadata(),
    )


def _sd_loras_diffusers(unet: Case, sd2: Case, xl: Case) -> tuple[Case, ...]:
    text = read("clip_l_alone")
    old = adapter(
        unet, SD_ATTENTION, dotted(), lora("_lora.down.weight", "_lora.up.weight", 4, alpha=False), dtype="F32"
    )
    old = renamed(old, r"(attn[12])\.to_(q|k|v|out)(\.0)?\.", r"\1.processor.to_\2")
    magnitude = dora(peft(), "lora_magnitude_vector", column=False)
    both = joined(
        adapter(unet, SD_ATTENTION, dotted("unet."), peft()),
        adapter(text, r"self_attn\.", dotted("text_encoder."), peft()),
    )
    down_up = lora("lora.down.weight", "lora.up.weight", alpha=False)
    return (
        like(old, "sd15_lora_diffusers_processors", "pytorch_lora_weights.safetensors", notes="diffusers before 0.17"),
        like(with_prefix(old, "unet."), "sd15_lora_diffusers_processors_prefix", "pytorch_lora_weights.safetensors"),
        like(adapter(unet, SD_ATTENTION, dotted("unet."), down_up), "sd15_lora_diffusers_down_up"),
        like(both, "sd15_lora_peft", "pytorch_lora_weights.safetensors"),
        like(
            adapter(unet, SD_ATTENTION, dotted("base_model.model."), peft()),
            "sd15_lora_peft_bare",
            "adapter_model.safetensors",
        ),
        like(adapter(unet, SD_ATTENTION, dotted("unet."), magnitude), "sd15_dora_peft", variant="dora"),
        like(adapter(sd2, SD_ATTENTION, dotted("unet."), peft()), "sd2_lora_peft"),
        like(adapter(xl, SD_ATTENTION, dotted("unet."), magnitude), "sdxl_dora_peft", variant="dora"),
    )


def _kohya_loras_without_metadata() -> tuple[Case, ...]:
    sd15, xl, flux = read("sd15_lora_kohya"), read("sdxl_lora_kohya"), read("flux1_lora_kohya")
    clip: dict[str, Any] = {"variant": "text-encoder-only", "accept_family": ("unknown", "clip_l")}
    dylora = {"ss_network_module": "networks.dylora", "ss_base_model_version": "sd_v1"}
    return (
        like(replace(sd15, metadata=dylora), "sd15_dylora", "sd15_dylora.safetensors", notes="saved as a plain LoRA"),
        like(with_metadata(sd15), "sd15_lora_kohya_no_metadata", "model.safetensors"),
        like(with_metadata(xl), "sdxl_lora_kohya_no_metadata", "v1-5-pruned.safetensors"),
        like(with_metadata(flux), "flux1_lora_kohya_no_metadata", "lora.safetensors"),
        like(less(with_metadata(sd15), "^lora_te"), "sd15_lora_kohya_unet_only"),
        like(less(with_metadata(xl), "^lora_te"), "sdxl_lora_kohya_unet_only"),
        like(less(with_metadata(sd15), "^lora_unet"), "sd15_lora_kohya_text_only", **clip),
        like(less(with_metadata(xl), "^lora_unet"), "sdxl_lora_kohya_text_only", **clip),
        like(as_dtype(with_metadata(xl), "F8_E4M3"), "sdxl_lora_kohya_fp8"),
    )


FLUX_BLOCKS = r"^(double|single)_blocks\..*(qkv|proj|mlp\.\d|linear\d|lin)$"
FLUX_DIFFUSERS = r"transformer_blocks\.\d+\.(attn\.(to_|add_)\w+(\.0)?|ff\.net|ff_context|proj_)"


def _flux_loras() -> tuple[Case, ...]:
    dev, diffusers, chroma = read("flux1_dev_bfl"), read("flux1_dev_diffusers"), read("chroma1_hd")
    unet = kohya("lora_unet")
    attention = r"transformer_blocks\.\d+\.attn\.(to_\w+(\.0)?)$"
    control = adapter(dev, rf"{FLUX_BLOCKS}|_in", dotted(), peft(128))
    flux2, flux2_diffusers = read("flux2_klein_4b_bfl"), read("flux2_dev_diffusers")
    like_flux: dict[str, Any] = {"accept_family": ("flux1",)}
    return (
        like(
            adapter(diffusers, attention, dotted("transformer."), peft()),
            "flux1_lora_peft",
            "pytorch_lora_weights.safetensors",
        ),
        like(
            adapter(diffusers, FLUX_DIFFUSERS, dotted("transformer."), peft()),
            "flux1_lora_ai_toolkit",
            "flux_ai_toolkit.safetensors",
        ),
        like(
            adapter(diffusers, FLUX_DIFFUSERS, dotted("base_model.model."), peft()),
            "flux1_lora_peft_bare",
            "adapter_model.safetensors",
        ),
        like(adapter(diffusers, FLUX_DIFFUSERS, kohya("lora_transformer"), lora()), "flux1_lora_onetrainer"),
        like(adapter(dev, FLUX_BLOCKS, dotted("diffusion_model."), peft()), "flux1_lora_comfy_peft"),
        like(adapter(dev, FLUX_BLOCKS, unet, lambda shape: lokr(shape)), "flux1_lokr", variant="lokr"),
        like(adapter(dev, FLUX_BLOCKS, unet, loha), "flux1_loha", variant="loha"),
        like(adapter(dev, FLUX_BLOCKS, unet, dora(lora(), "dora_scale", column=True)), "flux1_dora", variant="dora"),
        like(adapter(dev, r"double_blocks\..*img_attn", unet, lora()), "flux1_lora_some_layers"),
        like(control, "flux1_canny_lora_bfl", "flux1-canny-dev-lora.safetensors", notes="trained img_in too"),
        like(
            with_metadata(adapter(chroma, FLUX_BLOCKS, unet, lora()), modelspec__architecture="chroma/lora"),
            "chroma_lora_kohya",
            notes="only the metadata tells it from FLUX's",
            **like_flux,
        ),
        like(adapter(chroma, FLUX_BLOCKS, dotted("diffusion_model."), peft()), "chroma_lora_peft", **like_flux),
        like(
            adapter(flux2, FLUX_BLOCKS, dotted("diffusion_model."), peft()),
            "flux2_klein_lora",
            accept_family=("flux1",),
        ),
        like(adapter(flux2_diffusers, FLUX_DIFFUSERS, dotted("transformer."), peft()), "flux2_dev_lora_peft"),
    )


def _other_loras() -> tuple[Case, ...]:
    sd3, sd3_diffusers = without_prefix(read("sd3_medium"), UNET), read("sd3_medium_diffusers")
    sd35 = without_prefix(read("sd35_large"), UNET)
    lumina, z_image, qwen = read("lumina_image2"), read("z_image_comfy"), read("qwen_image")
    hunyuan, video, wan = read("hunyuan_image21"), read("hunyuan_video_original"), read("wan21_t2v_14b_original")
    anima = without_prefix(read("anima"), "net.")
    z_diffusers = read("z_image_diffusers")
    unet, comfy, layers = kohya("lora_unet"), dotted("diffusion_model."), r"^layers\.\d+\.(attention|feed_forward)"
    blocks = r"^(double|single)_blocks\..*(qkv|proj|fc\d|linear\d?)$"
    attention = r"^transformer_blocks\.\d+\.(attn\.(to|add)_\w+(\.0)?|img_mlp|txt_mlp)"
    body = r"^blocks\.\d+\.(self_attn|cross_attn|mlp|ffn)"
    return (
        like(adapter(sd3, r"^joint_blocks", unet, lora()), "sd3_lora_kohya"),
        like(adapter(sd35, r"^joint_blocks", unet, lora()), "sd35_large_lora_kohya"),
        like(adapter(sd3_diffusers, r"attn\.(to|add)_", dotted("transformer."), peft()), "sd3_lora_peft"),
        like(adapter(sd3_diffusers, r"attn\.(to|add)_", kohya("lora_transformer"), lora()), "sd3_lora_onetrainer"),
        like(adapter(lumina, layers, unet, lora()), "lumina2_lora_kohya"),
        like(adapter(lumina, layers, comfy, peft()), "lumina2_lora_peft"),
        like(adapter(z_image, layers, unet, lora()), "z_image_lora_kohya"),
        like(adapter(z_diffusers, layers, comfy, peft()), "z_image_lora_ai_toolkit"),
        like(adapter(z_diffusers, layers, dotted("transformer."), peft()), "z_image_lora_peft"),
        like(adapter(qwen, attention, unet, lora()), "qwen_image_lora_musubi"),
        like(adapter(qwen, attention, dotted("transformer."), peft()), "qwen_image_lora_peft"),
        like(adapter(qwen, attention, comfy, peft()), "qwen_image_lora_ai_toolkit"),
        like(
            adapter(qwen, attention, dotted(), lora()),
            "qwen_image_lora_lightning",
            "Qwen-Image-Lightning-4steps.safetensors",
        ),
        like(
            adapter(qwen, attention, dotted("diffusion_model."), lambda shape: lokr(shape)),
            "qwen_image_lokr",
            variant="lokr",
        ),
        like(
            adapter(hunyuan, blocks, unet, lora()),
            "hunyuan_image21_lora_kohya",
            notes="width 3584; FLUX's names otherwise",
        ),
        like(
            adapter(video, blocks, unet, lora()),
            "hunyuan_video_lora_musubi",
            notes="FLUX's width; img_mlp_fc1 tells it",
        ),
        like(adapter(wan, body, unet, lora()), "wan21_lora_musubi", accept_family=("wan22", "wan")),
        like(adapter(wan, body, comfy, peft()), "wan21_lora_peft", accept_family=("wan22", "wan")),
        like(adapter(anima, body, unet, lora()), "anima_lora_kohya", accept_family=("cosmos_predict2",)),
        like(adapter(anima, body, comfy, peft()), "anima_lora_peft", accept_family=("cosmos_predict2",)),
    )


# ------------------------------------------------------------------------------------------- cases: other small files


def _small(name: str, file_name: str, tensors: Tensors, expect: Expect, **metadata: str) -> Case:
    return Case(name, file_name, in_file_order(tensors), metadata, expect)


def _embeddings() -> tuple[Case, ...]:
    def told(family: str, *also: str) -> Expect:
        return Expect("embedding", family, None, "embedding", (), also, source="A1111's, kohya's and diffusers' savers")

    def both(prefix: str = "") -> Tensors:
        return {f"{prefix}clip_l": ("F32", (8, 768)), f"{prefix}clip_g": ("F32", (8, 1280))}

    return (
        _small("sd15_embedding", "easynegative.safetensors", {"emb_params": ("F32", (8, 768))}, told("sd15")),
        _small("sd2_embedding", "sd21_style.safetensors", {"emb_params": ("F32", (4, 1024))}, told("sd2")),
        _small("sdxl_embedding", "negativeXL.safetensors", both(), told("sdxl")),
        _small(
            "sdxl_embedding_fp16", "sdxl.safetensors", {k: ("F16", s) for k, (_, s) in both().items()}, told("sdxl")
        ),
        _small(
            "sd3_embedding", "sd3.safetensors", both() | {"t5xxl": ("F32", (8, 4096))}, told("sd3", "sdxl", "unknown")
        ),
        _small(
            "flux1_embedding",
            "flux.safetensors",
            {"clip_l": ("F32", (8, 768)), "t5xxl": ("F32", (8, 4096))},
            told("flux1", "sd15", "unknown"),
        ),
        _small("sd15_embedding_diffusers", "learned_embeds.safetensors", {"<my-cat>": ("F32", (768,))}, told("sd15")),
        _small("sd2_embedding_diffusers", "learned_embeds.safetensors", {"<my-cat>": ("F32", (1, 1024))}, told("sd2")),
        _small(
            "sdxl_embedding_diffusers",
            "pivotal.safetensors",
            {"clip_l": ("F32", (2, 768)), "clip_g": ("F32", (2, 1280))},
            told("sdxl"),
            format="pt",
        ),
    )


def _adapters() -> tuple[Case, ...]:
    unet, xl = read("sd15_unet_diffusers"), read("sdxl_unet_diffusers")

    def ip_adapter(model: Case, width: int, projected: int) -> Tensors:
        ours = [shape for name, (_, shape) in model.tensors.items() if name.endswith("attn2.to_k.weight")]
        made: Tensors = {
            "image_proj.norm.bias": ("F16", (width,)),
            "image_proj.norm.weight": ("F16", (width,)),
            "image_proj.proj.bias": ("F16", (4 * width,)),
            "image_proj.proj.weight": ("F16", (4 * width, projected)),
        }
        for i, shape in enumerate(ours):
            made |= {f"ip_adapter.{2 * i + 1}.to_{part}_ip.weight": ("F16", (shape[0], width)) for part in "kv"}
        return made

    def told(family: str) -> Expect:
        return Expect(
            "unknown",
            family,
            None,
            "ip-adapter",
            ("controlnet", "lora"),
            ("ip_adapter", "unknown"),
            source="IP-Adapter's saver",
        )

    return (
        _small("sd15_ip_adapter", "ip-adapter_sd15.safetensors", ip_adapter(unet, 768, 1024), told("sd15")),
        _small("sdxl_ip_adapter", "ip-adapter_sdxl.safetensors", ip_adapter(xl, 2048, 1280), told("sdxl")),
        _lllite(read("sdxl_base_full_fp16")),
        _small("esrgan", "RealESRGAN_x4plus.safetensors", _esrgan(), _nothing("upscaler", "Real-ESRGAN's RRDBNet")),
        _small(
            "four_numbers",
            "model.safetensors",
            {"a": ("F32", (2, 2)), "b": ("I64", (4,))},
            _nothing("unknown", "made up"),
        ),
        _small("no_tensors", "model.safetensors", {}, _nothing("unknown", "made up"), format="pt"),
    )


def _lllite(model: Case) -> Case:
    """ControlNet-LLLite: small networks beside the attention."""

    def weights(shape: Shape) -> dict[str, Shape]:
        columns = shape[1]
        return {
            "conditioning1.0.bias": (16,),
            "conditioning1.0.weight": (16, 3, 4, 4),
            "conditioning1.2.bias": (32,),
            "conditioning1.2.weight": (32, 16, 4, 4),
            "down.0.bias": (64,),
            "down.0.weight": (64, columns),
            "mid.0.bias": (64,),
            "mid.0.weight": (64, 96),
            "up.0.bias": (columns,),
            "up.0.weight": (columns, 64),
        }

    original = without_prefix(model, UNET)
    made = adapter(original, r"attn1\.to_[qkv]$|attn2\.to_q$", kohya("lllite_unet"), weights)
    told = {
        "kind": "controlnet",
        "variant": "lllite",
        "accept_kind": ("lora", "unknown"),
        "accept_family": ("unknown",),
    }
    return like(made, "sdxl_controlnet_lllite", "kohya_controllllite_xl_canny.safetensors", **told)


def _nothing(family: str, source: str) -> Expect:
    return Expect("unknown", family, None, "", (), ("unknown", "not-a-model"), source=source)


def _esrgan() -> Tensors:
    made: Tensors = {}

    def conv(name: str, rows: int, columns: int) -> None:
        made.update({f"{name}.weight": ("F32", (rows, columns, 3, 3)), f"{name}.bias": ("F32", (rows,))})

    conv("conv_first", 64, 3)
    for block in range(23):
        for dense in (1, 2, 3):
            for i in range(1, 6):
                conv(f"body.{block}.rdb{dense}.conv{i}", 64 if i == 5 else 32, 64 + 32 * (i - 1))
    for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr"):
        conv(name, 64, 64)
    conv("conv_last", 3, 64)
    return made


# ------------------------------------------------------------------------------------- cases: broken and misnamed


def _broken() -> tuple[Case, ...]:
    def cut(case: Case, name: str) -> Case:
        accept = {"accept_kind": (case.expect.kind,), "accept_family": (*case.expect.families, "unknown")}
        told: dict[str, Any] = {"kind": "unknown", "family": "truncated", "variant": "truncated", "prediction": None}
        told |= accept | {"accept_prediction": tuple(case.expect.predictions)}
        return like(case, name, **told, notes="an interrupted download")

    sdxl, flux, sd1 = read("sdxl_base_full_fp16"), read("flux1_dev_bfl"), read("sd15_full_fp16")
    tail = replace(sd1, cut=file_size(sd1) + 4096)
    return (
        cut(truncated(sdxl), "sdxl_truncated"),
        cut(truncated(flux, 0.999), "flux1_truncated_near_the_end"),
        cut(truncated(read("sd15_lora_kohya"), 0.5), "sd15_lora_truncated"),
        cut(truncated(read("z_image_comfy"), 0.01), "z_image_truncated_at_the_start"),
        cut(truncated_in_header(sdxl), "sdxl_truncated_in_header"),
        cut(replace(sdxl, cut=8), "sdxl_only_the_length"),
        cut(replace(sdxl, cut=3), "sdxl_three_bytes"),
        like(
            tail,
            "sd15_with_a_tail",
            accept_kind=("unknown",),
            accept_family=("unknown", "not-a-model"),
            notes="4096 bytes too many",
        ),
        *_not_safetensors(),
    )


def _raw(name: str, file_name: str, raw: bytes, family: str, size: int = 0) -> Case:
    told = Expect(
        "unknown", family, None, "", (), ("unknown", "not-a-model", "truncated"), source="the format's own description"
    )
    return Case(name, file_name, {}, {}, told, raw=raw, size=size)


def _framed(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _not_safetensors() -> tuple[Case, ...]:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 6938078334\n"
    page = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>Access denied</body></html>\n"
    gguf = b"GGUF" + struct.pack("<IQQ", 3, 780, 24)
    entry = b'{"x":{"dtype":"F32","shape":[4],"data_offsets":[0,%d]}}'
    return (
        _raw("html", "model.safetensors", page, "not-a-model"),
        _raw("json_error", "model.safetensors", b'{"error":"Unauthorized"}', "not-a-model"),
        _raw("lfs_pointer", "sd_xl_base_1.0.safetensors", pointer, "not-a-model"),
        _raw("empty", "flux1-dev.safetensors", b"", "not-a-model"),
        _raw("zeros", "flux1-dev.safetensors", b"\0" * 16, "not-a-model", 2_000_000_000),
        _raw("gguf", "flux1-dev-Q8_0.gguf", gguf, "gguf", 12_708_281_664),
        _raw("gguf_misnamed", "flux1-dev.safetensors", gguf, "gguf", 12_708_281_664),
        _raw(
            "pickle_zip",
            "sd-v1-4.ckpt",
            b"PK\x03\x04" + b"\0" * 26 + b"archive/data.pkl",
            "torch-pickle",
            4_265_380_512,
        ),
        _raw(
            "pickle_zip_misnamed",
            "model.safetensors",
            b"PK\x03\x04" + b"\0" * 26 + b"archive/data.pkl",
            "torch-pickle",
            10**9,
        ),
        _raw(
            "pickle_protocol_2",
            "embedding.pt",
            b"\x80\x02}q\x00(X\x0f\x00\x00\x00string_to_token",
            "torch-pickle",
            4000,
        ),
        _raw("pickle_protocol_4", "model.bin", b"\x80\x04\x95" + b"\0" * 8 + b"}\x94", "torch-pickle", 4000),
        _raw("png", "preview.safetensors", b"\x89PNG\r\n\x1a\n" + b"\0" * 64, "not-a-model"),
        _raw(
            "random_json_header",
            "model.safetensors",
            _framed(b'{"name": "cat", "age": 3, "tags": ["a", "b"]}   '),
            "not-a-model",
        ),
        _raw("list_as_header", "model.safetensors", _framed(b"[1, 2, 3]"), "not-a-model"),
        _raw("number_as_header", "model.safetensors", _framed(b"12345678"), "not-a-model"),
        _raw("broken_json_header", "model.safetensors", _framed(b'{"a": {"dtype": "F32", "shape": [1'), "not-a-model"),
        _raw("header_no_utf8", "model.safetensors", _framed(b'{"\xff\xfe": 1}'), "not-a-model"),
        _raw("huge_header_length", "model.safetensors", struct.pack("<Q", 2**62) + b"{}", "not-a-model", 10**9),
        _raw("offsets_disagree_with_shape", "model.safetensors", _framed(entry % 12) + b"\0" * 12, "not-a-model"),
        _raw(
            "unknown_dtype",
            "model.safetensors",
            _framed(b'{"x":{"dtype":"Q9","shape":[4],"data_offsets":[0,4]}}') + b"\0" * 4,
            "not-a-model",
        ),
    )


def _misnamed() -> tuple[Case, ...]:
    return (
        like(read("sd15_full_fp16"), "sd15_named_sdxl", "sd_xl_base_1.0.safetensors"),
        like(read("sdxl_base_full_fp16"), "sdxl_named_sd15", "v1-5-pruned-emaonly.safetensors"),
        like(read("z_image_comfy"), "z_image_named_flux", "flux1-dev.safetensors"),
        like(read("chroma1_hd"), "chroma_named_schnell", "flux1-schnell.safetensors"),
        like(read("flux1_schnell_bfl"), "schnell_named_dev", "flux1-dev.safetensors"),
        like(read("sdxl_lora_kohya"), "sdxl_lora_named_checkpoint", "ponyDiffusionV6XL.safetensors"),
        like(read("sdxl_vae_alone"), "vae_named_checkpoint", "sd_xl_base_1.0_0.9vae.safetensors"),
        like(read("t5xxl_alone"), "t5xxl_named_flux", "flux1-dev.safetensors"),
        like(read("sd2_base_512"), "sd2_named_v", "v2-1_768-v-ema.safetensors", notes="the name says v, it is eps"),
    )


CASES: tuple[Case, ...] = (
    *_recorded(),
    *_sd1(),
    *_sd2(),
    *_sdxl(),
    *_sd3(),
    *_flux1(),
    *_flux2_and_chroma(),
    *_lumina_and_z_image(),
    *_qwen_and_hunyuan(),
    *_anima(),
    *_encoders(),
    *_vaes(),
    *_sd_loras(),
    *_flux_loras(),
    *_other_loras(),
    *_embeddings(),
    *_adapters(),
    *_broken(),
    *_misnamed(),
)
