"""Runs the trials of a sweep, as many at once as there are slots, and looks after them until the last has ended.

Each trial is an ordinary run in a directory of its own, `<sweep>/<number>`. One that fails ends nothing else.
"""

from __future__ import annotations

import shlex
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import yaml

from pipeline.errors import Cause
from pipeline.files import write_text
from pipeline.journal import FILE_NAME as JOURNAL
from pipeline.journal import Journal, JournalReader
from pipeline.locks import RUN_LOCK, is_held
from pipeline.outcome import heldout_curve, number
from pipeline.records import Event
from pipeline.signals import stop_requests
from pipeline.sweep.place import Place
from pipeline.sweep.process import AfterAnother, Process, Starter, stop
from pipeline.sweep.results import Result, result_of
from pipeline.sweep.slots import Slot
from pipeline.sweep.trials import Curve, Source, Trial

LOG_NAME = "console.log"
POLL_SECONDS = 0.1
LAST_LINES = 40
BY_REQUEST = (-signal.SIGTERM, 128 + signal.SIGTERM, 128 + signal.SIGINT)
"""Exit codes."""


@dataclass(slots=True)
class Running:
    """A trial at work."""

    trial: Trial
    run_dir: Path
    process: Process
    slot: Slot
    command: str
    """What repeats it."""
    log_offset: int
    """Where in its log this start begins."""
    began: float = field(default_factory=time.time)
    events: list[Event] = field(default_factory=list)
    given_up: bool = False
    _offset: int = 0

    def look(self) -> bool:
        """Reads what is new in its journal; whether there was anything. A run that begins anew has a new one."""
        path = self.run_dir / JOURNAL
        if not path.exists():
            return False
        if path.stat().st_size < self._offset:
            self.events, self._offset = [], 0
        reader = JournalReader(self.run_dir, offset=self._offset)
        new = list(reader.new_events())
        self.events, self._offset = self.events + new, reader.offset
        return bool(new)

    @property
    def curve(self) -> Curve:
        return heldout_curve(self.events)

    @property
    def progress(self) -> tuple[int, int]:
        """Steps done, of how many; zeros before the first."""
        last = next((event for event in reversed(self.events) if event.kind == "step"), None)
        return (0, 0) if last is None else (int(number(last.data["step"]) or 0), int(number(last.data["steps"]) or 0))


class Board(Protocol):
    """Where the user sees the sweep."""

    def began(self, running: Running) -> None: ...

    def moved(self, running: Running) -> None: ...

    def ended(self, trial: Trial, result: Result) -> None: ...

    def say(self, text: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Engine:
    """What the trials of one sweep share."""

    place: Place
    source: Source
    starter: Starter
    board: Board
    flags: Sequence[str]
    """Of the command line: folders of configuration."""
    kept: Sequence[str]
    """Hydra's own overrides that decide what is composed."""
    shared: Sequence[str]
    """What was typed for all."""

    def run(self, slots: Sequence[Slot]) -> list[int]:
        """The signals that asked for an end; empty when all trials have ended by themselves."""
        free, running = list(slots), list[Running]()
        with stop_requests() as stops:
            passed_on = 0
            while True:
                while free and not stops and (trial := self.source.next()) is not None:
                    running.append(self._begin(trial, free.pop(0)))
                if not running:
                    return list(stops)
                passed_on = self._pass_on(running, stops, passed_on)
                free += [each.slot for each in running if self._has_ended(each)]
                running = [each for each in running if each.slot not in free]
                time.sleep(POLL_SECONDS)

    def _begin(self, trial: Trial, slot: Slot) -> Running:
        run_dir = self.place.run_dir(trial.number)
        run_dir.mkdir(parents=True, exist_ok=True)
        argv = [*self.flags, *trial.overrides, *self.kept, f"hydra.run.dir={_quoted(run_dir)}"]
        log = run_dir / LOG_NAME
        offset = log.stat().st_size if log.exists() else 0
        command = shlex.join(["python", "run.py", *self.flags, *trial.overrides, *self.kept])
        process = self._process(trial, argv, slot, log)
        running = Running(trial, run_dir, process, slot, command, offset)
        if isinstance(process, AfterAnother):
            running.began = process.began
        self.board.began(running)
        return running

    def _process(self, trial: Trial, argv: Sequence[str], slot: Slot, log: Path) -> Process:
        run_dir = log.parent
        if not is_held(run_dir / RUN_LOCK):
            return self.starter.start(argv, slot, log)
        self.board.say(f"trial {trial.number} is at work still, since an earlier start of this sweep: waiting for it")
        return AfterAnother(run_dir, lambda: self.starter.start(argv, slot, log))

    def _pass_on(self, running: Sequence[Running], stops: Sequence[int], passed_on: int) -> int:
        """The first request lets every trial save a checkpoint, the second ends them at once."""
        if len(stops) > passed_on:
            for each in running:
                stop(each.process, signal.SIGTERM if passed_on == 0 else signal.SIGKILL)
            if passed_on == 0:
                self.board.say("stopping: each trial saves a checkpoint (once more to end them at once)")
        return len(stops)

    def _has_ended(self, running: Running) -> bool:
        code = running.process.poll()
        if running.look():
            self.board.moved(running)
            self._judge(running)
        if code is None:
            return False
        _complete(running, code)
        result = result_of(running.run_dir, self.shared)
        self.source.tell(running.trial, result)
        self.board.ended(running.trial, result)
        return True

    def _judge(self, running: Running) -> None:
        """After each new measure, unless it has ended meanwhile."""
        latest = running.events[-1]
        if running.given_up or latest.kind == "end" or not any(e.kind == "metric" for e in running.events):
            return
        reason = self.source.behind(running.trial, running.curve, running.progress[1])
        if reason:
            running.given_up = True
            journal = Journal(running.run_dir)
            journal.write("prune", reason=reason)
            journal.close()
            stop(running.process, signal.SIGTERM)


def _quoted(path: Path) -> str:
    """As Hydra reads a string with anything in it."""
    return '"' + str(path.absolute()).replace('"', '\\"') + '"'


def _complete(running: Running, code: int) -> None:
    """A process that could not say how it ended is said to have failed, with its last words; one that never came to
    its journal gets one."""
    overrides = running.run_dir / ".hydra" / "overrides.yaml"
    if not overrides.exists():
        overrides.parent.mkdir(exist_ok=True)
        write_text(overrides, yaml.safe_dump(list(running.trial.overrides)))
    told = {event.kind for event in running.events if event.time >= running.began}
    if code == 0 or "end" in told:
        return
    journal = Journal(running.run_dir)
    if "run" not in told:
        journal.write("run", name=running.run_dir.name, command=running.command, fingerprint="")
    if "failure" not in told:
        journal.write("failure", cause=Cause.UNKNOWN, message=_last_words(running, code))
    journal.write("end", status="killed" if code in BY_REQUEST else "failed", cause=None)
    journal.close()


def _last_words(running: Running, code: int) -> str:
    """What it printed last, without the lines that tell of progress."""
    log = running.run_dir / LOG_NAME
    printed = log.read_bytes()[running.log_offset :] if log.exists() else b""
    lines = printed.decode(errors="replace").splitlines()[-LAST_LINES:]
    told = [line for line in lines if line.strip() and not line.startswith(("\u2713 ", "\u2717 ", "    "))]
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return "\n".join(told) or f"its process ended with {how} and said nothing"
