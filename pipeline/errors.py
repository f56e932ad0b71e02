"""The one error tree. Everything here is a user's problem, told without a traceback.

RunError                    any reason why a run could not do what was asked
|- InvalidSettings          the configuration can't run here: all problems at once, nothing was started
|- UnreadableFile           a file of the user's that can't be read as what it should be
|- TrackingError            the tracking store or server can't be used
|- TrainingFailed           the trainer ended without finished weights
|- Stopped                  the user (or the system, by SIGTERM) asked for the end
|  |- Pruned                a sweep asked for it: this trial was clearly behind the others
|- SweepFailed              trials of a sweep ended without finished weights, the others are there
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum


class RunError(Exception):
    """Any reason why a run could not do what was asked; the text is for the user."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a configuration: where, what, and what to type instead."""

    key: str
    """Dotted name of the setting, as typed on the command line."""
    value: object
    reason: str
    """What is wrong and what is allowed."""
    fix: str
    """What to type."""

    def __str__(self) -> str:
        value = str(self.value).lower() if isinstance(self.value, bool) else self.value
        return f"{self.key}={value}: {self.reason}\n    try: {self.fix}"


class InvalidSettings(RunError):
    """The configuration can't run here. Raised once, with everything that is wrong."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = problems
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(f"{count} with this configuration\n" + "\n".join(f"  - {problem}" for problem in problems))


class UnreadableFile(RunError):
    """A file of the user's that can't be read as what it should be."""


class TrackingError(RunError):
    """The tracking store or server can't be used."""


class Cause(StrEnum):
    """Why a trainer ended without finished weights."""

    OUT_OF_MEMORY = "out_of_memory"
    KILLED_BY_SYSTEM = "killed_by_system"
    NOT_FINITE = "not_finite"
    MISSING_MODULE = "missing_module"
    BAD_FILE = "bad_file"
    STOPPED_BY_USER = "stopped_by_user"
    DISK_FULL = "disk_full"
    PROCESS_COUNT = "process_count"
    UNKNOWN = "unknown"


class TrainingFailed(RunError):
    """The trainer ended without finished weights."""

    def __init__(self, cause: Cause, message: str) -> None:
        self.cause = cause
        super().__init__(message)


class Stopped(RunError):
    """The user (or the system, by SIGTERM) asked for the end; a checkpoint was saved where there was one to save."""

    cause = Cause.STOPPED_BY_USER

    def __init__(self, message: str, *, signal_number: int = 2) -> None:
        self.exit_code = 128 + signal_number
        """As a shell reports a command that died of the signal."""
        super().__init__(message)


class Pruned(Stopped):
    """A sweep asked for the end: this trial was clearly behind the others."""


class SweepFailed(RunError):
    """Trials of a sweep ended without finished weights; the others are there."""


def did_you_mean(word: str, choices: list[str]) -> str:
    """' Did you mean x?' for the nearest of `choices`, or nothing."""
    near = get_close_matches(word, choices, n=1, cutoff=0.6)
    return f" Did you mean {near[0]}?" if near else ""
