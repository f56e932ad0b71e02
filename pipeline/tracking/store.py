"""Where MLflow keeps the runs: one SQLite file of the checkout, or a server.

MLflow is imported inside functions only: it takes 2.5 seconds, which the feed's thread pays and nobody else.
"""

from __future__ import annotations

import logging
import os
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import unquote, urlsplit

from pipeline.errors import TrackingError
from pipeline.locks import locked
from pipeline.settings import PROJECT, Tracking
from pipeline.tracking.masking import STORE_VARIABLE, without_credentials

Client: TypeAlias = Any
"""An MlflowClient."""

UI_PORT = 5000
UI_COMMAND = "python -m pipeline runs ui"
"""For the store of the checkout, `PROJECT / "mlflow"`."""
SERVER_SCHEMES = ("http", "https")
DATABASE_SCHEMES = ("sqlite", "postgresql", "mysql", "mssql")
ENV: Mapping[str, str] = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # with MLflow's own 7 a call on a dead server lasts four minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}
"""What MLflow is told, unless the user's environment says otherwise."""

_LOCK_SECONDS = 60.0
_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""Without it the UI opens in its mode for chat applications, which hides metrics and charts."""


@dataclass(frozen=True, slots=True)
class Store:
    """One MLflow store, local or behind a server."""

    uri: str
    """For MLflow; it may hold credentials, so it is never written anywhere: `public_uri` is."""
    dir: Path

    @property
    def public_uri(self) -> str:
        return without_credentials(self.uri)

    @property
    def is_server(self) -> bool:
        return urlsplit(self.uri).scheme in SERVER_SCHEMES

    @property
    def database(self) -> Path | None:
        """The SQLite file; None for any other store."""
        return _database_of(self.uri) if self.uri.startswith("sqlite:///") else None

    @property
    def ui_command(self) -> str | None:
        """What to type to open the UI; None for a server, whose page is open already."""
        if self.is_server:
            return None
        return UI_COMMAND if self.dir == PROJECT / "mlflow" else f"{UI_COMMAND} --store {shlex.quote(str(self.dir))}"

    @property
    def artifacts(self) -> str | None:
        """Where new experiments keep their files; None: the server decides."""
        return None if self.is_server else (self.dir / "artifacts").as_uri()


def store_of(tracking: Tracking) -> Store:
    """The store that the settings name. Raises TrackingError for an address that MLflow can't use."""
    return store_at(tracking.uri, tracking.store_dir)


def store_at(uri: str | None, store_dir: str | Path) -> Store:
    """The store at an address; None: the SQLite file in `store_dir`. Raises TrackingError for no address."""
    folder = Path(store_dir).absolute()
    if uri is None:
        return Store(_sqlite_uri(folder / "mlflow.db"), folder)
    if uri.startswith("sqlite:///"):
        database = _database_of(uri)
        return Store(_sqlite_uri(database), database.parent)
    if urlsplit(uri).scheme.split("+")[0] not in (*SERVER_SCHEMES, *DATABASE_SCHEMES):
        raise TrackingError(
            f"tracking.uri={without_credentials(uri)}: is not an address of an MLflow store"
            " (http://..., https://..., sqlite:///..., postgresql://..., mysql://...)\n"
            "    try: tracking=local   or   tracking.uri=http://127.0.0.1:5000"
        )
    return Store(_with_credentials(uri), folder)


def _database_of(uri: str) -> Path:
    return Path(unquote(uri.removeprefix("sqlite:///"))).absolute()


def _sqlite_uri(database: Path) -> str:
    """SQLAlchemy takes a question mark for the start of options, and decodes percent signs."""
    return "sqlite:///" + str(database).replace("%", "%25").replace("?", "%3F")


def _with_credentials(uri: str) -> str:
    """A run's own note of the address has none; the environment may still hold them."""
    known = os.environ.get(STORE_VARIABLE, "")
    return known if known and without_credentials(known) == uri else uri


def set_mlflow_env() -> None:
    """To be called before MLflow is imported, and not from a thread: it changes this process's environment."""
    for name, value in ENV.items():
        os.environ.setdefault(name, value)


def failures() -> tuple[type[Exception], ...]:
    """What a call on a store raises when the store, the network or the disk is at fault; imports MLflow."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return (MlflowException, SQLAlchemyError, OSError, TrackingError)  # those of requests are OSErrors


def open_client(store: Store) -> Client:
    """A client of a store that is ready for use; imports MLflow. Raises one of `failures()`."""
    set_mlflow_env()
    from mlflow import MlflowClient

    logging.getLogger("alembic").setLevel(logging.ERROR)
    if store.database is None:
        return MlflowClient(tracking_uri=store.uri)
    store.dir.mkdir(parents=True, exist_ok=True)
    # Two processes that first open a new SQLite store at once destroy it, so each opens it under a lock.
    with locked(store.dir / ".mlflow.db.lock", wait_seconds=_LOCK_SECONDS):
        return _open_database(store.uri, store.database)


def _open_database(uri: str, database: Path) -> Client:
    from mlflow import MlflowClient

    if not database.exists():
        _create(database)
    elif _is_older(database):
        _keep_copy(database)
        _bring_up_to_date(database)
    client = MlflowClient(tracking_uri=uri)
    client.search_experiments(max_results=1)  # makes the default experiment, which must not be made twice
    return client


def _create(database: Path) -> None:
    """Under another name first: a database that is left half made by a kill can't be used by MLflow again."""
    part = database.with_name(f".{database.name}.part")
    part.unlink(missing_ok=True)
    _bring_up_to_date(part)
    part.replace(database)


def _bring_up_to_date(database: Path) -> None:
    """MLflow's command, not its functions, which are private."""
    command = [sys.executable, "-m", "mlflow", "db", "upgrade", _sqlite_uri(database)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last_words = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise TrackingError(f"the tracking store {database} could not be made or upgraded:\n{last_words}")


def _is_older(database: Path) -> bool:
    """Whether an older MLflow made it. Raises TrackingError for the work of a newer one, or of another program."""
    import mlflow
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory(str(Path(mlflow.__file__).parent / "store" / "db_migrations"))
    revision = revision_of(database)
    if revision in (known.revision for known in scripts.walk_revisions()):
        return revision != scripts.get_current_head()
    raise TrackingError(
        f"{database} was written by a newer MLflow than {mlflow.__version__} (its schema is {revision})\n"
        "    try: pip install --upgrade mlflow   or   tracking.store_dir=<another folder>"
    )


def revision_of(database: Path) -> str:
    """Of its schema. Raises TrackingError for what is no store of MLflow's."""
    try:
        with closing(sqlite3.connect(database)) as connection:
            return str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])
    except (sqlite3.Error, TypeError) as error:
        raise TrackingError(
            f"{database} is not a tracking store of MLflow ({error})\n    try: tracking.store_dir=<another folder>"
        ) from error


def _keep_copy(database: Path) -> None:
    """MLflow's own advice before an upgrade: a change of the schema that fails half way can't be undone."""
    copy = database.with_name(f"{database.name}.before-upgrade")
    with closing(sqlite3.connect(database)) as old, closing(sqlite3.connect(copy)) as new:
        old.backup(new)


def experiment_id(client: Client, store: Store, name: str) -> str:
    """The experiment of that name, made when there is none. Raises one of `failures()`."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=store.artifacts, tags=_EXPERIMENT_TAGS))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)  # another run made it between the two calls
    if found.lifecycle_stage != "active":
        raise TrackingError(
            f"tracking.experiment={name}: this experiment was deleted in {store.public_uri}\n"
            f"    try: tracking.experiment={name}-2   or   mlflow experiments restore -x {found.experiment_id}"
        )
    return str(found.experiment_id)


def page_url(store: Store, experiment: str, run_id: str) -> str:
    """The run's page in the UI; for a local store the address that `python -m pipeline runs ui` serves."""
    return f"{ui_root(store)}/#/experiments/{experiment}/runs/{run_id}?workflowType=machine_learning"


def ui_root(store: Store) -> str:
    """Where the UI is; without a slash at the end."""
    return store.public_uri.rstrip("/") if store.is_server else f"http://127.0.0.1:{UI_PORT}"


def ui_argv(store: Tracking | Path, port: int = UI_PORT) -> tuple[list[str], dict[str, str]]:
    """The command that serves the UI of a local store, to this machine only, and what to add to its environment.

    Makes the store when there is none yet. Raises TrackingError when the settings name a server, or the store fails.
    """
    local = store_at(None, store) if isinstance(store, Path) else store_of(store)
    if local.is_server:
        raise TrackingError(f"the runs are on a server: open {local.public_uri} in a browser")
    if local.database is not None:
        _make(local)  # a server that starts on a new file would race with a run that does
    argv = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    argv += ["--artifacts-destination", str(local.dir / "artifacts")]
    # Fewer processes: 2 instead of 15, and a third of the time until the first page.
    env = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    return argv, {**env, "MLFLOW_BACKEND_STORE_URI": local.uri}  # every user can read the arguments of a process


def _make(store: Store) -> None:
    try:
        open_client(store)
    except TrackingError:
        raise
    except failures() as error:
        raise TrackingError(f"the tracking store {store.public_uri} can't be used: {error}") from error
