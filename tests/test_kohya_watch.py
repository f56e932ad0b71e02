"""The watcher of the kohya backend: real processes of a stand-in for sd-scripts (`tests/sd_scripts`), with every way to
end, and its parts one by one."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import tomli_w

from pipeline.backends.kohya.counting import ProcessCount
from pipeline.backends.kohya.deaths import explain
from pipeline.backends.kohya.job import KohyaJob
from pipeline.backends.kohya.outputs import Outputs
from pipeline.backends.kohya.progress import Pieces, Step, Steps, Thinner, metric_name, read_bar, read_phase
from pipeline.backends.kohya.tensorboard import EventFile, EventFolder, Scalar, masked_crc32c
from pipeline.backends.kohya.written import differences, picture_is_whole, state_is_whole, weights_trouble
from pipeline.deaths import explain_death
from pipeline.errors import Cause
from pipeline.execute import LOG_NAME, execute
from pipeline.journal import read_journal
from pipeline.records import Ending, Event, Job
from pipeline.settings import PROJECT

CHECKOUT = PROJECT / "tests" / "sd_scripts"
RECORDED = PROJECT / "tests" / "kohya_events" / "events.out.tfevents.1.torch.0"
PICTURES, STEPS, RATE = 4, 6, 2e-4
ENOUGH_SECONDS = 60.0
ASKED = {
    "ss_network_dim": "8",
    "ss_network_alpha": "4",
    "ss_unet_lr": "0.00020",
    "ss_max_train_steps": "6",
    "ss_network_module": "networks.lora",
}


def job_of(run_dir: Path, *, script: str = "train_network.py", faults: str = "", **settings: Any) -> KohyaJob:
    """A job as the renderer makes it: a checkpoint every second step, samples before and every third, a batch of 2."""
    data, seconds = run_dir / "data", settings.pop("seconds", 0.01)
    data.mkdir(parents=True, exist_ok=True)
    files = [data / f"{number}.png" for number in range(settings.pop("pictures", PICTURES))]
    for file in files:
        file.touch()
    (run_dir / "pictures.jsonl").write_text("".join(json.dumps({"image_path": str(file)}) + "\n" for file in files))
    (run_dir / "prompts.txt").write_text("a cat --w 64 --d 7\na dog --w 64\n")
    subset = {"image_dir": data} if "network" in script else {"metadata_file": run_dir / "pictures.jsonl"}
    subsets = [{name: str(path) for name, path in subset.items()}]
    write_toml(run_dir / "dataset.toml", {"datasets": [{"batch_size": 2, "subsets": subsets}]})
    config = {
        "output_dir": str(run_dir / "out"), "output_name": "style", "logging_dir": str(run_dir / "logs"),
        "dataset_config": str(run_dir / "dataset.toml"), "max_train_steps": STEPS, "save_every_n_steps": 2,
        "save_state": True, "sample_every_n_steps": 3, "sample_at_first": True, "cache_latents": True,
        "sample_prompts": str(run_dir / "prompts.txt"), "learning_rate": RATE, "seed": 1,
    }  # fmt: skip
    of_network = {"unet_lr": RATE, "network_dim": 8, "network_alpha": 4.0, "network_module": "networks.lora"}
    write_toml(run_dir / "train.toml", config | (of_network if "network" in script else {}) | settings)
    num_processes = settings.pop("num_processes", 1)
    return KohyaJob(
        run_dir=str(run_dir),
        argv=[
            *(sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(num_processes)),
            *(script, "--config_file", str(run_dir / "train.toml")),
        ],
        cwd=str(CHECKOUT),
        env={
            "PYTHONPATH": str(CHECKOUT / "packages"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "STAND_IN_FAULTS": faults,
            "STAND_IN_SECONDS": str(seconds),
        },
        num_processes=num_processes,
        num_machines=1,
        machine_rank=0,
        steps=STEPS,
        first_step=0,
        counted_from=0,
        output_dir=str(run_dir / "out"),
        logging_dir=str(run_dir / "logs"),
        output_name="style",
        finished=str(run_dir / "out" / "style.safetensors"),
        prompts=["a cat", "a dog"],
        sample_seed=1000,
        expected=ASKED if "network" in script else {},
    )


def write_toml(path: Path, content: dict[str, Any]) -> None:
    path.write_bytes(tomli_w.dumps(content).encode())


def watcher(job: KohyaJob) -> list[str]:
    path = Path(job.run_dir) / "job.toml"
    write_toml(path, job.to_toml())
    return [sys.executable, "-m", "pipeline.backends.kohya", str(path)]


def run(job: KohyaJob, *, show: Callable[[Event], None] = lambda _: None) -> Ending:
    """Through the stage that runs every job, as a user's run does."""
    command = Job(run_dir=Path(job.run_dir), argv=tuple(watcher(job)), cwd=PROJECT, env={}, files=())
    return execute(command, show=show, checkpoint_seconds=20)


def events(run_dir: Path, *kinds: str) -> list[Event]:
    return [event for event in read_journal(run_dir) if not kinds or event.kind in kinds]


def failure(run_dir: Path) -> tuple[str, str, str]:
    (event,) = events(run_dir, "failure")
    return str(event.data["cause"]), str(event.data["message"]), str(event.data["fix"])


def wait_for(condition: Callable[[], object], seconds: float = ENOUGH_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def nothing_is_left(run_dir: Path) -> bool:
    """No process whose command line or environment names the run."""
    for process in psutil.process_iter():
        try:
            mentions = str(run_dir) in " ".join([*process.cmdline(), *process.environ().values()])
            if mentions and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                return False
        except psutil.Error:
            continue
    return True


# ------------------------------------------------------------------------------------------------------- whole runs


def test_a_run_is_told_in_order(tmp_path: Path) -> None:
    ending = run(job_of(tmp_path, seconds=0.1))
    assert ending.error is None, ending.error
    assert ending.outcome.weights == str(tmp_path / "out" / "style.safetensors")
    told = [(event.kind, event.data.get("step")) for event in events(tmp_path, "step", "sample", "checkpoint")]
    steps = [number for kind, number in told if kind == "step"]
    assert steps == [1, 2, 3, 4, 5, 6]
    others = {kind: [number for other, number in told if other == kind] for kind in ("sample", "checkpoint")}
    assert others == {"sample": [0, 0, 3, 3, 6, 6], "checkpoint": [2, 4, 6, 6]}
    for place, (kind, number) in enumerate(told):
        assert kind == "step" or number == 0 or ("step", number) in told[:place]
    assert [event.data["path"] for event in events(tmp_path, "checkpoint")][1:] == [
        "out/style-step00000004-state",
        "out/style-step00000006-state",
        "out/style-state",
    ]
    assert read_journal(tmp_path)[-1].kind == "weights"


def test_numbers_phases_and_samples(tmp_path: Path) -> None:
    run(job_of(tmp_path, optimizer_type="Prodigy", seconds=0.05))
    steps = events(tmp_path, "step")
    assert [step.data["loss"] for step in steps] == pytest.approx([1 / n for n in range(1, 7)], rel=1e-6)
    assert {(step.data["lr"], step.data["steps"]) for step in steps} == {(RATE, STEPS)}
    assert all(isinstance(step.data["memory_bytes"], int) for step in steps)
    assert isinstance(steps[-1].data["steps_per_second"], float)
    values = [event.data["values"] for event in events(tmp_path, "metric")]
    assert values[0] == {"loss/average": 1.0, "lr/d_times_lr/unet": RATE / 4}
    assert {"loss/epoch_average": pytest.approx(0.75)} in values
    sample = events(tmp_path, "sample")[1].data
    assert (sample["index"], sample["prompt"], sample["seed"]) == (1, "a dog", 1001)
    assert events(tmp_path, "sample")[0].data["seed"] == 7
    assert (tmp_path / str(sample["path"])).is_file()
    phases = [str(event.data["text"]) for event in events(tmp_path, "phase")]
    begin = ["reading the pictures", "loading the model", "caching latents", "preparing the optimizer", "training"]
    assert phases[:6] == [*begin, "drawing samples"]
    assert "the weights of step 2 are in out/style-step00000002.safetensors" in phases
    log = (tmp_path / LOG_NAME).read_text()
    assert "epoch 1/3" in log
    assert log.count("\r") == 0


def test_a_finetune_logs_otherwise(tmp_path: Path) -> None:
    ending = run(job_of(tmp_path, script="fine_tune.py", save_model_as="safetensors"))
    assert ending.error is None
    assert ending.outcome.loss_last == pytest.approx(1 / 6, rel=1e-6)
    assert {"loss/epoch": 0.75} in [event.data["values"] for event in events(tmp_path, "metric")]


def test_loss_of_an_update_is_the_mean_of_its_micro_batches(tmp_path: Path) -> None:
    assert run(job_of(tmp_path, gradient_accumulation_steps=2)).error is None
    losses = [step.data["loss"] for step in events(tmp_path, "step")]
    assert losses == pytest.approx([(1 / n + 1 / (n + 1)) / 2 for n in range(1, 12, 2)], rel=1e-6)


@pytest.mark.parametrize(("state_step", "counted_from"), [(2, 0), (3, 1), (4, 0)])
def test_going_on_counts_on(tmp_path: Path, state_step: int, counted_from: int) -> None:
    """4 pictures, batches of 2: an epoch has 2 updates, and the script's own count begins at the place in it."""
    run(job_of(tmp_path, save_every_n_steps=1))
    state = tmp_path / "out" / f"style-step{state_step:08d}-state"
    before = len(read_journal(tmp_path))
    last = counted_from + STEPS - state_step
    told: dict[str, Any] = {"initial_step": counted_from, "skip_until_initial_step": True, "max_train_steps": last}
    job = job_of(tmp_path, resume=str(state), save_every_n_steps=last, **told)
    expected = ASKED | {"ss_max_train_steps": str(last)}
    assert run(replace(job, first_step=state_step, counted_from=counted_from, expected=expected)).error is None
    new = read_journal(tmp_path)[before:]
    numbers = list(range(state_step + 1, STEPS + 1))
    assert [event.data["step"] for event in new if event.kind == "step"] == numbers
    assert [event.data["step"] for event in new if event.kind == "checkpoint"] == [STEPS, STEPS]


def test_a_script_that_counts_from_zero(tmp_path: Path) -> None:
    job = job_of(tmp_path, script="fine_tune.py", max_train_steps=4)
    assert run(replace(job, first_step=2, counted_from=0)).error is None
    assert [event.data["step"] for event in events(tmp_path, "step")] == [3, 4, 5, 6]
    assert [event.data["step"] for event in events(tmp_path, "checkpoint")] == [4, 6, 6]
    assert {event.data["step"] for event in events(tmp_path, "sample")} == {2, 5}


def test_without_scalars_the_bar_tells(tmp_path: Path) -> None:
    assert run(job_of(tmp_path, faults="untracked", seconds=0.1)).error is None
    steps = events(tmp_path, "step")
    assert [step.data["step"] for step in steps] == [1, 2, 3, 4, 5, 6]
    assert steps[1].data["loss"] == 0.75


def test_half_a_record_of_scalars_loses_no_other(tmp_path: Path) -> None:
    assert run(job_of(tmp_path, faults="torn")).error is None
    assert len(events(tmp_path, "step")) == STEPS


def test_a_quick_end_loses_nothing(tmp_path: Path) -> None:
    assert run(job_of(tmp_path, seconds=0)).error is None
    kinds = [event.kind for event in read_journal(tmp_path)]
    assert (kinds.count("step"), kinds.count("checkpoint"), kinds.count("sample")) == (6, 4, 6)


# ------------------------------------------------------------------------------------------------------------- deaths


@pytest.mark.parametrize(
    ("fault", "cause", "words", "fix"),
    [
        ("oom", Cause.OUT_OF_MEMORY, "memory is not enough", "train.batch_size=1"),
        ("oom_caching", Cause.OUT_OF_MEMORY, "for caching latents", "backend.args.vae_batch_size=1"),
        ("oom_sampling", Cause.OUT_OF_MEMORY, "for drawing samples", "sample.every_steps=0"),
        ("refuse", Cause.UNKNOWN, "full_bf16 requires mixed precision='bf16'", "hardware.precision"),
        ("no_weights", Cause.UNKNOWN, "without an error and without", "log"),
        ("half_weights", Cause.BAD_FILE, "not whole", "disk"),
        ("metadata", Cause.UNKNOWN, "ss_network_dim: asked 8, found 9", "trained, but otherwise"),
        ("nan", Cause.NOT_FINITE, "the loss of step 2 is nan", "optimizer.lr"),
    ],
)
def test_a_death_is_explained(tmp_path: Path, fault: str, cause: Cause, words: str, fix: str) -> None:
    ending = run(job_of(tmp_path, faults=fault))
    told = failure(tmp_path)
    assert told[0] == cause.value
    assert words in told[1]
    assert fix in told[2]
    assert ending.outcome.cause == cause.value
    assert words in str(ending.error)
    assert fix in str(ending.error)
    assert not events(tmp_path, "weights")


def test_no_picture_is_a_failure_though_the_script_ends_well(tmp_path: Path) -> None:
    ending = run(job_of(tmp_path, pictures=0))
    assert failure(tmp_path)[1] == "sd-scripts finds no picture to train on"
    assert "data.dir" in str(ending.error)


def test_an_unknown_death_is_told_in_its_own_words(tmp_path: Path) -> None:
    ending = run(job_of(tmp_path, faults="crash"))
    assert "RuntimeError: something broke" in str(ending.error)
    assert ending.outcome.cause == "unknown"


@pytest.mark.parametrize("faults", ["fewer", "fewer,quiet", "alone", "alone,quiet"])
def test_another_number_of_processes_ends_the_training(tmp_path: Path, faults: str) -> None:
    ending = run(job_of(tmp_path, faults=faults, num_processes=2, seconds=0.2, max_train_steps=500))
    assert "2 processes were asked for (hardware.num_processes), and the training has 1" in str(ending.error)
    assert "python -m pipeline doctor" in str(ending.error)
    assert ending.outcome.cause == "process_count"
    assert not events(tmp_path, "weights")
    assert nothing_is_left(tmp_path)


def test_that_each_trains_alone_is_told_by_the_second_beginning(tmp_path: Path) -> None:
    """Where both have named their devices before either begins."""
    count = ProcessCount(job_of(tmp_path, num_processes=2))
    for piece in ("accelerator device:accelerator device: cuda:0", " cuda:1", "running training / x"):
        count.take(piece)
        assert count.trouble is None
    count.take("running training / x")
    assert count.trouble is not None
    assert "2 train alone" in count.trouble


def test_more_processes_than_asked_for_end_the_training(tmp_path: Path) -> None:
    job = replace(job_of(tmp_path, num_processes=2, seconds=0.2, max_train_steps=500), num_processes=1)
    assert "1 process was asked for (hardware.num_processes), and the training has 2" in str(run(job).error)


@pytest.mark.parametrize("faults", ["", "quiet"])
def test_as_many_processes_as_asked_for_train(tmp_path: Path, faults: str) -> None:
    ending = run(job_of(tmp_path, faults=faults, num_processes=2))
    assert ending.error is None, ending.error
    assert [event.data["step"] for event in events(tmp_path, "step")] == [1, 2, 3, 4, 5, 6]


def test_a_machine_that_is_not_the_first_has_nothing_to_save(tmp_path: Path) -> None:
    """Here its script saves none: it is told by its exit status alone that the training is finished."""
    job = replace(job_of(tmp_path, faults="no_weights,quiet"), num_machines=2, machine_rank=1)
    command = Job(run_dir=tmp_path, argv=tuple(watcher(job)), cwd=PROJECT, env={}, files=(), saves_weights=False)
    ending = execute(command, show=lambda _: None)
    assert (ending.error, ending.outcome.status, ending.outcome.weights) == (None, "finished", None)


PRINTS = """
import time
from accelerate import Accelerator
accelerator = Accelerator()
print("accelerator device:", accelerator.device)
accelerator.wait_for_everyone()
accelerator.print("running training / the rest")
time.sleep({seconds})
"""
"""What every script of sd-scripts prints, by the real accelerate."""


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--multi_gpu", "--cpu"])
def test_the_real_launcher_that_starts_otherwise_is_caught(tmp_path: Path, option: str) -> None:
    """Without a card it starts two processes that know nothing of each other, or one, and says nothing of it."""
    ending = run(launched(tmp_path, option, CUDA_VISIBLE_DEVICES="", seconds=600))
    assert ending.outcome.cause == "process_count"
    assert "2 processes were asked for (hardware.num_processes), and the training has 1" in str(ending.error)
    assert nothing_is_left(tmp_path)


@pytest.mark.slow
def test_the_real_launcher_that_starts_two_is_left_alone(tmp_path: Path) -> None:
    ending = run(launched(tmp_path, "--multi_gpu", ACCELERATE_USE_CPU="true", CUDA_VISIBLE_DEVICES="", seconds=0))
    assert "ended without an error and without" in str(ending.error)  # it saves nothing


def launched(run_dir: Path, option: str, *, seconds: int, **env: str) -> KohyaJob:
    """Two processes, by this environment's accelerate."""
    job = job_of(run_dir, num_processes=2)
    script = run_dir / "prints.py"
    script.write_text(PRINTS.format(seconds=seconds))
    launcher = [sys.executable, "-m", "accelerate.commands.launch", option, "--num_processes", "2"]
    plain = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    return replace(job, argv=[*launcher, *plain, str(script)], cwd=str(run_dir), env=env)


def test_a_loss_that_is_no_number_ends_the_training(tmp_path: Path) -> None:
    run(job_of(tmp_path, faults="nan,deaf,grandchild", seconds=0.2, max_train_steps=500))
    assert failure(tmp_path)[0] == "not_finite"
    assert [event.data["step"] for event in events(tmp_path, "step")] == [1]
    assert nothing_is_left(tmp_path)


@pytest.mark.parametrize("argv", [["/nowhere/bin/python", "x.py"], [sys.executable, "-m", "accelerate_of_nobody"]])
def test_a_command_that_can_not_be_started(tmp_path: Path, argv: list[str]) -> None:
    ending = run(replace(job_of(tmp_path), argv=argv))
    cause, message, fix = failure(tmp_path)
    assert argv[0] in message or "accelerate_of_nobody" in message
    assert "backend.python" in fix
    assert ending.outcome.cause == cause


def test_old_weights_are_not_taken_for_new_ones(tmp_path: Path) -> None:
    run(job_of(tmp_path))
    before = len(read_journal(tmp_path))
    ending = run(job_of(tmp_path, faults="no_weights", save_state=False))
    assert ending.error is not None
    assert not [event for event in read_journal(tmp_path)[before:] if event.kind == "weights"]


# -------------------------------------------------------------------------------------------------------------- stops


@pytest.mark.parametrize("faults", ["hang", "hang,deaf,grandchild"])
def test_a_stop_ends_everything(tmp_path: Path, faults: str) -> None:
    job = job_of(tmp_path, faults=faults, save_every_n_steps=1)
    process = subprocess.Popen(watcher(job), cwd=PROJECT, start_new_session=True, stdout=subprocess.DEVNULL)
    wait_for(lambda: events(tmp_path, "checkpoint"))
    process.terminate()  # nobody but the watcher: it passes the word on
    assert process.wait(30) == 143
    cause, message, _ = failure(tmp_path)
    assert cause == "stopped_by_user"
    assert "saves nothing" in message
    assert "step 1, out/style-step00000001-state" in message
    assert nothing_is_left(tmp_path)


def test_a_stop_through_the_runner(tmp_path: Path) -> None:
    def stop_at_step_1(event: Event) -> None:
        if event.kind == "step":
            os.kill(os.getpid(), signal.SIGINT)

    ending = run(job_of(tmp_path, faults="hang", save_every_n_steps=500), show=stop_at_step_1)
    assert (ending.outcome.status, ending.outcome.cause) == ("killed", "stopped_by_user")
    assert "has written no state" in failure(tmp_path)[1]
    assert nothing_is_left(tmp_path)


def test_a_killed_command_is_told(tmp_path: Path) -> None:
    job = job_of(tmp_path, faults="hang,deaf,grandchild")

    def kill_the_launcher(event: Event) -> None:
        if event.kind == "step":
            for process in psutil.Process().children(recursive=True):
                if "accelerate.commands.launch" in process.cmdline():
                    process.kill()

    ending = run(job, show=kill_the_launcher)
    assert ending.outcome.cause == Cause.KILLED_BY_SYSTEM.value
    assert nothing_is_left(tmp_path)


# ------------------------------------------------------------------------------------------------------------- output


def test_output_is_cut_at_line_ends_and_redraws() -> None:
    pieces = Pieces()
    chunks = [
        b"a\nsteps:  10%|#",
        b"| 1/10 [00:03<00:33]\rsteps:  20%|##| 2/10 [00:0",
        b"6<00:27]\nno bar\r\xe5",
        b"\xad\xa6",
    ]
    found = [(piece.text, piece.is_redraw) for chunk in chunks for piece in pieces.feed(chunk)]
    assert found == [
        ("a", False),
        ("steps:  10%|#| 1/10 [00:03<00:33]", True),
        ("steps:  20%|##| 2/10 [00:06<00:27]", False),
        ("no bar", False),
    ]
    assert [piece.text for piece in pieces.end()] == ["学"]


def test_a_bar_is_shown_now_and_then() -> None:
    clock = iter(float(second) for second in range(0, 1000, 10))
    thinner, (bar,) = Thinner(now=lambda: next(clock)), list(Pieces().feed(b" 10%|#| 1/10 [00:03<00:33]\r"))
    assert sum(thinner.passes(bar) for _ in range(30)) in range(5, 15)


@pytest.mark.parametrize(
    ("text", "done", "rate", "loss"),
    [
        ("steps:  10%|█         | 1/10 [00:03<00:33,  3.70s/it, avr_loss=1.15]", 1, 1 / 3.7, 1.15),
        ("steps:  30%|###       | 3/10 [00:03<00:01,  3.5it/s, Keys Scaled=0, avr_loss=nan]", 3, 3.5, float("nan")),
        ("steps:   0%|          | 0/10 [00:00<?, ?it/s]", 0, None, None),
        ("steps: 1%|| 1/10 [00:01<00:09, 1.00s/it]steps: 2%|| 2/10 [00:02<00:08, 1.00s/it]epoch 2/3", 2, 1.0, None),
    ],
)
def test_bar(text: str, done: int, rate: float | None, loss: float | None) -> None:
    bar = read_bar(text)
    assert bar is not None
    assert (bar.done, bar.total) == (done, 10)
    assert bar.steps_per_second == (None if rate is None else pytest.approx(rate))
    assert bar.average_loss == (None if loss is None else pytest.approx(loss, nan_ok=True))


@pytest.mark.parametrize(
    "text",
    [
        "steps: 10%|#| 1/10 [00:03<00:33, 3.7",
        "validation steps: 10%|#| 1/10 [00:03<00:33]",
        " 10%|#| 1/10 [00:03<00:33]",
        "sample_steps: 30",
        "",
    ],
)
def test_no_bar_of_the_training(text: str) -> None:
    assert read_bar(text) is None


@pytest.mark.parametrize(
    ("text", "phase"),
    [
        ("INFO     caching Text Encoder outputs with caching strategy.", "caching text encoder outputs"),
        ("INFO     load StableDiffusion checkpoint: /m/x.safetensors", "loading the model"),
        ("INFO     Loading state dict from /m/flux.safetensors", "loading the model"),
        ("INFO     saving state at step 10", "saving"),
        ("save trained model as StableDiffusion checkpoint to /out/x.safetensors", "saving"),
        ("INFO     save train state to /out/x/train_state.json", None),
        ("INFO     Generating sample images at step 3", "drawing samples"),
        ("epoch 1/3", None),
    ],
)
def test_phase(text: str, phase: str | None) -> None:
    assert read_phase(text) == phase


def test_names_that_mlflow_takes() -> None:
    assert metric_name("lr/d*lr/unet") == "lr/d_times_lr/unet"
    assert metric_name("lr/text_encoder 1/ü") == "lr/text_encoder 1/_"
    assert metric_name("loss/validation/epoch_average") == "heldout/loss"


# ------------------------------------------------------------------------------------------------------------ scalars


def test_a_file_of_torchs_own_writer() -> None:
    found = [(scalar.tag, scalar.step, scalar.value) for scalar in EventFile(RECORDED).new_scalars()]
    assert found[:4] == [
        ("loss/current", 1, 0.5),
        ("loss/average", 1, 0.5),
        ("lr/unet", 1, 1e-4),
        ("lr/d*lr/unet", 1, 2.5e-5),
    ]
    assert len(found) == 9
    assert str(found[-1]) == "('loss/current', 3, nan)"


def test_a_file_that_grows_byte_by_byte(tmp_path: Path) -> None:
    whole, path = RECORDED.read_bytes(), tmp_path / RECORDED.name
    path.touch()
    file, found = EventFile(path), []
    with path.open("ab", buffering=0) as growing:
        for place in range(len(whole)):
            growing.write(whole[place : place + 1])
            found += list(file.new_scalars())
    assert [scalar.tag for scalar in found] == [scalar.tag for scalar in EventFile(RECORDED).new_scalars()]
    assert not file.is_damaged


def test_every_damaged_byte_is_survived(tmp_path: Path) -> None:
    whole, path = RECORDED.read_bytes(), tmp_path / RECORDED.name
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        assert len(list(EventFile(path).new_scalars())) < 10


def test_a_payload_that_is_no_event_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / RECORDED.name
    for payload in (b"\x2a\x7f", b"\x08", b"\x0f", b"\xff" * 12, b"\x29\x00"):
        head = struct.pack("<Q", len(payload))
        frame = head + struct.pack("<I", masked_crc32c(head)) + payload + struct.pack("<I", masked_crc32c(payload))
        path.write_bytes(frame + RECORDED.read_bytes())
        assert len(list(EventFile(path).new_scalars())) == 9


def test_scalars_of_an_earlier_start_are_left_out(tmp_path: Path) -> None:
    old, new = tmp_path / "1" / RECORDED.name, tmp_path / "2" / "network_train" / RECORDED.name
    for path in (old, new):
        path.parent.mkdir(parents=True)
    old.write_bytes(RECORDED.read_bytes())
    folder = EventFolder(tmp_path)
    assert folder.new_scalars() == []
    new.write_bytes(RECORDED.read_bytes())
    assert len(folder.new_scalars()) == 9
    assert folder.new_scalars() == []


def test_a_step_without_a_learning_rate(tmp_path: Path) -> None:
    steps = Steps(job_of(tmp_path))
    assert list(steps.take_scalar(Scalar("loss", 1, 0.5, 0.0))) == []
    assert list(steps.settle()) == [Step(1, 0.5, None, None, {})]


# -------------------------------------------------------------------------------------------------------------- files


def test_a_picture_is_told_when_it_is_whole(tmp_path: Path) -> None:
    job = job_of(tmp_path)
    outputs, folder = Outputs(job), tmp_path / "out" / "sample"
    folder.mkdir(parents=True)
    whole = tmp_path / "whole.png"
    from PIL import Image

    Image.new("RGB", (8, 8)).save(whole)
    path = folder / "style_000010_01_20260131120000_42.png"
    path.write_bytes(whole.read_bytes()[:-3])
    assert not picture_is_whole(path)
    assert outputs.new() + outputs.new() + outputs.new() == []
    path.write_bytes(whole.read_bytes())
    assert outputs.new() == []  # it may still be written
    (found,) = outputs.new()
    assert (found.step, found.index, found.seed) == (10, 1, 42)
    assert outputs.new() == []


@pytest.mark.parametrize("name", ["other_000010_01_20260131120000.png", "style_10_1.png", "style-step1-state", "x.txt"])
def test_what_is_none_of_ours_is_left_alone(tmp_path: Path, name: str) -> None:
    outputs = Outputs(job_of(tmp_path))
    for folder in (tmp_path / "out", tmp_path / "out" / "sample"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    assert outputs.new(nothing_writes=True) == []


def test_a_state_is_whole_with_its_last_file(tmp_path: Path) -> None:
    (tmp_path / "train_state.json").write_text("{}")
    assert not state_is_whole(tmp_path)
    last = tmp_path / "random_states_0.pkl"
    last.write_bytes(b"PK")
    assert not state_is_whole(tmp_path)
    with zipfile.ZipFile(last, "w") as file:
        file.writestr("data.pkl", b"x")
    assert state_is_whole(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"half")
    assert not state_is_whole(tmp_path)


def test_weights_are_a_file_or_a_folder_of_whole_files(tmp_path: Path) -> None:
    assert "not there" in str(weights_trouble(tmp_path / "x.safetensors"))
    assert "no .safetensors" in str(weights_trouble(tmp_path))
    (tmp_path / "unet").mkdir()
    write_weights(tmp_path / "unet" / "a.safetensors", {})
    assert weights_trouble(tmp_path) is None
    (tmp_path / "unet" / "b.safetensors").write_bytes(b"\0" * 20)
    assert "b.safetensors" in str(weights_trouble(tmp_path))
    (tmp_path / "c.ckpt").write_bytes(b"x")
    assert "not a whole checkpoint" in str(weights_trouble(tmp_path / "c.ckpt"))


@pytest.mark.parametrize(
    ("wanted", "found"),
    [("0.0001", "1e-04"), ("8", "8.0"), ("[0.0001, 0]", "[1e-4, 0.0]"), ("AdamW(a=1)", "AdamW(a=1)"), ("None", "None")],
)
def test_metadata_are_compared_as_values(tmp_path: Path, wanted: str, found: str) -> None:
    path = tmp_path / "x.safetensors"
    write_weights(path, {"ss_x": found})
    assert differences(path, {"ss_x": wanted}) == []


@pytest.mark.parametrize(
    ("wanted", "found"), [("8", "16"), ("True", "1"), ("[1, 2]", "[1]"), ("networks.lora", "lycoris.kohya"), ("0", "")]
)
def test_metadata_that_differ(tmp_path: Path, wanted: str, found: str) -> None:
    path = tmp_path / "x.safetensors"
    write_weights(path, {"ss_x": found})
    assert differences(path, {"ss_x": wanted, "ss_y": "1"}) == [
        f"ss_x: asked {wanted}, found {found}",
        "ss_y: asked 1, found nothing",
    ]


def write_weights(path: Path, metadata: dict[str, str]) -> None:
    import numpy
    from safetensors.numpy import save_file

    save_file({"a": numpy.zeros(4, numpy.float32)}, path, metadata)


# -------------------------------------------------------------------------------------------------------------- signs


@pytest.mark.parametrize(
    ("tail", "cause", "words", "fix"),
    [
        (
            "voluptuous.error.MultipleInvalid: extra keys not allowed @ data['datasets'][0]['x']",
            Cause.UNKNOWN,
            "@ data['datasets'][0]['x']",
            "dataset.toml",
        ),
        (
            "RuntimeError: Error(s) in loading state_dict for UNet2DConditionModel:\n"
            "\tsize mismatch for conv_in.weight: copying a param with shape torch.Size([320, 9, 3, 3])",
            Cause.BAD_FILE,
            "conv_in.weight",
            "model=auto",
        ),
        (
            "RuntimeError: Error(s) in loading state_dict for CLIPTextModel:\n\tMissing key(s) in state_dict: x",
            Cause.BAD_FILE,
            "CLIPTextModel",
            "detect",
        ),
        (
            "OSError: We couldn't connect to 'https://huggingface.co' to load the files",
            Cause.BAD_FILE,
            "hub can't be reached",
            "tokenizer_cache_dir",
        ),
        (
            "OSError: Can't load tokenizer for 'openai/clip-vit-large-patch14'. If you were trying",
            Cause.BAD_FILE,
            "tokenizer",
            "tokenizer_cache_dir",
        ),
        (
            'OSError: The provided pretrained_model_name_or_path "/no/x.safetensors" is neither a valid local path nor',
            Cause.BAD_FILE,
            "/no/x.safetensors is neither",
            "model.path",
        ),
        ("RuntimeError: NaN detected in latents: /d/a b.png", Cause.NOT_FINITE, "/d/a b.png", "no_half_vae"),
        ("ImportError: No bitsandbytes / bitsandbytesがインストール", Cause.MISSING_MODULE, "bitsandbytes", "adamw"),
        ("AssertionError: Torch not compiled with CUDA enabled", Cause.MISSING_MODULE, "torch", "hardware=cpu"),
        ("ImportError: No schedulefree / schedulefreeが", Cause.MISSING_MODULE, "schedulefree", "install schedulefree"),
        ("ModuleNotFoundError: No module named 'toml'", Cause.MISSING_MODULE, ": toml", "<backend.python> -m pip"),
        ("ModuleNotFoundError: No module named 'lycoris'", Cause.MISSING_MODULE, "LyCORIS", "lycoris-lora"),
        (
            "AssertionError: network for Text Encoder cannot be trained with caching Text Encoder outputs / Text",
            Cause.UNKNOWN,
            "with caching Text Encoder outputs",
            "mode.text_encoder_lr=0",
        ),
        ("ValueError: constant does not require `num_warmup_steps`. Set None or 0.", Cause.UNKNOWN, "", "warmup"),
        ("\nFileNotFoundError: [Errno 2] No such file or directory: '/m/ae'", Cause.BAD_FILE, "/m/ae", "setting"),
        ("x.py: error: unrecognized arguments: --foo", Cause.UNKNOWN, "--foo", "audit"),
        ("\nAssertionError: max_size should be larger / 日本語", Cause.UNKNOWN, "max_size should be larger", "log"),
        ("died with <Signals.SIGKILL: 9>.", Cause.KILLED_BY_SYSTEM, "killed", "train.batch_size=1"),
    ],
)
def test_sign(tail: str, cause: Cause, words: str, fix: str) -> None:
    found = explain(1, tail, None)
    assert found[0] is cause
    assert words in found[1]
    assert "None" not in found[1].replace("Set None", "")
    assert "日本語" not in found[1]
    assert fix in found[2]


TRACE = "Traceback (most recent call last):\n"
LAUNCHER = f"\n{TRACE}  in simple_launcher\nsubprocess.CalledProcessError: Command '['python', 'x.py']' "
DURING = "\n\nDuring handling of the above exception, another exception occurred:\n\n"


@pytest.mark.parametrize(
    ("code", "tail", "cause", "words"),
    [
        (1, f"No module named 'kernels'\n{TRACE}RuntimeError: x", "unknown", "RuntimeError: x"),
        (1, f"{TRACE}MemoryError\ncaught\n\n{TRACE}KeyError: 'a'", "unknown", "KeyError: 'a'"),
        (1, f"{TRACE}MemoryError{DURING}{TRACE}KeyError: 'a'", "out_of_memory", "memory"),
        (1, f"{TRACE}MemoryError{LAUNCHER}returned non-zero exit status 1.", "out_of_memory", "memory"),
        (1, f"MemoryError{20 * chr(10)}{LAUNCHER}died with <Signals.SIGKILL: 9>.", "killed_by_system", "killed"),
        (1, f"what(): std::bad_alloc{LAUNCHER}died with <Signals.SIGABRT: 6>.", "out_of_memory", "memory"),
        (1, f"x.py: error: unrecognized arguments: --y{LAUNCHER}returned non-zero exit status 2.", "unknown", "--y"),
        (-9, "MemoryError", "killed_by_system", "killed"),
        (-11, "loading the model", "unknown", "SIGSEGV: loading the model"),
        (3, "", "unknown", "exit status 3, without a word"),
    ],
)
def test_only_the_last_words_count(code: int, tail: str, cause: str, words: str) -> None:
    found = explain(code, tail, None)
    assert found[0].value == cause
    assert words in found[1]


def test_a_failures_own_fix_is_told(tmp_path: Path) -> None:
    event = Event("failure", 0.0, {"cause": "bad_file", "message": "no picture", "fix": "data.dir=/there"})
    assert "try: data.dir=/there" in str(explain_death(1, [event], tmp_path / LOG_NAME, log_offset=0))
