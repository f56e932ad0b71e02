"""Stage four: runs the job's command as a process group of its own, shows its events, passes a stop on, and says how it
ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from pipeline import standby
from pipeline.deaths import cause_named, explain_death, last_failure
from pipeline.errors import Cause, Pruned, Stopped
from pipeline.journal import JournalReader, read_journal
from pipeline.outcome import last_text, outcome_from
from pipeline.records import Ending, Event, Job
from pipeline.signals import stop_requests, time_is_up_for_me_alone

LOG_NAME = "trainer.log"
POLL_SECONDS = 0.1
CHECKPOINT_SECONDS = 60.0


def execute(
    job: Job,
    *,
    show: Callable[[Event], None],
    lock: int | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> Ending:
    """Returns when the trainer and all that it started are gone; what the trainer does is never raised. `lock` is the
    open file that holds the run's lock: the trainer keeps it open too, so that an orphan is not taken for a run that
    nobody works on. A trainer that was asked to stop has `checkpoint_seconds` to save a checkpoint."""
    log = job.run_dir / LOG_NAME
    log_offset = log.stat().st_size if log.exists() else 0
    journal = JournalReader(job.run_dir)
    before = list(journal.new_events())
    with stop_requests() as stops:
        trainer = _start(job, log, lock)
        code = _follow(trainer, journal, stops, show, checkpoint_seconds)
    events = read_journal(job.run_dir)
    if code == 0 and not job.saves_weights:
        return Ending(outcome_from(events, "finished", None), None)
    return _ending(code, stops, events, events[len(before) :], log, log_offset)


class Trainer(Protocol):
    """A process, the first of its group."""

    pid: int
    returncode: int

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""

    def wait(self) -> int: ...


def _start(job: Job, log: Path, lock: int | None) -> Trainer:
    """In a session of its own: Ctrl-C in the terminal reaches the runner only."""
    env, kept = {**os.environ, **job.env}, () if lock is None else (lock,)
    waiting = standby.taken(job.argv, job.env)
    with log.open("ab") as output, time_is_up_for_me_alone():
        if waiting is not None:
            waiting.become(job.argv, cwd=job.cwd, env=env, output=output.fileno(), kept=kept)
            return waiting
        return subprocess.Popen(
            job.argv,
            cwd=job.cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=kept,
        )


def _follow(
    trainer: Trainer,
    journal: JournalReader,
    stops: Sequence[int],
    show: Callable[[Event], None],
    checkpoint_seconds: float,
) -> int:
    """Shows events until the trainer is gone; answers the first stop request with SIGTERM, the second with SIGKILL."""
    asked_at: float | None = None
    try:
        while trainer.poll() is None:
            _show_new(journal, show)
            if stops and asked_at is None:
                asked_at = time.monotonic()
                _signal_group(trainer, signal.SIGTERM)
                text = "stopping: the trainer saves a checkpoint (once more to end it at once)"
                show(Event("phase", time.time(), {"text": text}))
            if asked_at is not None and (len(stops) > 1 or time.monotonic() - asked_at > checkpoint_seconds):
                _signal_group(trainer, signal.SIGKILL)
            time.sleep(POLL_SECONDS)
    finally:
        _signal_group(trainer, signal.SIGKILL)  # what it started and left behind
        trainer.wait()
    _show_new(journal, show)
    return trainer.returncode


def _show_new(journal: JournalReader, show: Callable[[Event], None]) -> None:
    for event in journal.new_events():
        show(event)


def _signal_group(trainer: Trainer, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(trainer.pid, number)


def _ending(
    code: int, stops: Sequence[int], events: Sequence[Event], new: Sequence[Event], log: Path, log_offset: int
) -> Ending:
    if code == 0 and last_text(events, "weights", "path") is not None:
        return Ending(outcome_from(events, "finished", None), None)
    failure = last_failure(new)
    given_up = last_text(new, "prune", "reason")
    if stops and given_up is not None:
        error = Pruned(f"Given up by the sweep: {given_up}", signal_number=stops[0])
        return Ending(outcome_from(events, "pruned", None), error)
    if stops or (failure is not None and cause_named(failure) is Cause.STOPPED_BY_USER):
        stopped = Stopped(_stopped_text(events, failure), signal_number=stops[0] if stops else signal.SIGTERM)
        return Ending(outcome_from(events, "killed", Stopped.cause), stopped)
    death = explain_death(code, new, log, log_offset=log_offset)
    return Ending(outcome_from(events, "failed", death.cause), death)


def _stopped_text(events: Sequence[Event], failure: Event | None) -> str:
    step = last_text(events, "checkpoint", "step")
    trouble = ""
    if failure is not None and cause_named(failure) is not Cause.STOPPED_BY_USER:
        trouble = f" ({failure.data.get('message', '')})"
    if step is None:
        return f"Stopped before the first checkpoint{trouble}: the same command starts over."
    return f"Stopped{trouble}. The last checkpoint is of step {step}: the same command goes on from there."
