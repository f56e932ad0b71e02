"""Runs the command of a job and follows it to its end. Output, scalars and files are looked at in turns by one thread,
and once more when the command is gone, so that nothing of a quick end is lost.

Nothing here ends a training because it is slow or silent: only a stop, another number of processes than was asked for,
a loss that is no number, or its own end does.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from pipeline.backends.kohya.deaths import LOGGED_SIGNS, explain
from pipeline.backends.kohya.descendants import adopt_orphans, end_all
from pipeline.backends.kohya.job import KohyaJob
from pipeline.backends.kohya.progress import Step
from pipeline.backends.kohya.telling import Telling
from pipeline.backends.kohya.written import differences, weights_trouble
from pipeline.deaths import FIXES, recognize
from pipeline.errors import Cause
from pipeline.journal import Journal

POLL_SECONDS = 0.1
CHUNK_BYTES = 64 * 1024
FAILED = 1
NOT_STARTED = 127
"""As a shell has it."""
PLAIN_OUTPUT = {"COLUMNS": "500", "PYTHONUNBUFFERED": "1"}
"""Where the job says nothing else: log lines are not wrapped, and come at once."""


def watch(job: KohyaJob, journal: Journal, stops: list[int], log: BinaryIO) -> int:
    """Runs the command until its end, until `stops` has a signal, or until the runner is gone. Returns an exit code:
    the command's own (128 + n where a signal n ended it or this), 1 for one that ended well without the weights that
    were asked for."""
    telling = Telling(job, journal, log)
    runner = os.getppid()
    adopt_orphans()
    try:
        command = _start(job)
    except OSError as error:
        fix = "backend.python=<the interpreter of its environment> backend.root=<its checkout>"
        journal.write("failure", cause=Cause.BAD_FILE.value, message=f"sd-scripts can't be started: {error}", fix=fix)
        return NOT_STARTED
    try:
        _follow(command, telling, stops, runner)
    finally:
        end_all(command, politely=command.poll() is None)
    _drain(command, telling)
    return _ending(command.returncode, job, journal, telling, stops)


def _start(job: KohyaJob) -> subprocess.Popen[bytes]:
    """In this process's own group, so that whoever ends that ends all."""
    return subprocess.Popen(
        job.argv,
        cwd=job.cwd,
        env={**os.environ, **PLAIN_OUTPUT, **job.env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
    )


def _follow(command: subprocess.Popen[bytes], telling: Telling, stops: list[int], runner: int) -> None:
    """Until it is gone, somebody asks for its end, or nothing good can come of it. A runner that was killed asks too:
    nobody would be there to end this."""
    assert command.stdout is not None
    os.set_blocking(command.stdout.fileno(), False)
    with selectors.DefaultSelector() as selector:
        selector.register(command.stdout, selectors.EVENT_READ)
        while command.poll() is None and not stops and not telling.trains_wrongly:
            if not selector.get_map():
                time.sleep(POLL_SECONDS)
            elif selector.select(POLL_SECONDS) and not _read(command.stdout.fileno(), telling):
                selector.unregister(command.stdout)  # closed by a command that goes on without it
            telling.look()
            if os.getppid() != runner:
                stops.append(signal.SIGTERM)


def _read(output: int, telling: Telling) -> bool:
    """Takes what there is; False at the end."""
    chunk = os.read(output, CHUNK_BYTES)
    telling.take_output(chunk)
    return bool(chunk)


def _drain(command: subprocess.Popen[bytes], telling: Telling) -> None:
    """What was printed, logged and written before the end. Something may hold the pipe open: it is not waited for."""
    assert command.stdout is not None
    with contextlib.suppress(BlockingIOError):
        while _read(command.stdout.fileno(), telling):
            pass
    command.stdout.close()
    telling.end()


# ---------------------------------------------------------------------------------------------------------- ending


def _ending(code: int, job: KohyaJob, journal: Journal, telling: Telling, stops: Sequence[int]) -> int:
    """Writes the weights or the failure, and returns the exit code."""
    failure = _failure(code, job, telling, stops)
    if failure is None:
        if job.machine_rank == 0:
            journal.write("weights", path=job.finished)
        return 0
    cause, message, fix = failure
    journal.write("failure", cause=cause.value, message=message, fix=fix)
    if stops:
        return 128 + stops[0]
    if code == 0 or telling.trains_wrongly:
        return FAILED
    return code if code > 0 else 128 - code


def _failure(code: int, job: KohyaJob, telling: Telling, stops: Sequence[int]) -> tuple[Cause, str, str] | None:
    """Cause, message and fix; None for finished weights."""
    if telling.processes.trouble is not None:
        return Cause.PROCESS_COUNT, telling.processes.trouble, FIXES[Cause.PROCESS_COUNT]
    if telling.bad_loss is not None:
        return _not_finite(telling.bad_loss)
    trouble = _trouble_of_weights(job, telling) if code == 0 else None
    if stops and (code or trouble):
        return _stopped(telling)
    return trouble if code == 0 else explain(code, telling.tail(), telling.phase)


def _not_finite(step: Step) -> tuple[Cause, str, str]:
    message = (
        f"the loss of step {step.number} is {step.loss}, and every weight with it. sd-scripts would go on to the last"
        " step; it was ended here"
    )
    fix = (
        "a lower optimizer.lr (a third), train.max_grad_norm=1.0, hardware.precision=bf16 or fp32; a look at the"
        " pictures, where it is always the same step"
    )
    return Cause.NOT_FINITE, message, fix


def _trouble_of_weights(job: KohyaJob, telling: Telling) -> tuple[Cause, str, str] | None:
    """Why what an end without an error left can't be called the finished weights. Only machine 0 has any."""
    if job.machine_rank:
        return None
    path = Path(job.finished)
    if not telling.finished_is_new():
        known = recognize(telling.tail(), LOGGED_SIGNS)
        return known or (Cause.UNKNOWN, f"sd-scripts ended without an error and without {path}", "the log says more")
    trouble = weights_trouble(path)
    if trouble is not None:
        return Cause.BAD_FILE, f"the finished weights are not whole: {trouble}", "a disk with more space"
    different = differences(path, job.expected)
    if different:
        message = f"the finished adapter is not what was asked for. {'; '.join(different)}"
        return Cause.UNKNOWN, message, f"a look at {path}: it was trained, but otherwise than its settings say"
    return None


def _stopped(telling: Telling) -> tuple[Cause, str, str]:
    message = "stopped. sd-scripts saves nothing when it is stopped"
    if telling.last_state is None:
        return Cause.STOPPED_BY_USER, f"{message}, and this start has written no state", "the same command again"
    step, path = telling.last_state
    return Cause.STOPPED_BY_USER, f"{message}: the last state is of step {step}, {path}", "the same command goes on"
