"""The report as one page of HTML: pictures are inside of it, nothing is loaded, nothing runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from string import Template

from pipeline.document import document, image
from pipeline.sweep.names import titles, value_words
from pipeline.sweep.pictures import Picture, trial_words
from pipeline.sweep.results import Result, State, axes_of
from pipeline.wording import duration, size

_HEADINGS = {"grid.png": "Samples", "curves.png": "Held-out loss", "importance.png": "What mattered"}
_ORDER: tuple[State, ...] = ("finished", "running", "waiting", "pruned", "failed", "killed")
FIGURE_TITLES = ("held-out loss", "best step", "training loss", "time", "peak memory")
_NONE = "-"

_BODY = Template("""\
<h1>$name</h1>
<p class="soft">$counts</p>
$best
<section>
<h2>Ranking</h2>
<div class="scroll">
<table>
<thead><tr>$head</tr></thead>
<tbody>
$rows
</tbody>
</table>
</div>
</section>
$pictures
$unfinished
""")


def page(name: str, results: Sequence[Result], pictures: Sequence[Picture]) -> str:
    """The whole page. `results` are ranked: the first is the best where it has an objective."""
    axes = axes_of(results)
    reasons = any(result.reason for result in results)
    body = _BODY.substitute(
        name=escape(name),
        counts=escape(counts_words(results)),
        best=_best(results, axes),
        head=_head(axes, reasons=reasons),
        rows="\n".join(_row(rank, result, axes, reasons=reasons) for rank, result in enumerate(results, 1)),
        pictures="\n".join(map(_figure, pictures)),
        unfinished=_unfinished(results, axes),
    )
    return document(name, body)


def counts_words(results: Sequence[Result]) -> str:
    """9 trials: 7 finished, 1 pruned, 1 failed."""
    states = [result.state for result in results]
    told = ", ".join(f"{states.count(state)} {state}" for state in _ORDER if state in states)
    return f"{len(results)} trial{'' if len(results) == 1 else 's'}: {told}"


def figures_of(result: Result) -> dict[str, str]:
    """Title -> figure of a trial, in words; a dash for what it does not have."""
    outcome = result.outcome
    told = (
        _loss(outcome.heldout_after),
        _NONE if outcome.heldout_best_step is None else str(outcome.heldout_best_step),
        _loss(outcome.loss_last),
        duration(outcome.seconds),
        _NONE if outcome.peak_memory_bytes is None else size(outcome.peak_memory_bytes),
    )
    return dict(zip(FIGURE_TITLES, told, strict=True))


def _best(results: Sequence[Result], axes: Sequence[str]) -> str:
    best = results[0] if results else None
    if best is None or best.objective is None:
        return '<section><h2>No trial has finished</h2><p class="soft">There is nothing to rank yet.</p></section>'
    told = "".join(f"<div><b>{escape(text)}</b><span>{escape(title)}</span></div>" for title, text in _tiles(best))
    command = f"<p>The same training again:</p><pre>{escape(best.command)}</pre>" if best.command else ""
    words = escape(", ".join(trial_words(best, axes)))
    return f'<section><h2>Best: {words}</h2><div class="figures">{told}</div>{command}</section>'


def _tiles(best: Result) -> Iterator[tuple[str, str]]:
    before, after = best.outcome.heldout_before, best.outcome.heldout_after
    for title, text in figures_of(best).items():
        if text != _NONE:
            yield title, text
        if title == "held-out loss" and before is not None and after is not None:
            yield "before the training", _loss(before)


def _head(axes: Sequence[str], *, reasons: bool) -> str:
    named = [f'<th title="{escape(key)}">{escape(title)}</th>' for key, title in zip(axes, titles(axes), strict=True)]
    numbers = [f'<th class="number">{escape(title)}</th>' for title in FIGURE_TITLES]
    cells = ["<th>place</th><th>trial</th>", *named, *numbers, "<th>state</th>", *_if(reasons, "<th>reason</th>")]
    return "".join(cells)


def _row(rank: int, result: Result, axes: Sequence[str], *, reasons: bool) -> str:
    place = str(rank) if result.objective is not None else _NONE
    varied = [_varied_cell(result.varied.get(key)) for key in axes]
    numbers = [f'<td class="number">{escape(text)}</td>' for text in figures_of(result).values()]
    state = f'<td class="{result.state}">{result.state}</td>'
    reason = f'<td class="wide">{escape(result.reason)}</td>'
    best = ' class="best"' if place == "1" else ""
    cells = [f"<td>{place}</td><td>{result.number}</td>", *varied, *numbers, state, *_if(reasons, reason)]
    return f"<tr{best}>{''.join(cells)}</tr>"


def _varied_cell(value: str | None) -> str:
    words = _NONE if value is None else value_words(value)
    return f'<td class="wide">{escape(words)}</td>' if len(words) > 24 else f"<td>{escape(words)}</td>"


def _if(wanted: bool, cell: str) -> list[str]:
    return [cell] if wanted else []


def _figure(picture: Picture) -> str:
    heading = f"<h2>{escape(_HEADINGS.get(picture.name, picture.name))}</h2>"
    note = escape(picture.note)
    if picture.png is None:
        return f'<section>{heading}<p class="soft">Nothing to draw: {note}.</p></section>'
    return f"<figure>{heading}{image(picture.png, picture.name)}<figcaption>{note}</figcaption></figure>"


def _unfinished(results: Sequence[Result], axes: Sequence[str]) -> str:
    told = [result for result in results if result.state in ("pruned", "failed", "killed")]
    if not told:
        return ""
    rows = "".join(_unfinished_row(result, axes) for result in told)
    head = "<thead><tr><th>trial</th><th>state</th><th>at step</th><th>reason</th><th>command</th></tr></thead>"
    table = f'<div class="scroll"><table>{head}<tbody>{rows}</tbody></table></div>'
    return f"<section><h2>Pruned and failed</h2>{table}</section>"


def _unfinished_row(result: Result, axes: Sequence[str]) -> str:
    words = escape(", ".join(trial_words(result, axes)))
    cells = [f'<td class="wide">{result.number}: {words}</td><td class="{result.state}">{result.state}</td>']
    cells.append(f"<td>{result.outcome.steps}</td>")
    cells += [f'<td class="wide">{escape(text or _NONE)}</td>' for text in (result.reason, result.command)]
    return f"<tr>{''.join(cells)}</tr>"


def _loss(value: float | None) -> str:
    return _NONE if value is None else f"{value:.4f}"
