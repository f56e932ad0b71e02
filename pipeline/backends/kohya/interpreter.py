"""Finds out what the interpreter of a checkout has in its environment, without importing any of it here."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.machine import ask as torch_ask
from pipeline.machine.facts import answer_from
from pipeline.machine.hung import end_hung
from pipeline.machine.probe import DEVICE_NODES
from pipeline.machine.variables import VISIBILITY
from pipeline.records import Answer

ASK = Path(__file__).with_name("ask.py")
TORCH_ASK = Path(torch_ask.__file__)
IMPORT_PATHS = ("PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE")
"""Variables by which packages come from elsewhere than the environment."""


@dataclass(frozen=True, slots=True)
class Environment:
    """What an interpreter said of itself."""

    python: str
    """Version."""
    answer: Answer
    """Of its torch."""
    packages: Mapping[str, str]
    """Versions by name, of what is installed and not broken."""
    broken: Mapping[str, str]
    """Why an installed package can't be imported."""


class NoAnswerError(Exception):
    """The interpreter could not be asked; the text says why."""

    def __init__(self, reason: str, fix: str = "") -> None:
        self.fix = fix
        """What to type; empty where only the interpreter itself can show more."""
        super().__init__(reason)


def ask_environment(
    python: Path, root: Path, names: Iterable[str], *, seconds: float, dev: Path = Path("/dev")
) -> Environment:
    """Takes `seconds` at the most. Raises NoAnswerError."""
    question = [str(python), str(ASK), str(TORCH_ASK), str(root), *sorted(names)]
    remembered = None if _has_device_nodes(dev) else _cache_file(python, question)
    known = _recall(remembered)
    if known is not None:
        return known
    environment = _ask(question, seconds)
    _remember(environment, remembered)
    return environment


def _has_device_nodes(dev: Path) -> bool:
    return any(node for pattern in DEVICE_NODES for node in dev.glob(pattern))


# ----------------------------------------------------------------------------------------------------------- asking


def _ask(question: Sequence[str], seconds: float) -> Environment:
    """An answer counts however the process ended: what it says of the import that ended it is the news."""
    if not 0 < seconds < threading.TIMEOUT_MAX:
        raise NoAnswerError(f"hardware.probe_seconds={seconds} is no time to wait", "hardware.probe_seconds=60")
    output, complaint, status = _run(question, seconds)
    environment = _parse(output)
    if environment is not None:
        return environment
    if status is None:
        fix = f"hardware.probe_seconds={max(60, 2 * seconds):g}"
        raise NoAnswerError(f"it did not answer within {seconds:g} s (hardware.probe_seconds)", fix)
    if status != 0:
        raise NoAnswerError(_last_line(complaint) or f"it ended with status {status}")
    raise NoAnswerError(f"its answer can't be read: {_last_line(output)[:200]!r}")


def _run(question: Sequence[str], seconds: float) -> tuple[bytes, bytes, int | None]:
    """Output, complaint and status; None for one that had to be ended. In a process group of its own, so that the
    helpers of a hung driver end with it."""
    try:
        process = subprocess.Popen(
            question, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
    except (OSError, ValueError) as error:
        raise NoAnswerError(f"it can't be started: {getattr(error, 'strerror', None) or error}") from error
    try:
        output, complaint = process.communicate(timeout=seconds)
        return output, complaint, process.returncode
    except subprocess.TimeoutExpired as error:
        return error.output or b"", b"", None
    finally:
        if process.poll() is None:
            end_hung(process)


def _parse(output: bytes) -> Environment | None:
    """The last line that is an answer: libraries print before and after it."""
    for line in reversed(output.decode(errors="replace").splitlines()):
        with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return _environment(json.loads(line))
    return None


def _environment(said: Any) -> Environment:
    """Raises for what is no answer."""
    return Environment(
        python=str(said["python"]),
        answer=answer_from(said),
        packages={str(name): str(version) for name, version in said["packages"].items()},
        broken={str(name): str(reason) for name, reason in said["broken"].items()},
    )


def _last_line(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


# ------------------------------------------------------------------------------------------------------ remembering
# Under the same rule as the answer of our own torch: only where there is no device node at all. And only for a virtual
# environment that nothing else adds packages to: the time stamp of its one package folder changes with every package
# that comes, goes or is upgraded.


def _cache_file(python: Path, question: Sequence[str]) -> Path | None:
    """None where what is installed can't be told from outside, or where there is no home folder."""
    environment = _stamps(python)
    if environment is None or any(os.environ.get(name) for name in IMPORT_PATHS):
        return None
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        programs = [hashlib.sha256(file.read_bytes()).hexdigest() for file in (ASK, TORCH_ASK)]
    except (OSError, RuntimeError):
        return None
    key = [*question, *programs, environment, {name: os.environ.get(name) for name in VISIBILITY}]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    return folder / "lora-easy-pipeline" / f"kohya-{digest}.json"


def _stamps(python: Path) -> list[object] | None:
    """Of a closed virtual environment; None for any other interpreter."""
    home = python.parent.parent
    try:
        configuration = (home / "pyvenv.cfg").read_text(errors="replace")
        packages = list(home.glob("lib/python*/site-packages"))
        if "include-system-site-packages = false" not in configuration.lower() or len(packages) != 1:
            return None
        return [str(python.resolve()), configuration, str(packages[0]), packages[0].stat().st_mtime_ns]
    except OSError:
        return None


def _recall(cache_file: Path | None) -> Environment | None:
    if cache_file is None:
        return None
    try:
        return _parse(cache_file.read_bytes())
    except OSError:
        return None


def _remember(environment: Environment, cache_file: Path | None) -> None:
    """What is broken may be mended by tomorrow. A cache that can't be written costs seconds, and nothing else."""
    if cache_file is None or environment.answer.platform != "cpu" or environment.broken:
        return
    unfinished = cache_file.with_suffix(f".{os.getpid()}.part")
    with contextlib.suppress(OSError):
        cache_file.parent.mkdir(parents=True, exist_ok=True)
        said = asdict(environment)
        unfinished.write_text(json.dumps({**said, **said.pop("answer")}))
        unfinished.replace(cache_file)
