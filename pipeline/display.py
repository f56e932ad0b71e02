"""What the user sees while a run goes on: one line a stage, then the progress of the training, then a summary.

On a terminal a bar that moves; elsewhere plain lines, one about every tenth of the way or every 30 seconds. rich is
loaded on a terminal only. A display that can't print (the reader of a pipe has gone) falls silent: it never ends a run.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TextIO

from pipeline.outcome import HELDOUT, number
from pipeline.records import Choice, Event
from pipeline.wording import choice_line, duration

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

SECONDS_BETWEEN_LINES = 30.0
SMOOTHING = 0.9
QUIET_SECONDS = 1.0
"""What is counted to its end in less is not worth a bar."""
SECONDS_BETWEEN_COUNTS = 0.25


class Display(Protocol):
    """Somewhere to show a run."""

    def show(self, event: Event) -> None:
        """Shows an event of the journal, or nothing where it is of no interest to the user."""

    def say(self, lines: Sequence[str]) -> None:
        """Prints lines as they are."""


@contextmanager
def open_display(output: TextIO | None = None) -> Iterator[Display]:
    """The display that suits `output`, which is stdout unless told otherwise."""
    output = output or sys.stdout
    if output.isatty() and os.environ.get("TERM") != "dumb":
        with _terminal(output) as terminal:
            yield terminal
    else:
        yield Lines(output)


class Counted:
    """Shows on a display how far something is, a few times a second."""

    def __init__(self, display: Display, name: str, *, now: Callable[[], float] = time.monotonic) -> None:
        self._display = display
        self._name = name
        self._now = now
        self._shown_at: float | None = None

    def __call__(self, done: int, of: int) -> None:
        if self._shown_at is None:
            self._shown_at = self._now() + QUIET_SECONDS - SECONDS_BETWEEN_COUNTS
        elif self._now() - self._shown_at >= SECONDS_BETWEEN_COUNTS:
            self._shown_at = self._now()
            data = {"text": f"{self._name}: {done} of {of}", "done": done, "of": of}
            self._display.show(Event("phase", time.time(), data))


@dataclass(slots=True)
class Training:
    """How far the training is, made out from its `step` events."""

    step: int = 0
    steps: int = 0
    steps_per_second: float | None = None
    _sum: float = 0.0
    _weight: float = 0.0

    def take(self, data: Mapping[str, object]) -> None:
        self.step = int(number(data.get("step")) or 0)
        self.steps = int(number(data.get("steps")) or 0)
        self.steps_per_second = number(data.get("steps_per_second"))
        loss = number(data.get("loss"))
        if loss is not None:
            self._sum = SMOOTHING * self._sum + (1 - SMOOTHING) * loss
            self._weight = SMOOTHING * self._weight + (1 - SMOOTHING)

    @property
    def loss(self) -> float | None:
        """The mean of the last steps, the newest weighing most."""
        return self._sum / self._weight if self._weight else None

    def words(self) -> str:
        left = (self.steps - self.step) / self.steps_per_second if self.steps_per_second else None
        parts = (
            f"step {self.step}/{self.steps}",
            None if self.loss is None else f"loss {self.loss:.4f}",
            None if self.steps_per_second is None else f"{self.steps_per_second:.2f} steps/s",
            None if left is None else f"{duration(left)} left",
        )
        return "  ".join(part for part in parts if part)


# ------------------------------------------------------------------------------------------------------ plain lines


class Lines:
    """A display for files, pipes and logs: no control codes."""

    def __init__(self, output: TextIO, *, now: Callable[[], float] = time.monotonic) -> None:
        self._output = output
        self._now = now
        self._training = Training()
        self._printed_tenth = -1
        self._printed_at = 0.0
        self._counted_tenth = 0

    def show(self, event: Event) -> None:
        if event.kind == "step":
            self._show_step(event)
        elif event.kind == "phase" and "of" in event.data:
            self._show_count(event.data)
        else:
            self.say([text for text, _ in _told(event)])

    def say(self, lines: Sequence[str]) -> None:
        try:
            for line in lines:
                self._output.write(_encodable(line, self._output) + "\n")
            self._output.flush()
        except OSError:  # nobody reads any more
            self._output = _nowhere()

    def _show_count(self, data: Mapping[str, object]) -> None:
        tenth = int(10 * (number(data["done"]) or 0) / (number(data["of"]) or 1))
        if tenth != self._counted_tenth or self._now() - self._printed_at >= SECONDS_BETWEEN_LINES:
            self._counted_tenth, self._printed_at = tenth, self._now()
            self.say([f"  {data['text']}"])

    def _show_step(self, event: Event) -> None:
        self._training.take(event.data)
        tenth = 10 * self._training.step // max(1, self._training.steps)
        if tenth != self._printed_tenth or self._now() - self._printed_at >= SECONDS_BETWEEN_LINES:
            self._printed_tenth, self._printed_at = tenth, self._now()
            self.say([f"  {self._training.words()}"])


def _encodable(line: str, output: TextIO) -> str:
    encoding = getattr(output, "encoding", None) or "utf-8"
    return line.encode(encoding, errors="replace").decode(encoding)


def _nowhere() -> TextIO:
    """Also keeps Python from failing on its own last flush of a closed pipe."""
    sink = open(os.devnull, "w")  # noqa: SIM115, PTH123
    sys.stdout = sink
    return sink


def _told(event: Event) -> list[tuple[str, str]]:
    """(text, style) of the lines that an event is worth."""
    data = event.data
    match event.kind:
        case "stage":
            seconds = duration(number(data.get("seconds")) or 0.0)
            mark, style = ("✓", "green") if data.get("succeeded", True) else ("✗", "red")
            return [(f"{mark} {data['name']!s:<9}{data['summary']}   {seconds}", style)]
        case "choice":
            line = choice_line(Choice(str(data["key"]), data["value"], str(data["reason"])))
            return [(f"    {line}", "dim")]
        case "warning":
            return [(f"  ! {data['text']}", "yellow")]
        case "phase":
            return [(f"  {data['text']}", "dim")]
        case "metric":
            return _told_metric(data)
    return []


def _told_metric(data: Mapping[str, object]) -> list[tuple[str, str]]:
    values = data.get("values")
    heldout = number(values.get(HELDOUT)) if isinstance(values, dict) else None
    return [] if heldout is None else [(f"  held-out loss {heldout:.4f} at step {data.get('step')}", "dim")]


# --------------------------------------------------------------------------------------------------------- terminal


class Terminal:
    """A display with a bar that moves."""

    def __init__(self, console: Console, progress: Progress) -> None:
        self._console = console
        self._progress = progress
        self._task: TaskID | None = None
        self._training = Training()

    def show(self, event: Event) -> None:
        if event.kind == "step":
            self._training.take(event.data)
            self._move(self._training.words(), total=self._training.steps, completed=self._training.step)
        elif event.kind == "phase":
            total, completed = (number(event.data.get(name)) for name in ("of", "done"))
            self._move(str(event.data["text"]), total=total, completed=completed)
        else:
            self._close_bar(after=event.kind == "stage")
            for text, style in _told(event):
                self._print(text, style)

    def say(self, lines: Sequence[str]) -> None:
        self._close_bar(after=True)
        for line in lines:
            self._print(line, "")

    def _move(self, words: str, *, total: float | None = None, completed: float | None = None) -> None:
        if self._task is None:
            self._task = self._progress.add_task(words, total=total)
            self._progress.start()
        self._progress.update(self._task, description=words, total=total, completed=completed)

    def _close_bar(self, *, after: bool) -> None:
        if after and self._task is not None:
            self._progress.remove_task(self._task)
            self._progress.stop()
            self._task = None

    def _print(self, text: str, style: str) -> None:
        if text.startswith(("✓", "✗")):  # only the mark has the colour
            self._console.print(text[0], style=style, end="", markup=False, highlight=False)
            text, style = text[1:], ""
        self._console.print(text, style=style or None, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _terminal(output: TextIO) -> Iterator[Terminal]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

    console = Console(file=output)
    progress = Progress(
        SpinnerColumn(),
        BarColumn(bar_width=28),
        TextColumn("{task.description}", markup=False),
        console=console,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    try:
        yield Terminal(console, progress)
    finally:
        progress.stop()
