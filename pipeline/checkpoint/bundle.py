"""What lies at a path: one file, the shards of one, or a folder as diffusers saves it; read, and not yet understood."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipeline.checkpoint.groups import Group, Role, split
from pipeline.checkpoint.header import Header, Tensor, read_header, read_numbers
from pipeline.errors import UnreadableFile

INDEX = "model_index.json"
SHARD_INDEX = ".safetensors.index.json"
SHARD = re.compile(r"^(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors$")
MAX_JSON_BYTES = 50_000_000
WEIGHTS = ("diffusion_pytorch_model", "model")
"""File names of denoisers and VAEs, and of text encoders."""
DENOISERS = ("unet", "transformer")
ROLES: Mapping[str, Role] = {**dict.fromkeys(DENOISERS, "denoiser"), "vae": "vae"}
TEXT = re.compile(r"text_encoder(_\d)?$")


@dataclass(frozen=True)
class Part:
    """The weights of one folder or file, all shards together."""

    where: Path
    config: Mapping[str, Any]
    headers: Mapping[str, Header]
    """By file name."""
    note: str | None = None
    """What a person should know of how it was read."""

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {name: tensor for header in self.headers.values() for name, tensor in header.tensors.items()}

    @property
    def metadata(self) -> dict[str, str]:
        return {key: value for header in self.headers.values() for key, value in header.metadata.items()}

    @property
    def bytes(self) -> int:
        return sum(header.file_bytes for header in self.headers.values())

    def numbers(self, tensor: Tensor) -> tuple[float, ...]:
        """Of one small tensor of this part."""
        name = next(name for name, header in self.headers.items() if any(t is tensor for t in header.tensors.values()))
        folder = self.where if self.where.is_dir() else self.where.parent
        return read_numbers(folder / name, tensor)


@dataclass(frozen=True)
class Bundle:
    """All parts of what lies at a path."""

    path: Path
    storage: Literal["file", "shards", "folder"]
    parts: Mapping[str, Part]
    """By folder name; a single file or part has the name ''."""
    pipeline: str | None = None
    """The class that model_index.json names."""
    scheduler: Mapping[str, Any] | None = None
    lacking: Mapping[str, str] = field(default_factory=dict)
    """Folders that model_index.json names and whose weights can't be read, with the reason."""
    missing_shards: str | None = None

    @property
    def bytes(self) -> int:
        return sum(part.bytes for part in self.parts.values())

    @property
    def denoiser(self) -> Part | None:
        """A part that lies alone may be one."""
        return next((self.parts[name] for name in (*DENOISERS, "") if name in self.parts), None)

    def groups(self) -> list[Group]:
        """A single file's parts by their prefixes, a folder's by their folders."""
        if "" in self.parts:
            return split(self.parts[""].tensors)
        return [Group(_role(name), f"{name}/", part.tensors) for name, part in self.parts.items()]


def read_bundle(path: Path) -> Bundle:
    """Raises UnreadableFile, whatever is there."""
    try:
        path = path.expanduser().absolute()
        if not os.path.lexists(path):
            raise UnreadableFile(f"{path}: there is no such file or folder")
        if path.is_dir():
            return _folder(path)
        if path.name.endswith(SHARD_INDEX):
            return Bundle(path, "shards", {"": _part(path.parent, files=_shards(path))})
        return _siblings(path) if SHARD.match(path.name) and path.is_file() else _file(path)
    except (OSError, RuntimeError) as error:  # a folder that is closed to us, a name too long, ~nobody
        raise UnreadableFile(f"{path} can't be read: {getattr(error, 'strerror', None) or error}") from error


def _file(path: Path) -> Bundle:
    return Bundle(path, "file", {"": Part(path, {}, {path.name: read_header(path)})})


def _siblings(path: Path) -> Bundle:
    """A shard with all that lie beside it."""
    match = SHARD.match(path.name)
    assert match is not None
    count = int(match["count"])
    names = [f"{match['stem']}-{number:05}-of-{match['count']}.safetensors" for number in range(1, min(count, 999) + 1)]
    there = [name for name in names if (path.parent / name).is_file()]
    part = Part(path, {}, {name: read_header(path.parent / name) for name in there or [path.name]})
    if len(there) == count:
        return Bundle(path, "shards", {"": part})
    missing = f"is one shard of {count}, and {count - len(there)} of them are not beside it"
    return Bundle(path, "shards", {"": part}, missing_shards=missing)


def _folder(path: Path) -> Bundle:
    if (path / INDEX).is_file():
        return _pipeline(path)
    if is_part(path):
        return Bundle(path, "folder", {"": _part(path, files=weight_files(path))})
    files = sorted(file.name for file in path.glob("*.safetensors"))
    hint = f": it holds {', '.join(files[:3])}; give the file itself" if files else ""
    raise UnreadableFile(f"{path} has no {INDEX}, so it is no diffusers folder{hint}")


def _pipeline(path: Path) -> Bundle:
    index = read_json(path / INDEX)
    parts: dict[str, Part] = {}
    lacking: dict[str, str] = {}
    for name in _folders(path, index):
        try:
            parts[name] = _part(path / name, files=weight_files(path / name), config_needed=True)
        except UnreadableFile as error:
            lacking[name] = str(error)
    scheduler = path / "scheduler" / "scheduler_config.json"
    return Bundle(
        path,
        "folder",
        parts,
        pipeline=str(index.get("_class_name")),
        scheduler=read_json(scheduler) if scheduler.is_file() else None,
        lacking=lacking,
    )


def _folders(path: Path, index: Mapping[str, Any]) -> Iterator[str]:
    """The folders of weights that the index names or that are there."""
    for name in sorted({*index, *(entry.name for entry in path.iterdir() if entry.is_dir())}):
        named = index.get(name)
        wanted = isinstance(named, list) and any(named)
        if (name in ROLES or TEXT.match(name)) and (wanted or (path / name).is_dir()):
            yield name


def _role(name: str) -> Role:
    return ROLES.get(name, "text_encoder" if TEXT.match(name) else "any")


def _part(folder: Path, *, files: list[Path], config_needed: bool = False) -> Part:
    if not files:
        raise UnreadableFile(f"{folder} has no safetensors weights{_what_it_has(folder)}")
    config = folder / "config.json"
    note = f"only the fp16 variant is there ({files[0].name})" if ".fp16." in files[0].name else None
    headers = {file.name: read_header(file) for file in files}
    return Part(folder, read_json(config) if config_needed or config.is_file() else {}, headers, note)


def is_part(folder: Path) -> bool:
    """Whether a folder holds a single part as diffusers saves it: its config, and weights under the usual names."""
    if not (folder / "config.json").is_file():
        return False
    stems = [folder / stem for stem in WEIGHTS]
    return any(Path(f"{stem}{ending}").exists() for stem in stems for ending in (".safetensors", SHARD_INDEX))


def weight_files(folder: Path) -> list[Path]:
    """The plain weights before their fp16 variant; all shards of one kind. Raises UnreadableFile."""
    if not folder.is_dir():
        raise UnreadableFile(f"{folder} is missing: download the whole model")
    for ending in ("", ".fp16"):
        for stem in WEIGHTS:
            if (folder / f"{stem}{ending}.safetensors").exists():
                return [folder / f"{stem}{ending}.safetensors"]
            for index in (f"{stem}.safetensors.index{ending}.json", f"{stem}{ending}{SHARD_INDEX}"):
                if (folder / index).exists():
                    return _shards(folder / index)
    return []


def _shards(index: Path) -> list[Path]:
    """The files that the index names; names that lead out of the folder are refused."""
    weight_map = read_json(index).get("weight_map")
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
    if any(folder.glob("*.bin")):
        return ", only .bin pickles, which could run code when opened. Download the safetensors files"
    return ": download the whole model"


def read_json(path: Path) -> dict[str, Any]:
    """An object. Raises UnreadableFile for anything else."""
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
