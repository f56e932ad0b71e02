"""What a run was made with: the programs whose versions may decide the weights, kept in its plan.json."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from pipeline.settings import PROJECT

DECIDING = (
    *("torch", "diffusers", "transformers", "accelerate", "lycoris-lora", "peft", "bitsandbytes", "safetensors"),
    *("numpy", "Pillow"),
)
"""Packages that compute, load or cut what is trained on."""
_GIT_SECONDS = 5


@dataclass(frozen=True, slots=True)
class MadeWith:
    """The programs of a run."""

    python: str
    packages: Mapping[str, str]
    """Versions by name, of those that are installed."""
    commit: str | None
    """Of this program's checkout; None where it is none."""
    dirty: bool | None
    """Files that git knows were changed since."""


def made_with(optimizer: str | None, checkout: Path = PROJECT) -> MadeWith:
    """What this interpreter and this checkout are now, nothing imported for it. `optimizer` is the package that the
    run's optimizer needs beside the others."""
    commit, dirty = commit_of(checkout)
    names = DECIDING if optimizer is None else (*DECIDING, optimizer)
    installed = {name: version for name in names if (version := _version(name)) is not None}
    return MadeWith(".".join(map(str, sys.version_info[:3])), installed, commit, dirty)


def commit_of(checkout: Path) -> tuple[str | None, bool | None]:
    """The commit, and whether files were changed since; None for both where the folder is no checkout."""
    if not (checkout / ".git").exists():  # git would answer for any repository around this folder
        return None, None
    commit = _git(checkout, "rev-parse", "HEAD")
    changes = _git(checkout, "status", "--porcelain", "--untracked-files=no")
    return (None, None) if commit is None or changes is None else (commit, bool(changes))


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(checkout: Path, *words: str) -> str | None:
    command = ["git", "--no-optional-locks", "-C", str(checkout), *words]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=_GIT_SECONDS).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
