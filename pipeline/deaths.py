"""Why a trainer died: its own word, else its exit status, else what its log ends with."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import Cause, TrainingFailed
from pipeline.records import Event

LOG_LINES_SHOWN = 12
LOG_BYTES_READ = 64 * 1024

LESS_MEMORY = (
    "memory=ultra_low_memory, train.batch_size=1 train.gradient_checkpointing=true, or a smaller train.resolution_px"
)


@dataclass(frozen=True, slots=True)
class Sign:
    """A text in the log's end that tells the cause."""

    pattern: re.Pattern[str]
    cause: Cause
    headline: str
    """May name the pattern's groups."""
    fix: str


def make_sign(pattern: str, cause: Cause, headline: str, fix: str) -> Sign:
    return Sign(re.compile(pattern, re.IGNORECASE), cause, headline, fix)


SIGNS: tuple[Sign, ...] = (
    make_sign(
        r"No module named '(?P<module>[\w.]+)'",
        Cause.MISSING_MODULE,
        "the trainer misses the Python module {module}",
        "pip install {module}",
    ),
    make_sign(
        r"No space left on device|Disk quota exceeded",
        Cause.DISK_FULL,
        "the disk is full",
        "free some space, or hydra.run.dir=<a folder on a larger disk>, or train.keep_checkpoints=1",
    ),
    make_sign(
        r"(CUDA|HIP|XPU) out of memory|OutOfMemoryError|UR_RESULT_ERROR_OUT_OF_(DEVICE|HOST)_MEMORY",
        Cause.OUT_OF_MEMORY,
        "the device's memory is not enough",
        LESS_MEMORY,
    ),
    make_sign(
        r"out of memory|std::bad_alloc|MemoryError|can't allocate memory|Cannot allocate memory",
        Cause.OUT_OF_MEMORY,
        "the memory is not enough",
        LESS_MEMORY,
    ),
    make_sign(
        r"\bSIGKILL\b|exitcode\s*:\s*-9\b",
        Cause.KILLED_BY_SYSTEM,
        "the system killed the trainer, most likely because memory ran out",
        f"{LESS_MEMORY}; `grep MemAvailable /proc/meminfo` shows what is free",
    ),
    make_sign(
        r"SafetensorError|HeaderTooLarge|MetadataIncompleteBuffer|UnidentifiedImageError|image file is truncated",
        Cause.BAD_FILE,
        "a file of the model or of the pictures is damaged",
        "python -m pipeline detect <the file> says what it is; fetch or save it anew",
    ),
)

FIXES: dict[Cause, str] = {sign.cause: sign.fix for sign in SIGNS} | {
    Cause.OUT_OF_MEMORY: LESS_MEMORY,
    Cause.MISSING_MODULE: "pip install <the module>",
    Cause.PROCESS_COUNT: "python -m pipeline doctor, which says what torch can open here (another torch or driver,"
    " CUDA_VISIBLE_DEVICES and its kin); unset RANK WORLD_SIZE LOCAL_RANK, where another launcher left them in the"
    " shell; or hardware.num_processes=1",
    Cause.NOT_FINITE: "a lower optimizer.lr, hardware.precision=fp32, or train.max_grad_norm=1.0",
    Cause.UNKNOWN: "the log says more",
}


def explain_death(code: int, events: Sequence[Event], log: Path, *, log_offset: int) -> TrainingFailed:
    """The error for a trainer that ended with `code` (negative: a signal) and no finished weights. `events` and the log
    from `log_offset` on are those of this start."""
    tail = _tail(log, log_offset)
    own_word = last_failure(events)
    if own_word is not None:
        cause = cause_named(own_word)
        fix = str(own_word.data.get("fix") or FIXES.get(cause, ""))
        return _error(cause, str(own_word.data.get("message", "")), fix, log, [])
    known = _from_code(code) or recognize(tail, SIGNS)
    cause, headline, fix = known or (Cause.UNKNOWN, _ended(code), FIXES[Cause.UNKNOWN])
    return _error(cause, headline, fix, log, tail.splitlines()[-LOG_LINES_SHOWN:])


def started_otherwise(asked: int, started: int) -> str:
    """What a trainer says where another number of processes train together than were asked for."""
    processes = "1 process was" if asked == 1 else f"{asked} processes were"
    return f"{processes} asked for (hardware.num_processes), and the training has {started}"


def last_failure(events: Sequence[Event]) -> Event | None:
    """The trainer's own word on why it stopped."""
    return next((event for event in reversed(events) if event.kind == "failure"), None)


def cause_named(failure: Event) -> Cause:
    name = failure.data.get("cause")
    return next((cause for cause in Cause if cause.value == name), Cause.UNKNOWN)


def _from_code(code: int) -> tuple[Cause, str, str] | None:
    if code not in (-signal.SIGKILL, 128 + signal.SIGKILL):
        return None
    sign = next(sign for sign in SIGNS if sign.cause is Cause.KILLED_BY_SYSTEM)
    return sign.cause, sign.headline, sign.fix


def recognize(text: str, signs: Sequence[Sign]) -> tuple[Cause, str, str] | None:
    """Cause, headline and fix of the first sign that the text shows."""
    for sign in signs:
        found = sign.pattern.search(text)
        if found:
            words = found.groupdict("")
            return sign.cause, sign.headline.format(**words), sign.fix.format(**words)
    return None


def _ended(code: int) -> str:
    if code < 0:
        return f"the trainer died of {signal.Signals(-code).name}"
    return "the trainer ended without saving weights" if code == 0 else f"the trainer ended with exit status {code}"


def _error(cause: Cause, headline: str, fix: str, log: Path, lines: list[str]) -> TrainingFailed:
    shown = [f"    {line}" for line in lines]
    told = [f"Training failed ({cause.value}): {headline}", *shown, f"    try: {fix}" if fix else "", f"    log: {log}"]
    return TrainingFailed(cause, "\n".join(line for line in told if line))


def _tail(log: Path, offset: int) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(offset, log.stat().st_size - LOG_BYTES_READ))
            return file.read().decode(errors="replace").rstrip()
    except OSError:
        return ""
