"""Captions that stand in one file for many pictures, as of Hugging Face's imagefolder: metadata.jsonl, .csv, .parquet.

Each row has `file_name`, the picture's path from the metadata's folder, and a caption in another column.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import Problem, UnreadableFile

NAMES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
AUTO, NONE = "auto", "none"
"""Of `data.metadata`; anything else is a path."""
UNREADABLE = (ValueError, csv.Error, RecursionError, NotImplementedError, LookupError, TypeError)
"""Of text that is none, of JSON (also nested without end) and of pyarrow."""
FILE_COLUMN = "file_name"
CAPTION_COLUMNS = ("text", "caption", "prompt")
"""The first of them that is there."""

Row = Mapping[str, Any]


@dataclass(slots=True)
class Captions:
    """Path of a picture -> its caption, as the files say; an empty one for a picture without."""

    rows: dict[str, str] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)


def read_captions(paths: Sequence[str], column: str | None) -> tuple[Captions, list[Problem]]:
    """Of all these files, and what is wrong with them."""
    found, problems = Captions(), []
    for path in paths:
        try:
            for picture, caption in _read(Path(path), column):
                if found.rows.setdefault(picture, caption) != caption:
                    raise UnreadableFile(f"has two captions for {picture}")
            found.files.append(path)
        except UnreadableFile as error:
            fix = "mend it, or data.metadata=FILE, or data.metadata=none for the captions beside the pictures"
            problems.append(Problem("data.metadata", path, str(error), fix))
    return found, problems


def _read(path: Path, column: str | None) -> Iterator[tuple[str, str]]:
    """Raises UnreadableFile."""
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise UnreadableFile(f"ends in none of {', '.join(READERS)}")
    try:
        for number, row in enumerate(reader(path), start=1):
            name = row.get(FILE_COLUMN)
            if not isinstance(name, str) or not name:
                raise UnreadableFile(f"row {number} has no {FILE_COLUMN}, only {_listed(row)}")
            yield os.path.normpath(path.parent / name), _text(row, _column(row, column, number), number)
    except OSError as error:
        raise UnreadableFile(f"can't be read: {error.strerror or error}") from error
    except UNREADABLE as error:
        raise UnreadableFile(f"can't be read: {(str(error) or type(error).__name__).splitlines()[0]}") from error


def _column(row: Row, asked: str | None, number: int) -> str:
    column = asked if asked is not None else next((name for name in CAPTION_COLUMNS if name in row), "")
    if column not in row:
        wanted = asked or ", ".join(CAPTION_COLUMNS)
        raise UnreadableFile(f"row {number} has no column {wanted}, only {_listed(row)}: data.caption_column=NAME")
    return column


def _text(row: Row, column: str, number: int) -> str:
    """Several captions stand in lines of their own."""
    value = row[column]
    if value is None:
        return ""
    texts = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in texts):
        raise UnreadableFile(f"row {number} has no text in its column {column}, but {value!r}"[:300])
    return "\n".join(text.strip() for text in texts if text.strip())


def _listed(row: Row) -> str:
    return ", ".join(str(name) for name in row) or "nothing"


def _json_lines(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise UnreadableFile(f"line {number} is no object: {line.strip()[:60]}")
                yield row


def _csv(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        yield from csv.DictReader(lines, restkey="")


def _parquet(path: Path) -> Iterator[Row]:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        columns = [name for name in file.schema_arrow.names if name != "image"]  # pictures themselves: not read
        for batch in file.iter_batches(columns=columns):
            yield from batch.to_pylist()


READERS = {".jsonl": _json_lines, ".csv": _csv, ".parquet": _parquet}
