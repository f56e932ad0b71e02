"""The job of sd-scripts' watcher: the command that trains, and what is to be seen while it does."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from pipeline.backends.kohya.cache_keeping import CachePart
from pipeline.errors import UnreadableFile


@dataclass(frozen=True, slots=True, kw_only=True)
class KohyaJob:
    """All that the watcher is told. Paths are absolute."""

    run_dir: str
    argv: list[str]
    """`accelerate launch` with the script and its TOML."""
    cwd: str
    env: dict[str, str]
    """Added to the runner's own."""
    num_processes: int
    """That train on this machine."""
    num_machines: int
    """That train together, each with so many processes."""
    machine_rank: int
    """All but machine 0 have nothing to save."""
    steps: int
    """Optimizer updates of the whole run."""
    first_step: int
    """Updates that were done before this start: 0, or the step of the state that it goes on from."""
    counted_from: int
    """What the script's own count begins at then, in scalars and in the names of files."""
    output_dir: str
    """Weights, states and samples appear here."""
    logging_dir: str
    """TensorBoard event files appear under it."""
    output_name: str
    finished: str
    """The finished weights: a file, or a folder."""
    prompts: list[str]
    """Of the samples, in their order."""
    sample_seed: int
    pictures: str = ""
    """The file that names the pictures to train on; empty: nothing is known of their caches."""
    caches: CachePart | None = None
    """What the caches on the disk are made from; None: nothing is kept there."""
    cache_dir: str = ""
    """Folder of what is kept for all runs; empty: nothing of it is removed."""
    cache_max_bytes: float = 0.0
    """It may take so much."""
    expected: dict[str, str]
    """Metadata that the finished adapter must hold; empty for a whole checkpoint."""

    def to_toml(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises UnreadableFile for a file that is not a job."""
        try:
            told = tomllib.loads(path.read_text(encoding="utf-8"))
            unknown = sorted(set(told) - {part.name for part in fields(cls)})
            if unknown:
                raise KeyError(f"unknown keys {unknown}")
            caches = told.pop("caches", None)
            return cls(**told, caches=None if caches is None else CachePart(**caches))
        except (OSError, tomllib.TOMLDecodeError, TypeError, KeyError) as error:
            raise UnreadableFile(f"{path} is not a job of the kohya backend: {error}") from error
