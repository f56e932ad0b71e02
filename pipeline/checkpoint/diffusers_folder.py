"""A model as diffusers saves it: a folder with model_index.json and a folder for each part."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.checkpoint.header import Header, Tensor, read_header
from pipeline.checkpoint.kinds import CHANNEL_VARIANTS, context_width, is_quantised
from pipeline.checkpoint.prediction import Prediction, prediction_of
from pipeline.errors import UnreadableFile
from pipeline.records import Checkpoint

INDEX = "model_index.json"
MAX_JSON_BYTES = 50_000_000
WEIGHTS = ("diffusion_pytorch_model", "model")
"""File names of denoisers and VAEs, and of text encoders."""

FAMILIES = {
    "StableDiffusionXL": "sdxl",
    "StableDiffusion3": "sd3",
    "StableDiffusion": "sd15",
    "Flux2": "flux2",
    "Flux": "flux1",
    "Chroma": "chroma",
    "Lumina2": "lumina2",
    "QwenImage": "qwen_image",
    "ZImage": "z_image",
    "HunyuanImage": "hunyuan",
    "Kolors": "kolors",
    "Wan": "wan",
}
"""Beginnings of pipeline classes, the longer before the shorter."""
PARTS_OF_SD15 = ("text_encoder", "vae")


@dataclass(frozen=True, slots=True)
class Part:
    """One part's weights, all shards together."""

    folder: Path
    config: dict[str, Any]
    headers: dict[str, Header]
    """By file name."""

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {name: tensor for header in self.headers.values() for name, tensor in header.tensors.items()}

    @property
    def bytes(self) -> int:
        return sum(header.file_bytes for header in self.headers.values())


def read_folder(path: Path) -> Checkpoint:
    """Raises UnreadableFile for a folder that is no whole model."""
    pipeline = _pipeline_class(path)
    denoiser = _denoiser(path)
    family = _family(pipeline, denoiser)
    parts = [denoiser, *(_part(path / name) for name in PARTS_OF_SD15 if family == "sd15" or (path / name).is_dir())]
    if is_quantised(denoiser.tensors):
        raise UnreadableFile(f"{denoiser.folder} is quantised to 8 bits or fewer: training needs fp16, bf16 or fp32")
    text = next((part.config for part in parts if part.folder.name == "text_encoder"), {})
    return Checkpoint(
        path=path,
        layout="diffusers",
        family=family,
        prediction=_prediction(path, denoiser),
        parameters=sum(tensor.elements for tensor in denoiser.tensors.values()),
        bytes=sum(part.bytes for part in parts),
        digest=_digest(path, parts),
        text_layers=_whole_number(text.get("num_hidden_layers")),
    )


def _pipeline_class(path: Path) -> str:
    if not (path / INDEX).is_file():
        files = sorted(file.name for file in path.glob("*.safetensors"))
        hint = f": it holds {', '.join(files[:3])}; give the file itself" if files else ""
        raise UnreadableFile(f"{path} has no {INDEX}, so it is no diffusers folder{hint}")
    return str(_read_json(path / INDEX).get("_class_name"))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise UnreadableFile(f"{path} is larger than {MAX_JSON_BYTES} bytes: it is no config")
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UnreadableFile(f"{path} can't be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UnreadableFile(f"{path} is not JSON ({error}): download it again") from error
    if not isinstance(content, dict):
        raise UnreadableFile(f"{path} holds no object: download it again")
    return content


def _denoiser(path: Path) -> Part:
    for name in ("unet", "transformer"):
        if (path / name).is_dir():
            return _part(path / name)
    raise UnreadableFile(f"{path} has no unet and no transformer folder: download the whole model")


def _part(folder: Path) -> Part:
    if not folder.is_dir():
        raise UnreadableFile(f"{folder} is missing: download the whole model")
    headers = {file.name: read_header(file) for file in _weight_files(folder)}
    return Part(folder, _read_json(folder / "config.json"), headers)


def _weight_files(folder: Path) -> list[Path]:
    for name in WEIGHTS:
        if (folder / f"{name}.safetensors").exists():
            return [folder / f"{name}.safetensors"]
        if (folder / f"{name}.safetensors.index.json").exists():
            return _shards(folder / f"{name}.safetensors.index.json")
    raise UnreadableFile(f"{folder} has no safetensors weights{_what_it_has(folder)}")


def _shards(index: Path) -> list[Path]:
    """The files that the index names; names that lead out of the folder are refused."""
    weight_map = _read_json(index).get("weight_map")
    names = set(weight_map.values()) if isinstance(weight_map, dict) and _are_strings(weight_map) else set()
    if not names or any(Path(name).name != name for name in names):
        raise UnreadableFile(f"{index} names no shards beside it: download it again")
    missing = sorted(name for name in names if not (index.parent / name).is_file())
    if missing:
        raise UnreadableFile(f"{index.parent} lacks {len(missing)} of {len(names)} shards, {missing[0]} among them")
    return [index.parent / name for name in sorted(names)]


def _are_strings(mapping: dict[str, object]) -> bool:
    return all(isinstance(value, str) for value in mapping.values())


def _what_it_has(folder: Path) -> str:
    """A fitting advice for the usual cases: a variant that wants another name, or pickles."""
    variants = sorted(folder.glob("*.fp16.safetensors"))
    if variants:
        plain = variants[0].with_name(variants[0].name.replace(".fp16", ""))
        return f", only the fp16 variant. Give it the plain name: ln -s {variants[0].name} {plain}"
    if any(folder.glob("*.bin")):
        return ", only .bin pickles, which could run code when opened. Download the safetensors files"
    return ": download the whole model"


def _family(pipeline: str, denoiser: Part) -> str:
    """By the pipeline's class; one class serves SD1 and SD2, and the width of the text tells them apart."""
    family = next((name for beginning, name in FAMILIES.items() if pipeline.startswith(beginning)), None)
    if family is None:
        raise UnreadableFile(f"{denoiser.folder.parent}: models of class {pipeline!r} are not known here")
    if family != "sd15":
        return family
    first = denoiser.tensors.get("conv_in.weight")
    if first is None or len(first.shape) != 4:
        raise UnreadableFile(f"{denoiser.folder} is not the UNet of a Stable Diffusion model")
    family = "sd2" if context_width(denoiser.tensors) == 1024 else "sd15"
    return family + CHANNEL_VARIANTS.get(first.shape[1], "_of_another_kind")


def _prediction(path: Path, denoiser: Part) -> Prediction:
    config = path / "scheduler" / "scheduler_config.json"
    said = _read_json(config).get("prediction_type") if config.exists() else None
    if said == "flow_prediction" or denoiser.folder.name == "transformer":
        said = None
    header = next(iter(denoiser.headers.values()))
    return prediction_of(path, header, said_by_scheduler=None if said is None else str(said))


def _whole_number(value: object) -> int:
    return value if isinstance(value, int) else 0


def _digest(path: Path, parts: list[Part]) -> str:
    digest = hashlib.sha256()
    for name, content in _identity(path, parts):
        digest.update(f"{name}\0{content}\n".encode())
    return digest.hexdigest()


def _identity(path: Path, parts: list[Part]) -> Iterator[tuple[str, str]]:
    """Weights by their digests, configs by what they say, all by the place in the folder."""
    for part in parts:
        yield f"{part.folder.name}/config.json", json.dumps(part.config, sort_keys=True)
        for name, header in sorted(part.headers.items()):
            yield f"{part.folder.name}/{name}", header.digest
    scheduler = path / "scheduler" / "scheduler_config.json"
    if scheduler.exists():
        yield "scheduler", json.dumps(_read_json(scheduler), sort_keys=True)
