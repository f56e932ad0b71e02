"""The stage around `execute`: opens the run's record before it and closes it after: a crash is a comparable run too.

    with log(plan, job, command=command, began=began) as record:
        ending = execute(job, ...)
        record.close_with(ending.outcome)

Nothing here waits for MLflow but `close_with`; importing this module does not import MLflow.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

from pipeline.errors import Stopped, TrackingError
from pipeline.outcome import recorded
from pipeline.records import Job, Outcome, Plan, Status
from pipeline.tracking.description import Description, describe
from pipeline.tracking.ending import Close
from pipeline.tracking.feed import Feed, FeedThread, Patience
from pipeline.tracking.masking import Masker
from pipeline.tracking.owner import this_owner
from pipeline.tracking.state import State, load_state, save_state
from pipeline.tracking.store import Store, page_url, set_mlflow_env, store_of
from pipeline.tracking.system_metrics import Sampler

FEED_SECONDS = 2.0
PATIENCE = Patience()
REPAIR_COMMAND = "python -m pipeline runs repair"


class Record(Protocol):
    """What is kept of a run beside its directory."""

    warnings: list[str]
    """What the user should know at the end."""

    @property
    def mlflow_run_id(self) -> str | None:
        """None while MLflow has not answered yet, and when tracking is off."""

    @property
    def page(self) -> str | None:
        """Address of the run's page in the MLflow UI."""

    @property
    def ui_command(self) -> str | None:
        """What to type to open the UI; None for a server, whose page is open already."""

    def close_with(self, outcome: Outcome) -> str | None:
        """Completes the record and gives the run's id; what could not be done is in `warnings`, never raised."""


@contextmanager
def log(plan: Plan, job: Job, *, command: str, began: float, patience: Patience = PATIENCE) -> Iterator[Record]:
    """The record of a run, open. It ends killed for Stopped and Ctrl-C, failed for any other exception and for a body
    that forgets `close_with`. `began` is in seconds since the epoch. Raises TrackingError before anything starts."""
    if not plan.settings.tracking.enabled:
        yield Untracked()
        return
    record = MlflowRecord(plan, job, command=command, began=began, patience=patience)
    status: Status = "failed"
    try:
        yield record
    except (Stopped, KeyboardInterrupt):
        status = "killed"
        raise
    finally:
        record.close_as(status)


class Untracked:
    """The record of a run with `tracking=off`: its directory has everything."""

    mlflow_run_id = None
    page = None
    ui_command = None

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def close_with(self, outcome: Outcome) -> str | None:  # noqa: ARG002
        """Nothing to close."""
        return None


class MlflowRecord:
    """The record of a run in MLflow, fed from the journal by a thread."""

    def __init__(self, plan: Plan, job: Job, *, command: str, began: float, patience: Patience) -> None:
        self.warnings: list[str] = []
        self._patience = patience
        set_mlflow_env()
        self._run_dir = job.run_dir
        self._store = store_of(plan.settings.tracking)
        mask = Masker({**os.environ, **job.env})
        try:
            description = describe(plan, job, command=command, began=began, mask=mask)
            save_state(job.run_dir, _opening_state(job, self._store, plan.settings.tracking.experiment, description))
        except OSError as error:
            raise TrackingError(
                f"{job.run_dir} can't be written: {error}\n    try: tracking=off   or free the disk"
            ) from error
        self._feed = Feed(job.run_dir, self._store, mask)
        self._thread = FeedThread(self._feed, interval_seconds=FEED_SECONDS)
        self._thread.start()
        self._sampler = Sampler(job.run_dir) if plan.settings.tracking.system_metrics else None
        if self._sampler is not None:
            self._sampler.start()
        self._is_closed = False

    @property
    def mlflow_run_id(self) -> str | None:
        return self._feed.state.run_id

    @property
    def page(self) -> str | None:
        state = self._feed.state
        if state.run_id is None or state.experiment_id is None:
            return None
        return page_url(self._store, state.experiment_id, state.run_id)

    @property
    def ui_command(self) -> str | None:
        return self._store.ui_command

    def close_with(self, outcome: Outcome) -> str | None:
        if self._is_closed:
            return self.mlflow_run_id
        self._is_closed = True  # first: a Ctrl-C during the wait must not start another
        if self._sampler is not None:
            self._sampler.stop()
        complete = self._thread.close(Close(outcome, time.time()), self._patience)
        self.warnings += self._feed.warnings
        if not complete:
            self.warnings.append(self._incomplete())
        return self.mlflow_run_id

    def close_as(self, status: Status) -> None:
        """For a run that nobody summed up: with the figures that the journal has. Does nothing when it is closed."""
        if not self._is_closed:
            self.close_with(recorded(self._run_dir, status, None))

    def _incomplete(self) -> str:
        reason = self._feed.mask(self._thread.problem or "the feed ended unexpectedly")
        return (
            f"MLflow at {self._store.public_uri} does not have all of this run: {reason}\n"
            f"    nothing is lost, {self._run_dir} has everything; when MLflow is there again: {REPAIR_COMMAND}"
        )


def _opening_state(job: Job, store: Store, experiment: str, description: Description) -> State:
    """The state of a new run, or that of the same run when it goes on in the same store."""
    before = load_state(job.run_dir)
    if before is not None and (before.uri, before.experiment) == (store.public_uri, experiment):
        began = before.description.began  # the MLflow run is as old as its first start
        return replace(before, owner=this_owner(), closed=False, description=replace(description, began=began))
    return State(
        uri=store.public_uri,
        store_dir=str(store.dir),
        experiment=experiment,
        key=uuid.uuid4().hex,
        owner=this_owner(),
        description=description,
    )
