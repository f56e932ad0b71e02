"""What files turned out to be, for people and for programs."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.checkpoint.find import find_models
from pipeline.checkpoint.identify import identify
from pipeline.checkpoint.identity import Identity
from pipeline.errors import UnreadableFile
from pipeline.wording import count, size


@dataclass(frozen=True, slots=True)
class Look:
    """One look at a path: what it is, or why that can't be told."""

    path: Path
    identity: Identity | None
    error: str | None


def look(paths: Sequence[Path]) -> Iterator[Look]:
    """At each path; at all models in it where it is a folder of models."""
    for path in paths:
        try:
            yield from map(_look_at, find_models(path))
        except (OSError, RuntimeError, UnreadableFile) as error:
            yield Look(path, None, f"{path} can't be read: {error}" if isinstance(error, OSError) else str(error))


def _look_at(path: Path) -> Look:
    try:
        identity = identify(path)
    except UnreadableFile as error:
        return Look(path, None, str(error))
    return Look(path, identity, f"{path} {identity.incomplete}" if identity.incomplete else None)


def json_line(seen: Look) -> str:
    """One object, on one line."""
    found = seen.identity
    told = {
        "path": str(seen.path),
        "kind": found.kind if found else "unknown",
        "family": found.family if found else None,
        "variant": found.variant if found else None,
        "prediction": found.prediction if found else None,
        "dtype": found.dtype if found else None,
        "parameters": found.parameters if found else None,
        "layout": found.layout if found else None,
        "parts": list(found.parts) if found else [],
        "evidence": [*_as_base(found), *map(str, found.evidence)] if found else [],
        "error": seen.error,
    }
    return json.dumps(told)


def _as_base(found: Identity) -> Iterator[str]:
    if found.model:
        yield f"model: model={found.model} ({'certain' if len(found.models) == 1 else 'likely'})"
    if found.refused and found.kind in ("checkpoint", "denoiser", "unknown"):
        yield f"base model: no, {found.refused} (certain)"


def detail_lines(seen: Look) -> list[str]:
    """Everything of one file, for a terminal."""
    found = seen.identity
    if found is None:
        return [f"{seen.error}"]
    rows = [
        ("is", found.title + (f" ({found.variant})" if found.variant else "")),
        ("kind", found.kind + (f", {found.layout} names" if found.layout else "")),
        ("family", found.family or "not known"),
        ("predicts", _prediction(found)),
        ("parameters", f"{count(found.parameters)} as {found.dtype or 'nothing'}, {size(found.bytes)} on disk"),
        ("parts", ", ".join(found.parts)),
        ("train with", _train_with(seen, found)),
        ("problem", seen.error or ""),
    ]
    rows += [("" if i else "because", str(evidence)) for i, evidence in enumerate(found.evidence)]
    return [str(seen.path), *(line for name, value in rows if value for line in _hanging(name, value))]


def _hanging(name: str, value: str) -> list[str]:
    """Wrapped to the terminal, under its name; one line where there is no terminal."""
    if not sys.stdout.isatty():
        return [f"  {name:<11} {value}"]
    width = max(60, shutil.get_terminal_size().columns)
    return textwrap.wrap(value, width, initial_indent=f"  {name:<11} ", subsequent_indent=" " * 14)


def _prediction(found: Identity) -> str:
    if found.prediction is None:
        return "can't be told by the header" if found.kind in ("checkpoint", "denoiser") else ""
    return f"{found.prediction} ({found.prediction_sure})" + (", zero terminal SNR" if found.zero_terminal_snr else "")


def _train_with(seen: Look, found: Identity) -> str:
    if found.model is None:
        return f"no: {found.refused}" if found.refused and found.kind != "unknown" else ""
    others = [name for name in found.models if name != found.model]
    or_else = f"   (or model={', '.join(others)}, if you know it is one)" if others else ""
    return f"model={found.model} model.path={seen.path}{or_else}"


def print_table(looks: Sequence[Look]) -> None:
    """A row a file; what can't be read is told below."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    columns = COLUMNS if console.width >= WIDE else COLUMNS[:NARROW_COLUMNS]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in columns:
        table.add_column(title, overflow="fold", min_width=24 if title == "file" else None)
    root = _shared_folder([seen.path for seen in looks])
    for seen in looks:
        table.add_row(*_cells(seen, root)[: len(columns)], style="dim" if seen.identity is None else None)
    console.print(table)
    errors = Console(stderr=True)
    for seen in looks:
        if seen.error:
            errors.print(f"{seen.error}", style="red", highlight=False, markup=False, soft_wrap=True)


COLUMNS = ("file", "kind", "model", "predicts", "stored as", "parameters", "parts")
NARROW_COLUMNS, WIDE = 5, 110
"""Narrower terminals get the first columns only: names broken into bits can't be read."""


def _cells(seen: Look, root: Path) -> tuple[str, ...]:
    from rich.markup import escape

    name = escape(str(seen.path.relative_to(root)) if seen.path != root else seen.path.name)
    found = seen.identity
    if found is None:
        return name, "not readable", "", "", "", "", ""
    model = found.model or (found.family or "?") + (f" {found.variant}" if found.variant else "")
    parts = ", ".join(found.parts) if found.parts != (found.kind,) else ""
    told = (model, found.prediction or "", found.dtype or "", count(found.parameters), parts)
    return (name, found.kind, *map(escape, told))


def _shared_folder(paths: Sequence[Path]) -> Path:
    """The deepest folder that all of them are in."""
    folders = [path.parent for path in paths]
    shared = folders[0]
    while not all(folder.is_relative_to(shared) for folder in folders):
        shared = shared.parent
    return shared
