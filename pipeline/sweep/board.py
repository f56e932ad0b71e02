"""What the user sees of a sweep: on a terminal a table of its trials that moves, elsewhere a line a change."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from pipeline.sweep.engine import Board, Running
from pipeline.sweep.names import labels
from pipeline.sweep.results import Result, varied_of
from pipeline.sweep.trials import Trial
from pipeline.wording import duration

if TYPE_CHECKING:
    from rich.table import Table

STYLES = {"running": "bold", "finished": "green", "failed": "red", "pruned": "yellow", "killed": "red"}


@contextmanager
def open_board(total: int, shared: list[str], output: TextIO | None = None) -> Iterator[Board]:
    """The board that suits `output`, which is stdout unless told otherwise. `shared` is what all trials are told."""
    output = output or sys.stdout
    if not output.isatty() or os.environ.get("TERM") == "dumb":
        yield Lines(total, shared, output)
        return
    from rich.console import Console
    from rich.live import Live

    board = Moving(total, shared)
    with Live(get_renderable=board.table, console=Console(file=output), refresh_per_second=4) as live:
        board.console = live.console
        yield board


@dataclass(slots=True)
class Row:
    """A trial, in words."""

    varied: str
    state: str = "running"
    step: str = ""
    loss: str = ""
    note: str = ""


class Lines:
    """For files and pipes."""

    def __init__(self, total: int, shared: list[str], output: TextIO) -> None:
        self._total = total
        self._shared = shared
        self._output = output

    def began(self, running: Running) -> None:
        self.say(f"{self._name(running.trial)}: began")

    def moved(self, running: Running) -> None:
        """The trial's own log has all of it."""

    def ended(self, trial: Trial, result: Result) -> None:
        row = _row(result, words(trial, self._shared))
        told = ", ".join(part for part in (f"held-out loss {row.loss}" if row.loss else "", row.step, row.note) if part)
        self.say(f"{self._name(trial)}: {row.state}" + (f", {told}" if told else ""))

    def say(self, text: str) -> None:
        self._output.write(f"{text}\n")
        self._output.flush()

    def _name(self, trial: Trial) -> str:
        varied = words(trial, self._shared)
        return f"trial {trial.number} of {self._total}" + (f" ({varied})" if varied else "")


class Moving:
    """For terminals."""

    def __init__(self, total: int, shared: list[str]) -> None:
        from rich.console import Console

        self.console = Console()
        self._total = total
        self._shared = shared
        self._rows: dict[int, Row] = {}

    def began(self, running: Running) -> None:
        self._rows[running.trial.number] = Row(short_words(running.trial, self._shared))

    def moved(self, running: Running) -> None:
        row = self._rows[running.trial.number]
        step, steps = running.progress
        row.step = f"{step}/{steps}" if steps else ""
        row.loss = f"{running.curve[-1][1]:.4f}" if running.curve else ""

    def ended(self, trial: Trial, result: Result) -> None:
        self._rows[trial.number] = _row(result, short_words(trial, self._shared))

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False)

    def table(self) -> Table:
        """As it stands now; rows that do not fit are left out from the top."""
        from rich.table import Table
        from rich.text import Text

        done = sum(row.state != "running" for row in self._rows.values())
        table = Table(
            title=f"{done} of {self._total} trials have ended", title_justify="left", box=None, padding=(0, 2)
        )
        for name in ("#", "trial", "state", "step", "held-out loss", ""):
            table.add_column(name, justify="right" if name in ("#", "step", "held-out loss") else "left")
        shown = list(self._rows.items())[-max(4, self.console.height - 6) :]
        for number, row in shown:
            state = Text(row.state, style=STYLES.get(row.state, ""))
            table.add_row(str(number), Text(row.varied), state, row.step, row.loss, Text(row.note))
        return table


def words(trial: Trial, shared: list[str]) -> str:
    """What it was told and others were not."""
    return " ".join(f"{key}={value}" for key, value in varied_of(trial.overrides, shared).items())


def short_words(trial: Trial, shared: list[str]) -> str:
    """The same, for a column."""
    return ", ".join(labels(varied_of(trial.overrides, shared)))


def _row(result: Result, varied: str) -> Row:
    loss = result.outcome.heldout_after
    seconds = duration(result.outcome.seconds) if result.state == "finished" else ""
    step = f"{result.outcome.steps} steps" if result.outcome.steps else ""
    return Row(varied, result.state, step, "" if loss is None else f"{loss:.4f}", result.reason or seconds)
