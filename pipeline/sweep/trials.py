"""Trials, and where they come from: a list, or a search that learns from those before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeline.sweep.results import Result

Curve = Sequence[tuple[int, float]]
"""Steps and held-out losses."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of a sweep."""

    number: int
    overrides: tuple[str, ...]
    """All that it is told, as typed."""


class Source(Protocol):
    """Which trials there are, and which go on."""

    total: int
    """How many there will be."""
    retries_failed: bool
    """The same command tries trials again that failed."""

    def next(self) -> Trial | None:
        """None when there are no more."""

    def behind(self, trial: Trial, curve: Curve, steps: int) -> str:
        """Why a trial that is clearly behind the others is to be given up; empty: it goes on. `steps` is its length."""

    def tell(self, trial: Trial, result: Result) -> None:
        """How it ended."""


class Listed:
    """A grid: all trials are known before. `first` is the number of the first."""

    retries_failed = True

    def __init__(self, overrides: Sequence[Sequence[str]], first: int = 0) -> None:
        self.total = len(overrides)
        self._waiting = [Trial(first + place, tuple(each)) for place, each in enumerate(overrides)]

    def next(self) -> Trial | None:
        return self._waiting.pop(0) if self._waiting else None

    def behind(self, trial: Trial, curve: Curve, steps: int) -> str:  # noqa: ARG002
        return ""

    def tell(self, trial: Trial, result: Result) -> None:
        """Others do not depend on it."""


def typed(value: object) -> str:
    """As on the command line; of a number so many digits as tell trials apart."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
