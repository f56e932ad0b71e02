"""Sweeps as they are typed: real trials of a tiny model, in real processes that are really killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline.journal import read_journal
from pipeline.settings import PROJECT
from pipeline.sweep.results import Result, results_of
from pipeline.tracking.store import Client, open_client, store_at
from tests.given import picture

pytestmark = pytest.mark.slow
QUICK = (
    *("tracking=off", "train.max_steps=6", "train.heldout_every_steps=2", "train.checkpoint_every_steps=2"),
    *("sample.num_inference_steps=2", "sample.prompts=[one large red circle]", "data.heldout_fraction=0"),
    *("train.batch_size=2", "train.effective_batch_size=2"),
)


@pytest.fixture
def typed(tiny_model: Path) -> list[str]:
    return [f"model.path={tiny_model}", *QUICK]


def start(cwd: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(PROJECT / "run.py"), *words]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(cwd: Path, *words: str) -> tuple[int, str]:
    process = start(cwd, *words)
    printed, _ = process.communicate(timeout=300)
    return process.returncode, printed


def trials(cwd: Path) -> list[Result]:
    (sweep,) = cwd.glob("multirun/*/*")
    return results_of(sweep)


def starts(result: Result) -> int:
    return sum(event.kind == "run" for event in read_journal(result.run_dir))


def wait_for(what: str, cwd: Path, trial: int, steps: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for journal in cwd.glob(f"multirun/*/*/{trial}/journal.jsonl"):
            if sum(event.kind == what for event in read_journal(journal.parent)) >= steps:
                return
        time.sleep(0.05)
    raise AssertionError(f"trial {trial} never came to {steps} x {what}")


def test_a_trial_that_dies_ends_nothing_else_and_the_same_command_runs_it_again(
    typed: Sequence[str], tmp_path: Path
) -> None:
    words = (*typed, "-m", "optimizer=sgd", "train.max_grad_norm=0", "optimizer.lr=1e-3,1e30,1e-4")
    code, printed = finish(tmp_path, *words)
    assert code == 1, printed
    assert [each.state for each in trials(tmp_path)] == ["finished", "failed", "finished"]
    assert "1 of 3 trials have no weights" in printed
    assert "optimizer.lr=1e+30: must be more than 0 and at most 10" in printed
    assert "Traceback" not in printed
    code, printed = finish(tmp_path, *words)
    assert code == 1
    assert [starts(each) for each in trials(tmp_path)] == [1, 2, 1]


def test_a_sweep_that_was_killed_goes_on_with_the_same_command(typed: Sequence[str], tmp_path: Path) -> None:
    words = (*typed, "-m", "seed=0,1,2")
    process = start(tmp_path, *words)
    wait_for("checkpoint", tmp_path, trial=1, steps=2)
    process.kill()
    for result in trials(tmp_path):  # what a power cut would do to the rest
        _kill(result)
    process.communicate()
    code, printed = finish(tmp_path, *words)
    assert code == 0, printed
    assert "going on with" in printed
    found = trials(tmp_path)
    assert [each.state for each in found] == ["finished"] * 3
    assert starts(found[0]) == 1, "a finished trial is not run again"
    phases = [str(event.data.get("text")) for event in read_journal(found[1].run_dir) if event.kind == "phase"]
    assert any(text.startswith("going on from step") for text in phases), "a half-done one resumes"


def test_a_trial_that_outlives_its_sweep_is_waited_for(typed: Sequence[str], tmp_path: Path) -> None:
    """Its run is its own still: nothing is written into its journal, and it is not begun beside itself."""
    words = (*typed, "-m", "seed=0,1")
    runner = outliving(tmp_path, words)
    os.kill(runner, signal.SIGSTOP)  # it is at work for as long as this test wants
    process, printed = waiting(tmp_path, words)
    os.kill(runner, signal.SIGCONT)
    printed += process.communicate(timeout=300)[0]
    assert process.returncode == 0, printed
    assert [(each.state, starts(each)) for each in trials(tmp_path)] == [("finished", 1), ("finished", 1)]
    kinds = [event.kind for event in read_journal(trials(tmp_path)[0].run_dir)]
    assert kinds.count("end") == 1 and "failure" not in kinds


def test_ctrl_c_stops_a_trial_that_outlived_its_sweep(typed: Sequence[str], tmp_path: Path) -> None:
    words = (*typed, "-m", "seed=0,1", "train.max_steps=2000")
    outliving(tmp_path, words)
    process, printed = waiting(tmp_path, words)
    process.send_signal(signal.SIGINT)
    printed += process.communicate(timeout=300)[0]
    assert process.returncode == 130, printed
    (first,) = trials(tmp_path)
    assert (first.state, starts(first)) == ("killed", 1)


def outliving(cwd: Path, words: Sequence[str]) -> int:
    """The process of trial 0, whose sweep is killed."""
    process = start(cwd, *words)
    wait_for("step", cwd, trial=0, steps=1)
    process.kill()
    process.wait()
    (first,) = trials(cwd)
    return next(int(str(event.data["pid"])) for event in read_journal(first.run_dir) if event.kind == "run")


def waiting(cwd: Path, words: Sequence[str]) -> tuple[subprocess.Popen[str], str]:
    """The same command, which waits for trial 0, and what it has printed."""
    process, printed = start(cwd, *words), ""
    assert process.stdout is not None
    while "trial 0 is at work still, since an earlier start of this sweep: waiting for it" not in printed:
        line = process.stdout.readline()
        assert line, printed
        printed += line
    return process, printed


@pytest.mark.parametrize("told", ["weights", "end"])
def test_a_trial_that_was_killed_after_its_training_is_not_trained_again_and_is_closed_in_mlflow(
    told: str, typed: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Slurm does with a job that it puts back into the queue while MLflow is being closed."""
    monkeypatch.setenv("LORA_EASY_TRIAL", "1")
    words = (*typed, "tracking=local", f"tracking.store_dir={tmp_path / 'store'}", "hydra.run.dir=0")
    code, printed = finish(tmp_path, *words)
    assert code == 0, printed
    outcome = json.loads((tmp_path / "0" / "outcome.json").read_text())
    client = _as_killed_after(told, tmp_path / "0", tmp_path / "store")
    code, printed = finish(tmp_path, *words)
    assert code == 0, printed
    events = read_journal(tmp_path / "0")
    assert [event.kind for event in events if event.kind in ("run", "weights", "end")] == ["run", "weights", "end"]
    again = json.loads((tmp_path / "0" / "outcome.json").read_text())
    assert (again["status"], again["weights"]) == ("finished", outcome["weights"])
    assert client.get_run(outcome["mlflow_run_id"]).info.status == "FINISHED"


def _as_killed_after(told: str, run_dir: Path, store: Path) -> Client:
    """What a kill leaves that comes right after the journal has this event."""
    journal = run_dir / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    (last,) = (index for index, line in enumerate(lines) if json.loads(line)["kind"] == told)
    journal.write_text("".join(lines[: last + 1]))
    (run_dir / "outcome.json").unlink()
    state = json.loads((run_dir / "tracking.json").read_text())
    state |= {"closed": False, "offset": min(state["offset"], journal.stat().st_size)}
    (run_dir / "tracking.json").write_text(json.dumps(state))
    client = open_client(store_at(None, store))
    client.update_run(state["run_id"], status="RUNNING")
    return client


def _kill(result: Result) -> None:
    for event in read_journal(result.run_dir):
        if event.kind == "run":
            try:
                os.kill(int(str(event.data["pid"])), signal.SIGKILL)
            except ProcessLookupError:
                continue


def test_ctrl_c_saves_and_the_same_command_goes_on(typed: Sequence[str], tmp_path: Path) -> None:
    words = (*typed, "-m", "seed=0,1", "train.max_steps=40")
    process = start(tmp_path, *words)
    wait_for("step", tmp_path, trial=0, steps=3)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 130, printed
    assert "The same command goes on with this sweep." in printed
    (first,) = trials(tmp_path)
    assert first.state == "killed"
    assert any(event.kind == "checkpoint" for event in read_journal(first.run_dir))


def test_two_trials_at_once_end_with_the_weights_of_one_after_the_other(typed: Sequence[str], tmp_path: Path) -> None:
    (tmp_path / "both").mkdir()
    (tmp_path / "one").mkdir()
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core")
    words = (*typed, "-m", "seed=0,1", "sample.every_steps=0")
    assert finish(tmp_path / "both", *words, "hydra.launcher.at_once=2")[0] == 0
    assert [each.state for each in trials(tmp_path / "both")] == ["finished", "finished"]
    plans = [json.loads((each.run_dir / "plan.json").read_text()) for each in trials(tmp_path / "both")]
    reasons = [next(each["reason"] for each in plan["choices"] if each["key"] == "memory.peak") for plan in plans]
    assert all(each.endswith("GiB free for this one of several trials at once") for each in reasons)


def test_a_trial_repeats_as_a_single_run_with_the_same_bytes(typed: Sequence[str], tmp_path: Path) -> None:
    """A trial is a fork of a process that has imported everything: that changes nothing."""
    assert finish(tmp_path, *typed, "-m", "seed=3,4")[0] == 0
    code, printed = finish(tmp_path, *typed, "seed=4", "hydra.run.dir=alone")
    assert code == 0, printed
    (alone,) = (tmp_path / "alone" / "weights").iterdir()
    (trial,) = (trials(tmp_path)[1].run_dir / "weights").iterdir()
    assert _tensors(alone) == _tensors(trial)


def _tensors(path: Path) -> bytes:
    """Without the header, which has dates."""
    whole = path.read_bytes()
    return whole[8 + int.from_bytes(whole[:8], "little") :]


def test_trials_that_are_clearly_behind_stop_early_and_say_why(typed: Sequence[str], tmp_path: Path) -> None:
    rates = "optimizer.lr=1e-3,2e-3,3e-3,1e-9"
    words = (*typed, "-m", rates, "train.max_steps=60", "train.heldout_every_steps=15", "hydra.launcher.prune=true")
    code, printed = finish(tmp_path, *words)
    assert code == 0, printed
    last = trials(tmp_path)[-1]
    assert last.state == "pruned"
    assert "where the median of 3 finished trials is" in last.reason
    assert last.outcome.steps < 60
    assert json.loads((last.run_dir / "outcome.json").read_text())["status"] == "pruned"
    assert last.reason in printed


def test_a_search_draws_as_many_trials_as_asked_and_goes_on_after_them(typed: Sequence[str], tmp_path: Path) -> None:
    axis = "optimizer.lr=tag(log, interval(1e-4, 1e-2))"
    words = (*typed, "-m", "hydra/sweeper=search", axis, "network.rank=4,8")
    code, printed = finish(tmp_path, *words, "hydra.sweeper.trials=3")
    assert code == 0, printed
    found = trials(tmp_path)
    assert [each.state for each in found] == ["finished"] * 3
    assert len({each.varied["optimizer.lr"] for each in found}) == 3
    assert all(1e-4 <= float(each.varied["optimizer.lr"]) <= 1e-2 for each in found)
    assert all(each.varied["network.rank"] in ("4", "8") for each in found)


@pytest.fixture
def searched(tiny_model: Path, tmp_path: Path) -> list[str]:
    """A search over pictures of its own."""
    for number in range(4):
        picture(tmp_path / "pictures" / f"{number}.png", seed=number, size=(64, 64))
    axis = "optimizer.lr=tag(log, interval(1e-4, 1e-2))"
    return [f"model.path={tiny_model}", *QUICK, f"data.dir={tmp_path / 'pictures'}", "-m", "hydra/sweeper=search", axis]


def stopped_after_one(cwd: Path, words: Sequence[str]) -> None:
    process = start(cwd, *words, "hydra.sweeper.trials=2")
    wait_for("run", cwd, trial=1, steps=1)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)


def test_a_search_over_other_pictures_than_before_begins_anew_and_says_so(
    searched: Sequence[str], tmp_path: Path
) -> None:
    stopped_after_one(tmp_path, searched)
    (before,) = tmp_path.glob("multirun/*/*")
    picture(tmp_path / "pictures" / "9.png", seed=9, size=(64, 64))
    code, printed = finish(tmp_path, *searched, "hydra.sweeper.trials=1")
    assert code == 0, printed
    assert f"not going on with {before}: the set of pictures is another than when its trial 0 was trained" in printed
    (after,) = set(tmp_path.glob("multirun/*/*")) - {before}
    assert [each.state for each in results_of(after)] == ["finished"]
    assert starts(results_of(before)[0]) == 1


def test_a_search_in_a_named_folder_is_refused_for_another_model(
    searched: Sequence[str], tiny_model: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    words = [*searched, f"model.path={tmp_path / 'model'}", "hydra.sweep.dir=multirun/a/mine"]
    code, printed = finish(tmp_path, *words, "hydra.sweeper.trials=1")
    assert code == 0, printed
    code, printed = finish(tmp_path, *words, "hydra.sweeper.trials=2")
    assert code == 0, printed
    assert [starts(each) for each in trials(tmp_path)] == [1, 1], "with the same model it goes on"
    another(tmp_path / "model")
    code, printed = finish(tmp_path, *words, "hydra.sweeper.trials=3")
    assert code == 1
    assert "the base model is another than when its trial 0 was trained" in printed
    assert "try: hydra.sweep.dir=<another folder>" in printed
    assert len(trials(tmp_path)) == 2


def another(model: Path) -> None:
    """Of the same shape: the last byte of its weights is another."""
    file = max(model.glob("**/*.safetensors"), key=lambda path: path.stat().st_size)
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))


def test_a_mistake_is_told_before_any_trial_begins(typed: Sequence[str], tmp_path: Path) -> None:
    axis = "optimizer.rl=tag(log, interval(1e-4, 1e-2))"
    code, printed = finish(tmp_path, *typed, "-m", "hydra/sweeper=search", axis)
    assert code == 1
    assert "optimizer.rl" in printed and "Traceback" not in printed
    assert not list(tmp_path.glob("multirun/*/*/0"))


def test_more_at_once_than_the_machine_has_is_an_error(typed: Sequence[str], tmp_path: Path) -> None:
    code, printed = finish(tmp_path, *typed, "-m", "seed=0,1", "hydra.launcher.at_once=1000")
    assert code == 1
    assert "hydra.launcher.at_once=1000: from 1 to" in printed


def test_what_the_base_model_can_do_is_found_out_once(typed: Sequence[str], tmp_path: Path) -> None:
    """And only for trials that begin with the same: not for another precision of the question."""
    code, printed = finish(tmp_path, *typed, "-m", "seed=0,1", "train.resolution_px=64,96")
    assert code == 0, printed
    found = trials(tmp_path)
    (sweep,) = tmp_path.glob("multirun/*/*")
    assert len(list((sweep / "before").iterdir())) == 2
    judged = [
        sum(event.data.get("text") == "judging by the held-out pictures" for event in read_journal(each.run_dir))
        for each in found
    ]
    assert sorted(judged) == [3, 3, 4, 4], "the first of each size asks before the training too"
    assert found[0].curve[0] == found[2].curve[0] != found[1].curve[0]
    first, third = (each.run_dir / "samples" / "step-000000_0.png" for each in (found[0], found[2]))
    assert first.read_bytes() == third.read_bytes()
