"""`execute` with small trainers of its own: real processes that write the real journal and die of real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import Cause, Stopped, TrainingFailed
from pipeline.execute import LOG_NAME, execute
from pipeline.journal import Journal, read_journal
from pipeline.locks import RUN_LOCK
from pipeline.outcome import outcome_from
from pipeline.records import Ending, Event, Job
from pipeline.resume import locked
from pipeline.settings import PROJECT

PRELUDE = """
import os, signal, subprocess, sys, time
from pathlib import Path
from pipeline.journal import Journal
journal = Journal(Path(sys.argv[1]))
def step(number, loss=0.5, memory=100):
    journal.write("step", step=number, steps=10, loss=loss, lr=1e-3, steps_per_second=1.0, memory_bytes=memory)
"""


def job_of(run_dir: Path, script: str) -> Job:
    argv = (sys.executable, "-c", PRELUDE + textwrap.dedent(script), str(run_dir))
    return Job(run_dir=run_dir, argv=argv, cwd=PROJECT, env={"TRAINER_WORD": "hello"}, files=())


def train(run_dir: Path, script: str, shown: list[Event] | None = None) -> Ending:
    return execute(job_of(run_dir, script), show=(shown if shown is not None else []).append)


def failure(ending: Ending) -> TrainingFailed:
    assert isinstance(ending.error, TrainingFailed)
    assert ending.outcome.status == "failed"
    assert ending.outcome.cause == ending.error.cause.value
    return ending.error


def test_the_peak_is_that_of_the_whole_run(tmp_path: Path) -> None:
    ending = train(
        tmp_path,
        """
        step(1, loss=0.8, memory=300)
        journal.write("weights", path="weights/a.safetensors", memory_bytes=400)
        """,
    )
    assert ending.outcome.peak_memory_bytes == 400


def test_finished_run_has_the_journals_figures(tmp_path: Path) -> None:
    shown: list[Event] = []
    ending = train(
        tmp_path,
        """
        journal.write("metric", step=0, values={"heldout/loss": 0.9})
        step(1, loss=0.8, memory=300)
        step(2, loss=0.4, memory=200)
        journal.write("metric", step=2, values={"heldout/loss": 0.6, "other": 1.0})
        journal.write("weights", path="weights/a.safetensors")
        """,
        shown,
    )
    assert ending.error is None
    assert (ending.outcome.status, ending.outcome.cause) == ("finished", None)
    assert ending.outcome.weights == "weights/a.safetensors"
    assert (ending.outcome.loss_first, ending.outcome.loss_last, ending.outcome.steps) == (0.8, 0.4, 2)
    assert (ending.outcome.heldout_before, ending.outcome.heldout_after) == (0.9, 0.6)
    assert ending.outcome.peak_memory_bytes == 300
    assert [event.kind for event in shown] == ["metric", "step", "step", "metric", "weights"]


def test_what_was_not_measured_before_the_first_step_is_no_figure_of_before(tmp_path: Path) -> None:
    """The first measure of such a trainer comes after an epoch."""
    ending = train(
        tmp_path,
        """
        step(1, loss=0.8, memory=1)
        journal.write("metric", step=1, values={"heldout/loss": 0.7})
        step(2, loss=0.4, memory=1)
        journal.write("metric", step=2, values={"heldout/loss": 0.6})
        journal.write("weights", path="weights/a.safetensors")
        """,
        [],
    )
    assert (ending.outcome.heldout_before, ending.outcome.heldout_after) == (None, 0.6)


def test_trainer_gets_the_jobs_variables_and_its_output_goes_to_the_log(tmp_path: Path) -> None:
    train(tmp_path, "print(os.environ['TRAINER_WORD'], os.environ['PATH']); print('oh', file=sys.stderr)")
    log = (tmp_path / LOG_NAME).read_text()
    assert f"hello {os.environ['PATH']}" in log
    assert "oh" in log


def test_events_of_an_earlier_start_are_not_shown_again(tmp_path: Path) -> None:
    Journal(tmp_path).write("step", step=5, steps=10, loss=2.0)
    shown: list[Event] = []
    ending = train(tmp_path, "step(6, loss=1.0); journal.write('weights', path='w')", shown)
    assert [event.data.get("step") for event in shown if event.kind == "step"] == [6]
    assert (ending.outcome.loss_first, ending.outcome.loss_last) == (2.0, 1.0)


def test_exit_without_weights_is_a_failure(tmp_path: Path) -> None:
    error = failure(train(tmp_path, "step(1)"))
    assert error.cause is Cause.UNKNOWN
    assert "without saving weights" in str(error)


@pytest.mark.parametrize(
    ("script", "cause", "words"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", Cause.KILLED_BY_SYSTEM, "train.batch_size=1"),
        (
            "sys.exit('torch.OutOfMemoryError: CUDA out of memory. Tried 2 GiB')",
            Cause.OUT_OF_MEMORY,
            "train.batch_size=1",
        ),
        ("sys.exit('std::bad_alloc')", Cause.OUT_OF_MEMORY, "gradient_checkpointing=true"),
        ("raise MemoryError", Cause.OUT_OF_MEMORY, "memory is not enough"),
        ("import bitsandbones", Cause.MISSING_MODULE, "pip install bitsandbones"),
        ("raise OSError(28, 'No space left on device')", Cause.DISK_FULL, "keep_checkpoints"),
        ("sys.exit('safetensors_rust.SafetensorError: HeaderTooLarge')", Cause.BAD_FILE, "python -m pipeline detect"),
        ("sys.exit('PIL.UnidentifiedImageError: cannot identify')", Cause.BAD_FILE, "damaged"),
        ("print('exitcode  : -9 (pid: 7)'); sys.exit(1)", Cause.KILLED_BY_SYSTEM, "MemAvailable"),
        ("sys.exit('no idea')", Cause.UNKNOWN, "no idea"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", Cause.UNKNOWN, "SIGSEGV"),
    ],
)
def test_death_is_explained(tmp_path: Path, script: str, cause: Cause, words: str) -> None:
    error = failure(train(tmp_path, script))
    assert error.cause is cause
    assert words in str(error)
    assert str(tmp_path / LOG_NAME) in str(error)


def test_the_trainers_own_word_wins(tmp_path: Path) -> None:
    error = failure(
        train(
            tmp_path,
            """
            journal.write("failure", cause="not_finite", message="the loss is nan since step 7")
            sys.exit("CUDA out of memory")
            """,
        )
    )
    assert error.cause is Cause.NOT_FINITE
    assert "nan since step 7" in str(error)
    assert "optimizer.lr" in str(error)


def test_an_older_starts_log_and_failure_explain_nothing(tmp_path: Path) -> None:
    train(
        tmp_path,
        "journal.write('failure', cause='not_finite', message='first trouble'); sys.exit('CUDA out of memory')",
    )
    error = failure(train(tmp_path, "sys.exit('something new')"))
    assert error.cause is Cause.UNKNOWN
    assert "first trouble" not in str(error)


def test_only_the_logs_end_is_shown(tmp_path: Path) -> None:
    error = failure(train(tmp_path, "print(*range(1000, 1100), sep='\\n'); sys.exit(3)"))
    assert "1099" in str(error)
    assert "1080" not in str(error)


def test_a_loss_that_is_no_number_is_left_out(tmp_path: Path) -> None:
    outcome = train(tmp_path, "step(1, loss=0.7); step(2, loss=float('nan')); sys.exit(1)").outcome
    assert (outcome.loss_first, outcome.loss_last, outcome.steps) == (0.7, 0.7, 2)


WAITING = """
step(3)
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
journal.write("phase", text="ready")
while not asked:
    time.sleep(0.01)
"""
SAVING = WAITING + 'journal.write("checkpoint", step=3, path="checkpoints/step-000003")\nsys.exit(143)'


def stopped(run_dir: Path, script: str, *signals: int, checkpoint_seconds: float = 60) -> Ending:
    """Runs a trainer that says when it is ready, and sends the signals to this process as a user would: the first then,
    the next when the stop is answered."""
    left = list(signals)

    def show(event: Event) -> None:
        if event.kind == "phase" and left:
            os.kill(os.getpid(), left.pop(0))

    return execute(job_of(run_dir, script), show=show, checkpoint_seconds=checkpoint_seconds)


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stop_lets_the_trainer_save(tmp_path: Path, number: int, exit_code: int) -> None:
    ending = stopped(tmp_path, SAVING, number)
    assert isinstance(ending.error, Stopped)
    assert ending.error.exit_code == exit_code
    assert "step 3" in str(ending.error)
    assert "goes on from there" in str(ending.error)
    assert (ending.outcome.status, ending.outcome.cause) == ("killed", "stopped_by_user")


def test_stop_before_the_first_checkpoint_says_so(tmp_path: Path) -> None:
    ending = stopped(tmp_path, "journal.write('phase', text='ready'); time.sleep(60)", signal.SIGINT)
    assert "starts over" in str(ending.error)


DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN); journal.write('phase', text='ready'); time.sleep(60)"


def test_second_stop_kills_a_deaf_trainer(tmp_path: Path) -> None:
    began = time.monotonic()
    ending = stopped(tmp_path, DEAF, signal.SIGINT, signal.SIGINT)
    assert time.monotonic() - began < 30
    assert ending.outcome.status == "killed"


def test_a_deaf_trainer_is_killed_after_its_time(tmp_path: Path) -> None:
    assert stopped(tmp_path, DEAF, signal.SIGTERM, checkpoint_seconds=0.3).outcome.status == "killed"


def test_trainer_that_finishes_in_spite_of_the_stop_has_finished(tmp_path: Path) -> None:
    ending = stopped(tmp_path, WAITING + "journal.write('weights', path='w')", signal.SIGINT)
    assert (ending.outcome.status, ending.error) == ("finished", None)


def test_signal_handlers_are_put_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    train(tmp_path, "pass")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_what_the_trainer_started_ends_with_it(tmp_path: Path) -> None:
    train(
        tmp_path,
        """
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        Path(sys.argv[1], "child").write_text(str(child.pid))
        """,
    )
    status = Path(f"/proc/{(tmp_path / 'child').read_text()}/stat")
    assert wait_until(lambda: not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z")


def test_an_orphaned_trainer_keeps_the_lock(tmp_path: Path) -> None:
    script = f"""
    from pathlib import Path
    from pipeline.execute import execute
    from pipeline.resume import locked
    from tests.test_execute import job_of
    run_dir = Path({str(tmp_path)!r})
    with locked(run_dir, say=print) as lock:
        execute(job_of(run_dir, "journal.write('phase', text='ready'); time.sleep(1.5)"), show=print, lock=lock)
    """
    runner = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], cwd=PROJECT, stdout=subprocess.DEVNULL)
    assert wait_until(lambda: any(event.kind == "phase" for event in read_journal(tmp_path)))
    runner.kill()
    runner.wait()
    assert not is_free(tmp_path)
    assert wait_until(lambda: is_free(tmp_path))


def is_free(run_dir: Path) -> bool:
    code = f"import fcntl; fcntl.flock(open({str(run_dir / RUN_LOCK)!r}, 'a'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    return subprocess.run([sys.executable, "-c", code], stderr=subprocess.DEVNULL, check=False).returncode == 0


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def test_seconds_leave_out_the_time_between_two_starts() -> None:
    times = [("run", 0.0), ("step", 10.0), ("run", 1000.0), ("end", 1005.0)]
    events = [Event(kind, at, {}) for kind, at in times]  # type: ignore[arg-type]
    assert outcome_from(events, "killed", None).seconds == 15.0


def test_lock_is_free_again_after_the_context(tmp_path: Path) -> None:
    with locked(tmp_path, say=print):
        assert not is_free(tmp_path)
    assert is_free(tmp_path)
