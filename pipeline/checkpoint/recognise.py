"""The base model that a run is to train on: what `identify` says of it, and what else training needs to know."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.checkpoint.bundle import DENOISERS, Bundle, Part, read_bundle
from pipeline.checkpoint.header import digest as digest_of
from pipeline.checkpoint.identify import identity_of
from pipeline.checkpoint.identity import Identity
from pipeline.checkpoint.sizes import sizes_of
from pipeline.errors import UnreadableFile
from pipeline.records import Checkpoint

TEXT_LAYER = re.compile(r"cond_stage_model\.transformer\.(?:text_model\.)?encoder\.layers\.(\d+)\.")
DENOISING = ("checkpoint", "denoiser", "unknown")
"""Kinds that are or may be a base model."""
WANTED = "model.path wants a whole model: a safetensors file or a diffusers folder (the one with model_index.json)"


def recognise(path: Path, *, insisting: bool = False) -> Checkpoint:
    """Reads headers, configs and a sample of the weights. Raises UnreadableFile for what is no base model to train on,
    and for damaged files. `insisting`: a denoiser that is not known or not supported is taken all the same."""
    bundle = read_bundle(path)
    identity = identity_of(bundle)
    if not insisting or identity.kind not in DENOISING:
        _refuse(identity)
    return Checkpoint(
        path=bundle.path,
        layout="diffusers" if bundle.pipeline else "single_file",
        family=identity.family or "unknown",
        prediction=identity.prediction,
        parameters=identity.parameters,
        bytes=bundle.bytes,
        digest=_digest(bundle),
        text_layers=_text_layers(bundle),
        title=identity.title,
        variant=identity.variant,
        dtype=identity.dtype or "",
        models=identity.models,
        parts=identity.parts,
        prediction_sure=identity.prediction_sure != "assumed",
        evidence=tuple(map(str, identity.evidence)),
        lacking=tuple(bundle.lacking.values()),
        refused=identity.refused,
        contents=identity.contents,
        matrices=identity.matrices,
        encoder_matrices=identity.encoder_matrices,
        sizes=sizes_of(bundle),
    )


def _refuse(identity: Identity) -> None:
    path = identity.path
    if identity.incomplete:
        raise UnreadableFile(f"{path} {identity.incomplete}: model.path wants the folder that holds them all")
    if identity.refused is None:
        return
    if identity.kind not in ("checkpoint", "denoiser"):
        nearest = next((f"; {each.said}" for each in identity.evidence if each.said.startswith("nearest is")), "")
        raise UnreadableFile(f"{path} {identity.refused}{nearest}. {WANTED}")
    name = identity.title + (f" ({identity.variant})" if identity.variant else "")
    raise UnreadableFile(f"{path} is {name}: {identity.refused}")


def _text_layers(bundle: Bundle) -> int:
    """Of the first text encoder; 0 where that can't be told."""
    encoder = bundle.parts.get("text_encoder")
    if encoder is not None:
        told = encoder.config.get("num_hidden_layers")
        return told if isinstance(told, int) else 0
    names = bundle.parts[""].tensors if "" in bundle.parts else ()
    return len({match[1] for name in names if (match := TEXT_LAYER.match(name))})


def _digest(bundle: Bundle) -> str:
    """Of a single file its own; of a folder one over all that decides what it draws."""
    if bundle.storage == "file":
        name, header = next(iter(bundle.parts[""].headers.items()))
        return digest_of(bundle.path.with_name(name), header)
    total = hashlib.sha256()
    for name, content in _identity_lines(bundle):
        total.update(f"{name}\0{content}\n".encode())
    return total.hexdigest()


def _identity_lines(bundle: Bundle) -> Iterator[tuple[str, str]]:
    """Weights by their digests, configs by what they say, all by the place in the folder."""
    for folder, part in sorted(bundle.parts.items(), key=_as_ever):
        yield f"{folder}/config.json", json.dumps(part.config, sort_keys=True)
        for name, header in sorted(part.headers.items()):
            yield f"{folder}/{name}", digest_of(_folder(part) / name, header)
    if bundle.scheduler is not None:
        yield "scheduler", json.dumps(bundle.scheduler, sort_keys=True)


def _as_ever(item: tuple[str, Part]) -> tuple[bool, str]:
    """The denoiser first: unfinished runs are found again by this digest."""
    return item[0] not in DENOISERS, item[0]


def _folder(part: Part) -> Path:
    return part.where if part.where.is_dir() else part.where.parent
