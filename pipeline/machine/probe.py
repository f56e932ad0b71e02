"""Looks at the machine, and asks this interpreter's torch what it can drive, without importing it here."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from pipeline.errors import Problem
from pipeline.machine.cards import Found, find_cards
from pipeline.machine.facts import MachineFacts, answer_from, facts_here, machine_from
from pipeline.machine.hung import end_hung
from pipeline.machine.variables import NAMES, VISIBILITY
from pipeline.records import Answer, Machine
from pipeline.settings import PlatformName

ASK_FILE = Path(__file__).with_name("ask.py")
ASK = (sys.executable, "-P", str(ASK_FILE))
DEVICE_NODES = ("nvidia[0-9]*", "kfd", "dri/renderD*", "dxg")


class NoAnswerError(Exception):
    """Torch could not be asked; the text says why."""


def probe_machine(
    wanted: PlatformName, *, seconds: float, command: Sequence[str] = ASK, dev: Path = Path("/dev")
) -> tuple[Machine, tuple[Problem, ...]]:
    """The machine, and what keeps the wanted platform from being used. Takes `seconds` and the time limit of the
    driver's tool at the most; never raises."""
    return machine_from(look(wanted, seconds=seconds, command=command, dev=dev), wanted)


def look(
    wanted: PlatformName, *, seconds: float, command: Sequence[str] = ASK, dev: Path = Path("/dev")
) -> MachineFacts:
    """What is here, with nothing decided. Where a CPU is wanted no card is looked for."""
    asked = "cpu" if wanted is PlatformName.cpu else "auto"
    remembered = None if _device_nodes(dev) else _cache_file(asked)
    found = Found() if asked == "cpu" else find_cards(dev.parent, names=NAMES)
    try:
        answer = _recall(remembered) or _ask([*command, asked], seconds)
    except NoAnswerError as error:
        return facts_here(found, None, no_answer=str(error))
    _remember(answer, remembered)
    return facts_here(found, answer)


def _device_nodes(dev: Path) -> list[Path]:
    return [node for pattern in DEVICE_NODES for node in dev.glob(pattern)]


# ----------------------------------------------------------------------------------------------------------- asking


def _ask(command: Sequence[str], seconds: float) -> Answer:
    return _parse(question(command, seconds))


def question(command: Sequence[str], seconds: float, *, environment: Mapping[str, str] | None = None) -> bytes:
    """What the command prints. It runs in a process group of its own, so that a hung driver's helpers are ended with
    it. Raises NoAnswerError."""
    if not 0 < seconds < threading.TIMEOUT_MAX:
        raise NoAnswerError(f"hardware.probe_seconds={seconds} is no time to wait")
    process = subprocess.Popen(
        command,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        output, complaint = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise NoAnswerError(f"torch did not answer within {seconds:g} s (hardware.probe_seconds)") from error
    finally:
        if process.poll() is None:
            end_hung(process)
    if process.returncode != 0:
        raise NoAnswerError(_last_line(complaint) or f"asking torch ended with status {process.returncode}")
    return output


def _parse(output: bytes) -> Answer:
    """The answer is the last line: libraries may have printed before it."""
    try:
        return answer_from(json.loads(_last_line(output)))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise NoAnswerError(f"torch's answer can't be read: {_last_line(output)[:200]!r}") from error


def _last_line(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


# ------------------------------------------------------------------------------------------------------ remembering
# Kept only where there is no device node at all: free memory changes from run to run, and a driver that is mended must
# be seen at once. Without a card the answer hangs on the installation alone.


def _cache_file(asked: str) -> Path | None:
    """None where there is no home folder or torch is not installed as a package."""
    try:
        torch_version = metadata.version("torch")
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except (metadata.PackageNotFoundError, RuntimeError):
        return None
    program = hashlib.sha256(ASK_FILE.read_bytes()).hexdigest()
    key = [sys.executable, torch_version, asked, program, {name: os.environ.get(name) for name in VISIBILITY}]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    return folder / "lora-easy-pipeline" / f"probe-{digest}.json"


def _recall(cache_file: Path | None) -> Answer | None:
    if cache_file is None:
        return None
    try:
        return _parse(cache_file.read_bytes())
    except (OSError, NoAnswerError):
        return None


def _remember(answer: Answer, cache_file: Path | None) -> None:
    """A cache that can't be written costs two seconds at the next start, and nothing else."""
    if cache_file is None or answer.platform != "cpu":
        return
    unfinished = cache_file.with_suffix(f".{os.getpid()}.part")
    with contextlib.suppress(OSError):
        cache_file.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(json.dumps(asdict(answer)))
        unfinished.replace(cache_file)
