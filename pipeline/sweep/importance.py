"""How much each setting that varied mattered to the loss, by Optuna's fANOVA (Hutter and others, 2014): the share of
the loss's variance, over the tried values, that a random forest puts down to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.sweep.names import figure_of, titles
from pipeline.sweep.pictures import Picture, figure_png, new_figure, plain_text
from pipeline.sweep.results import Result, axes_of

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

MIN_TRIALS = 4
MIN_AXES = 2
_FOREST_SEED = 0
_LOG_RATIO = 10.0
"""Figures that span so much are thought of in powers."""
_NO_VARIANCE = "the loss was the same whatever varied"
_NOT_GIVEN = "(not given)"
_BLUE, _GREY = "#0072b2", "#8d939c"


def importance_of(results: Sequence[Result], name: str) -> Picture:
    """A bar a setting."""
    shares = shares_of(results)
    if isinstance(shares, str):
        return Picture(name, None, shares)
    finished = sum(result.objective is not None for result in results)
    note = f"From {finished} finished trials, over the values that were tried; of few trials it says little."
    if "seed" in shares:
        note += " The seed's bar is chance: a bar that is no longer says nothing."
    return Picture(name, _bars(shares), note)


def shares_of(results: Sequence[Result]) -> dict[str, float] | str:
    """Key -> share of the variance, all together 1, the largest first; or in words why nothing can be said."""
    finished = [result for result in results if result.objective is not None]
    axes = axes_of(finished)
    if len(finished) < MIN_TRIALS:
        return f"{len(finished)} of at least {MIN_TRIALS} trials have finished"
    if len(axes) < MIN_AXES:
        return f"only {axes[0]} varied" if axes else "nothing varied"
    if len({result.objective for result in finished}) == 1:
        return _NO_VARIANCE
    return _fanova(finished, axes)


def _fanova(finished: Sequence[Result], axes: Sequence[str]) -> dict[str, float] | str:
    """Optuna is asked in memory: whatever searched, the results are all that counts."""
    import optuna

    told = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = _study(finished, axes)
    finally:
        optuna.logging.set_verbosity(told)
    try:
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=_FOREST_SEED)
        return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))
    except RuntimeError:  # what it raises for trees without a variance
        return _NO_VARIANCE


def _study(finished: Sequence[Result], axes: Sequence[str]) -> optuna.Study:
    import optuna

    spaces = {key: _space([result.varied.get(key) for result in finished]) for key in axes}
    study = optuna.create_study(direction="minimize")
    for result in finished:
        params = {key: _param(spaces[key], result.varied.get(key)) for key in axes}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=spaces, value=result.objective))
    return study


def _space(values: Sequence[str | None]) -> BaseDistribution:
    """Numbers between the smallest and the largest; anything else by name."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    figures = [figure for figure in (figure_of(value or "") for value in values) if figure is not None]
    if len(figures) < len(values):
        return CategoricalDistribution(sorted({value or _NOT_GIVEN for value in values}))
    low, high = min(figures), max(figures)
    return FloatDistribution(low, high, log=low > 0 and high / low >= _LOG_RATIO)


def _param(space: BaseDistribution, value: str | None) -> str | float:
    from optuna.distributions import CategoricalDistribution

    return value or _NOT_GIVEN if isinstance(space, CategoricalDistribution) else float(value or "nan")


def _bars(shares: dict[str, float]) -> bytes:
    figure, axes = new_figure(8.0, 1.1 + 0.45 * len(shares))
    names = [plain_text(title) for title in titles(list(shares))]
    positions = range(len(names))
    colours = [_GREY if key == "seed" else _BLUE for key in shares]
    bars = axes.barh(positions, list(shares.values()), color=colours, height=0.6)
    words = [f"{share:.0%}" if share >= 0.01 else "< 1%" for share in shares.values()]
    axes.bar_label(bars, labels=words, padding=4, fontsize=9)
    axes.set_yticks(positions, names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.set_xlabel("share of the variance of the loss", color="#3a3f47")
    return figure_png(figure)
