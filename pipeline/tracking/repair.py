"""Ends the MLflow runs whose runner died (kill -9, power cut, out of memory), from what their journals say.

A killed process can't end its run: MLflow would show it as running for ever, without the events of its last seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import TrackingError
from pipeline.journal import FILE_NAME as JOURNAL
from pipeline.locks import RUN_LOCK, lock_if_free
from pipeline.settings import PROJECT
from pipeline.tracking import store
from pipeline.tracking.ending import close_of_dead_run
from pipeline.tracking.feed import HEARTBEAT_TAG, OWNER_TAG, Feed
from pipeline.tracking.masking import Masker, without_credentials
from pipeline.tracking.owner import is_alive
from pipeline.tracking.state import FILE_NAME as STATE
from pipeline.tracking.state import State, load_state
from pipeline.tracking.store import Client, Store, store_at

SILENT_SECONDS = 600.0
"""After so long without a word a run of another host counts as dead: its process can't be asked from here."""
_DEAD = "the process that ran it is gone"
_DEAD_AND_DELETED = "the process that ran it is gone, and so is its folder"


def repair_runs(
    folders: Sequence[Path], *, say: Callable[[str], None], store_dirs: Sequence[Path] = (PROJECT / "mlflow",)
) -> int:
    """How many runs were ended: those of dead runners under `folders`, and those in the local stores in `store_dirs`
    whose folder is gone too. Live runs are left alone; one that can't be repaired now is told of, and left."""
    store.set_mlflow_env()
    unreachable: set[str] = set()
    run_dirs = [run_dir for folder in folders for run_dir in _run_dirs(folder)]
    repaired = sum(_repair(run_dir, say, unreachable) for run_dir in run_dirs)
    for store_dir in store_dirs:
        repaired += _repair_store(store_at(None, store_dir), say, unreachable)
    return repaired


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run in a table."""

    name: str
    run_id: str
    status: str
    began: float
    """Seconds since the epoch."""
    heldout_after: float | None


def list_runs(target: Store, *, experiment: str, limit: int = 50) -> list[RunRow]:
    """The newest runs of an experiment, newest first. Raises TrackingError when the store can't be used."""
    store.set_mlflow_env()
    try:
        client = store.open_client(target)
        found = client.get_experiment_by_name(experiment)
        runs = client.search_runs([found.experiment_id], max_results=limit) if found else []
    except store.failures() as error:
        raise TrackingError(f"MLflow at {target.public_uri} can't be read: {_first_line(error)}") from error
    return [_row(run) for run in runs]


def _row(run: Any) -> RunRow:
    info, metrics = run.info, run.data.metrics
    return RunRow(info.run_name, info.run_id, info.status, info.start_time / 1000, metrics.get("final/heldout_after"))


def _run_dirs(folder: Path) -> Iterator[Path]:
    """Those that were tracked; a run with tracking=off, or one that ended before it trained, has no tracking.json."""
    for journal in sorted(folder.rglob(JOURNAL)):
        if (journal.parent / STATE).exists():
            yield journal.parent


def _repair(run_dir: Path, say: Callable[[str], None], unreachable: set[str]) -> int:
    """1 when the run was ended."""
    try:
        state = load_state(run_dir)
        if state is None or state.closed or state.uri in unreachable:
            return 0
        with ExitStack() as stack:
            if not _is_dead(run_dir, state, stack):
                say(f"{run_dir}: still running, left alone")
                return 0
            return _end(run_dir, state, say, unreachable)
    except (OSError, TrackingError) as error:
        say(f"{run_dir}: {error}")
        return 0


def _is_dead(run_dir: Path, state: State, stack: ExitStack) -> bool:
    """Dead, and this process has its lock, so that nobody starts to go on with it meanwhile."""
    has_lock = (run_dir / RUN_LOCK).exists()
    if not stack.enter_context(lock_if_free(run_dir / RUN_LOCK)):
        return False
    alive = is_alive(state.owner)
    if alive is None:
        return _silent_seconds(run_dir) > SILENT_SECONDS
    return has_lock or not alive  # a lock that is free says it also where one process runs one job after another


def _silent_seconds(run_dir: Path) -> float:
    return time.time() - max((run_dir / name).stat().st_mtime for name in (JOURNAL, STATE))


def _end(run_dir: Path, state: State, say: Callable[[str], None], unreachable: set[str]) -> int:
    target = store_at(state.uri, state.store_dir)
    feed = Feed(run_dir, target, Masker({}))
    close = close_of_dead_run(run_dir, reason=_DEAD)
    try:
        feed.finish(close)
    except store.failures() as error:
        unreachable.add(state.uri)
        say(
            f"{run_dir}: MLflow at {without_credentials(target.uri)} can't be used now: {feed.mask(_first_line(error))}"
        )
        return 0
    for warning in feed.warnings:
        say(f"{run_dir}: {warning}")
    say(f"{run_dir}: {close.outcome.status} at step {close.outcome.steps}, now also in MLflow")
    return 1


def _repair_store(target: Store, say: Callable[[str], None], unreachable: set[str]) -> int:
    """The runs that the store still calls running, though their process and their folder are gone."""
    if target.database is None or not target.database.exists():
        return 0
    try:
        client = store.open_client(target)
        return sum(_repair_listed(client, run, say, unreachable) for run in _running(client))
    except store.failures() as error:
        say(f"{target.public_uri}: {_first_line(error)}")
        return 0


def _running(client: Client) -> list[Any]:
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(experiments, "attributes.status = 'RUNNING'", max_results=1000))


def _repair_listed(client: Client, run: Any, say: Callable[[str], None], unreachable: set[str]) -> int:
    tags = run.data.tags
    if OWNER_TAG not in tags or is_alive(tags[OWNER_TAG]) is not False:
        return 0  # another program's run, or one that lives, or one of another host
    run_dir = Path(tags.get("run_dir", ""))
    if "run_dir" in tags and (run_dir / STATE).exists():
        return _repair(run_dir, say, unreachable)
    client.set_tag(run.info.run_id, "repaired", _DEAD_AND_DELETED)
    end_ms = int(float(tags.get(HEARTBEAT_TAG, 0)) * 1000) or run.info.start_time
    client.set_terminated(run.info.run_id, "KILLED", end_ms)
    say(f"MLflow run {run.info.run_name} ({run.info.run_id}): killed; {_DEAD_AND_DELETED}")
    return 1


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
