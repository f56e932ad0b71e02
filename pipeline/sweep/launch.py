"""Between Hydra and the engine: from a composed sweep to trials, and from their results to what the user is told."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.detect import LOOKS
from pipeline.errors import InvalidSettings, Problem, Stopped, SweepFailed
from pipeline.machine.probe import probe_machine
from pipeline.overrides import AS_ONE, split, sweeps
from pipeline.records import Machine
from pipeline.settings import PlatformName, Settings, from_config
from pipeline.sweep.board import open_board
from pipeline.sweep.engine import Engine
from pipeline.sweep.place import Place, claimed, fingerprint_of
from pipeline.sweep.process import Fresh, Starter, Warm
from pipeline.sweep.results import SWEEP_FILE, failed_text, results_of, shared_overrides
from pipeline.sweep.sameness import changed_since
from pipeline.sweep.slots import slots_for
from pipeline.sweep.summary import print_summary, summarize
from pipeline.sweep.trials import Listed, Source, typed
from pipeline.tracking.repair import repair_runs

CHOOSE_BACKEND = ("backend", "experiment")
"""Beginnings of overrides that decide which trainer a trial has, and where it is."""
KEPT = ("hydra.searchpath",)
"""Of Hydra's own overrides those that decide what a trial is composed of."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A sweep, as it was typed."""

    dir: Path
    command: str
    flags: Sequence[str]
    kept: Sequence[str]
    at_once: int | None
    resume: bool
    tracked: bool


def launch_grid(
    config: Any, loader: Any, overrides: Sequence[Sequence[str]], first: int, *, at_once: int | None, prune: bool
) -> None:
    """Runs a grid; `loader` is Hydra's. Raises SweepFailed for trials that failed, Stopped for a request,
    InvalidSettings for what can't be had here."""
    from hydra.core.utils import filter_overrides

    asked = _asked(config, at_once)
    listed = [_in_numbers(filter_overrides(each), loader, config) for each in overrides]
    with claimed(asked.dir, fingerprint_of([asked.flags, listed]), may_go_on=asked.resume) as place:
        _run(asked, place, _grid(listed, first, prune=prune), _machines(loader, config, listed))


def _in_numbers(overrides: Sequence[str], loader: Any, config: Any) -> list[str]:
    """An axis of a whole example may say `${times:0.5,${figure:lr}}`: what that is for this trial's other settings."""
    from omegaconf import OmegaConf

    if not any("${" in each for each in overrides):
        return list(overrides)
    composed = loader.load_sweep_config(config, list(overrides))
    pairs = [each.partition("=") for each in overrides]
    return [
        f"{key}={typed(OmegaConf.select(composed, key.lstrip('+')))}" if "${" in value else f"{key}={value}"
        for key, _, value in pairs
    ]


def _grid(overrides: Sequence[Sequence[str]], first: int, *, prune: bool) -> Source:
    if not prune:
        return Listed(overrides, first)
    from pipeline.sweep.search import PrunedGrid

    return PrunedGrid(overrides, first)


def launch_search(config: Any, loader: Any, arguments: Sequence[str], search: SearchSettings) -> None:
    """Runs a search; `loader` is Hydra's. Raises as `launch_grid` does."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    from pipeline.sweep.axes import axes_of
    from pipeline.sweep.search import Search, open_study

    launcher = config.hydra.launcher
    if not str(launcher._target_).endswith(".TrialsLauncher"):
        reason = "a search learns from each trial before it draws the next, which this launcher can't wait for"
        raise InvalidSettings((Problem("hydra/launcher", launcher._target_, reason, "hydra/launcher=trials"),))
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(arguments))
    axes, shared = axes_of([each for each in parsed if not each.key_or_group.startswith("hydra")])
    asked = _asked(config, launcher.at_once)
    asked.dir.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, asked.dir / SWEEP_FILE)
    drawn_from = [asked.flags, shared, sorted((key, repr(axis)) for key, axis in axes.items()), search.method]
    changed = partial(changed_since, composed=partial(_settings_of, loader, config))
    with claimed(asked.dir, fingerprint_of(drawn_from), may_go_on=asked.resume, changed=changed) as place:
        study = open_study(place.dir, method=search.method, seed=search.seed, startup_trials=search.startup_trials)
        source = Search(study, axes, shared, search.trials)
        loader.load_sweep_config(config, source.example())
        _run(asked, place, source, _machines(loader, config, source.examples()))


def _settings_of(loader: Any, config: Any, overrides: Sequence[str]) -> Settings:
    """Of a trial, as run.py will have them."""
    from omegaconf import open_dict

    composed = loader.load_sweep_config(config, list(overrides))
    with open_dict(composed):
        del composed["hydra"]
    return from_config(composed)


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """As `hydra_plugins.search.SearchConf` has them."""

    trials: int
    method: str
    seed: int
    startup_trials: int


def _asked(config: Any, at_once: int | None) -> Asked:
    flags, typed = split(sys.argv[1:])
    return Asked(
        dir=Path(config.hydra.sweep.dir).absolute(),
        command=shlex.join(["python", "run.py", *sys.argv[1:]]),
        flags=flags,
        kept=[
            *(each for each in typed if each.lstrip("+").startswith(KEPT)),
            *(() if sweeps(sys.argv) else (AS_ONE,)),
        ],
        at_once=at_once,
        resume=config.resume.name != "never",
        tracked=bool(config.tracking.enabled),
    )


def _machines(loader: Any, config: Any, trials: Sequence[Sequence[str]]) -> dict[str, Machine]:
    """Backend -> what its trainer sees here, of all that these trials have. One with a mistake tells it itself."""
    told = {tuple(each for each in trial if each.startswith(CHOOSE_BACKEND)): trial for trial in reversed(trials)}
    machines: dict[str, Machine] = {}
    for trial in told.values():
        try:
            settings = _settings_of(loader, config, trial)
        except InvalidSettings:
            continue
        if settings.backend.name not in machines:
            machines[settings.backend.name], *_ = LOOKS[settings.backend.name](settings)
    own, _ = (None, ()) if machines else probe_machine(PlatformName.auto, seconds=config.hardware.probe_seconds)
    return machines if own is None else {"native": own}


def _starter(machines: Mapping[str, Machine], source: Source, *, tracked: bool) -> Starter:
    """Only our own trainer on a CPU can be a fork."""
    machine = machines.get("native")
    if len(machines) > 1 or machine is None or machine.platform != "cpu" or source.total < 2:
        return Fresh()
    return Warm({each.name: each.value for each in machine.variables}, tracked=tracked)


def _run(asked: Asked, place: Place, source: Source, machines: Mapping[str, Machine]) -> None:
    slots, note = slots_for(machines, asked.at_once)
    starter = _starter(machines, source, tracked=asked.tracked)
    shared = shared_overrides(place.dir)
    place.note(asked.command, complete=False)
    with open_board(source.total, shared) as board:
        board.say(f"{'going on with' if place.goes_on else 'sweep'} {place.dir}: {source.total} trials")
        if note:
            board.say(note)
        stops = Engine(place, source, starter, board, asked.flags, asked.kept, shared).run(slots)
    results = results_of(place.dir)
    unfinished = [each for each in results if each.state not in ("finished", "pruned")]
    incomplete = stops or (unfinished and source.retries_failed)
    place.note(asked.command, complete=not incomplete)
    if stops:
        raise Stopped("Stopped. The same command goes on with this sweep.", signal_number=stops[0])
    if asked.tracked:
        repair_runs([place.dir], say=print, store_dirs=())  # of trials that were killed
    print_summary(summarize(place.dir, tracking=asked.tracked))
    if unfinished:
        again = "The same command runs these again, and keeps the others." if source.retries_failed else ""
        reasons = {each.number: each.reason or each.state for each in unfinished}
        raise SweepFailed(failed_text(len(results), reasons, again))
