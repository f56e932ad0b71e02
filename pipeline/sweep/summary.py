"""The end of a sweep: its report is written, MLflow is told, and the terminal shows which trial was best."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from pipeline.errors import UnreadableFile
from pipeline.settings import PROJECT
from pipeline.sweep.names import titles, value_words
from pipeline.sweep.page import FIGURE_TITLES, counts_words, figures_of
from pipeline.sweep.report import PAGE, Report, write_report
from pipeline.sweep.results import SWEEP_FILE, Result
from pipeline.tracking import store
from pipeline.tracking.sweeps import Links, track_sweep
from pipeline.wording import short_path

MAX_ROWS = 20
"""Of the table on the terminal; the page has them all."""
REPORT_COMMAND = "python -m pipeline runs report"


@dataclass(frozen=True, slots=True)
class Summary:
    """What became of a sweep."""

    report: Report
    links: Links | None
    """None where MLflow was not asked, has none of the trials, or failed."""
    warnings: tuple[str, ...]

    @property
    def lines(self) -> list[str]:
        """What to do next, without the table: the best again, the page, and where MLflow shows it."""
        return list(_lines(self))


def summarize(sweep_dir: Path, *, tracking: bool = True) -> Summary:
    """Writes the report into the sweep's folder and into MLflow; may be called again at any time, also while trials
    run. What MLflow can't do is a warning. Raises UnreadableFile where there is no sweep, OSError for the disk."""
    report = write_report(sweep_dir)
    links, warnings = _tracked(report) if tracking else (None, ())
    return Summary(report, links, warnings)


def find_sweep(name: str, roots: Sequence[Path] | None = None) -> Path:
    """The folder of a sweep by its path, or by its name under `multirun`, here or in the checkout. Raises
    UnreadableFile with the nearest names."""
    folders = [root / "multirun" for root in (Path.cwd(), PROJECT)] if roots is None else list(roots)
    for candidate in (Path(name), *(folder / name for folder in folders)):
        if (candidate / SWEEP_FILE).exists():
            return candidate
    known = {_short(path): path for folder in folders for path in _sweeps_in(folder)}
    named = [path for short, path in known.items() if short.rpartition("/")[2] == name]
    if len(named) == 1:
        return named[0]
    near = get_close_matches(name, known, n=3, cutoff=0.5) or list(known)[-3:]
    try_these = "\n".join(f"    try: {REPORT_COMMAND} {known[each]}" for each in near)
    raise UnreadableFile(f"{name!r} is no sweep: no {SWEEP_FILE} in it, nor under multirun\n{try_these}".rstrip())


def print_summary(summary: Summary) -> None:
    """The ranking as a table, then the lines; warnings too."""
    from rich.console import Console

    console = Console()
    console.print(f"{summary.report.name}   {counts_words(summary.report.results)}", highlight=False, markup=False)
    _print_table(summary.report)
    for line in (*summary.lines, *(f"warning: {warning}" for warning in summary.warnings)):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _tracked(report: Report) -> tuple[Links | None, tuple[str, ...]]:
    store.set_mlflow_env()
    try:
        failures = store.failures()
    except ImportError as error:
        return None, (f"MLflow can't be imported ({error})",)
    try:
        links = track_sweep(report)
    except failures as error:
        first = str(error).strip().partition("\n")[0]
        again = f"{REPORT_COMMAND} {short_path(report.sweep_dir)}"
        return None, (f"MLflow does not have the summary of this sweep: {first}\n    when it is there again: {again}",)
    return links, () if links is None else links.warnings


def _sweeps_in(folder: Path) -> list[Path]:
    """`multirun/<sweep>` and `multirun/<date>/<sweep>`, the newest names last."""
    found = [*folder.glob(f"*/{SWEEP_FILE}"), *folder.glob(f"*/*/{SWEEP_FILE}")]
    return sorted(path.parent for path in found)


def _short(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _lines(summary: Summary) -> Iterator[str]:
    report, links = summary.report, summary.links
    yield from (f"  {reason}" for reason in report.left_out)
    if report.best is not None and report.best.command:
        yield f"  the best again  {report.best.command}"
    if report.best is not None and report.best.outcome.weights:
        yield f"  its weights     {short_path(report.best.run_dir / report.best.outcome.weights)}"
    yield f"  the report      {short_path(report.sweep_dir / PAGE)}"
    if links is not None:
        told = {"MLflow": links.summary, "charts": links.charts, "table": links.table}
        told |= {"compare": links.compare, "side by side": links.side_by_side}
        yield from (f"  {name:<14}  {link}" for name, link in told.items() if link)
        yield from [f"  registered as   {links.model}"] if links.model else []
        yield from [f"  look at it      {links.ui_command}"] if links.ui_command else []


def _print_table(report: Report) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    numbers = set(FIGURE_TITLES)
    reasons = any(result.reason for result in report.results[:MAX_ROWS])
    for title in ("place", *titles(report.axes), *FIGURE_TITLES, "state", *(["reason"] if reasons else [])):
        table.add_column(title, justify="right" if title in numbers else "left", overflow="fold")
    for rank, result in enumerate(report.results[:MAX_ROWS], 1):
        cells = _cells(rank, result, report.axes, reasons=reasons)
        table.add_row(*map(Text, cells), style="bold green" if result is report.best else "")
    console = Console()
    console.print(table)
    if len(report.results) > MAX_ROWS:
        console.print(f"and {len(report.results) - MAX_ROWS} more", highlight=False)


def _cells(rank: int, result: Result, axes: Sequence[str], *, reasons: bool) -> list[str]:
    place = str(rank) if result.objective is not None else "-"
    varied = [value_words(result.varied[key]) if key in result.varied else "-" for key in axes]
    return [place, *varied, *figures_of(result).values(), result.state, *([result.reason] if reasons else [])]
