"""The record of a run in a real MLflow store: what it holds, how it ends, and what survives kills and dead servers."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import requests
from hydra import compose, initialize_config_dir
from PIL import Image

from pipeline import log as log_stage
from pipeline.checks.rates import comparable_rate
from pipeline.errors import Stopped, TrackingError
from pipeline.journal import Journal
from pipeline.locks import RUN_LOCK, lock_if_free
from pipeline.log import MlflowRecord, log
from pipeline.memory.profiles import first_candidate
from pipeline.outcome import write_outcome
from pipeline.records import Checkpoint, Choice, Dataset, Job, Machine, Outcome, Picture, Plan, PredictedMemory
from pipeline.settings import PROJECT, Settings, from_config, register
from pipeline.tracking import store
from pipeline.tracking.description import describe
from pipeline.tracking.feed import Feed, Patience
from pipeline.tracking.masking import Masker
from pipeline.tracking.owner import this_owner
from pipeline.tracking.repair import list_runs, repair_runs
from pipeline.tracking.state import State, load_state, save_state
from pipeline.tracking.store import Client, Store, open_client, store_at

PREDICTED = PredictedMemory(2**29, 2**30, 2**31, "training", "weights")
BEGAN = 1_700_000_000.0
COMMAND = "python run.py profile=style"
FINISHED = Outcome(
    status="finished",
    cause=None,
    weights="weights/style-demo.safetensors",
    steps=3,
    seconds=12.5,
    loss_first=0.5,
    loss_last=0.25,
    heldout_before=0.4,
    heldout_after=0.3,
    heldout_best=0.3,
    heldout_best_step=10,
    peak_memory_bytes=2**30,
    mlflow_run_id=None,
)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new store costs seconds: it is made once, and each test has a copy."""
    folder = tmp_path_factory.mktemp("template")
    open_client(store_at(None, folder))
    return folder / "mlflow.db"


@dataclass(frozen=True)
class Place:
    """A store and a run directory of a test's own."""

    dir: Path
    store: Store

    @property
    def run_dir(self) -> Path:
        return self.dir / "outputs" / "run"

    @property
    def client(self) -> Client:
        return open_client(self.store)

    def the_run(self) -> Any:
        """The only run of the experiment, beside the one that sums up a sweep."""
        experiment = self.client.get_experiment_by_name("tests")
        found = self.client.search_runs([experiment.experiment_id])
        runs = [run for run in found if run.data.tags.get("kind") != "sweep"]
        assert len(runs) == 1
        return runs[0]

    def history(self, metric: str) -> list[tuple[int, float]]:
        points = self.client.get_metric_history(self.the_run().info.run_id, metric)
        return sorted((point.step, point.value) for point in points)

    def files(self, folder: str | None = None) -> set[str]:
        return {file.path for file in self.client.list_artifacts(self.the_run().info.run_id, folder)}

    def text(self, artifact: str) -> str:
        return Path(self.client.download_artifacts(self.the_run().info.run_id, artifact)).read_text()


def place_in(folder: Path, template: Path) -> Place:
    target = store_at(None, folder / "mlflow")
    target.dir.mkdir(parents=True)
    shutil.copy(template, target.dir)
    place = Place(folder, target)
    place.run_dir.mkdir(parents=True)
    return place


@pytest.fixture
def place(tmp_path: Path, template: Path) -> Place:
    return place_in(tmp_path, template)


@pytest.fixture(autouse=True, scope="session")
def feed_often() -> Iterator[None]:
    usual, log_stage.FEED_SECONDS = log_stage.FEED_SECONDS, 0.2
    yield
    log_stage.FEED_SECONDS = usual


def settings_for(place: Place, *overrides: str) -> Settings:
    register()
    given = [f"tracking.store_dir={place.store.dir}", "tracking.experiment=tests", "tracking.system_metrics=false"]
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        return from_config(compose("config", [*given, *overrides]))


def plan_for(place: Place, *overrides: str) -> Plan:
    pictures = tuple(Picture(place.dir / f"{n}.png", "a star", 64, 64, f"{n}" * 64) for n in range(3))
    return Plan(
        settings=first_candidate(settings_for(place, *overrides), 0),
        machine=Machine("cpu", ("Some CPU",), 2**34, 2, False, "2.13.0"),
        checkpoint=Checkpoint(place.dir / "model", "diffusers", "sd15", "epsilon", 1000, 4000, "c" * 64),
        dataset=Dataset("demo", place.dir / "pictures", pictures[:2], pictures[2:], "d" * 64),
        precision="fp32",
        num_processes=1,
        steps=3,
        warmup_steps=1,
        sample_prompts=("a star",),
        fingerprint="f" * 64,
        choices=(Choice("precision", "fp32", "this CPU has no bf16"),),
        memory=PREDICTED,
    )


def job_for(place: Place, **env: str) -> Job:
    argv = (sys.executable, "-m", "pipeline.backends.native", "job.toml")
    return Job(run_dir=place.run_dir, argv=argv, cwd=place.dir, env=env, files=())


def train(run_dir: Path, steps: range = range(1, 4), **more: object) -> None:
    """What a trainer leaves in the journal."""
    journal = Journal(run_dir)
    for step in steps:
        journal.write(
            "step", step=step, steps=3, loss=1 / step, lr=1e-4, steps_per_second=2.0, memory_bytes=1000, **more
        )
    journal.close()


def measure(run_dir: Path, step: int, **values: float) -> None:
    journal = Journal(run_dir)
    journal.write("metric", step=step, values={name.replace("__", "/"): value for name, value in values.items()})
    journal.close()


def tracked(place: Place, outcome: Outcome = FINISHED, *overrides: str, **env: str) -> MlflowRecord:
    """A whole run: three steps, and the end."""
    with log(plan_for(place, *overrides), job_for(place, **env), command=COMMAND, began=BEGAN) as record:
        train(place.run_dir)
        record.close_with(outcome)
    assert isinstance(record, MlflowRecord)
    return record


# ----------------------------------------------------------------------------------------------- what a run looks like


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, template: Path) -> tuple[Place, MlflowRecord]:
    place = place_in(tmp_path_factory.mktemp("finished"), template)
    run_dir = place.run_dir
    for name in ("job", "samples", "weights"):
        (run_dir / name).mkdir()
    (run_dir / "config.yaml").write_text("seed: 0\n")
    (run_dir / "explain.json").write_text("[]\n")
    (run_dir / "trainer.log").write_text("trained\n")
    (run_dir / "job/job.toml").write_text("steps = 3\n")
    (run_dir / "job/heldout").mkdir()
    (run_dir / "job/heldout/00000.txt").write_text("the user's own caption stays here\n")
    (run_dir / "weights/style-demo.safetensors").write_bytes(b"weights")
    for picture in ("final_grid.png", "samples/3-0.png"):
        Image.new("RGB", (8, 8)).save(run_dir / picture)
    with log(plan_for(place), job_for(place), command=COMMAND, began=BEGAN) as record:
        measure(run_dir, 0, heldout__loss=0.4)
        train(run_dir)
        measure(run_dir, 3, heldout__loss=0.3)
        journal = Journal(run_dir)
        journal.write("sample", step=3, index=0, prompt="a star", seed=1, path="samples/3-0.png")
        record.close_with(FINISHED)
    assert isinstance(record, MlflowRecord) and record.warnings == []
    return place, record


Finished = tuple[Place, MlflowRecord]


def test_run_is_named_by_profile_and_model(finished: Finished) -> None:
    assert finished[0].the_run().info.run_name == "style demo"


def test_run_began_when_the_runner_did(finished: Finished) -> None:
    assert finished[0].the_run().info.start_time == BEGAN * 1000


def test_params_have_the_settings_under_their_dotted_names(finished: Finished) -> None:
    params = finished[0].the_run().data.params
    assert params["optimizer.lr"] == "0.003"
    assert params["train.min_snr_gamma"] == "5.0"
    assert params["train.max_steps"] == "null"


def test_params_have_what_the_plan_decided(finished: Finished) -> None:
    params = finished[0].the_run().data.params
    decided = {name: params[f"plan.{name}"] for name in ("steps", "warmup_steps", "precision")}
    assert decided == {"steps": "3", "warmup_steps": "1", "precision": "fp32"}


def test_tags_tell_runs_apart(finished: Finished) -> None:
    tags = finished[0].the_run().data.tags
    expected = {
        "model.family": "sd15",
        "model": "demo",
        "profile": "style",
        "hardware": "cpu",
        "mode": "lora",
        "network": "locon",
        "optimizer": "adamw",
        "backend": "native",
        "dataset.digest": "d" * 64,
        "fingerprint": "f" * 64,
        "choice.precision": "fp32: this CPU has no bf16",
        "owner": this_owner(),
    }
    assert {key: tags.get(key) for key in expected} == expected
    assert abs(float(tags["heartbeat"]) - time.time()) < 600


def test_tags_have_the_commit_of_the_checkout(finished: Finished) -> None:
    head = subprocess.run(["git", "-C", PROJECT, "rev-parse", "HEAD"], capture_output=True, text=True)
    if head.returncode != 0:
        pytest.skip("not a git checkout")
    tags = finished[0].the_run().data.tags
    assert len(tags["git.commit"]) == 40 and tags["git.dirty"] in ("true", "false")


def test_note_has_the_command_and_the_outcome(finished: Finished) -> None:
    note = finished[0].the_run().data.tags["mlflow.note.content"]
    assert COMMAND in note and "held-out loss 0.4000 → 0.3000" in note
    assert "peak memory 1.00 GiB, 0.50-2.00 GiB predicted" in note


def test_datasets_for_training_and_holding_out_are_inputs(finished: Finished) -> None:
    inputs = finished[0].the_run().inputs.dataset_inputs
    found = {(item.dataset.name, item.tags[0].value, item.dataset.digest) for item in inputs}
    assert found == {("demo", "train", "d" * 36), ("demo heldout", "heldout", "d" * 36)}


def test_step_events_become_training_metrics(finished: Finished) -> None:
    place = finished[0]
    assert place.history("train/loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert {"train/lr", "train/steps_per_second", "train/memory_bytes"} <= set(place.the_run().data.metrics)


def test_metric_events_keep_their_names(finished: Finished) -> None:
    assert finished[0].history("heldout/loss") == [(0, 0.4), (3, 0.3)]


def test_final_figures_are_logged_once(finished: Finished) -> None:
    final = {name: value for name, value in finished[0].the_run().data.metrics.items() if name.startswith("final/")}
    assert final == {
        "final/loss_first": 0.5,
        "final/loss_last": 0.25,
        "final/heldout_before": 0.4,
        "final/heldout_after": 0.3,
        "final/heldout_best": 0.3,
        "final/heldout_best_step": 10,
        "final/seconds": 12.5,
        "final/peak_memory_bytes": 2**30,
        "final/peak_memory_bytes_predicted_low": PREDICTED.low_bytes,
        "final/peak_memory_bytes_predicted": PREDICTED.bytes,
        "final/peak_memory_bytes_predicted_high": PREDICTED.high_bytes,
        "final/steps": 3,
    }


def test_samples_are_images_with_a_step(finished: Finished) -> None:
    names = [name for name in finished[0].files("images") if name.endswith(".png")]
    assert len(names) == 1 and "samples~prompt0+step+3+" in names[0]


def test_files_of_the_run_are_artifacts(finished: Finished) -> None:
    place = finished[0]
    kept = {"config.yaml", "plan.json", "explain.json", "journal.jsonl", "trainer.log", "final_grid.png"}
    assert kept <= place.files()
    assert place.files("job") == {"job/job.toml"}
    assert place.files("weights") == {"weights/style-demo.safetensors"}


def test_choices_are_in_the_plan_artifact(finished: Finished) -> None:
    assert "this CPU has no bf16" in finished[0].text("plan.json")


def test_artifacts_lie_beside_the_local_store(finished: Finished) -> None:
    place = finished[0]
    assert place.the_run().info.artifact_uri.startswith((place.store.dir / "artifacts").as_uri())


def test_page_opens_the_run_in_the_classic_ui(finished: Finished) -> None:
    place, record = finished
    info = place.the_run().info
    page = f"http://127.0.0.1:5000/#/experiments/{info.experiment_id}/runs/{info.run_id}"
    assert record.page == f"{page}?workflowType=machine_learning"
    assert record.ui_command == f"python -m pipeline runs ui --store {place.store.dir}"
    experiment = place.client.get_experiment(info.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"


def test_list_runs_has_name_status_and_heldout(finished: Finished) -> None:
    (row,) = list_runs(finished[0].store, experiment="tests")
    assert (row.name, row.status, row.heldout_after, row.began) == ("style demo", "FINISHED", 0.3, BEGAN)


def test_finetune_is_told_in_the_name(place: Place) -> None:
    plan = plan_for(place, "mode=finetune")
    description = describe(plan, job_for(place), command="", began=0, mask=Masker({}))
    assert (description.name, description.tags["network"]) == ("style demo ft", "none")


def test_the_comparable_rate_is_a_tag(place: Place) -> None:
    """lr x alpha / rank, of recipes that would differ in all three."""
    plan = plan_for(place, "optimizer.lr=2e-3", "network.rank=32", "network.alpha=8")
    plan = replace(plan, rate=comparable_rate(plan.settings))
    tags = describe(plan, job_for(place), command="", began=0, mask=Masker({})).tags
    assert float(tags["plan.lr_times_scale"]) == 5e-4


def test_a_rate_that_can_not_be_compared_is_no_tag(place: Place) -> None:
    plan = plan_for(place)
    assert plan.rate is None
    assert "plan.lr_times_scale" not in describe(plan, job_for(place), command="", began=0, mask=Masker({})).tags


def test_the_first_metric_is_of_the_training_though_the_machine_was_measured_before(place: Place) -> None:
    """MLflow's compare page draws the first."""
    with log(plan_for(place), job_for(place), command=COMMAND, began=BEGAN) as record:
        measure(place.run_dir, 0, system__cpu_utilization_percentage=50.0)
        wait_for(lambda: record.mlflow_run_id is not None)
        measure(place.run_dir, 1, system__cpu_utilization_percentage=60.0)
        measure(place.run_dir, 0, heldout__loss=0.4)
        train(place.run_dir)
        record.close_with(FINISHED)
    assert next(iter(place.the_run().data.metrics)) == "heldout/loss"
    assert place.history("system/cpu_utilization_percentage") == [(0, 50.0), (1, 60.0)]


def test_the_first_metric_is_of_the_training_when_a_sample_follows_at_once(place: Place) -> None:
    """As in a trial of a sweep, which is told what the base model can do."""
    with log(plan_for(place), job_for(place), command=COMMAND, began=BEGAN) as record:
        measure(place.run_dir, 0, system__cpu_utilization_percentage=50.0)
        measure(place.run_dir, 0, heldout__loss=0.4)
        journal = Journal(place.run_dir)
        journal.write("sample", step=0, index=0, prompt="a star", seed=1, path="samples/0-0.png")
        journal.close()
        record.close_with(FINISHED)
    assert next(iter(place.the_run().data.metrics)) == "heldout/loss"


def test_a_start_of_a_trial_that_was_set_aside_is_no_trial_of_the_sweep(place: Place) -> None:
    aside = place.run_dir / "earlier" / "1"
    aside.mkdir(parents=True)
    with log(plan_for(place), replace(job_for(place), run_dir=aside), command=COMMAND, began=BEGAN) as record:
        record.close_with(replace(FINISHED, status="killed", weights=None))
    assert place.the_run().data.tags["kind"] == "earlier"


def test_the_machine_of_a_run_that_never_trained_is_kept(place: Place) -> None:
    with log(plan_for(place), job_for(place), command=COMMAND, began=BEGAN) as record:
        measure(place.run_dir, 0, system__cpu_utilization_percentage=50.0)
        record.close_with(replace(FINISHED, status="failed", weights=None))
    assert place.history("system/cpu_utilization_percentage") == [(0, 50.0)]


def test_jobs_of_a_sweep_share_a_tag(place: Place) -> None:
    sweep = place.dir / "multirun" / "2026-01-31" / "10-00-00_style-1a2b"
    (sweep / "3").mkdir(parents=True)
    (sweep / "multirun.yaml").touch()
    job = replace(job_for(place), run_dir=sweep / "3")
    description = describe(plan_for(place), job, command="", began=0, mask=Masker({}))
    assert description.tags["sweep"] == "2026-01-31/10-00-00_style-1a2b"


# ---------------------------------------------------------------------------------------------------------- the ending


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (FINISHED, "FINISHED"),
        (replace(FINISHED, status="failed", cause="out_of_memory"), "FAILED"),
        (replace(FINISHED, status="killed", cause="stopped_by_user"), "KILLED"),
    ],
    ids=["finished", "failed", "killed"],
)
def test_outcome_decides_the_status(place: Place, outcome: Outcome, status: str) -> None:
    tracked(place, outcome)
    run = place.the_run()
    assert (run.info.status, run.data.tags.get("cause")) == (status, outcome.cause)


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError("a mistake of ours"), "FAILED"), (Stopped("asked to"), "KILLED"), (KeyboardInterrupt(), "KILLED")],
    ids=["exception", "stopped", "ctrl-c"],
)
def test_exception_ends_the_run(place: Place, error: BaseException, status: str) -> None:
    with (
        pytest.raises(type(error)),
        log(plan_for(place), job_for(place), command=COMMAND, began=BEGAN),
    ):
        train(place.run_dir)
        raise error
    assert place.the_run().info.status == status
    assert place.the_run().data.metrics["final/loss_first"] == 1.0


def test_forgotten_close_fails_the_run(place: Place) -> None:
    with log(plan_for(place), job_for(place), command=COMMAND, began=BEGAN):
        pass
    assert place.the_run().info.status == "FAILED"


def test_values_that_are_not_finite_are_not_sent(place: Place) -> None:
    with log(plan_for(place), job_for(place), command=COMMAND, began=BEGAN) as record:
        train(place.run_dir)
        measure(place.run_dir, 4, heldout__loss=float("nan"), heldout__other=float("inf"), heldout__good=1.0)
        record.close_with(replace(FINISHED, loss_last=float("nan")))
    metrics = place.the_run().data.metrics
    assert {"heldout/loss", "heldout/other", "final/loss_last"}.isdisjoint(metrics)
    assert metrics["heldout/good"] == 1.0


def test_more_events_than_one_batch_holds_all_arrive(place: Place) -> None:
    with log(plan_for(place), job_for(place), command=COMMAND, began=BEGAN) as record:
        train(place.run_dir, range(1, 701))
        record.close_with(FINISHED)
    assert [step for step, _ in place.history("train/loss")] == list(range(1, 701))


def test_sample_that_is_gone_is_warned_of(place: Place) -> None:
    with log(plan_for(place), job_for(place), command=COMMAND, began=BEGAN) as record:
        Journal(place.run_dir).write("sample", step=1, index=0, prompt="", seed=1, path="samples/gone.png")
        train(place.run_dir)
        record.close_with(FINISHED)
    assert len(place.history("train/loss")) == 3
    assert len(record.warnings) == 1 and "gone.png" in record.warnings[0]


def test_system_metrics_get_into_the_run(place: Place) -> None:
    tracked(place, FINISHED, "tracking.system_metrics=true")
    names = {
        "system/cpu_utilization_percentage",
        "system/system_memory_usage_megabytes",
        "system/disk_usage_percentage",
    }
    assert names <= set(place.the_run().data.metrics)


def test_tracking_off_keeps_only_the_run_directory(place: Place) -> None:
    with log(plan_for(place, "tracking=off"), job_for(place), command=COMMAND, began=BEGAN) as record:
        assert record.close_with(FINISHED) is None
    assert (record.mlflow_run_id, record.page, record.ui_command) == (None, None, None)
    assert list(place.run_dir.iterdir()) == []


@pytest.mark.parametrize("uri", ["mlruns", "file:///tmp/mlruns", "ftp://host/x"])
def test_address_that_mlflow_cannot_use_is_refused_before_the_start(place: Place, uri: str) -> None:
    with (
        pytest.raises(TrackingError, match=r"tracking\.uri=.*\n    try: "),
        log(plan_for(place, f"tracking.uri={uri}"), job_for(place), command=COMMAND, began=BEGAN),
    ):
        pass


def test_opening_the_record_does_not_wait_for_mlflow(place: Place) -> None:
    script = f"""
import pickle, sys, time
began = time.monotonic()
from pipeline.log import log
assert "mlflow" not in sys.modules
plan, job = pickle.load(open({str(pickled(place, plan_for(place)))!r}, "rb"))
with log(plan, job, command="x", began=1.0) as record:
    print(record.mlflow_run_id)
    record.close_with(pickle.loads({pickle.dumps(FINISHED)!r}))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["None"]
    assert done.stderr == ""
    assert place.the_run().info.status == "FINISHED"


def pickled(place: Place, plan: Plan) -> Path:
    file = place.dir / "plan.pickle"
    file.write_bytes(pickle.dumps((plan, job_for(place))))
    return file


# -------------------------------------------------------------------------------------------------- a run that goes on


def test_resumed_run_continues_its_mlflow_run(place: Place) -> None:
    first = tracked(place, replace(FINISHED, status="killed", cause="stopped_by_user"))
    with log(plan_for(place, "sample.seed=7"), job_for(place), command="again", began=BEGAN + 50) as second:
        train(place.run_dir, range(4, 6))
        second.close_with(FINISHED)
    run = place.the_run()
    assert first.mlflow_run_id == second.mlflow_run_id == run.info.run_id
    assert (run.info.status, run.info.start_time) == ("FINISHED", BEGAN * 1000)
    assert [step for step, _ in place.history("train/loss")] == [1, 2, 3, 4, 5]
    assert run.data.params["sample.seed"] == "1000"
    assert "again" in run.data.tags["mlflow.note.content"]


def test_resumed_run_is_running_again(place: Place) -> None:
    tracked(place, replace(FINISHED, status="killed"))
    with log(plan_for(place), job_for(place), command=COMMAND, began=BEGAN) as record:
        wait_for(lambda: place.the_run().info.status == "RUNNING")
        record.close_with(FINISHED)


def test_run_deleted_in_mlflow_gets_a_new_one_with_its_whole_history(place: Place) -> None:
    first = tracked(place, replace(FINISHED, status="killed"))
    place.client.delete_run(first.mlflow_run_id)
    with log(plan_for(place), job_for(place), command=COMMAND, began=BEGAN) as second:
        second.close_with(FINISHED)
    assert second.mlflow_run_id != first.mlflow_run_id
    assert len(place.history("train/loss")) == 3


def test_crash_before_the_run_id_is_saved_makes_no_second_run(place: Place) -> None:
    first = tracked(place, replace(FINISHED, status="killed"))
    state = state_of(place)
    save_state(place.run_dir, replace(state, run_id=None, experiment_id=None, offset=0))
    with log(plan_for(place), job_for(place), command=COMMAND, began=BEGAN) as second:
        second.close_with(FINISHED)
    assert second.mlflow_run_id == first.mlflow_run_id == place.the_run().info.run_id
    assert len(place.history("train/loss")) == 3


def test_batch_that_is_sent_twice_is_kept_once(place: Place) -> None:
    tracked(place)
    save_state(place.run_dir, replace(state_of(place), offset=0))
    Feed(place.run_dir, place.store, Masker({})).catch_up()
    assert len(place.history("train/loss")) == 3


def state_of(place: Place) -> State:
    state = load_state(place.run_dir)
    assert state is not None
    return state


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


# ------------------------------------------------------------------------------------------------------------- secrets

SECRETS = ("correct-horse", "hf_abcdefghijklmnopqrstuvwx", "battery-staple")


def test_secrets_are_nowhere_in_mlflow_or_the_state(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", SECRETS[2])
    (place.run_dir / "job").mkdir()
    (place.run_dir / "job/env.toml").write_text(f'HF_TOKEN = "{SECRETS[1]}"\nkey = "{SECRETS[2]}"\n')
    (place.run_dir / "config.yaml").write_text(f"uri: http://me:{SECRETS[0]}@host/x\n")
    (place.run_dir / "trainer.log").write_text(f"login with {SECRETS[1]}\n")
    plan = plan_for(place, f"data.dir=http://me:{SECRETS[0]}@host/pictures", f"+optimizer.args.token={SECRETS[0]}")
    plan = replace(plan, choices=(Choice("x", 1, f"told by http://me:{SECRETS[0]}@host"),), warnings=(SECRETS[2],))
    job = job_for(place, HF_TOKEN=SECRETS[1], OMP_NUM_THREADS="2")
    with log(plan, job, command=f"python run.py tracking.uri=http://me:{SECRETS[0]}@host", began=BEGAN) as record:
        record.close_with(FINISHED)
    run = place.the_run()
    kept = [run.data.params, run.data.tags, (place.run_dir / "tracking.json").read_text()]
    kept += [file.read_bytes() for file in (place.store.dir / "artifacts").rglob("*") if file.is_file()]
    assert run.data.params["data.dir"] == "http://***@host/pictures"
    assert "OMP_NUM_THREADS" in place.text("plan.json") and "HF_TOKEN" not in place.text("plan.json")
    assert len(kept) > 6
    assert [secret for secret in SECRETS if any(secret in str(item) for item in kept)] == []


# -------------------------------------------------------------------------------------------------------------- repair

KILLED_RUNNER = """
import os, pickle, signal, sys, time
from pipeline import log as stage
from pipeline.journal import Journal
stage.FEED_SECONDS = 0.2
plan, job = pickle.load(open(sys.argv[1], "rb"))
journal = Journal(job.run_dir)
journal.write("run", name="run", command="x", fingerprint="f", pid=os.getpid(), host="here")
with stage.log(plan, job, command="x", began=1700000000.0) as record:
    for step in range(1, 201):
        journal.write("step", step=step, steps=500, loss=1 / step, lr=1e-4, steps_per_second=2.0, memory_bytes=1)
    while record.mlflow_run_id is None or record._feed.state.offset == 0:
        time.sleep(0.05)
    for step in range(201, 501):
        journal.write("step", step=step, steps=500, loss=1 / step, lr=1e-4, steps_per_second=2.0, memory_bytes=1)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def repair(place: Place) -> tuple[int, list[str]]:
    said: list[str] = []
    return repair_runs([place.dir / "outputs"], say=said.append, store_dirs=[place.store.dir]), said


def dead_run(place: Place) -> None:
    """A run whose owner is gone, with its MLflow run made and nothing else sent."""
    with log(plan_for(place), job_for(place), command=COMMAND, began=BEGAN) as record:
        wait_for(lambda: place.run_dir.joinpath("tracking.json").exists() and record.page is not None)
        record.close_with(replace(FINISHED, status="killed"))
    run_id = record.mlflow_run_id
    place.client.update_run(run_id, status="RUNNING")
    save_state(place.run_dir, replace(state_of(place), closed=False, owner=dead_owner()))
    place.client.set_tag(run_id, "owner", dead_owner())


def dead_owner() -> str:
    host, boot, pid, _ = this_owner().rsplit(":", 3)
    return f"{host}:{boot}:{pid}:1"


def test_nothing_is_lost_when_the_runner_is_killed(place: Place) -> None:
    plan = pickled(place, plan_for(place))
    done = subprocess.run([sys.executable, "-c", KILLED_RUNNER, plan], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert place.the_run().info.status == "RUNNING"
    assert repair(place)[0] == 1
    run = place.the_run()
    assert [step for step, _ in place.history("train/loss")] == list(range(1, 501))
    assert (run.info.status, run.data.metrics["final/steps"]) == ("KILLED", 500)
    assert "gone" in run.data.tags["repaired"]
    assert repair(place)[0] == 0


def test_repair_ends_a_run_when_its_last_event_was(place: Place) -> None:
    dead_run(place)
    event = Journal(place.run_dir).write("step", step=1, steps=3, loss=1.0)
    repair(place)
    assert place.the_run().info.end_time == int(event.time * 1000)


def test_repair_takes_the_outcome_that_was_written(place: Place) -> None:
    dead_run(place)
    train(place.run_dir)
    write_outcome(place.run_dir, FINISHED)
    repair(place)
    run = place.the_run()
    assert (run.info.status, run.data.metrics["final/heldout_after"]) == ("FINISHED", 0.3)


def test_repair_takes_the_end_event(place: Place) -> None:
    dead_run(place)
    Journal(place.run_dir).write("end", status="failed", cause="not_finite", loss_last=float("nan"), steps=2)
    repair(place)
    run = place.the_run()
    assert (run.info.status, run.data.tags["cause"], run.data.metrics["final/steps"]) == ("FAILED", "not_finite", 2)


def test_end_of_an_earlier_start_is_not_the_end(place: Place) -> None:
    dead_run(place)
    journal = Journal(place.run_dir)
    journal.write("end", status="failed", cause="not_finite")
    write_outcome(place.run_dir, replace(FINISHED, status="failed"))
    time.sleep(0.05)
    journal.write("run", name="run", command="again")
    repair(place)
    assert place.the_run().info.status == "KILLED"


def test_repair_makes_the_run_that_mlflow_never_heard_of(place: Place) -> None:
    plan, job = plan_for(place), job_for(place)
    description = describe(plan, job, command=COMMAND, began=BEGAN, mask=Masker({}))
    state = State(place.store.uri, str(place.store.dir), "tests", "some-key", dead_owner(), description)
    save_state(place.run_dir, state)
    train(place.run_dir)
    assert repair(place)[0] == 1
    assert place.the_run().info.run_name == "style demo"
    assert len(place.history("train/loss")) == 3


def test_live_run_is_left_alone(place: Place) -> None:
    with log(plan_for(place), job_for(place), command=COMMAND, began=BEGAN) as record:
        train(place.run_dir)
        wait_for(lambda: record.mlflow_run_id is not None)
        repaired, said = repair(place)
        assert (repaired, said) == (0, [f"{place.run_dir}: still running, left alone"])
        assert place.the_run().info.status == "RUNNING"
        record.close_with(FINISHED)


def test_run_whose_lock_is_held_is_left_alone(place: Place) -> None:
    dead_run(place)
    with lock_if_free(place.run_dir / RUN_LOCK) as free:
        assert free
        assert repair(place)[0] == 0
    assert repair(place)[0] == 1


def test_run_of_another_host_is_left_alone_until_it_is_silent(place: Place) -> None:
    dead_run(place)
    save_state(place.run_dir, replace(state_of(place), owner="elsewhere:boot:1:1"))
    place.client.set_tag(place.the_run().info.run_id, "owner", "elsewhere:boot:1:1")
    assert repair(place)[0] == 0
    for name in ("tracking.json", "journal.jsonl"):
        (place.run_dir / name).touch()
        os.utime(place.run_dir / name, (BEGAN, BEGAN))
    assert repair(place)[0] == 1


def test_running_run_without_a_folder_is_ended(place: Place) -> None:
    dead_run(place)
    shutil.rmtree(place.run_dir)
    repaired, said = repair(place)
    assert (repaired, place.the_run().info.status) == (1, "KILLED")
    assert len(said) == 1 and "so is its folder" in said[0]


def test_run_of_another_program_is_left_alone(place: Place) -> None:
    experiment = place.client.create_experiment("tests")
    place.client.create_run(experiment)
    assert repair(place) == (0, [])
    assert place.the_run().info.status == "RUNNING"


def test_broken_state_is_told_of_and_the_others_are_repaired(place: Place) -> None:
    dead_run(place)
    broken = place.dir / "outputs" / "broken"
    broken.mkdir()
    (broken / "journal.jsonl").touch()
    (broken / "tracking.json").write_text("{")
    repaired, said = repair(place)
    assert repaired == 1
    assert any("broken/tracking.json can't be read" in line for line in said)


# -------------------------------------------------------------------------------------------------- a server that fails


@contextmanager
def server(place: Place, port: int) -> Iterator[subprocess.Popen[bytes]]:
    argv, env = store.ui_argv(place.store.dir, port)
    with (place.dir / "server.log").open("ab") as output:
        process = subprocess.Popen(
            argv, env={**os.environ, **env}, cwd=place.dir, stdout=output, stderr=output, start_new_session=True
        )
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/health"), 120)
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=2).ok
    except OSError:
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
def test_nothing_is_lost_while_the_server_is_down(place: Place) -> None:
    port = free_port()
    plan = plan_for(place, "tracking=server", f"tracking.uri=http://127.0.0.1:{port}")
    with log(plan, job_for(place), command=COMMAND, began=BEGAN, patience=Patience(90, 90)) as record:
        train(place.run_dir, range(1, 101))
        with server(place, port):
            wait_for(lambda: record.mlflow_run_id is not None and state_of(place).offset > 0)
        train(place.run_dir, range(101, 201))
        time.sleep(3)  # the feed runs into the dead server
        with server(place, port):
            train(place.run_dir, range(201, 301))
            record.close_with(FINISHED)
    assert record.warnings == []
    assert record.page is not None and record.page.startswith(f"http://127.0.0.1:{port}/#/experiments/")
    assert place.the_run().info.status == "FINISHED"
    assert [step for step, _ in place.history("train/loss")] == list(range(1, 301))


def test_server_that_never_answers_costs_a_warning_and_little_time(place: Place) -> None:
    plan = plan_for(place, "tracking=server", f"tracking.uri=http://me:{SECRETS[0]}@127.0.0.1:{free_port()}")
    with log(plan, job_for(place), command=COMMAND, began=BEGAN, patience=Patience(60, 1)) as record:
        train(place.run_dir)
        began = time.monotonic()
        assert record.close_with(FINISHED) is None
    assert time.monotonic() - began < 20
    assert len(record.warnings) == 1 and "python -m pipeline runs repair" in record.warnings[0]
    assert SECRETS[0] not in record.warnings[0] + (place.run_dir / "tracking.json").read_text()
    assert not state_of(place).closed


@pytest.mark.slow
def test_password_of_a_server_is_in_nothing_that_a_training_leaves(place: Place, tiny_model: Path) -> None:
    port = free_port()
    words = [f"model.path={tiny_model}", "train.max_steps=1", "sample.prompts=[star]", "sample.num_inference_steps=1"]
    words += ["tracking=server", "tracking.experiment=tests", "-m", "seed=1"]
    env = {**os.environ, "MLFLOW_TRACKING_URI": f"http://me:{SECRETS[0]}@127.0.0.1:{port}"}
    with server(place, port):
        command = [sys.executable, str(PROJECT / "run.py"), *words]
        done = subprocess.run(command, cwd=place.dir, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert place.the_run().info.status == "FINISHED"
    files = [file for file in place.dir.rglob("*") if file.is_file()]
    assert {"multirun.yaml", "overrides.yaml", "journal.jsonl", "mlflow.db"} <= {file.name for file in files}
    assert [file for file in files if SECRETS[0].encode() in file.read_bytes()] == []
    assert SECRETS[0] not in done.stdout + done.stderr
