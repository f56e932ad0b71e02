"""The job of sd-scripts' watcher: the command that trains, and what is to be seen while it does."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

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
    steps: int
    """Optimizer updates of the whole run."""
    first_step: int
    """What its own count begins at: 0, or the step of the state that it goes on from."""
    counts_from_zero: bool
    """Its progress bar shows steps of this start only (a script that can't skip to its state's step)."""
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
    expected: dict[str, str]
    """Metadata that the finished adapter must hold; empty for a whole checkpoint."""

    def to_toml(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises UnreadableFile for a file that is not a job."""
        try:
            told = tomllib.loads(path.read_text(encoding="utf-8"))
            unknown = sorted(set(told) - {part.name for part in fields(cls)})
            if unknown:
                raise KeyError(f"unknown keys {unknown}")
            return cls(**told)
        except (OSError, tomllib.TOMLDecodeError, TypeError, KeyError) as error:
            raise UnreadableFile(f"{path} is not a job of the kohya backend: {error}") from error
