"""Many jobs that write to one store at once, each with its own feed: what is in the database is counted there.

The server needs `eval $(tests/postgres/server.sh start)` and the extra `postgres`:  pytest -m postgres
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from pipeline.records import Job
from pipeline.settings import PROJECT
from tests.conftest import PlanFor

WRITER = """
import os, pickle, sys, time
from pipeline import log as stage
from pipeline.journal import Journal
from pipeline.outcome import recorded
stage.FEED_SECONDS = 0.2
plan, job, steps = pickle.load(open(sys.argv[1], "rb"))
journal = Journal(job.run_dir)
journal.write("run", name=job.run_dir.name, command="x", fingerprint="f", pid=os.getpid(), host="here")
with stage.log(plan, job, command="x", began=time.time()) as record:
    for step in range(1, steps + 1):
        journal.write("step", step=step, steps=steps, loss=1 / step, lr=1e-4, steps_per_second=2.0, memory_bytes=step)
        time.sleep(0.01)
    record.close_with(recorded(job.run_dir, "finished", None))
assert record.warnings == [], record.warnings
"""
"""A job with all but its training."""
COUNTS = """
    SELECT runs.name, metrics.key, count(*), count(DISTINCT metrics.step), min(metrics.step), max(metrics.step)
    FROM metrics JOIN runs ON runs.run_uuid = metrics.run_uuid JOIN experiments USING (experiment_id)
    WHERE experiments.name = :experiment AND metrics.key LIKE 'train/%' AND runs.status = 'FINISHED'
    GROUP BY runs.run_uuid, runs.name, metrics.key
"""
STEPS = 300
METRICS_OF_A_STEP = 4


def write_at_once(folder: Path, plan_for: PlanFor, *overrides: str, jobs: int) -> None:
    """Runs the jobs, each a process; they end well."""
    writers = []
    for number in range(jobs):
        run_dir = folder / f"run{number}"
        run_dir.mkdir()
        plan = plan_for(*overrides, "tracking.system_metrics=false", steps=STEPS)
        file = folder / f"plan{number}.pickle"
        file.write_bytes(pickle.dumps((plan, Job(run_dir, (), folder, {}, ()), STEPS)))
        command = [sys.executable, "-c", WRITER, str(file)]
        writers.append(subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.PIPE, text=True))
    errors = [writer.communicate(timeout=600)[1] for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * jobs, errors


def assert_nothing_is_lost(database: str, *, experiment: str, jobs: int) -> None:
    with create_engine(database).connect() as connection:
        counts = connection.execute(text(COUNTS), {"experiment": experiment}).all()
    assert len(counts) == jobs * METRICS_OF_A_STEP
    assert {tuple(row[2:]) for row in counts} == {(STEPS, STEPS, 1, STEPS)}


@pytest.mark.slow
def test_four_jobs_at_once_lose_nothing_in_a_new_local_store(tmp_path: Path, plan_for: PlanFor) -> None:
    write_at_once(tmp_path, plan_for, f"tracking.store_dir={tmp_path}", "tracking.experiment=writers", jobs=4)
    assert_nothing_is_lost(f"sqlite:///{tmp_path / 'mlflow.db'}", experiment="writers", jobs=4)


@pytest.fixture
def server() -> tuple[str, str]:
    """Addresses of a server and of its database."""
    try:
        return os.environ["TESTED_SERVER"], os.environ["TESTED_DATABASE"]
    except KeyError:
        pytest.skip("no server was started: eval $(tests/postgres/server.sh start)")


@pytest.mark.postgres
def test_eight_jobs_at_once_lose_nothing_on_a_server_with_postgresql(
    tmp_path: Path, plan_for: PlanFor, server: tuple[str, str]
) -> None:
    experiment = f"writers {tmp_path.name}-{os.getpid()}"
    overrides = ("tracking=server", f"tracking.uri={server[0]}", f'tracking.experiment="{experiment}"')
    write_at_once(tmp_path, plan_for, *overrides, jobs=8)
    assert_nothing_is_lost(server[1], experiment=experiment, jobs=8)
