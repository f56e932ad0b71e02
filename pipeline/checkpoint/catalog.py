"""What is known of models by their tensors: the signatures of `conf/model/*.yaml`, which can be trained, and those of
`others.yaml`, which are named and refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pipeline.checkpoint.signature import Clauses
from pipeline.errors import RunError
from pipeline.settings import PROJECT

MODELS = PROJECT / "conf" / "model"
OTHERS = Path(__file__).with_name("others.yaml")

EntryKind = Literal["denoiser", "vae", "text_encoder", "unknown"]
CLAUSES = {"shapes", "lacks", "modules", "depth"}
VARIANT = CLAUSES | {"predicts", "refused"}
NARROWER = {"words", "prediction"}
SIGNATURE = {"predicts", "layouts", "variant", "variants", "narrower"}
OTHER = SIGNATURE | {"kind", "family", "title", "refused"}
NEEDED = ("kind", "family", "title", "layouts")


class CatalogError(RunError):
    """A signature in the catalog is not written as it should be."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A member of a family that is told by something of its own."""

    name: str
    clauses: Clauses
    predicts: str | None
    """What it predicts, where that is not what the family does."""
    refused: str | None
    """Why it can't be trained."""


@dataclass(frozen=True, slots=True)
class Narrower:
    """What tells a model from another one of the same shapes: any of the words, in the metadata, and the prediction."""

    words: tuple[str, ...]
    prediction: str | None


@dataclass(frozen=True, slots=True)
class Entry:
    """A model that is known by its tensors."""

    name: str
    """The option of the group `model`, or the key in others.yaml."""
    kind: EntryKind
    family: str
    title: str
    predicts: str | None
    """Unless the file says otherwise; None where nothing can be assumed, or nothing is predicted."""
    layouts: Mapping[str, Clauses]
    variant: str | Mapping[str, str] | None
    """The name of a member that is none of the variants; by what it predicts, where that makes another name."""
    variants: tuple[Variant, ...]
    narrower: Narrower | None
    refused: str | None
    """Why it can't be a base model; None for those that can."""
    trainable: bool
    """It has a YAML in conf/model."""


@cache
def catalog() -> tuple[Entry, ...]:
    """All entries, the trainable ones first. Raises CatalogError."""
    files = {file.stem: _yaml(file) for file in sorted(MODELS.glob("*.yaml")) if file.stem != "auto"}
    for name, said in files.items():
        _only_known(said.get("signature") or {}, SIGNATURE, f"{name}.yaml: signature")
    models = [_model(name, _composed(name, files)) for name in files]
    others = [_other(name, said) for name, said in _yaml(OTHERS).items()]
    return tuple(entry for entry in (*models, *others) if entry is not None)


@cache
def trainable() -> Mapping[str, Entry]:
    """The entries of `conf/model` by name."""
    return {entry.name: entry for entry in catalog() if entry.trainable}


def with_defaults(file: Path) -> dict[str, Any]:
    """A model's YAML as Hydra composes it: `defaults: [other, _self_]` is the other one with this one's words over it.

    Raises CatalogError."""
    return _composed(file.stem, {beside.stem: _yaml(beside) for beside in file.parent.glob("*.yaml")})


def _composed(name: str, files: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    said = {key: value for key, value in files[name].items() if key != "defaults"}
    for parent in files[name].get("defaults", ()):
        if parent != "_self_" and parent not in files:
            raise CatalogError(f"{name}.yaml extends {parent}, and there is no {parent}.yaml")
        said = said if parent == "_self_" else _merged(_composed(parent, files), said)
    return said


def _model(name: str, said: dict[str, Any]) -> Entry | None:
    signature = said.get("signature") or {}
    if not signature:
        return None
    title = (said.get("known") or {}).get("title")
    own = {"kind": "denoiser", "family": said.get("family"), "title": title}
    return _entry(name, signature | own, trainable=True)


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    both = {
        key: _merged(below[key], above[key]) for key in below.keys() & above.keys() if _are_dicts(below, above, key)
    }
    return below | above | both


def _are_dicts(below: dict[str, Any], above: dict[str, Any], key: str) -> bool:
    return isinstance(below[key], dict) and isinstance(above[key], dict)


def _yaml(file: Path) -> dict[str, Any]:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where libyaml is there
    try:
        said = yaml.load(file.read_bytes(), loader)  # noqa: S506 - both loaders are safe ones
    except (OSError, yaml.YAMLError) as error:
        raise CatalogError(f"{file} can't be read: {error}") from error
    if not isinstance(said, dict):
        raise CatalogError(f"{file} holds no names and values")
    return said


def _other(name: str, said: dict[str, Any]) -> Entry:
    _only_known(said, OTHER, f"{OTHERS.name}: {name}")
    return _entry(name, said, trainable=False)


def _entry(name: str, said: Mapping[str, Any], *, trainable: bool) -> Entry:
    missing = [key for key in NEEDED if not said.get(key)]
    if missing:
        raise CatalogError(f"{name} has no {', '.join(missing)}")
    narrower = said.get("narrower")
    return Entry(
        name=name,
        kind=said["kind"],
        family=said["family"],
        title=said["title"],
        predicts=said.get("predicts"),
        layouts={layout: _clauses(clauses) for layout, clauses in said["layouts"].items()},
        variant=said.get("variant"),
        variants=tuple(_variant(variant, clauses) for variant, clauses in (said.get("variants") or {}).items()),
        narrower=narrower and Narrower(tuple(narrower.get("words", ())), narrower.get("prediction")),
        refused=said.get("refused"),
        trainable=trainable,
    )


def _variant(name: str, said: dict[str, Any]) -> Variant:
    return Variant(name, _clauses(said), said.get("predicts"), said.get("refused"))


def _clauses(said: dict[str, Any]) -> Clauses:
    """A null takes away what the YAML that this one extends asks for."""
    return Clauses(
        shapes={pattern: tuple(dims) for pattern, dims in (said.get("shapes") or {}).items() if dims is not None},
        lacks=tuple(said.get("lacks") or ()),
        modules=frozenset(said.get("modules") or ()),
        depth=said.get("depth"),
    )


def _only_known(said: Mapping[str, Any], known: set[str], where: str) -> None:
    """Every key of a file's own signature, before it is laid over another's: a misspelt one is told with its file."""
    _only(said, known, where)
    _only(said.get("narrower") or {}, NARROWER, f"{where}: narrower")
    for group, words in (("layouts", CLAUSES), ("variants", VARIANT)):
        for name, clauses in (said.get(group) or {}).items():
            _only(clauses or {}, words, f"{where}: {group}: {name}")


def _only(said: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(said.keys() - known)
    if unknown:
        raise CatalogError(f"{where}: {', '.join(unknown)} means nothing here; there are {', '.join(sorted(known))}")
