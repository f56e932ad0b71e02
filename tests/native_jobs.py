"""Jobs of the native trainer as real processes, for the tests of it."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any

from pipeline.journal import read_journal
from pipeline.records import Job
from pipeline.render import render
from tests.conftest import PlanFor


def start(job: Job, **env: str) -> subprocess.Popen[bytes]:
    log = (job.run_dir / "trainer.log").open("ab")
    return subprocess.Popen(
        job.argv, cwd=job.cwd, env={**os.environ, **job.env, **env}, stdout=log, stderr=log, start_new_session=True
    )


def finish(job: Job, **env: str) -> Path:
    """Runs the job to its end and returns the weights."""
    code = start(job, **env).wait(timeout=180)
    assert code == 0, (job.run_dir / "trainer.log").read_text()
    return Path(str(next(e.data["path"] for e in read_journal(job.run_dir) if e.kind == "weights")))


def wait_for_step(run_dir: Path, step: int) -> None:
    for _ in range(1200):
        if any(event.kind == "step" and event.data["step"] == step for event in read_journal(run_dir)):
            return
        time.sleep(0.05)
    raise AssertionError(f"step {step} never came")


def events(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    return [dict(event.data) for event in read_journal(run_dir) if event.kind == kind]


def new_job(plan_for: PlanFor, run_dir: Path, *overrides: str, **plan: Any) -> Job:
    run_dir.mkdir(parents=True)
    return render(plan_for(*overrides, **plan), run_dir)
