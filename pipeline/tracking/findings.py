"""Whether the tracking store can take a run, without making one: MLflow is not imported."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import TrackingError
from pipeline.machine.findings import Finding, why_not_writable
from pipeline.settings import PROJECT
from pipeline.tracking.store import Store, revision_of, store_at

SUBJECT = "tracking"
LOCAL = PROJECT / "mlflow"
SERVER_SECONDS = 10.0


def examine_store(uri: str | None, folder: Path = LOCAL) -> Iterator[Finding]:
    """Of the server of MLFLOW_TRACKING_URI where it is set, else of the local store."""
    try:
        store = store_at(uri or None, folder)
    except TrackingError as error:
        yield Finding("failure", SUBJECT, str(error).partition("\n")[0], "unset MLFLOW_TRACKING_URI")
        return
    if store.is_server:
        yield _server(store)
    elif store.database is not None:
        yield _database(store, store.database)
    else:
        yield Finding("ok", SUBJECT, f"{store.public_uri}: a database server, which is asked when a run begins")


def _server(store: Store) -> Finding:
    """MLflow's servers answer at /health without a password."""
    try:
        with urllib.request.urlopen(  # noqa: S310  is_server: http or https, nothing else
            f"{store.public_uri.rstrip('/')}/health", timeout=SERVER_SECONDS
        ):
            return Finding("ok", SUBJECT, f"{store.public_uri} answers")
    except (urllib.error.URLError, OSError, ValueError) as error:
        reason = f"{store.public_uri} does not answer: {getattr(error, 'reason', error)}"
        return Finding("warning", SUBJECT, reason, "tracking=local; or start the server")


def _database(store: Store, database: Path) -> Finding:
    wrong = why_not_writable(store.dir if store.dir.exists() else store.dir.parent)
    if wrong:
        return Finding("failure", SUBJECT, f"{store.dir} {wrong}", "tracking.store_dir=FOLDER; or tracking=off")
    if not database.exists():
        return Finding("ok", SUBJECT, f"{database} will be made by the first run")
    try:
        revision_of(database)
    except TrackingError as error:
        return Finding("failure", SUBJECT, str(error).partition("\n")[0], "tracking.store_dir=FOLDER; or tracking=off")
    return Finding("ok", SUBJECT, f"{database} holds the runs")
