"""A sweep in MLflow: its trials, a run that sums them up, the best weights under a name, and links that compare.

Trials are flat: MLflow's charts show nothing but the parent of nested runs. Everything here may be done again.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pipeline.errors import TrackingError
from pipeline.records import Outcome
from pipeline.sweep.names import MAX_NAME_LENGTH, titles, value_words
from pipeline.sweep.page import FIGURE_TITLES, counts_words, figures_of
from pipeline.sweep.pictures import trial_words
from pipeline.sweep.report import DRAWN, Report
from pipeline.sweep.results import Result
from pipeline.tracking import store
from pipeline.tracking.artifacts import masked_copy
from pipeline.tracking.description import ENDED_TAG, KIND_TAG, MAX_TAG_LENGTH, SWEEP_TAG
from pipeline.tracking.feed import NOTE_TAG, finite_metrics
from pipeline.tracking.masking import Masker
from pipeline.tracking.state import State, load_state
from pipeline.tracking.store import Client, Store, store_at

SWEEP_KEY_TAG = "sweep_key"
"""Of the summary: the key of one of its trials, which no other sweep has."""
BEST_ALIAS = "best"
MAX_COMPARED = 50
"""Trials in the link to the compare page, the best first: its plots and its table don't bear more."""
MAX_SIDE_BY_SIDE = 2
"""The page's list of files, which pictures are chosen from, has no width left beside more: with MLflow 3.17 three take
all of a window of 1500 pixels, four all of one of 1920."""
MAX_NOTE_ROWS = 20
BEST_FIGURES = ("heldout_before", "heldout_after", "heldout_best_step", "loss_last", "seconds", "peak_memory_bytes")
COLUMNS = ("heldout_after", "heldout_best_step", "loss_last", "seconds", "peak_memory_bytes")
"""Final metrics in the saved view of the runs table, beside what varied."""
_VIEW_TAG = "mlflow.sharedViewState."
_GROUP_PARAMS = ("name", "algo")
"""What a group's option is called in the params: `profile.name`, `network.algo`."""
_NOT_IN_MODEL_NAMES = re.compile(r"[^A-Za-z0-9_.\- ]")
_IN_TABLES = str.maketrans({"|": "\\|", "`": "'", "<": "&lt;", "\n": " ", "\r": " "})


@dataclass(frozen=True, slots=True)
class Links:
    """Where a sweep is to be seen."""

    summary: str
    charts: str
    """Of its trials alone."""
    compare: str
    """Of all trials, but for those beyond MAX_COMPARED."""
    side_by_side: str
    """The compare page of the best two, whose pictures can be chosen there: see MAX_SIDE_BY_SIDE."""
    table: str | None
    """None where the view could not be saved."""
    model: str | None
    """`models:/NAME@best`; None where no weights are kept."""
    ui_command: str | None
    """What serves these pages; None for a server."""
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """A trial that this store has."""

    result: Result
    state: State
    run: Any
    """As MLflow has it."""


@dataclass(frozen=True, slots=True)
class Target:
    """The experiment that the sweep is in."""

    client: Client
    store: Store
    experiment_id: str
    sweep: str
    """As its trials are tagged, also where the folder has since got another name."""
    mask: Masker


def track_sweep(report: Report) -> Links | None:
    """Brings MLflow up to date. None where no trial was tracked. Raises one of `store.failures()`."""
    warnings: list[str] = []
    tracked = _tracked(report.results, warnings)
    if not tracked:
        return None
    first = tracked[0][1]
    home = store_at(first.uri, first.store_dir)
    sweep = first.description.tags.get(SWEEP_TAG, report.name)
    target = Target(store.open_client(home), home, str(first.experiment_id), sweep, Masker(os.environ))
    trials = _trials_in(target, tracked)
    if not trials:
        return None
    for trial in trials:
        if trial.run.data.tags.get(KIND_TAG) != "trial":  # of a trial that began before there was the tag
            target.client.set_tag(trial.run.info.run_id, KIND_TAG, "trial", synchronous=True)
    summary_id = _write_summary(target, report, trials, warnings)
    run_ids = [trial.run.info.run_id for trial in trials]
    return Links(
        summary=store.page_url(home, target.experiment_id, summary_id),
        charts=charts_url(home, target.experiment_id, sweep),
        compare=compare_url(home, target.experiment_id, run_ids),
        side_by_side=compare_url(home, target.experiment_id, run_ids[:MAX_SIDE_BY_SIDE]),
        table=_attempt(lambda: _save_view(target, report, trials), "the view of its table was not saved", warnings),
        model=_attempt(lambda: _register_best(target, report, trials), "the best was not registered", warnings),
        ui_command=home.ui_command,
        warnings=tuple(warnings),
    )


def charts_url(home: Store, experiment_id: str, sweep: str) -> str:
    """The charts of a sweep's trials."""
    query = f"workflowType=machine_learning&compareRunsMode=CHART&searchFilter={quote(_filter(sweep), safe='')}"
    return f"{store.ui_root(home)}/#/experiments/{experiment_id}/runs?{query}"


def compare_url(home: Store, experiment_id: str, run_ids: Sequence[str]) -> str:
    """The page that shows where these runs differ, and their pictures side by side."""
    runs, experiments = _compact(run_ids[:MAX_COMPARED]), _compact([experiment_id])
    query = f"runs={quote(runs, safe='')}&experiments={quote(experiments, safe='')}&workflowType=machine_learning"
    return f"{store.ui_root(home)}/#/compare-runs?{query}"


def _compact(words: Sequence[str]) -> str:
    return json.dumps(list(words), separators=(",", ":"))


# ---------------------------------------------------------------------------------------------------------- the trials


def _tracked(results: Sequence[Result], warnings: list[str]) -> list[tuple[Result, State]]:
    """Those in the store and the experiment of the best of them."""
    found: list[tuple[Result, State]] = []
    for result in results:
        try:
            state = load_state(result.run_dir)
        except TrackingError as error:
            warnings.append(str(error).partition("\n")[0])
            continue
        if state is not None and state.run_id is not None and (not found or _home(state) == _home(found[0][1])):
            found.append((result, state))
    return found


def _home(state: State) -> tuple[str, str | None]:
    return state.uri, state.experiment_id


def _trials_in(target: Target, tracked: Sequence[tuple[Result, State]]) -> list[Trial]:
    """Without those that somebody deleted."""
    from mlflow.exceptions import MlflowException

    trials = []
    for result, state in tracked:
        try:
            run = target.client.get_run(state.run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            continue
        if run.info.lifecycle_stage == "active":
            trials.append(Trial(result, state, run))
    return trials


# --------------------------------------------------------------------------------------------------------- the summary


def _write_summary(target: Target, report: Report, trials: Sequence[Trial], warnings: list[str]) -> str:
    """The id of its run."""
    client = target.client
    run_id = _summary_of(target, trials) or _create_summary(target, report, trials)
    for key, value in _summary_tags(target, report, trials).items():
        client.set_tag(run_id, key, target.mask(value)[:MAX_TAG_LENGTH], synchronous=True)
    client.log_batch(run_id, metrics=finite_metrics(_figures(report), time.time(), step=0), synchronous=True)
    with tempfile.TemporaryDirectory(prefix="mlflow-") as scratch:
        for file in report.files:
            client.log_artifact(run_id, str(masked_copy(file, Path(scratch), target.mask)))
    _forget_pictures(target, run_id, report, warnings)
    ends = [trial.run.info.end_time for trial in trials if trial.run.info.end_time]
    status = "FINISHED" if report.best is not None else "FAILED"
    client.set_terminated(run_id, status, max(ends, default=int(time.time() * 1000)))
    return run_id


def _forget_pictures(target: Target, run_id: str, report: Report, warnings: list[str]) -> None:
    """Of an earlier report, that can't be drawn any more."""
    kept = {file.name for file in report.files}
    there = {each.path for each in target.client.list_artifacts(run_id)}
    for name in sorted(there.intersection(DRAWN) - kept):
        _attempt(partial(_delete, target, run_id, name), f"an older {name} was not taken away", warnings)


def _delete(target: Target, run_id: str, name: str) -> None:
    """The client has no way to."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    uri = target.client.get_run(run_id).info.artifact_uri
    get_artifact_repository(uri, tracking_uri=target.store.uri).delete_artifacts(name)


def _summary_of(target: Target, trials: Sequence[Trial]) -> str | None:
    """Of an earlier time. By the key of any trial: the one that it was made with may since have got siblings."""
    keys = {trial.state.key for trial in trials}
    token = None
    while True:
        page = target.client.search_runs([target.experiment_id], f"tags.{KIND_TAG} = 'sweep'", page_token=token)
        for run in page:
            if run.data.tags.get(SWEEP_KEY_TAG) in keys:
                return str(run.info.run_id)
        token = page.token
        if not token:
            return None


def _create_summary(target: Target, report: Report, trials: Sequence[Trial]) -> str:
    tags = {KIND_TAG: "sweep", SWEEP_TAG: target.sweep, SWEEP_KEY_TAG: trials[0].state.key}
    began_ms = min(trial.run.info.start_time for trial in trials)
    name = f"sweep {report.sweep_dir.absolute().name}"[:MAX_NAME_LENGTH]
    run = target.client.create_run(target.experiment_id, start_time=began_ms, tags=tags, run_name=name)
    return str(run.info.run_id)


def _summary_tags(target: Target, report: Report, trials: Sequence[Trial]) -> dict[str, str]:
    best = _best_trial(report, trials)
    own = {} if best is None else {"best_run_id": best.run.info.run_id, "best_trial": str(best.result.number)}
    run_ids = [trial.run.info.run_id for trial in trials]
    links = {
        "Charts of all trials": charts_url(target.store, target.experiment_id, target.sweep),
        "Compare them": compare_url(target.store, target.experiment_id, run_ids),
        "Pictures of the best two": compare_url(target.store, target.experiment_id, run_ids[:MAX_SIDE_BY_SIDE]),
    }
    return {
        **own,
        "sweep_dir": str(report.sweep_dir.absolute()),
        "mlflow.source.name": "run.py",
        "mlflow.source.type": "LOCAL",
        NOTE_TAG: note_of(report, links),
    }


def _best_trial(report: Report, trials: Sequence[Trial]) -> Trial | None:
    return next((trial for trial in trials if trial.result is report.best), None)


def _figures(report: Report) -> dict[str, object]:
    figures: dict[str, object] = {
        "final/trials": len(report.results),
        "final/trials_finished": sum(result.state == "finished" for result in report.results),
    }
    best: Outcome | None = None if report.best is None else report.best.outcome
    return figures if best is None else figures | {f"final/best_{name}": getattr(best, name) for name in BEST_FIGURES}


def note_of(report: Report, links: Mapping[str, str]) -> str:
    """The ranking in Markdown, for the page of the summary; as short as MLflow's tags have to be."""
    told = [_best_words(report), "", f"{counts_words(report.results)}. {_markdown_links(links)}", "", *_table(report)]
    if len(report.results) > MAX_NOTE_ROWS:
        told += ["", f"{len(report.results) - MAX_NOTE_ROWS} more in `report.html`."]
    told += [line for reason in report.left_out for line in ("", f"{reason[0].upper()}{reason[1:]}.")]
    if report.best is not None and report.best.command:
        told += ["", "The best again:", "", f"    {' '.join(report.best.command.split())}"]
    return "\n".join(told) + "\n"


def _best_words(report: Report) -> str:
    """Shown of a note without a click."""
    best = report.best
    if best is None:
        return "**No trial has finished.**"
    words = ", ".join(trial_words(best, report.axes)).translate(_IN_TABLES)
    loss = "training loss" if best.outcome.heldout_after is None else "held-out loss"
    return f"**Best: {words}**, {loss} {best.objective:.4f}"


def _markdown_links(links: Mapping[str, str]) -> str:
    """Within the same UI, wherever that is served."""
    return " · ".join(f"[{words}]({link[link.index('#') :]})" for words, link in links.items())


def _table(report: Report) -> list[str]:
    heads = ["place", *titles(report.axes), *FIGURE_TITLES, "state"]
    rows = [_table_row(rank, result, report.axes) for rank, result in enumerate(report.results[:MAX_NOTE_ROWS], 1)]
    return [_line(_spaced(heads)), _line([":--"] * len(heads)), *(_line(_spaced(row)) for row in rows)]


def _table_row(rank: int, result: Result, axes: Sequence[str]) -> list[str]:
    place = str(rank) if result.objective is not None else "-"
    varied = [value_words(result.varied[key])[:60] if key in result.varied else "-" for key in axes]
    state = f"{result.state}: {result.reason}"[:120] if result.reason else result.state
    return [place, *varied, *figures_of(result).values(), state]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.translate(_IN_TABLES) for cell in cells)} |"


def _spaced(cells: Sequence[str]) -> list[str]:
    """MLflow's page sets the columns of a table right beside each other."""
    return [f"{cell}\u00a0\u00a0" for cell in cells]


# ------------------------------------------------------------------------------------------------ the view, the model


def _save_view(target: Target, report: Report, trials: Sequence[Trial]) -> str:
    """A view of the runs table, with the columns that matter. Undocumented: this is how MLflow's own UI shares one."""
    params = trials[0].run.data.params
    columns = [f"params.`{name}`" for name in _params_of(report.axes, params)]
    columns += [f"metrics.`final/{name}`" for name in COLUMNS]
    if any(trial.result.reason for trial in trials):
        columns.append(f"tags.`{ENDED_TAG}`")
    state = {
        "searchFilter": _filter(target.sweep),
        "orderByKey": "metrics.`final/heldout_after`",
        "orderByAsc": True,
        "selectedColumns": columns,
    }
    now_ms = int(time.time() * 1000)
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
    view = {"name": target.sweep, "createdAt": now_ms, "updatedAt": now_ms, "state": f"deflate;{packed}"}
    key = hashlib.sha256(target.sweep.encode()).hexdigest()[:32]
    target.client.set_experiment_tag(target.experiment_id, f"{_VIEW_TAG}{key}", json.dumps(view))
    query = f"workflowType=machine_learning&viewStateShareKey={key}"
    return f"{store.ui_root(target.store)}/#/experiments/{target.experiment_id}/runs?{query}"


def _params_of(axes: Sequence[str], params: Mapping[str, str]) -> list[str]:
    names = ((axis, *(f"{axis}.{own}" for own in _GROUP_PARAMS)) for axis in axes)
    found = (next((name for name in each if name in params), None) for each in names)
    return [name for name in found if name is not None]


def _register_best(target: Target, report: Report, trials: Sequence[Trial]) -> str | None:
    """As a version of the model that is named like the sweep, where the store has its weights. The files stay with the
    run: a LoggedModel would be a copy of them."""
    best = _best_trial(report, trials)
    if best is None or not target.client.list_artifacts(best.run.info.run_id, "weights"):
        return None
    name = _NOT_IN_MODEL_NAMES.sub("_", target.sweep)
    version = _version_of(target, name, best.run.info.run_id)
    if version is None:
        version = _new_version(target, name, best)
    target.client.set_registered_model_alias(name, BEST_ALIAS, version)
    return f"models:/{name}@{BEST_ALIAS}"


def _version_of(target: Target, name: str, run_id: str) -> str | None:
    versions = target.client.search_model_versions(f"name = '{name}'", max_results=1000)
    return next((str(version.version) for version in versions if version.run_id == run_id), None)


def _new_version(target: Target, name: str, best: Trial) -> str:
    from mlflow.exceptions import MlflowException

    try:
        target.client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    run_id = best.run.info.run_id
    made = target.client.create_model_version(
        name, f"runs:/{run_id}/weights", run_id, description=target.mask(best.result.command)
    )
    return str(made.version)


def _attempt(work: Callable[[], str | None], what: str, warnings: list[str]) -> str | None:
    """Of what is not worth losing the rest for."""
    try:
        return work()
    except store.failures() as error:
        warnings.append(f"{what}: {str(error).strip().partition(chr(10))[0]}")
        return None


def _filter(sweep: str) -> str:
    """MLflow's language has no escapes: a name with both kinds of quotes can't be asked for."""
    mark = '"' if "'" in sweep else "'"
    return f"tags.{SWEEP_TAG} = {mark}{sweep}{mark} and tags.{KIND_TAG} = 'trial'"
