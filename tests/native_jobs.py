"""Jobs of the native trainer as real processes, for the tests of it.

They begin as trials of a sweep do: as forks of one process that has imported what trainers need, which saves each of
them the seconds that imports take. Several processes that train together, and those with an environment of their own,
begin as they are typed.
"""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cache
from multiprocessing import forkserver, get_context
from pathlib import Path
from typing import Any

from pipeline.journal import read_journal
from pipeline.records import Job
from pipeline.render import render
from pipeline.settings import PROJECT
from pipeline.sweep.process import PRELOADED, stand_alone
from tests.conftest import PlanFor

TRAINER = [sys.executable, "-m", "pipeline.backends.native"]


class Forked:
    """What tests need of a `subprocess.Popen`."""

    def __init__(self, process: Any) -> None:
        self._process = process
        self.pid: int = process.pid

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code: int | None = self._process.exitcode
        assert code is not None, f"the trainer did not end in {timeout} s"
        return code

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)


def start(job: Job, **env: str) -> subprocess.Popen[bytes] | Forked:
    log = job.run_dir / "trainer.log"
    whole = {**os.environ, **job.env, **env}
    if list(job.argv[:-1]) == TRAINER and not env:
        process = _forks().Process(target=_train, args=(job.argv[2:], whole, str(job.cwd), str(log)), daemon=True)
        process.start()
        return Forked(process)
    with log.open("ab") as output:
        return subprocess.Popen(
            job.argv, cwd=job.cwd, env=whole, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )


@cache
def _forks() -> Any:
    """The server is started where the modules of this checkout are found."""
    context = get_context("forkserver")
    context.set_forkserver_preload([PRELOADED])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(PROJECT)
    try:
        forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before
    return context


def _train(argv: Sequence[str], env: Mapping[str, str], cwd: str, log: str) -> None:
    """In the forked process, which has no other threads yet."""
    stand_alone(env, log)
    os.chdir(cwd)
    sys.argv = list(argv)
    runpy.run_module("pipeline.backends.native", run_name="__main__", alter_sys=True)


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
