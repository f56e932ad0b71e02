"""The local store: made once whoever comes first, upgraded with a copy kept, served to this machine only."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import TrackingError
from pipeline.settings import PROJECT, Tracking
from pipeline.tracking.store import open_client, page_url, store_at, store_of, ui_argv

FIRST_USE = """
import sys
from pathlib import Path
from pipeline.tracking.store import experiment_id, open_client, store_at
store = store_at(None, sys.argv[1])
client = open_client(store)
client.create_run(experiment_id(client, store, "tests"))
"""


def tracking(uri: str | None, folder: Path) -> Tracking:
    return Tracking("local", True, uri, str(folder), "tests", False)


@pytest.mark.slow
def test_first_use_by_three_processes_at_once_loses_nobody(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FIRST_USE, str(tmp_path)]
    users = [subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    errors = [user.communicate(timeout=180)[1] for user in users]
    assert [user.returncode for user in users] == [0, 0, 0], errors
    client = open_client(store_at(None, tmp_path))
    experiments = {found.name: found.experiment_id for found in client.search_experiments()}
    assert set(experiments) == {"Default", "tests"}
    assert len(client.search_runs([experiments["tests"]])) == 3


@pytest.mark.slow
def test_store_of_an_older_mlflow_is_upgraded_and_a_copy_kept(tmp_path: Path) -> None:
    older = make_older_store(tmp_path)
    client = open_client(store_at(None, tmp_path))
    assert revision(tmp_path / "mlflow.db") != older
    assert revision(tmp_path / "mlflow.db.before-upgrade") == older
    assert len(client.search_experiments()) == 1


def make_older_store(folder: Path) -> str:
    """A store as the MLflow before this one's last change of the schema left it."""
    from alembic import command
    from alembic.script import ScriptDirectory
    from mlflow.store.db.utils import _get_alembic_config
    from mlflow.store.tracking.dbmodels.initial_models import Base
    from sqlalchemy import create_engine

    uri = f"sqlite:///{folder / 'mlflow.db'}"
    Base.metadata.create_all(create_engine(uri))
    config = _get_alembic_config(uri)
    scripts = ScriptDirectory.from_config(config)
    head = scripts.get_revision("head")
    command.upgrade(config, str(head.down_revision))
    return revision(folder / "mlflow.db")


def revision(database: Path) -> str:
    with sqlite3.connect(database) as connection:
        return str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])


@pytest.mark.slow
def test_folder_with_odd_characters_can_hold_the_store(tmp_path: Path) -> None:
    folder = tmp_path / "my store 100% #1?"
    client = open_client(store_at(None, folder))
    assert client.search_experiments()[0].name == "Default"
    assert (folder / "mlflow.db").is_file()


def test_file_that_is_no_store_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database")
    with pytest.raises(TrackingError, match="is not a tracking store"):
        open_client(store_at(None, tmp_path))


def test_store_of_a_newer_mlflow_is_left_as_it_is(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        connection.execute("INSERT INTO alembic_version VALUES ('of the future')")
    with pytest.raises(TrackingError, match="written by a newer MLflow"):
        open_client(store_at(None, tmp_path))


def test_null_uri_is_a_file_in_the_store_folder(tmp_path: Path) -> None:
    store = store_of(tracking(None, tmp_path))
    assert (store.database, store.artifacts) == (tmp_path / "mlflow.db", (tmp_path / "artifacts").as_uri())


def test_relative_sqlite_file_gets_an_absolute_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = store_of(tracking("sqlite:///here/runs.db", tmp_path))
    assert store.uri == f"sqlite:///{tmp_path / 'here/runs.db'}"


def test_server_keeps_its_own_artifacts(tmp_path: Path) -> None:
    store = store_of(tracking("http://127.0.0.1:5000", tmp_path))
    assert (store.is_server, store.artifacts, store.database) == (True, None, None)


def test_page_of_a_server_has_no_credentials(tmp_path: Path) -> None:
    store = store_of(tracking("https://me:secret@host:8443/", tmp_path))
    assert page_url(store, "1", "abc") == "https://host:8443/#/experiments/1/runs/abc?workflowType=machine_learning"


def test_credentials_that_were_not_written_come_back_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@host")
    assert store_at("https://host", tmp_path).uri == "https://me:secret@host"
    assert store_at("https://other", tmp_path).uri == "https://other"


def test_ui_is_served_to_this_machine_only(tmp_path: Path) -> None:
    argv, _ = ui_argv(tracking("postgresql://host/db", tmp_path), 5001)
    assert argv[argv.index("--host") + 1] == "127.0.0.1"
    assert argv[argv.index("--port") + 1] == "5001"


def test_ui_is_told_the_password_where_other_users_can_not_read_it(tmp_path: Path) -> None:
    argv, env = ui_argv(tracking("postgresql://me:secret@host/db", tmp_path))
    assert "secret" not in " ".join(argv)
    assert env["MLFLOW_BACKEND_STORE_URI"] == "postgresql://me:secret@host/db"


def test_ui_of_a_server_is_the_server(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="open https://host in a browser"):
        ui_argv(tracking("https://me:secret@host", tmp_path))
