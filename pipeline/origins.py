"""Where every setting comes from, made out from what Hydra composed: the files in its order, and what was typed.

A value that is taken from elsewhere (`${figure:lr}`, `${network.rank}`) is followed there, by the rule that resolves
it (`pipeline.figures`), so that what is told and what is used can't part.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from pipeline.figures import OWN, found, rows_of
from pipeline.records import Layer, Origin
from pipeline.settings import PROJECT, Settings

LAYERS: Mapping[str, Layer] = {"experiment": "experiment", "profile": "profile", "model": "model", "config": "default"}
"""Of a file, by the first part of its name in Hydra's list; others are options of a group."""
TAKEN_FROM = re.compile(r"(?P<wrappers>(?:\$\{\w+:)*)\$\{(?P<figure>figure:)?(?P<name>\w[\w.]*)\}+")
"""A whole value that is one figure or one other setting, maybe adapted by resolvers around it."""
FROM_ENVIRONMENT = re.compile(r"\$\{oc\.env:(?P<name>\w+)(?:,.*)?\}")
ADAPTED = {
    "for_optimizer": "as this optimizer means a learning rate",
    "with_convolutions": "this model has no convolutions to adapt",
    "where_measured": "this backend measures no held-out loss in this mode",
    "where_dropped": "this backend encodes captions once",
}
"""Why a resolver gave another value than what it was given."""
_FAST = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_COMMENT = re.compile(r"[\s,}\]]*#\s+(?P<text>.*)")


@dataclass(frozen=True, slots=True)
class File:
    """A YAML file that Hydra took, at its place in the configuration."""

    path: Path
    name: str
    """In Hydra's list: model/sdxl."""
    package: str
    """Under which key its own keys stand; empty for none."""


@dataclass(frozen=True, slots=True)
class Override:
    """What was typed."""

    key: str
    value: Any
    text: str


@dataclass(frozen=True, slots=True)
class Source:
    """In words, and of what kind."""

    layer: Layer
    text: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Composition:
    """What Hydra made a configuration of."""

    files: Sequence[File]
    """In the order in which each beats those before it."""
    overrides: Sequence[Override]
    """Of values; they beat all files."""
    options: Mapping[str, Source]
    """Who chose the option of a group."""
    raw: Mapping[str, Any]
    """The result, interpolations as they stand."""


def origins_of(composition: Composition, settings: Settings) -> tuple[Origin, ...]:
    """Of every setting."""
    values = settings.flat()
    tracer = _Tracer(composition, values)
    return tuple(tracer.origin(key) for key in values)


def file_source(file: File) -> Source:
    return Source(LAYERS.get(file.name.partition("/")[0], "group"), _shown(file.path))


def typed_source(text: str) -> Source:
    return Source("command line", f"command line: {text}")


def _shown(path: Path) -> str:
    return str(path.relative_to(PROJECT)) if path.is_relative_to(PROJECT) else str(path)


class _Tracer:
    """Follows keys to where their values stand."""

    def __init__(self, composition: Composition, values: Mapping[str, object]) -> None:
        self._composition = composition
        self._values = values
        self._written = [(file_source(file), _placed(file)) for file in composition.files]
        self._written += [(typed_source(each.text), _typed_keys(each)) for each in composition.overrides]

    def origin(self, key: str) -> Origin:
        group, _, name = key.rpartition(".")
        option = self._composition.options.get(group) if name == "name" else None
        source = option or self._source(key, self._values[key])
        return Origin(key, self._values[key], source.layer, source.text, source.reason)

    def _source(self, key: str, value: object) -> Source:
        own = self._writer(key)
        raw = _at(self._composition.raw, key)
        if own.layer == "command line" or not isinstance(raw, str):
            return own
        variable, taken = FROM_ENVIRONMENT.fullmatch(raw), TAKEN_FROM.fullmatch(raw)
        if variable is not None:
            there = variable["name"] in os.environ
            return Source("environment", f"environment: {variable['name']}", own.reason) if there else own
        return own if taken is None else self._followed(own, taken, value)

    def _followed(self, own: Source, taken: re.Match[str], value: object) -> Source:
        """To the row of a figure, or to another setting."""
        there, before = self._figure(taken["name"]) if taken["figure"] else self._reference(taken["name"])
        resolvers = re.findall(r"\w+", taken["wrappers"])
        adapted = [ADAPTED.get(name, name) for name in resolvers if before != value]
        reasons = dict.fromkeys([there.reason, own.reason, *(f"{text}: {before} there" for text in adapted)])
        return replace(there, reason="; ".join(reason for reason in reasons if reason))

    def _figure(self, name: str) -> tuple[Source, object]:
        raw = self._composition.raw
        model, mode = raw["model"], raw["mode"]["name"]
        figure = found(name, rows_of(model, raw["profile"], mode))
        assert figure is not None, "a figure that no row has ends the composition"
        if figure.place == OWN:
            source, where = self._writer(f"model.figures.{mode}.{name}"), "its own figures"
        else:
            source = self._writer(f"profile.figures.{mode}.{figure.place}.{name}")
            where = f"row {figure.place}{self._of_kin(figure.place)}{self._grade(figure.place, mode)}"
        return source if source.layer == "command line" else replace(
            source, text=f"{source.text}, {where}"
        ), figure.value

    def _of_kin(self, row: str) -> str:
        model = self._composition.raw["model"]
        return " of its kin" if row == model["kin"] != model["name"] else ""

    def _grade(self, row: str, mode: str) -> str:
        """How sure the row is; what all rows have in common rests on none."""
        evidence = _at(self._composition.raw, f"profile.known.evidence.{mode}.{row}")
        return f", grade {evidence['grade']}" if evidence else ""

    def _reference(self, key: str) -> tuple[Source, object]:
        value = self._values[key] if key in self._values else _at(self._composition.raw, key)
        return self._source(key, value), value

    def _writer(self, key: str) -> Source:
        """Who wrote it last; of what stands in no file by itself, who wrote what it is part of."""
        while key:
            for source, written in reversed(self._written):
                if key in written:
                    return replace(source, reason=written[key])
            key = key.rpartition(".")[0]
        raise AssertionError("every setting is written somewhere")


def _at(nested: Any, key: str) -> Any:
    for part in key.split("."):
        if not isinstance(nested, Mapping) or part not in nested:
            return None
        nested = nested[part]
    return nested


# ------------------------------------------------------------------------------------------------- what is written


def _typed_keys(override: Override) -> dict[str, str]:
    """A set of names and values is merged into what is there."""
    return dict.fromkeys(_keys(override.key, override.value), "")


def _keys(prefix: str, value: object) -> Iterator[str]:
    yield prefix
    if isinstance(value, dict):
        for name, each in value.items():
            yield from _keys(f"{prefix}.{name}", each)


def _placed(file: File) -> dict[str, str]:
    before = f"{file.package}." if file.package else ""
    return {f"{before}{key}": comment for key, comment in _commented(file.path, file.path.stat().st_mtime_ns).items()}


@cache
def _commented(path: Path, _changed: int) -> Mapping[str, str]:
    """The keys that a file gives a value to, each with the comment on its line."""
    text = path.read_text(encoding="utf-8")
    top = yaml.compose(text, _FAST)
    return dict(_walked("", top, text.splitlines())) if isinstance(top, yaml.MappingNode) else {}


def _walked(prefix: str, node: yaml.MappingNode, lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    for name, value in node.value:
        key = f"{prefix}{name.value}"
        if key == "defaults":
            continue
        yield key, _comment(value, lines)
        if isinstance(value, yaml.MappingNode):
            yield from _walked(f"{key}.", value, lines)


def _comment(value: yaml.Node, lines: Sequence[str]) -> str:
    """Behind the value; of one of several on a line only behind the last."""
    end = value.end_mark
    rest = lines[end.line][end.column :] if end.line < len(lines) and not _is_block(value) else ""
    comment = _COMMENT.fullmatch(rest)
    return "" if comment is None else comment["text"].strip()


def _is_block(value: yaml.Node) -> bool:
    return isinstance(value, yaml.CollectionNode) and not value.flow_style
