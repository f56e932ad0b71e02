"""The pictures of a sweep's report: the samples of its trials, and their held-out losses by step."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.journal import read_journal
from pipeline.outcome import number
from pipeline.records import Event
from pipeline.sample_grid import compare_grid
from pipeline.sweep.names import labels
from pipeline.sweep.results import Result, axes_of

MAX_ROWS = 12
"""Of the grid: with four prompts a picture of 1.2 by 3.1 thousand pixels."""
MAX_LABELLED = 6
"""Lines that a legend tells apart."""
_LABEL_LETTERS = 24
_WIDEST_RATIO = 4.0
"""Between the largest loss and the smallest one: beyond that a linear axis shows little of the best."""
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's, which the colour-blind can tell apart."""
_OTHERS = "#b8bcc4"
_INK = "#3a3f47"


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of the report, or why there is none."""

    name: str
    png: bytes | None
    note: str
    """What is to be told beside it; without a picture the reason."""


@dataclass(frozen=True, slots=True)
class Samples:
    """The last samples of a trial."""

    prompts: tuple[str, ...]
    paths: tuple[Path, ...]


def grid_of(results: Sequence[Result], name: str) -> Picture:
    """A row a trial, in the order of `results`, a column a prompt."""
    drawn = [(rank, result, samples) for rank, result, samples in _with_samples(results)]
    if not drawn:
        return Picture(name, None, "no trial has drawn samples since its first step")
    columns = max(len(samples.prompts) for _, _, samples in drawn)
    whole = [each for each in drawn if len(each[2].prompts) == columns]
    shown = whole[:MAX_ROWS]
    axes = axes_of(results)
    rows = {_row_label(rank, result, axes): samples.paths for rank, result, samples in shown}
    prompts = [_heading(column, [samples for _, _, samples in shown]) for column in range(columns)]
    return Picture(name, _png(compare_grid(rows, prompts)), _grid_note(len(results), len(drawn), len(shown)))


def curves_of(results: Sequence[Result], name: str) -> Picture:
    """The held-out loss by step of all trials; the first of `results` in colour."""
    measured = [result for result in results if result.curve]
    if not measured:
        return Picture(name, None, "no trial has measured a held-out loss")
    figure, axes = new_figure(8.0, 4.6)
    varied = axes_of(results)
    for position, result in reversed(list(enumerate(measured))):  # the best on top
        _draw_curve(axes, result, position, varied)
    _finish_curves(axes, measured)
    left_out = len(measured) - MAX_LABELLED
    note = f"The best {MAX_LABELLED} are labelled, {left_out} more are grey." if left_out > 0 else ""
    return Picture(name, figure_png(figure), f"{note} A cross ends a trial that did not finish.".strip())


def new_figure(width_inches: float, height_inches: float) -> tuple[Any, Any]:
    """A matplotlib figure that needs no display, and its axes; imports matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_inches, height_inches), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_INK, labelsize=9)
    return figure, axes


def figure_png(figure: Any) -> bytes:
    """The drawn figure."""
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def plain_text(text: str) -> str:
    """For matplotlib, which reads formulas between dollar signs; one line, not too long."""
    short = " ".join(text.split())
    short = short if len(short) <= _LABEL_LETTERS else f"{short[: _LABEL_LETTERS - 1]}…"
    return short.replace("$", r"\$")


def trial_words(result: Result, axes: Sequence[str]) -> list[str]:
    """What tells this trial from the others; its number where nothing does."""
    return labels({key: result.varied[key] for key in axes if key in result.varied}) or [f"trial {result.number}"]


def last_samples(run_dir: Path) -> Samples | None:
    """Of the newest step after the first that has samples; None where there are none, or a file is not there."""
    drawn = [event for event in read_journal(run_dir) if event.kind == "sample" and _step(event) > 0]
    if not drawn:
        return None
    newest = max(map(_step, drawn))
    by_index = {int(number(event.data.get("index")) or 0): event for event in drawn if _step(event) == newest}
    events = [by_index[index] for index in sorted(by_index)]
    paths = tuple(run_dir / str(event.data.get("path")) for event in events)
    return Samples(tuple(str(e.data.get("prompt", "")) for e in events), paths) if all(map(_opens, paths)) else None


def _with_samples(results: Sequence[Result]) -> list[tuple[int, Result, Samples]]:
    found = ((rank, result, last_samples(result.run_dir)) for rank, result in enumerate(results, 1))
    return [(rank, result, samples) for rank, result, samples in found if samples is not None]


def _step(event: Event) -> int:
    return int(number(event.data.get("step")) or 0)


def _opens(path: Path) -> bool:
    try:
        with Image.open(path) as picture:
            picture.verify()
    except (OSError, SyntaxError, ValueError):  # what Pillow raises for a file that is no whole picture
        return False
    return True


def _row_label(rank: int, result: Result, axes: Sequence[str]) -> str:
    place = f"#{rank}" if result.objective is not None else result.state
    words = [f"{word[: _LABEL_LETTERS - 1]}…" if len(word) > _LABEL_LETTERS else word for word in _lines(result, axes)]
    return "\n".join([f"{place}  (trial {result.number})", *words])


def _lines(result: Result, axes: Sequence[str]) -> list[str]:
    loss = [] if result.objective is None else [f"loss {result.objective:.4f}"]
    return [" ".join(word.split()) for word in [*trial_words(result, axes), *loss]]


def _heading(column: int, shown: Sequence[Samples]) -> str:
    prompts = {samples.prompts[column] for samples in shown}
    return shown[0].prompts[column] if len(prompts) == 1 else f"prompt {column + 1}, which is not the same for all"


def _grid_note(trials: int, drawn: int, shown: int) -> str:
    notes = ["The same prompts and seeds, the best trial first."]
    if drawn > shown:
        notes.append(f"{drawn - shown} more trials with samples are left out.")
    if trials > drawn:
        notes.append(f"{trials - drawn} {'has' if trials - drawn == 1 else 'have'} no samples.")
    return " ".join(notes)


def _png(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, format="PNG", optimize=True)
    return out.getvalue()


def _draw_curve(axes: Any, result: Result, position: int, varied: Sequence[str]) -> None:
    steps, losses = zip(*result.curve, strict=True)
    labelled = position < MAX_LABELLED
    colour = _COLOURS[position] if labelled else _OTHERS
    unfinished = result.state != "finished"
    if labelled:
        state = f" ({result.state})" if unfinished else f": {losses[-1]:.4f}"
        label = plain_text(", ".join(trial_words(result, varied))) + state
    else:
        label = None
    axes.plot(
        steps,
        losses,
        color=colour,
        label=label,
        linewidth=1.8 if labelled else 1.0,
        marker="o",
        markersize=3.5 if labelled else 2,
        linestyle="--" if unfinished else "-",
    )
    if unfinished:
        axes.plot(steps[-1], losses[-1], color=colour, marker="x", markersize=8, markeredgewidth=1.8)


def _finish_curves(axes: Any, measured: Sequence[Result]) -> None:
    losses = [loss for result in measured for _, loss in result.curve]
    if min(losses) > 0 and max(losses) / min(losses) > _WIDEST_RATIO:
        _use_powers(axes)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("step", color=_INK)
    axes.set_ylabel("held-out loss", color=_INK)
    axes.grid(visible=True, color="#e6e8ec", linewidth=0.7)
    handles, names = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], names[::-1], frameon=False, fontsize=9, labelcolor=_INK)


def _use_powers(axes: Any) -> None:
    """A logarithmic axis that is labelled within a power of ten too."""
    from matplotlib.ticker import LogLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
