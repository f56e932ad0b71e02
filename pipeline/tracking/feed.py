"""Feeds MLflow from a run's journal: `Feed` does it step by step, `FeedThread` does it beside a training.

The journal is the truth: training only ever appends to it, and waits for nothing. The position in tracking.json moves
after each batch that MLflow took, so an unreachable server, a killed runner or a run that goes on all come to the same:
read on from the position.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.errors import TrackingError
from pipeline.journal import JournalReader, read_journal
from pipeline.outcome import number
from pipeline.records import Event, Outcome
from pipeline.sweep.results import state_of
from pipeline.tracking import artifacts, store
from pipeline.tracking.description import (
    ENDED_TAG,
    MAX_TAG_LENGTH,
    key_of,
    note_with_outcome,
    predicted_memory,
)
from pipeline.tracking.ending import MLFLOW_STATUS, Close
from pipeline.tracking.masking import Masker
from pipeline.tracking.state import State, load_state, save_state
from pipeline.tracking.store import Client, Store
from pipeline.tracking.system_metrics import PREFIX as SYSTEM_PREFIX

STEP_METRICS = {
    "loss": "train/loss",
    "lr": "train/lr",
    "steps_per_second": "train/steps_per_second",
    "memory_bytes": "train/memory_bytes",
}
"""Field of a `step` event -> metric."""
FINAL_FIGURES = (
    *("loss_first", "loss_last", "heldout_before", "heldout_after", "heldout_best", "heldout_best_step"),
    *("seconds", "peak_memory_bytes", "steps"),
)
PREDICTED_FIGURES = {
    "low_bytes": "final/peak_memory_bytes_predicted_low",
    "bytes": "final/peak_memory_bytes_predicted",
    "high_bytes": "final/peak_memory_bytes_predicted_high",
}
"""Field of the plan's estimate -> metric: MLflow sorts them beside the measured one."""
MAX_METRICS = 1000
MAX_PARAMS = 100
"""In one call, as MLflow allows."""
CAUSE_TAG, REPAIRED_TAG = "cause", "repaired"
OF_AN_END = (CAUSE_TAG, REPAIRED_TAG, ENDED_TAG)
"""Tags of how a run ended, which one that goes on has not."""
NOTE_TAG = "mlflow.note.content"
KEY_TAG = "run_key"
OWNER_TAG = "owner"
HEARTBEAT_TAG = "heartbeat"
HEARTBEAT_SECONDS = 30.0
SET_ASIDE = "earlier"
"""Folder that a fresh start moves an older one into (pipeline.resume)."""


class Feed:
    """Brings the MLflow run of one run directory up to date. Every method raises what `store.failures()` names."""

    def __init__(self, run_dir: Path, target: Store, mask: Masker) -> None:
        state = load_state(run_dir)
        if state is None:
            raise TrackingError(f"{run_dir} has no tracking.json: it was not tracked")
        self.run_dir = run_dir
        self.store = target
        self.state: State = state
        self.warnings: list[str] = []
        self.mask = mask
        self._client: Client = None
        self._run_is_open = False
        self._has_begun = state.offset > 0
        self._last_heartbeat = 0.0

    def catch_up(self) -> None:
        """Sends every event that MLflow does not have yet. The machine's metrics wait for one of the training: of those
        that MLflow has, its compare page draws the one that came first."""
        self._open_run()
        self._has_begun = self._has_begun or _tells_of_training(JournalReader(self.run_dir).new_events())
        while self._has_begun and self._send_batch():
            pass
        self._beat()

    def finish(self, close: Close) -> None:
        """Sends the rest, the final figures and the files, and gives the run its status. May be called again."""
        self._has_begun = True
        self.catch_up()
        assert self.state.run_id is not None
        self._send_final_figures(self.state.run_id, close)
        self._log_files(self.state.run_id, close.outcome)
        self._set_tags(self.state.run_id, self._closing_tags(close))
        self._client.set_terminated(self.state.run_id, MLFLOW_STATUS[close.outcome.status], int(close.time * 1000))
        self._save(replace(self.state, closed=True))

    # ------------------------------------------------------------------------------------------------ the MLflow run

    def _open_run(self) -> None:
        if self._run_is_open:
            return
        if self._client is None:
            self._client = store.open_client(self.store)
        experiment_id = store.experiment_id(self._client, self.store, self.state.experiment)
        run = self._known_run() or self._run_of_key(experiment_id)
        if run is None:
            run = self._create_run(experiment_id)
        if run.info.run_id != self.state.run_id:
            # Another run than the one that was fed so far, or none was: it needs the whole journal.
            self._save(replace(self.state, experiment_id=run.info.experiment_id, run_id=run.info.run_id, offset=0))
        self._describe_run(run)
        self._run_is_open = True

    def _known_run(self) -> Any:
        """None when there is none yet, or when somebody deleted it."""
        from mlflow.exceptions import MlflowException

        if self.state.run_id is None:
            return None
        try:
            run = self._client.get_run(self.state.run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return run if run.info.lifecycle_stage == "active" else None

    def _run_of_key(self, experiment_id: str) -> Any:
        """The run of a runner that died between making it and noting its id."""
        found = self._client.search_runs([experiment_id], f"tags.{KEY_TAG} = '{self.state.key}'", max_results=1)
        return found[0] if found else None

    def _create_run(self, experiment_id: str) -> Any:
        tags = {KEY_TAG: self.state.key, OWNER_TAG: self.state.owner}
        began_ms = int(self.state.description.began * 1000)
        return self._client.create_run(
            experiment_id, start_time=began_ms, tags=tags, run_name=self.state.description.name
        )

    def _describe_run(self, run: Any) -> None:
        """Tags follow the last start of a run; params stay as they were: MLflow refuses a second value."""
        run_id = run.info.run_id
        if run.info.status != "RUNNING":
            self._client.update_run(run_id, status="RUNNING")
        for key in OF_AN_END:
            if key in run.data.tags:
                self._client.delete_tag(run_id, key)
        note = {NOTE_TAG: self.state.description.note, OWNER_TAG: self.state.owner}
        self._set_tags(run_id, {**self.state.description.tags, **note})
        self._log_params(run_id, known=run.data.params)
        self._log_datasets(run_id)

    def _log_params(self, run_id: str, *, known: dict[str, str]) -> None:
        from mlflow.entities import Param

        params = [Param(key, value) for key, value in self.state.description.params.items() if key not in known]
        for part in _parts(params, MAX_PARAMS):
            self._client.log_batch(run_id, params=part, synchronous=True)

    def _set_tags(self, run_id: str, tags: dict[str, str]) -> None:
        from mlflow.entities import RunTag

        for part in _parts([RunTag(key, value) for key, value in tags.items()], MAX_PARAMS):
            self._client.log_batch(run_id, tags=part, synchronous=True)

    def _log_datasets(self, run_id: str) -> None:
        from mlflow import entities

        inputs = [
            entities.DatasetInput(
                entities.Dataset(
                    name=item.name,
                    digest=item.digest,
                    source_type="local",
                    source=json.dumps({"uri": item.dir}),
                    profile=json.dumps({"pictures": item.pictures}),
                ),
                tags=[entities.InputTag("mlflow.data.context", item.context)],
            )
            for item in self.state.description.datasets
        ]
        self._client.log_inputs(run_id, datasets=inputs)

    # --------------------------------------------------------------------------------------------------- the events

    def _send_batch(self) -> bool:
        """Sends the next events; False when there are none. A picture ends a batch, so that it is not sent twice."""
        assert self.state.run_id is not None
        reader = JournalReader(self.run_dir, offset=self.state.offset)
        metrics: list[Any] = []
        for event in reader.new_events():
            metrics += _metrics_of(event)
            if event.kind == "sample":
                self._send_metrics(self.state.run_id, metrics)
                metrics = []
                self._send_picture(self.state.run_id, event)
                break
            if len(metrics) >= MAX_METRICS - len(STEP_METRICS):
                break
        if reader.offset == self.state.offset:
            return False
        self._send_metrics(self.state.run_id, metrics)
        self._save(replace(self.state, offset=reader.offset))
        return True

    def _send_metrics(self, run_id: str, metrics: Sequence[Any]) -> None:
        """Those of the training first (`catch_up` tells why)."""
        for part in _parts(sorted(metrics, key=_is_of_machine), MAX_METRICS):
            self._client.log_batch(run_id, metrics=part, synchronous=True)

    def _send_picture(self, run_id: str, event: Event) -> None:
        from PIL import Image

        path = self.run_dir / str(event.data.get("path"))
        try:
            with Image.open(path) as file:
                picture = file.convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for a file that is no whole picture
            self._warn(f"{path} is not in MLflow: {error}")
            return
        key = f"samples/prompt{event.data.get('index', 0)}"
        step, time_ms = int(number(event.data.get("step")) or 0), int(event.time * 1000)
        self._client.log_image(run_id, picture, key=key, step=step, timestamp=time_ms, synchronous=True)

    def _send_final_figures(self, run_id: str, close: Close) -> None:
        figures = {f"final/{name}": getattr(close.outcome, name) for name in FINAL_FIGURES}
        predicted = predicted_memory(self.state.description)
        if predicted is not None:
            figures |= {metric: getattr(predicted, field) for field, metric in PREDICTED_FIGURES.items()}
        self._send_metrics(run_id, finite_metrics(figures, close.time, step=0))

    def _log_files(self, run_id: str, outcome: Outcome) -> None:
        source = artifacts.Source(self.run_dir, outcome, self.state.description, self.mask)
        for warning in artifacts.log_files(self._client, run_id, source):
            self._warn(warning)

    def _warn(self, text: str) -> None:
        """Once: what fails is tried again."""
        if text not in self.warnings:
            self.warnings.append(text)

    def _closing_tags(self, close: Close) -> dict[str, str]:
        _, why = state_of(read_journal(self.run_dir))
        tags = {NOTE_TAG: note_with_outcome(self.state.description, close.outcome, self.mask(why))}
        if why:  # for MLflow a trial that was given up is a killed run
            tags[ENDED_TAG] = self.mask(f"{close.outcome.status}: {why}")[:MAX_TAG_LENGTH]
        if close.outcome.cause is not None:
            tags[CAUSE_TAG] = close.outcome.cause
        if close.reason is not None:
            tags[REPAIRED_TAG] = close.reason
        if self.run_dir.parent.name == SET_ASIDE:  # the same trial began anew: this start of it is none of the sweep's
            tags["kind"] = SET_ASIDE
        return tags

    def _beat(self) -> None:
        """Nobody on another host can ask whether this process lives: the tag and tracking.json's time say so."""
        if time.monotonic() - self._last_heartbeat < HEARTBEAT_SECONDS:
            return
        self._client.set_tag(self.state.run_id, HEARTBEAT_TAG, f"{time.time():.0f}", synchronous=True)
        self._save(self.state)
        self._last_heartbeat = time.monotonic()

    def _save(self, state: State) -> None:
        save_state(self.run_dir, state)
        self.state = state


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the end of a run waits for a store that does not answer."""

    seconds: float = 60.0
    """Without any progress."""
    unreached_seconds: float = 10.0
    """When no call was answered since the start."""


class FeedThread(threading.Thread):
    """Feeds MLflow beside a training, every `interval_seconds`; nobody waits for it before `close`."""

    def __init__(self, feed: Feed, *, interval_seconds: float) -> None:
        super().__init__(name="mlflow-feed", daemon=True)
        self.feed = feed
        self.problem: str | None = None
        """Why MLflow does not have everything; None when all is well."""
        self._interval_seconds = interval_seconds
        self._wake = threading.Event()
        self._close: Close | None = None
        self._give_up_at = 0.0
        self._patience = Patience()
        self._reached = False

    def run(self) -> None:
        try:
            failures = store.failures()
        except ImportError as error:
            self.problem = f"MLflow can't be imported ({error})"
            return
        while not self._turn(failures):
            self._wake.wait(self._interval_seconds if self._close is None else min(1.0, self._interval_seconds))

    def close(self, close: Close, patience: Patience) -> bool:
        """Whether MLflow has the whole run. Waits as long as there is progress, and `patience` without any."""
        self._patience = patience
        self._give_up_at = time.monotonic() + (patience.seconds if self._reached else patience.unreached_seconds)
        self._close = close
        self._wake.set()
        self.join()
        return self.feed.state.closed

    def _turn(self, failures: tuple[type[Exception], ...]) -> bool:
        """True when there is nothing more to do."""
        close = self._close
        before = self.feed.state
        try:
            if close is None:
                self.feed.catch_up()
            else:
                self.feed.finish(close)
        except failures as error:
            self.problem = str(error).strip().splitlines()[0]
            self._note_progress(self.feed.state != before)
            self._wake.clear()
            return close is not None and time.monotonic() > self._give_up_at
        self.problem = None
        self._note_progress(True)
        return close is not None

    def _note_progress(self, progressed: bool) -> None:
        if progressed:
            self._reached = True
            self._give_up_at = time.monotonic() + self._patience.seconds


def _tells_of_training(events: Iterable[Event]) -> bool:
    return any(
        event.kind == "sample" or not all(_is_of_machine(metric) for metric in _metrics_of(event)) for event in events
    )


def _is_of_machine(metric: Any) -> bool:
    return str(metric.key).startswith(SYSTEM_PREFIX)


def _metrics_of(event: Event) -> list[Any]:
    step = int(number(event.data.get("step")) or 0)
    if event.kind == "step":
        figures = {metric: event.data.get(field) for field, metric in STEP_METRICS.items()}
        return finite_metrics(figures, event.time, step=step)
    values = event.data.get("values")
    if event.kind == "metric" and isinstance(values, dict):
        return finite_metrics(values, event.time, step=step)
    return []


def finite_metrics(figures: Mapping[str, object], seconds: float, *, step: int) -> list[Any]:
    """As MLflow takes them; `seconds` since the epoch."""
    from mlflow.entities import Metric

    # MLflow stores infinity as 1.8e308, which ruins a chart: what is not finite stays in the journal.
    numbers = {name: number(value) for name, value in figures.items()}
    return [Metric(key_of(name), n, int(seconds * 1000), step) for name, n in numbers.items() if n is not None]


def _parts(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])
