"""Sweeps that learn: Optuna draws the trials of a search, and tells which are clearly behind the others.

Optuna's study lives in the sweep's folder as a journal file, which several starts share: trials that were asked for and
never told are asked for again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState

from pipeline.errors import InvalidSettings, Problem
from pipeline.sweep.results import Result
from pipeline.sweep.trials import Curve, Listed, Trial, typed

STUDY_FILE = "study.log"
JUDGED_FROM = 0.25
"""Share of a trial's steps before which it is not judged: all curves fall steeply there."""
OTHERS = 3
"""So many finished trials at the least make a median."""
NUMBER = "trial"
METHODS = ("tpe", "random")


# ------------------------------------------------------------------------------------------------------------- pruning


class Pruning:
    """Which trials are clearly behind: worse, at their best so far, than the median of the finished ones at the same
    step (Optuna's MedianPruner; Golovin et al. 2017, Google Vizier, section 3.2.2)."""

    def __init__(self, study: optuna.Study) -> None:
        self.study = study
        self._judged: dict[int, int] = {}
        """Trial -> the newest step at which it was."""

    def reason(self, trial: optuna.Trial, curve: Curve, steps: int) -> str:
        """Empty: it goes on."""
        if not curve or curve[-1][0] < max(1, JUDGED_FROM * steps) or curve[-1][0] >= steps > 0:
            return ""
        step, loss = curve[-1]
        if self._judged.get(trial.number) == step:
            return ""
        self._judged[trial.number] = step
        trial.report(loss, step)
        if not trial.should_prune():
            return ""
        others = [each.intermediate_values[step] for each in self._finished() if step in each.intermediate_values]
        best = min(value for at, value in curve if at > 0)
        return (
            f"held-out loss {best:.4f} at best up to step {step}, where the median of {len(others)} finished trials"
            f" is {median(others):.4f}"
        )

    def _finished(self) -> Sequence[optuna.trial.FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def pruner() -> optuna.pruners.BasePruner:
    """Needs a few finished trials to compare with."""
    return optuna.pruners.MedianPruner(n_startup_trials=OTHERS, n_warmup_steps=0)


class PrunedGrid(Listed):
    """A grid whose trials are given up when they are clearly behind."""

    def __init__(self, overrides: Sequence[Sequence[str]], first: int = 0) -> None:
        super().__init__(overrides, first)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._pruning = Pruning(optuna.create_study(direction="minimize", pruner=pruner()))
        self._asked: dict[int, optuna.Trial] = {}

    def behind(self, trial: Trial, curve: Curve, steps: int) -> str:
        return self._pruning.reason(self._of(trial), curve, steps)

    def tell(self, trial: Trial, result: Result) -> None:
        tell(self._pruning.study, self._of(trial), result)

    def _of(self, trial: Trial) -> optuna.Trial:
        if trial.number not in self._asked:
            self._asked[trial.number] = self._pruning.study.ask()
        return self._asked[trial.number]


def tell(study: optuna.Study, asked: optuna.Trial, result: Result) -> None:
    """The curve as well: a trial that is not judged by it makes the median of the others."""
    known = study.get_trials(deepcopy=False)[asked.number].intermediate_values
    for step, loss in result.curve:
        if step > 0 and step not in known:
            asked.report(loss, step)
    value = result.objective
    if value is not None and math.isfinite(value):
        study.tell(asked, value)
    else:
        study.tell(asked, state=TrialState.PRUNED if result.state == "pruned" else TrialState.FAIL)


# -------------------------------------------------------------------------------------------------------------- search


class Search:
    """Trials drawn one after the other. `shared` is told to all of them."""

    retries_failed = False
    """A failure is an answer too: the search goes on without it."""

    def __init__(self, study: optuna.Study, axes: Mapping[str, Any], shared: Sequence[str], total: int) -> None:
        self.total = total
        self._study = study
        self._pruning = Pruning(study)
        self._axes, self._shared = axes, shared
        self._asked: dict[int, optuna.Trial] = {}
        self._again = [each for each in study.get_trials(deepcopy=False) if each.state is TrialState.RUNNING]

    def example(self) -> list[str]:
        """What a trial could be told, to see whether it can be composed at all."""
        values = {key: axis.to_external_repr(_lowest(axis)) for key, axis in self._axes.items()}
        return [*self._shared, *(f"{key}={typed(value)}" for key, value in values.items())]

    def examples(self) -> list[list[str]]:
        """The same, with every choice of each axis of choices in one of them."""
        choices = [(key, axis.choices) for key, axis in self._axes.items() if isinstance(axis, CategoricalDistribution)]
        others = [[*self.example(), f"{key}={typed(choice)}"] for key, each in choices for choice in each[1:]]
        return [self.example(), *others]

    def next(self) -> Trial | None:
        """Those first that an earlier start asked for: finished ones are only looked at."""
        if self._again:
            before = self._again.pop(0)
            asked = optuna.Trial(self._study, before._trial_id)  # there is no public way to take one up again
            for name, axis in self._axes.items():
                asked._suggest(name, axis)
        elif len(self._study.get_trials(deepcopy=False)) < self.total:
            asked = self._study.ask(dict(self._axes))
        else:
            return None
        self._asked[asked.number] = asked
        return Trial(asked.number, (*self._shared, *(f"{key}={typed(asked.params[key])}" for key in self._axes)))

    def behind(self, trial: Trial, curve: Curve, steps: int) -> str:
        return self._pruning.reason(self._asked[trial.number], curve, steps)

    def tell(self, trial: Trial, result: Result) -> None:
        tell(self._study, self._asked[trial.number], result)


def _lowest(axis: Any) -> Any:
    return 0 if isinstance(axis, CategoricalDistribution) else axis.low


def open_study(folder: Path, *, method: str, seed: int, startup_trials: int) -> optuna.Study:
    """The sweep's study, in its folder. Raises InvalidSettings for a method that there is not."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    if method not in METHODS:
        problem = Problem("hydra.sweeper.method", method, f"one of {', '.join(METHODS)}", "hydra.sweeper.method=tpe")
        raise InvalidSettings((problem,))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(folder / STUDY_FILE)))
    study = optuna.create_study(
        storage=storage, study_name="sweep", direction="minimize", pruner=pruner(), load_if_exists=True
    )
    # A sampler that begins anew with its seed would draw again what the earlier start drew.
    drawn = len(study.get_trials(deepcopy=False))
    study.sampler = (
        optuna.samplers.TPESampler(seed=seed + drawn, n_startup_trials=startup_trials, multivariate=True, group=True)
        if method == "tpe"
        else optuna.samplers.RandomSampler(seed=seed + drawn)
    )
    return study
