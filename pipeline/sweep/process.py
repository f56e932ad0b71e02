"""A trial is a process: `run.py` with this trial's overrides. One that dies takes nothing along, and leaves no memory.

On a CPU it begins as a fork of one process that has imported torch and its kin, which saves each trial the seconds that
imports take. A card's driver does not live through a fork: there each trial starts as if it were typed.
"""

from __future__ import annotations

import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver, get_context
from pathlib import Path
from typing import Any, Protocol

from pipeline import standby
from pipeline.locks import RUN_LOCK, is_held
from pipeline.resume import last_start
from pipeline.settings import PROJECT
from pipeline.sweep.slots import Slot

RUN = str(PROJECT / "run.py")
PRELOADED = "pipeline.sweep.preloaded"
TRACKING = ("mlflow", "mlflow.store.tracking.sqlalchemy_store")
"""More than a second to import, of which each trial's training would lose its part."""
TRIAL = "LORA_EASY_TRIAL"
"""Set in the environment of trials: how run.py knows that it is one."""


class Process(Protocol):
    """Of a trial; the first of its group."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""


class Starter(Protocol):
    """Starts trials."""

    def start(self, argv: Sequence[str], slot: Slot, log: Path) -> Process:
        """`run.py` with these arguments, in a session of its own; what it prints goes to `log`."""


class Fresh:
    """As if it were typed."""

    def start(self, argv: Sequence[str], slot: Slot, log: Path) -> Process:
        with log.open("ab") as output, _on_cores(slot.cores):
            return subprocess.Popen(
                [sys.executable, RUN, *argv],
                env=_environment(slot),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


class Warm:
    """Forks of a process that has imported what trials need."""

    def __init__(self, env: Mapping[str, str], *, tracked: bool) -> None:
        """`env` is what libraries are to find when they are imported; `tracked`: trials are recorded in MLflow."""
        os.environ.update(env)
        self._context = get_context("forkserver")
        self._context.set_forkserver_preload([PRELOADED, *(TRACKING if tracked else ())])
        with _found_here():
            forkserver.ensure_running()

    def start(self, argv: Sequence[str], slot: Slot, log: Path) -> Process:
        process = self._context.Process(target=_trial, args=(list(argv), _environment(slot), slot.cores, str(log)))
        process.start()
        return _Forked(process)


class AfterAnother:
    """Begins when the run is free: an earlier start of the sweep was killed, and its trial lives on. That one is waited
    for, and is what a stop is for; what begins then finds its weights, or goes on from its checkpoint."""

    def __init__(self, run_dir: Path, start: Callable[[], Process]) -> None:
        self._lock, self._start = run_dir / RUN_LOCK, start
        other = last_start(run_dir)
        self._other = None if other is None or other.data.get("host") != socket.gethostname() else other.data.get("pid")
        self._process: Process | None = None
        self.began = time.time() if other is None else other.time
        """Seconds since the epoch: when the other did."""
        self.wanted = True

    @property
    def pid(self) -> int:
        """Of the other while it lives; 0 where that can't be reached from here."""
        return int(str(self._other or 0)) if self._process is None else self._process.pid

    def poll(self) -> int | None:
        if self._process is None and is_held(self._lock):
            return None
        if self._process is None and not self.wanted:
            return -signal.SIGTERM
        self._process = self._process or self._start()
        return self._process.poll()


class _Forked:
    def __init__(self, process: Any) -> None:
        self._process = process
        self.pid: int = process.pid

    def poll(self) -> int | None:
        code: int | None = self._process.exitcode
        return code


def stop(process: Process, number: signal.Signals) -> None:
    """To the runner, which passes it on to its trainer; SIGKILL to all that it started in its group."""
    if isinstance(process, AfterAnother):
        process.wanted = False
    try:
        if process.pid <= 0:
            return
        if number is signal.SIGKILL:
            os.killpg(process.pid, number)
        else:
            os.kill(process.pid, number)
    except ProcessLookupError:
        pass


def _environment(slot: Slot) -> dict[str, str]:
    """HYDRA_FULL_ERROR is run.py's own word to Hydra, not the user's."""
    own = {name: value for name, value in os.environ.items() if name != "HYDRA_FULL_ERROR"}
    return {**own, **slot.env, TRIAL: "1"}


@contextmanager
def _found_here() -> Iterator[None]:
    """Python's own server of forks looks for modules in the working directory, and then in what is installed, which may
    be another checkout of this project."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(PROJECT), *([before] if before else [])])
    try:
        yield
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before


@contextmanager
def _on_cores(cores: Sequence[int]) -> Iterator[None]:
    """What is started meanwhile keeps to these cores."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _trial(argv: Sequence[str], env: Mapping[str, str], cores: Sequence[int], log: str) -> None:
    """In the forked process, which has no other threads yet."""
    stand_alone(env, log)
    if cores:
        os.sched_setaffinity(0, cores)
    standby.fork()
    sys.argv = [RUN, *argv]
    runpy.run_path(RUN, run_name="__main__")


def stand_alone(env: Mapping[str, str], log: str) -> None:
    """Makes a fork what a command would be that is started with this environment, in a session of its own, and prints
    into `log`."""
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout, sys.stderr = (open(file, "w", buffering=1, closefd=False) for file in (1, 2))  # noqa: SIM115
    os.environ.clear()
    os.environ.update(env)
