"""Sweeps on Slurm: what is told before anything is submitted, the wait for jobs, and a real sweep on a real cluster.

The last needs `eval $(tests/slurm/cluster.sh start)` and the extra `slurm`:  pytest -m slurm
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pickle
import shutil
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import CompactHydraException

from pipeline import mistakes, signals, slurm
from pipeline.composition import command_line
from pipeline.errors import SweepFailed
from pipeline.journal import read_journal
from pipeline.records import Event
from pipeline.settings import PROJECT
from pipeline.tracking.store import open_client, store_at

# ------------------------------------------------------------------------------------------- before the submission


def config(**launcher: Any) -> Any:
    """Of what `problems_of` reads."""
    from omegaconf import OmegaConf

    usual = {"timeout_min": 5, "partition": None, "nodes": 1, "tasks_per_node": 1}
    return OmegaConf.create({"hydra": {"launcher": {**usual, **launcher}}, "hardware": {"num_machines": 1}})


def told(**launcher: Any) -> list[str]:
    return [str(problem) for problem in slurm.problems_of(config(**launcher))]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs of Slurm's names that answer as those of a cluster with two partitions do."""
    for name in slurm.PROGRAMS:
        program(tmp_path / name, "printf 'gpu\\nlong\\n'")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_cluster_that_answers_is_no_problem(cluster: Path) -> None:
    assert told() == []
    assert told(partition="gpu,long") == []


def test_time_limit_must_be_given(cluster: Path) -> None:
    assert told(timeout_min=0)[0].endswith("try: hydra.launcher.timeout_min=600")


def test_machine_without_slurm_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no sbatch, srun, squeue, sinfo on the PATH" in told()[0]


def test_unknown_partition_is_told_with_the_known_ones(cluster: Path) -> None:
    assert told(partition="gpus") == [
        "hydra.launcher.partition=gpus: there is no partition 'gpus'. There are: gpu, long\n"
        "    try: hydra.launcher.partition=gpu"
    ]


@pytest.mark.parametrize("key", ["nodes", "tasks_per_node"])
def test_trial_of_several_machines_is_refused(key: str, cluster: Path) -> None:
    assert told(**{key: 2}) == [
        f"hydra.launcher.{key}=2: a trial of a sweep is one job on one machine\n    try: hydra.launcher.{key}=1"
    ]


def test_cluster_that_does_not_answer_is_told_with_its_own_words(cluster: Path) -> None:
    program(cluster / "sinfo", "echo 'sinfo: error: no controller' >&2; exit 1")
    assert "sinfo: error: no controller" in told()[0]


def test_sweep_that_could_not_run_is_not_submitted() -> None:
    """By the one exception that Hydra does not make a warning of."""
    with pytest.raises(SystemExit, match=r"hydra\.launcher\.timeout_min=0: must be given"):
        slurm.Sweep().on_multirun_start(config(timeout_min=0))


def test_run_that_is_no_sweep_is_refused() -> None:
    with pytest.raises(SystemExit, match="try: -m before the settings"):
        slurm.Sweep().on_run_start(config())


def test_launch_without_the_extra_says_what_to_install() -> None:
    if importlib.util.find_spec("submitit") is not None:
        pytest.skip("the extra is installed here")
    (problem,) = mistakes.problems_of(["launch=slurm", "-m"])
    assert problem.fix == "pip install -e '.[slurm]'"


def test_command_of_a_trial_repeats_it_here() -> None:
    assert command_line(["-m", "launch=slurm", "seed=1,2"], ["launch=slurm", "seed=2"]) == "python run.py seed=2"


# ------------------------------------------------------------------------------------------------ the wait for a job


@dataclass
class Waiting:
    """A queue whose jobs' states are set by the test; every question asks anew, and nothing needs time to settle."""

    dir: Path
    states: dict[str, str] | None

    @property
    def result(self) -> Path:
        return self.dir / "7_0_0_result.pkl"

    def queue(self) -> slurm.Queue:
        queue = slurm.Queue(lambda job_id: self.dir / f"{job_id}_0_result.pkl", lambda: self.states)
        queue.register_job("7_0")
        return queue


@pytest.fixture
def waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Waiting:
    monkeypatch.setattr(slurm, "ASK_SECONDS", -1.0)
    monkeypatch.setattr(slurm, "SETTLE_SECONDS", 0.0)
    return Waiting(tmp_path, {"7_0": "RUNNING"})


@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "COMPLETING", "REQUEUED", "PREEMPTED", "SUSPENDED"])
def test_job_that_may_come_to_an_end_is_waited_for(state: str, waiting: Waiting) -> None:
    waiting.states = {"7_0": state}
    assert not waiting.queue().is_done("7_0")
    assert not waiting.result.exists()


@pytest.mark.parametrize("states", [{"7_0": "CANCELLED"}, {"7_0": "NODE_FAIL"}, {}], ids=["cancelled", "node", "gone"])
def test_job_that_ended_without_a_result_is_a_failed_trial(states: dict[str, str], waiting: Waiting) -> None:
    waiting.states = states
    assert waiting.queue().is_done("7_0")
    outcome, result = pickle.loads(waiting.result.read_bytes())  # noqa: S301
    assert outcome == "success", "what submitit calls a job whose function returned"
    with pytest.raises(Exception, match="Slurm's job 7_0 ended without a result"):
        _ = result.return_value


def test_every_trial_that_failed_is_told_with_its_reason() -> None:
    """As Hydra's submitit launcher returns them, in the order of the trials."""
    returns = [JobReturn(status=JobStatus.COMPLETED), failed("no memory left\n    try: a"), failed("was cancelled")]
    with pytest.raises(SweepFailed) as told:
        slurm.raise_failures([*returns, JobReturn(status=JobStatus.COMPLETED)], 3)
    assert str(told.value).splitlines() == [
        "2 of 4 trials have no weights:",
        "  - trial 4: no memory left",
        "    try: a",
        "  - trial 5: was cancelled",
    ]
    slurm.raise_failures(returns[:1], 0)


def failed(text: str) -> JobReturn:
    return JobReturn(status=JobStatus.FAILED, _return_value=CompactHydraException(text))


def test_launcher_of_the_option_tells_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the extra's launcher, which may not be installed, one that returns what was given to it."""
    from hydra_plugins.slurm import SlurmTrialsLauncher

    class Jobs(types.SimpleNamespace):
        def setup(self, **_: Any) -> None: ...

        def launch(self, job_overrides: Any, initial_job_idx: int) -> Any:
            assert (self.timeout_min, initial_job_idx) == (5, 0)
            return job_overrides

    package = "hydra_plugins.hydra_submitit_launcher"
    monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
    module: Any = types.ModuleType(f"{package}.submitit_launcher")
    module.SlurmLauncher = Jobs
    monkeypatch.setitem(sys.modules, module.__name__, module)
    launcher = SlurmTrialsLauncher(timeout_min=5)
    launcher.setup(hydra_context=None, task_function=None, config=None)  # type: ignore[arg-type]
    with pytest.raises(SweepFailed, match="1 of 1 trials"):
        launcher.launch([failed("x")], 0)  # type: ignore[list-item]
    option = yaml.safe_load((PROJECT / "conf/launch/slurm.yaml").read_text())
    assert option["hydra"]["launcher"]["_target_"] == "hydra_plugins.slurm.SlurmTrialsLauncher"


def test_job_that_is_put_back_into_the_queue_is_waited_for_again(waiting: Waiting, monkeypatch: Any) -> None:
    queue = waiting.queue()
    monkeypatch.setattr(slurm, "SETTLE_SECONDS", 60.0)
    waiting.states = {"7_0": "FAILED"}
    assert not queue.is_done("7_0")
    waiting.states = {"7_0": "PENDING"}
    assert not queue.is_done("7_0")
    monkeypatch.setattr(slurm, "SETTLE_SECONDS", 0.0)
    assert not queue.is_done("7_0")


def test_cluster_that_is_silent_for_a_while_ends_no_job(waiting: Waiting) -> None:
    waiting.states = None
    assert not waiting.queue().is_done("7_0")


def test_call_that_time_is_up_is_a_request_to_stop_where_somebody_listens_for_it() -> None:
    code = """
import signal
from pipeline.signals import TIME_IS_UP, stop_requests
heard = []
signal.signal(TIME_IS_UP, lambda *_: heard.append("listener"))
with stop_requests() as stops:
    signal.raise_signal(TIME_IS_UP)
    assert (stops, heard) == ([TIME_IS_UP], [])
signal.raise_signal(TIME_IS_UP)
assert heard == ["listener"]
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert signals.TIME_IS_UP.name == "SIGUSR2", "submitit's"


def test_call_that_time_is_up_does_not_kill_what_is_started_for_a_trial() -> None:
    """Slurm sends it to every process of a job."""
    code = "import os, signal; os.kill(os.getpid(), signal.SIGUSR2); print('lives')"
    with signals.time_is_up_for_me_alone():
        deaf = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert deaf.stdout == "lives\n"
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signals.TIME_IS_UP


# --------------------------------------------------------------------------------------------------- a real cluster

STEPS = 40
UNTOUCHED, TIMED_OUT, PUT_BACK, CANCELLED = range(4)


def missing_of_a_cluster() -> str | None:
    programs = [name for name in slurm.PROGRAMS if shutil.which(name) is None]
    if programs:
        return f"no {', '.join(programs)}: apt-get install slurmctld slurmd slurm-client munge"
    if importlib.util.find_spec("submitit") is None:
        return "the extra is not installed: pip install -e '.[slurm]'"
    if subprocess.run(["sinfo"], capture_output=True).returncode:
        return "no cluster answers: eval $(tests/slurm/cluster.sh start)"
    return None


@dataclass(frozen=True)
class RealSweep:
    """Four trials on the tiny model that ended each in its own way."""

    dir: Path
    exit_code: int
    said: str

    def run_dir(self, trial: int) -> Path:
        return next(self.dir.glob(f"multirun/*/*/{trial}"))

    def events(self, trial: int, kind: str) -> list[Event]:
        return [event for event in read_journal(self.run_dir(trial)) if event.kind == kind]

    def steps_of_each_start(self, trial: int) -> list[list[int]]:
        steps: list[list[int]] = []
        for event in read_journal(self.run_dir(trial)):
            if event.kind == "run":
                steps.append([])
            if event.kind == "step":
                steps[-1].append(int(str(event.data["step"])))
        return steps

    def mlflow_runs(self) -> dict[str, Any]:
        client = open_client(store_at(None, self.dir / "mlflow"))
        experiment = client.get_experiment_by_name("slurm")
        return {run.data.params["seed"]: run for run in client.search_runs([experiment.experiment_id])}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[RealSweep]:
    missing = missing_of_a_cluster()
    if missing:
        pytest.skip(missing)
    tiny_model: Path = request.getfixturevalue("tiny_model")
    folder = tmp_path_factory.mktemp("slurm")
    with (folder / "said.txt").open("w") as said:
        launcher = subprocess.Popen(command_of(tiny_model, folder), cwd=folder, stdout=said, stderr=said)
    try:
        for trial, act in ((TIMED_OUT, time_is_up), (PUT_BACK, put_back), (CANCELLED, cancel)):
            wait_for(lambda trial=trial: checkpoint_of(folder, trial), launcher, folder)
            act(folder, trial)
        exit_code = launcher.wait(timeout=900)
    finally:
        launcher.kill()
    yield RealSweep(folder, exit_code, (folder / "said.txt").read_text())


def command_of(model: Path, folder: Path) -> list[str]:
    return [
        *(sys.executable, str(PROJECT / "run.py"), "-m", "launch=slurm", "seed=0,1,2,3", f"model.path={model}"),
        *("hydra.launcher.timeout_min=20", "hydra.launcher.gpus_per_node=1", "hydra.launcher.cpus_per_task=1"),
        "hydra.launcher.setup=['echo $CUDA_VISIBLE_DEVICES >> cards_$SLURM_ARRAY_TASK_ID']",
        *(f"train.max_steps={STEPS}", "train.checkpoint_every_steps=4", "train.heldout_every_steps=0"),
        *("sample.prompts=[star]", "sample.num_inference_steps=1", "optimizer.fallback=error"),
        *(f"tracking.store_dir={folder / 'mlflow'}", "tracking.experiment=slurm", "tracking.system_metrics=false"),
    ]


def checkpoint_of(folder: Path, trial: int) -> bool:
    return any(folder.glob(f"multirun/*/*/{trial}/checkpoints/step-??????"))


def wait_for(condition: Any, launcher: subprocess.Popen[bytes], folder: Path, seconds: float = 400) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert launcher.poll() is None, (folder / "said.txt").read_text()
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def job_of(folder: Path, trial: int) -> str:
    (pickled,) = folder.glob(f"multirun/*/*/.submitit/*_{trial}/*_submitted.pkl")
    return pickled.parent.name


def time_is_up(folder: Path, trial: int) -> None:
    """What Slurm sends before the end of a job's time. The job is in the queue again then, and scancel tries anew for
    most of a minute: what it sent at last would reach the job's next start."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(["scancel", "--signal=USR2", job_of(folder, trial)], timeout=3)


def put_back(folder: Path, trial: int) -> None:
    """What a preemption is for a job."""
    subprocess.run(["scontrol", "requeue", job_of(folder, trial)], check=True)


def cancel(folder: Path, trial: int) -> None:
    subprocess.run(["scancel", job_of(folder, trial)], check=True)


@pytest.mark.slurm
@pytest.mark.parametrize("trial", [UNTOUCHED, TIMED_OUT, PUT_BACK], ids=["untouched", "timed out", "put back"])
def test_trial_has_weights_and_is_in_mlflow(swept: RealSweep, trial: int) -> None:
    assert list(swept.run_dir(trial).glob("weights/*.safetensors")), swept.said
    run = swept.mlflow_runs()[str(trial)]
    assert (run.info.status, run.data.metrics["final/steps"]) == ("FINISHED", STEPS)


@pytest.mark.slurm
@pytest.mark.parametrize("trial", [TIMED_OUT, PUT_BACK], ids=["timed out", "put back"])
def test_job_that_comes_back_goes_on_from_its_checkpoint(swept: RealSweep, trial: int) -> None:
    first, second = swept.steps_of_each_start(trial)
    assert first[0] == 1
    assert second[0] == first[-1] + 1, "a checkpoint was saved on the way out"
    assert second[-1] == STEPS


@pytest.mark.slurm
def test_cancelled_trial_ends_the_wait_and_is_told_of(swept: RealSweep) -> None:
    assert swept.exit_code == 1, swept.said
    assert "ended without a result: cancelled" in swept.said
    assert "Traceback" not in swept.said
    assert swept.mlflow_runs()[str(CANCELLED)].info.status == "KILLED"


@pytest.mark.slurm
def test_trials_at_work_at_once_have_a_card_each(swept: RealSweep) -> None:
    first = [(swept.dir / f"cards_{trial}").read_text().split()[0] for trial in (UNTOUCHED, TIMED_OUT)]
    assert sorted(first) == ["0", "1"]


@pytest.mark.slurm
def test_trials_are_those_of_one_sweep(swept: RealSweep) -> None:
    tags = {run.data.tags["sweep"] for run in swept.mlflow_runs().values()}
    assert len(tags) == 1
    overrides = yaml.safe_load((swept.run_dir(0) / ".hydra/overrides.yaml").read_text())
    assert "seed=0" in overrides
