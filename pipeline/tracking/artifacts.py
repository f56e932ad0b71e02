"""The files of a run that MLflow keeps: what was configured, what was made, and the logs; secrets masked."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipeline.explanation import FILE_NAME as EXPLANATION
from pipeline.journal import FILE_NAME as JOURNAL
from pipeline.outcome import FILE_NAME as OUTCOME
from pipeline.records import Outcome
from pipeline.tracking.description import Description
from pipeline.tracking.masking import Masker
from pipeline.tracking.store import Client

PLAN = "plan.json"
ROOT_FILES = ("config.yaml", PLAN, EXPLANATION, OUTCOME, JOURNAL, "trainer.log", "skipped.jsonl", "dataset.html")
_TEXT = frozenset({".yaml", ".yml", ".toml", ".json", ".jsonl", ".log", ".txt", ".md", ".csv", ".sh", ".html"})


@dataclass(frozen=True, slots=True)
class Source:
    """A run that has ended, whose files are to be kept."""

    run_dir: Path
    outcome: Outcome
    description: Description
    mask: Masker


def log_files(client: Client, run_id: str, source: Source) -> list[str]:
    """Logs what there is of a run's files; gives a warning for each that can't be read. Raises what the client does."""
    warnings: list[str] = []
    if not (source.run_dir / PLAN).exists():
        client.log_dict(run_id, source.description.plan, PLAN)
    with tempfile.TemporaryDirectory(prefix="mlflow-") as scratch:
        for file, folder in _files_of(source.run_dir):
            try:
                readable = masked_copy(file, Path(scratch), source.mask)
            except OSError as error:
                warnings.append(f"{file} is not in MLflow: {error}")
                continue
            client.log_artifact(run_id, str(readable), folder)
    weights = _weights_of(source.run_dir, source.outcome)
    if weights is not None:
        _log_weights(client, run_id, weights)
    return warnings


def _files_of(run_dir: Path) -> Iterator[tuple[Path, str | None]]:
    """Files and the artifact folder of each. Only pictures at the root are shown in a row by MLflow's compare page."""
    for name in ROOT_FILES:
        if (run_dir / name).is_file():
            yield run_dir / name, None
    for picture in sorted(run_dir.glob("*.png")):
        yield picture, None
    for file in sorted((run_dir / "job").glob("*")):  # folders there are of the user's pictures and tokenizers
        if file.is_file():
            yield file, "job"


def masked_copy(file: Path, scratch: Path, mask: Masker) -> Path:
    """Line by line, since a log can be long; a picture is logged as it is."""
    if file.suffix not in _TEXT:
        file.open("rb").close()  # an unreadable file is told of here, apart from an unreachable server
        return file
    copy = scratch / file.name
    with (
        file.open(encoding="utf-8", errors="replace", newline="") as lines,
        copy.open("w", encoding="utf-8", newline="") as out,
    ):
        out.writelines(mask(line) for line in lines)
    return copy


def _weights_of(run_dir: Path, outcome: Outcome) -> Path | None:
    if outcome.weights is None:
        return None
    weights = run_dir / outcome.weights  # stays as it is when absolute
    return weights if weights.exists() else None


def _log_weights(client: Client, run_id: str, weights: Path) -> None:
    root = urlsplit(client.get_run(run_id).info.artifact_uri)
    if root.scheme == "file":
        _link_or_copy(weights, Path(unquote(root.path)) / "weights" / weights.name)
    elif weights.is_dir():
        client.log_artifacts(run_id, str(weights), f"weights/{weights.name}")
    else:
        client.log_artifact(run_id, str(weights), "weights")


def _link_or_copy(source: Path, target: Path) -> None:
    """A second name for the same bytes where the disk allows it: a whole model is gigabytes."""
    if source.is_dir():
        for item in sorted(source.iterdir()):
            _link_or_copy(item, target / item.name)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:  # another disk, or one that has no links
        shutil.copy2(source, target)
