"""A sweep as the jobs of a Slurm cluster. Hydra's submitit launcher submits them, waits, and gives their results to the
sweep; here is what it leaves open: whether that can work is asked before anything is submitted, and the wait for a job
that was cancelled or killed ends, with accounting or without."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import CompactHydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from pipeline.errors import InvalidSettings, Problem, SweepFailed
from pipeline.settings import PROJECT, Resume
from pipeline.sweep.results import failed_text

PROGRAMS = ("sbatch", "srun", "squeue", "sinfo")
ENDED = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "REVOKED", "TIMEOUT"),
}
"""States from which no job comes back by itself; squeue forgets jobs some minutes after they reached one."""
FORGOTTEN = "no longer known"
ASK_SECONDS = 5.0
SETTLE_SECONDS = 30.0
"""How long after its end a job's result may take to be seen, over a network's file system, and a job that Slurm puts
back into the queue to be waiting again."""
_ANSWER_SECONDS = 60.0


class Sweep(Callback):
    """Hydra calls it when a sweep with launch=slurm begins."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:  # noqa: ARG002
        """Refuses a run that is no sweep: Hydra would train it here without a word."""
        reason = "the trials of a sweep are submitted, and this is a run of its own"
        fix = "-m before the settings: a sweep may have one trial"
        raise SystemExit(str(InvalidSettings((Problem("launch", "slurm", reason, fix),))))

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Ends the program with a message where the jobs could not run."""
        problems = tuple(problems_of(config))
        if problems:
            raise SystemExit(str(InvalidSettings(problems)))  # Hydra makes a warning of an error, and submits
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(PROJECT), os.environ.get("PYTHONPATH"))))
        _ask_squeue(str(config.hydra.launcher.submitit_folder))
        _say(_warnings(config))
        name = config.hydra.launcher.name
        _say([f"the trials are Slurm's jobs {name}. Ctrl-C ends the waiting only; the jobs end by: scancel -n {name}"])


def raise_failures(returns: Sequence[JobReturn], first: int) -> None:
    """Raises SweepFailed with every trial that failed; `first` is the number of the first."""
    reasons = {
        first + place: str(each._return_value)  # `return_value` raises it
        for place, each in enumerate(returns)
        if each.status is JobStatus.FAILED
    }
    if reasons:
        raise SweepFailed(failed_text(len(returns), reasons))


def problems_of(config: DictConfig) -> Iterator[Problem]:
    """What would fail after the submission, or be refused without a word on what to type."""
    minutes = config.hydra.launcher.timeout_min
    if minutes <= 0:
        reason = "must be given: the minutes after which Slurm ends a job, and its trial goes on in a next one"
        yield Problem("hydra.launcher.timeout_min", minutes, reason, "hydra.launcher.timeout_min=600")
    yield from _several_machines(config)
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        reason = f"no {', '.join(missing)} on the PATH: this is no machine of a Slurm cluster"
        yield Problem("launch", "slurm", reason, "the same on a login node of the cluster; or leave launch=slurm out")
        return
    yield from _unknown_partition(config.hydra.launcher.partition)


def _several_machines(config: DictConfig) -> Iterator[Problem]:
    """What would start a trial several times over, in one folder, or have it wait for machines that never come."""
    launcher = config.hydra.launcher
    asked = {
        "hydra.launcher.nodes": launcher.nodes,
        "hydra.launcher.tasks_per_node": launcher.tasks_per_node,
        "hardware.num_machines": config.hardware.num_machines,
    }
    for key, value in asked.items():
        if value != 1:
            yield Problem(key, value, "a trial of a sweep is one job on one machine", f"{key}=1")


def _unknown_partition(wanted: str | None) -> Iterator[Problem]:
    try:
        known = sorted(set(_lines_of("sinfo", "--noheader", "--format=%R")))
    except (OSError, subprocess.SubprocessError) as error:
        told = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1:]
        yield Problem("launch", "slurm", f"the cluster does not answer: {' '.join(told)}", "sinfo, until it answers")
        return
    for name in (wanted or "").split(","):
        if name and name not in known:
            reason = f"there is no partition {name!r}. There are: {', '.join(known)}"
            yield Problem("hydra.launcher.partition", wanted, reason, f"hydra.launcher.partition={known[0]}")


def _warnings(config: DictConfig) -> Iterator[str]:
    if config.resume == Resume.never:
        yield "! resume=never: a trial whose job's time is up begins anew in the next job"
    tracking = config.tracking
    is_file = tracking.enabled and (tracking.uri is None or str(tracking.uri).startswith("sqlite:"))
    nodes = set(_lines_of("sinfo", "--noheader", "--Node", "--format=%N"))
    if is_file and len(nodes) > 1:
        yield (
            f"! {len(nodes)} nodes may write to one SQLite file, which few network file systems allow for\n"
            "    try: MLFLOW_TRACKING_URI=http://... python run.py tracking=server ...   (docs/scale.md)"
        )


def _lines_of(*command: str) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_ANSWER_SECONDS)
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


def _say(lines: Iterable[str]) -> None:
    for line in lines:
        sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


# ----------------------------------------------------------------------------------------------- the wait for the jobs


def _ask_squeue(submitit_folder: str) -> None:
    from submitit.core.utils import JobPaths
    from submitit.slurm.slurm import SlurmJob

    def result_file(job_id: str) -> Path:
        return Path(JobPaths(submitit_folder, job_id=job_id, task_id=0).result_pickle)

    SlurmJob.watcher = Queue(result_file, states_by_squeue)


def states_by_squeue() -> dict[str, str] | None:
    """Job id -> state, of this user's jobs; None while the cluster does not answer."""
    command = ("squeue", "--noheader", "--states=all", "--array", f"--user={os.getuid()}", "--format=%i|%T")
    try:
        return dict(line.split("|") for line in _lines_of(*command))
    except (OSError, subprocess.SubprocessError):
        return None


class Queue:
    """What submitit asks about its jobs (its `InfoWatcher`), answered by squeue. Its own way, sacct, needs accounting:
    without it a job that was cancelled, or killed with its node, is waited for for ever. With it the launcher leaves at
    the first such job. Here it becomes a failed trial, and the others are waited for."""

    def __init__(self, result_file: Callable[[str], Path], states: Callable[[], dict[str, str] | None]) -> None:
        self._result_file = result_file
        self._ask = states
        self._states: dict[str, str] = {}
        self._ended_at: dict[str, float] = {}
        self._asked_at = float("-inf")
        self._told: Counter[str] = Counter()

    def register_job(self, job_id: str) -> None:
        """Called for each job that was submitted."""
        self._states[job_id] = "PENDING"

    def get_state(self, job_id: str, mode: str = "standard") -> str:
        """As Slurm calls it."""
        if mode != "cache" and time.monotonic() - self._asked_at > ASK_SECONDS:
            self._update()
        return self._states.get(job_id, "UNKNOWN")

    def get_info(self, job_id: str, mode: str = "standard") -> dict[str, str]:
        """What submitit puts into its messages."""
        return {"State": self.get_state(job_id, mode)}

    def is_done(self, job_id: str, mode: str = "standard") -> bool:
        """Asked while there is no result. True for a job that will bring none: it gets one here."""
        state = self.get_state(job_id, mode)
        if time.monotonic() - self._ended_at.get(job_id, float("inf")) < SETTLE_SECONDS:
            return False
        if job_id not in self._ended_at:
            return False
        _write_lost(self._result_file(job_id), f"Slurm's job {job_id} ended without a result: {state.lower()}")
        return True

    def _update(self) -> None:
        found = self._ask()
        self._asked_at = time.monotonic()
        if found is None:
            return
        for job_id in self._states:
            self._states[job_id] = found.get(job_id, FORGOTTEN)
            if self._states[job_id] in (*ENDED, FORGOTTEN):
                self._ended_at.setdefault(job_id, self._asked_at)
            else:
                self._ended_at.pop(job_id, None)
        self._tell()

    def _tell(self) -> None:
        arrays = {job_id.partition("_")[0] for job_id in self._states if "_" in job_id}  # not jobs of their own
        trials = self._states.keys() - arrays
        counts = Counter("ended" if trial in self._ended_at else self._states[trial].lower() for trial in trials)
        if counts != self._told:
            self._told = counts
            _say(["slurm: " + ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))])


def _write_lost(file: Path, reason: str) -> None:
    """As submitit and Hydra write the result of a trial that failed."""
    logs = file.with_name(file.name.replace("_result.pkl", "_log.err"))
    error = CompactHydraException(f"{reason}\n    its log: {logs}")
    part = file.with_name(f"{file.name}.part")
    part.write_bytes(pickle.dumps(("success", JobReturn(status=JobStatus.FAILED, _return_value=error))))
    part.replace(file)
