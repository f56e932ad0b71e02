"""Tells the journal what the command prints, logs and writes."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from pipeline.backends.kohya.counting import ProcessCount
from pipeline.backends.kohya.descendants import resident_bytes
from pipeline.backends.kohya.job import KohyaJob
from pipeline.backends.kohya.outputs import Output, Outputs
from pipeline.backends.kohya.progress import Figures, Piece, Pieces, Step, Steps, Thinner, read_bar, read_phase
from pipeline.backends.kohya.tensorboard import EventFolder
from pipeline.journal import Journal

TAIL_LINES = 200
"""Of the output, kept to tell why it died."""
LOOK_SECONDS = 0.2
MEMORY_SECONDS = 5.0


class Telling:
    """What is known of one start of the command, and what of it is told."""

    def __init__(self, job: KohyaJob, journal: Journal, log: BinaryIO) -> None:
        self.phase: str | None = None
        """What it said last that it is busy with."""
        self.bad_loss: Step | None = None
        """The first update whose loss is not a finite number."""
        self.last_state: tuple[int, str] | None = None
        """Step and path of the newest state that this start wrote."""
        self.processes = ProcessCount(job)
        """How many train, by what they print."""
        self._job, self._journal, self._log = job, journal, log
        self._run_dir = Path(job.run_dir)
        self._events = EventFolder(Path(job.logging_dir))
        self._outputs = Outputs(job)
        self._steps = Steps(job)
        self._pieces, self._thinner = Pieces(), Thinner()
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._held: list[Output] = []
        """Files of an update whose numbers are still to come."""
        self._is_over = False
        self._looked_at = -math.inf
        self._told_phase: str | None = None
        self._on_cpu = False
        self._memory_bytes, self._measured_at = 0, -math.inf

    def take_output(self, chunk: bytes) -> None:
        for piece in self._pieces.feed(chunk):
            self._take(piece)
        self._notice(self._pieces.rest)  # a bar has no end before it is drawn again
        self._flush()

    def look(self) -> None:
        """At what was logged and written; not more often than is worth it."""
        now = time.monotonic()
        if now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        if not self._take_scalars():
            self._tell(self._steps.settle())
        self._held += self._outputs.new()
        self._tell_outputs()

    def end(self) -> None:
        """Tells the rest, when nothing writes any more."""
        for piece in self._pieces.end():
            self._take(piece)
        self._flush()
        self._held += self._outputs.new(nothing_writes=True)
        self._take_scalars()
        self._tell(self._steps.end())
        self._is_over = True
        self._tell_outputs()
        for path in self._events.damaged():
            self._journal.write("warning", text=f"{path} is damaged: not all of its numbers could be read")

    @property
    def trains_wrongly(self) -> bool:
        """Nothing good can come of it any more."""
        return self.bad_loss is not None or self.processes.trouble is not None

    def finished_is_new(self) -> bool:
        return self._outputs.finished_is_new()

    def tail(self) -> str:
        """The end of the output, without redrawn bars."""
        return "\n".join(self._tail)

    # ------------------------------------------------------------------------------------------------------- output

    def _take(self, piece: Piece) -> None:
        self._notice(piece.text)
        self.processes.take(piece.text)
        if not piece.is_redraw:
            self._tail.append(piece.text)
        if self._thinner.passes(piece):
            with contextlib.suppress(OSError):  # a training is worth more than its log
                self._log.write(piece.text.encode() + b"\n")

    def _flush(self) -> None:
        with contextlib.suppress(OSError):
            self._log.flush()

    def _notice(self, text: str) -> None:
        self._on_cpu = self._on_cpu or "accelerator device: cpu" in text
        bar = read_bar(text)
        if bar is not None:
            self._take_scalars()
            self._tell(self._steps.take_bar(bar))
        phase = read_phase(text)
        if phase is not None:
            self.phase = phase
            if phase != self._told_phase:
                self._told_phase = phase
                self._journal.write("phase", text=phase)

    # -------------------------------------------------------------------------------------------------------- steps

    def _take_scalars(self) -> bool:
        scalars = self._events.new_scalars()
        for scalar in scalars:
            self._tell(self._steps.take_scalar(scalar))
        return bool(scalars)

    def _tell(self, found: Iterable[Step | Figures]) -> None:
        for each in found:
            if self.bad_loss is not None:
                return
            if isinstance(each, Figures):
                self._journal.write("metric", step=each.step, values=each.metrics)
            elif math.isfinite(each.loss):
                self._tell_outputs(before=each.number)
                self._tell_step(each)
            else:
                self.bad_loss = each
        self._tell_outputs()

    def _tell_step(self, step: Step) -> None:
        self.phase = self._told_phase = None  # the next sampling or saving is worth a word again
        self._journal.write(
            "step",
            step=step.number,
            steps=self._job.steps,
            loss=step.loss,
            lr=step.lr,
            steps_per_second=step.steps_per_second,
            memory_bytes=self._memory(),
        )
        if step.metrics:
            self._journal.write("metric", step=step.number, values=step.metrics)

    def _memory(self) -> int | None:
        """Of a device only its driver knows; None there."""
        if not self._on_cpu:
            return None
        if time.monotonic() - self._measured_at > MEMORY_SECONDS:
            self._measured_at = time.monotonic()
            self._memory_bytes = max(self._memory_bytes, resident_bytes())
        return self._memory_bytes

    # -------------------------------------------------------------------------------------------------------- files

    def _tell_outputs(self, *, before: int | None = None) -> None:
        """A sample of step 10 comes after the numbers of step 10, though it is written before them."""
        held, self._held = self._held, []
        end = self._steps.last + 1 if before is None else before
        for output in held:
            step = self._steps.newest() if output.step is None else self._steps.number(output.step)
            if step < end or self._is_over:
                self._tell_output(output, step)
            else:
                self._held.append(output)

    def _tell_output(self, output: Output, step: int) -> None:
        path = os.path.relpath(output.path, self._run_dir)
        if output.kind == "state":
            self.last_state = (step, path)
            self._journal.write("checkpoint", step=step, path=path)
        elif output.kind == "weights":  # no checkpoint: a run can't go on from them
            self._journal.write("phase", text=f"the weights of step {step} are in {path}")
        else:
            prompts = self._job.prompts
            self._journal.write(
                "sample",
                step=step,
                index=output.index,
                prompt=prompts[output.index] if output.index < len(prompts) else "",
                seed=self._job.sample_seed + output.index if output.seed is None else output.seed,
                path=path,
            )
