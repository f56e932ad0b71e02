"""Native training that is stopped, killed and spread over processes, on a tiny model: real processes, real signals."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from pipeline.deaths import explain_death
from pipeline.errors import Cause
from pipeline.journal import read_journal
from pipeline.optimizer.catalog import options
from pipeline.records import Job
from pipeline.render import render
from pipeline.settings import PROJECT
from tests import given
from tests.conftest import PlanFor
from tests.native_jobs import events, finish, new_job, start, wait_for_step

pytestmark = pytest.mark.slow


STEADY = ("train.checkpoint_every_steps=5", "mode.text_encoder_lr=1e-4", "network.dropout=0.1")


def test_a_run_killed_at_any_moment_ends_with_the_same_bytes(plan_for: PlanFor, tmp_path: Path) -> None:
    whole = finish(new_job(plan_for, tmp_path / "whole", *STEADY, steps=24))
    job = new_job(plan_for, tmp_path / "killed", *STEADY, steps=24)
    for step in (3, 13):
        process = start(job)
        wait_for_step(job.run_dir, step)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert finish(job).read_bytes() == whole.read_bytes()
    assert {"text": "going on from step 10"} in events(job.run_dir, "phase")


def test_a_term_signal_saves_a_checkpoint_and_the_run_goes_on_from_it(plan_for: PlanFor, tmp_path: Path) -> None:
    job = new_job(plan_for, tmp_path / "stopped", *STEADY, "train.checkpoint_every_steps=1000", steps=60)
    process = start(job)
    wait_for_step(job.run_dir, 7)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    saved = events(job.run_dir, "checkpoint")[-1]["step"]
    finish(job)
    assert {"text": f"going on from step {saved}"} in events(job.run_dir, "phase")


def test_a_trainer_whose_runner_died_saves_and_ends(plan_for: PlanFor, tmp_path: Path) -> None:
    job = new_job(plan_for, tmp_path / "orphan", *STEADY, steps=2000)
    runner = subprocess.Popen(
        [sys.executable, "-c", "import subprocess, sys; subprocess.Popen(sys.argv[1:]).wait()", *job.argv], cwd=job.cwd
    )
    wait_for_step(job.run_dir, 2)
    runner.kill()
    runner.wait()
    for _ in range(200):
        if events(job.run_dir, "checkpoint"):
            break
        time.sleep(0.1)
    time.sleep(1)
    last = events(job.run_dir, "step")[-1]["step"]
    time.sleep(1)
    assert events(job.run_dir, "step")[-1]["step"] == last < 2000


def test_a_loss_that_is_not_finite_names_the_pictures(plan_for: PlanFor, tmp_path: Path) -> None:
    overrides = ("optimizer=sgd", "optimizer.lr=1e30", "train.max_grad_norm=0")
    job = new_job(plan_for, tmp_path / "nan", *overrides, steps=8)
    assert start(job).wait(timeout=120) == 1
    failure = events(job.run_dir, "failure")[-1]
    assert failure["cause"] == "not_finite"
    assert str(PROJECT / "demo" / "data" / "train") in failure["message"]
    assert "optimizer.lr" in failure["message"]


def test_judging_and_sampling_do_not_touch_the_training(plan_for: PlanFor, tmp_path: Path) -> None:
    rare = finish(new_job(plan_for, tmp_path / "rare", "network.dropout=0.1", "train.heldout_every_steps=0"))
    often = new_job(
        plan_for,
        tmp_path / "often",
        "network.dropout=0.1",
        "train.heldout_every_steps=1",
        "sample.every_steps=2",
        "sample.num_inference_steps=2",
        prompts=("one large red circle",),
    )
    weights, same = load_file(rare), load_file(finish(often))
    assert all(weights[key].equal(same[key]) for key in weights)


def test_a_users_accelerate_config_changes_nothing(plan_for: PlanFor, tmp_path: Path) -> None:
    config = tmp_path / "home" / "accelerate" / "default_config.yaml"
    config.parent.mkdir(parents=True)
    config.write_text("mixed_precision: bf16\nnum_processes: 4\ndistributed_type: MULTI_CPU\nuse_cpu: true\n")
    plain = finish(new_job(plan_for, tmp_path / "plain"))
    job = new_job(plan_for, tmp_path / "own")
    own = finish(job, HF_HOME=str(config.parent.parent), ACCELERATE_MIXED_PRECISION="bf16", WORLD_SIZE="4", RANK="1")
    assert plain.read_bytes() == own.read_bytes()


def test_two_processes_train_one_model(plan_for: PlanFor, tmp_path: Path) -> None:
    job = new_job(
        plan_for,
        tmp_path / "two",
        "hardware.num_processes=2",
        "train.batch_size=2",
        "train.effective_batch_size=2",
        steps=3,
    )
    finish(job)
    assert [event["step"] for event in events(job.run_dir, "step")] == [1, 2, 3]


def machines(plan_for: PlanFor, folder: Path, *overrides: str, **plan: Any) -> list[Job]:
    """A job for each of two machines, which both are this one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = ("hardware.num_machines=2", "hardware.main_address=127.0.0.1", f"hardware.main_port={port}")
    return [
        on_one_core(plan_for, folder / str(rank), *overrides, *meeting, f"hardware.machine_rank={rank}", **plan)
        for rank in (0, 1)
    ]


def on_one_core(plan_for: PlanFor, run_dir: Path, *overrides: str, **plan: Any) -> Job:
    """Each process has one thread: the order of sums, and so the last bits, hang on their number."""
    run_dir.mkdir(parents=True)
    made = plan_for(*overrides, **plan)
    return render(replace(made, machine=replace(made.machine, cpu_cores=1)), run_dir)


def test_two_machines_go_on_as_two_processes_of_one_do(plan_for: PlanFor, tmp_path: Path) -> None:
    """The second one has no checkpoint: it gets the first one's."""
    overrides = ("train.batch_size=2", "train.effective_batch_size=2", "train.checkpoint_every_steps=2")
    whole = on_one_core(plan_for, tmp_path / "whole", "hardware.num_processes=2", *overrides, steps=4)
    weights = finish(whole).read_bytes()
    first, second = machines(plan_for, tmp_path / "machines", *overrides, steps=4)
    shutil.copytree(whole.run_dir / "checkpoints", first.run_dir / "checkpoints")
    other = start(second)
    assert finish(first).read_bytes() == weights
    assert other.wait(timeout=60) == 0
    assert {"text": "going on from step 2"} in events(first.run_dir, "phase")
    assert read_journal(second.run_dir) == []
    assert not (second.run_dir / "weights").exists()


def test_machines_that_were_told_different_things_end(plan_for: PlanFor, tmp_path: Path) -> None:
    first, second = machines(plan_for, tmp_path)
    told = second.run_dir / "job" / "train.toml"
    told.write_text(re.sub(r'fingerprint = ".*"', 'fingerprint = "another"', told.read_text()))
    processes = [start(job) for job in (second, first)]
    assert [process.wait(timeout=120) != 0 for process in processes] == [True, True]
    for job in (first, second):
        assert "were not told the same" in events(job.run_dir, "failure")[0]["message"]


def test_processes_that_know_nothing_of_each_other_end(plan_for: PlanFor, tmp_path: Path) -> None:
    """Where torch opens no card accelerate starts both all the same, each as the first of one."""
    card = replace(plan_for("hardware.num_processes=2"), machine=given.CARD)
    (tmp_path / "alone").mkdir()
    job = render(card, tmp_path / "alone")
    assert start(job, CUDA_VISIBLE_DEVICES="").wait(timeout=120) != 0
    assert_miscounted(job)


def test_one_process_in_place_of_two_ends(plan_for: PlanFor, tmp_path: Path) -> None:
    job = new_job(plan_for, tmp_path / "one", "hardware.num_processes=2")
    alone = replace(job, argv=(sys.executable, "-m", "pipeline.backends.native", job.argv[-1]))
    assert start(alone).wait(timeout=120) == 1
    assert_miscounted(alone)


def assert_miscounted(job: Job) -> None:
    told = read_journal(job.run_dir)
    assert {event.kind for event in told} == {"failure"}
    error = explain_death(1, told, job.run_dir / "trainer.log", log_offset=0)
    assert error.cause is Cause.PROCESS_COUNT
    assert "2 processes were asked for (hardware.num_processes), and the training has 1" in str(error)
    assert "python -m pipeline doctor" in str(error)


KINDS_OF_STATE = ("adafactor", "adamw8bit", "prodigy_plus_schedule_free")
"""Factored, in 8 bits, and an average beside the weights: test_native_parts has every optimizer, in one process."""


@pytest.mark.parametrize("name", [name for name in KINDS_OF_STATE if find_spec(options()[name].package) is not None])
def test_a_killed_run_goes_on_with_the_same_bytes(plan_for: PlanFor, tmp_path: Path, name: str) -> None:
    """Judged in between: that must leave no trace, even where it is done with other weights than those trained."""
    known = options()[name].known
    assert known is not None
    steady = ("train.scheduler=constant",) if known.schedulers else ()
    often = (
        "train.checkpoint_every_steps=2",
        "train.heldout_every_steps=2",
        "train.batch_size=2",
        "train.effective_batch_size=2",
    )
    overrides = (f"optimizer={name}", *steady, *often)
    whole = finish(new_job(plan_for, tmp_path / "whole", *overrides, steps=6))
    job = new_job(plan_for, tmp_path / "killed", *overrides, steps=6)
    process = start(job)
    wait_for_step(job.run_dir, 3)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert finish(job).read_bytes() == whole.read_bytes()
    assert any("going on from step" in str(event["text"]) for event in events(job.run_dir, "phase"))
