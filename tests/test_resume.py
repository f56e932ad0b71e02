"""Which directory a command trains in when an earlier one of the same settings was killed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.errors import RunError
from pipeline.journal import Journal
from pipeline.locks import RUN_LOCK
from pipeline.outcome import outcome_from, write_outcome
from pipeline.resume import claimed, last_step, set_aside
from pipeline.settings import Resume


def started(run_dir: Path, fingerprint: str = "same", *, steps: tuple[int, ...] = (5,), pid: int | None = None) -> Path:
    """A run directory as a killed runner leaves it."""
    run_dir.mkdir(parents=True)
    journal = Journal(run_dir)
    journal.write("run", name=run_dir.name, fingerprint=fingerprint, pid=pid or os.getpid(), host=socket.gethostname())
    journal.write("step", step=7, steps=10, loss=1.0)
    journal.close()
    for step in steps:
        (run_dir / "checkpoints" / f"step-{step:06d}").mkdir(parents=True)
    return run_dir


def ended(run_dir: Path, status: str) -> Path:
    Journal(run_dir).write("end", status=status)
    write_outcome(run_dir, outcome_from([], status, None))  # type: ignore[arg-type]
    return run_dir


def claim(run_dir: Path, resume: Resume = Resume.auto, fingerprint: str = "same") -> tuple[Path, int | None]:
    with claimed(fingerprint, run_dir, resume, say=print) as claimed_dir:
        return claimed_dir.run_dir, claimed_dir.step


@contextmanager
def held_by_another(run_dir: Path) -> Iterator[int]:
    """A process that holds the run's lock; its id."""
    code = (
        f"import fcntl, sys; file = open({str(run_dir / RUN_LOCK)!r}, 'a');"
        "fcntl.flock(file, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        yield holder.pid
        holder.kill()


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """The directory that Hydra made for this run, in the default layout."""
    path = tmp_path / "outputs" / "2026-05-02" / "10-00-00_style-beef"
    (path / ".hydra").mkdir(parents=True)
    return path


def older(new: Path, name: str = "09-00-00_style-cafe", date: str = "2026-05-02") -> Path:
    return new.parent.parent / date / name


def test_fresh_run_trains_in_its_own_directory(new: Path) -> None:
    assert claim(new) == (new, None)


@pytest.mark.parametrize("status", [None, "killed", "failed"])
def test_killed_run_is_gone_on_with(new: Path, status: str | None) -> None:
    killed = started(older(new), steps=(5, 10))
    if status:
        ended(killed, status)
    assert claim(new) == (killed, 10)
    assert not (killed / "outcome.json").exists()


def test_run_of_another_day_is_found(new: Path) -> None:
    killed = started(older(new, date="2026-04-30"))
    assert claim(new) == (killed, 5)


def test_newest_unfinished_run_wins(new: Path) -> None:
    started(older(new, "08-00-00_style-0000"))
    newest = started(older(new, "09-30-00_style-1111"))
    assert claim(new)[0] == newest


def test_other_settings_are_not_gone_on_with(new: Path) -> None:
    started(older(new), "other")
    assert claim(new) == (new, None)


def test_run_without_checkpoint_is_not_gone_on_with(new: Path) -> None:
    started(older(new), steps=())
    assert claim(new) == (new, None)


def test_half_written_checkpoint_is_none(new: Path) -> None:
    killed = started(older(new), steps=())
    (killed / "checkpoints" / "step-000005.part").mkdir(parents=True)
    assert last_step(killed) is None
    assert claim(new) == (new, None)


def test_after_a_finished_run_the_same_command_starts_afresh(new: Path) -> None:
    started(older(new, "08-00-00_style-0000"))
    ended(started(older(new, "09-00-00_style-1111")), "finished")
    assert claim(new) == (new, None)


def test_resume_never_starts_afresh(new: Path) -> None:
    started(older(new))
    assert claim(new, Resume.never) == (new, None)


def test_run_that_is_alive_is_left_alone(new: Path) -> None:
    alive = started(older(new))
    with held_by_another(alive):
        assert claim(new) == (new, None)


def test_orphaned_trainer_is_waited_for(new: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    killed = started(older(new), pid=gone.pid)
    script = (
        f"import fcntl, time; file = open({str(killed / RUN_LOCK)!r}, 'a');"
        "fcntl.flock(file, fcntl.LOCK_EX); print('held', flush=True); time.sleep(1)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as orphan:
        assert orphan.stdout is not None
        orphan.stdout.readline()
        began = time.monotonic()
        assert claim(new) == (killed, 5)
        assert time.monotonic() - began > 0.2
    assert "waiting for the trainer" in capsys.readouterr().out


def test_lock_of_the_directory_that_is_gone_on_with_is_held(new: Path) -> None:
    killed = started(older(new))
    with claimed("same", new, Resume.auto, say=print):
        check = f"import fcntl; fcntl.flock(open({str(killed / RUN_LOCK)!r}, 'a'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        assert subprocess.run([sys.executable, "-c", check], stderr=subprocess.DEVNULL, check=False).returncode == 1


def test_jobs_of_a_sweep_look_at_their_own_directory_only(tmp_path: Path) -> None:
    sweep = tmp_path / "multirun" / "2026-05-02" / "10-00-00_style-beef"
    started(sweep / "0")
    (sweep / "1").mkdir()
    assert claim(sweep / "1") == (sweep / "1", None)
    assert claim(sweep / "0") == (sweep / "0", 5)


class TestNamedDirectory:
    """`hydra.run.dir=mine`."""

    def test_killed_run_is_gone_on_with(self, tmp_path: Path) -> None:
        mine = started(tmp_path / "mine")
        assert claim(mine) == (mine, 5)
        assert not (mine / "earlier").exists()

    @pytest.mark.parametrize("case", ["other settings", "finished", "never", "no checkpoint"])
    def test_else_the_older_run_is_set_aside(self, tmp_path: Path, case: str) -> None:
        mine = started(tmp_path / "mine", steps=() if case == "no checkpoint" else (5,))
        if case == "finished":
            ended(mine, "finished")
        (mine / "final_grid.png").touch()
        (mine / "holiday.txt").touch()
        resume = Resume.never if case == "never" else Resume.auto
        assert claim(mine, resume, "other" if case == "other settings" else "same") == (mine, None)
        assert (mine / "earlier" / "1" / "journal.jsonl").exists()
        assert (mine / "earlier" / "1" / "final_grid.png").exists()
        assert not (mine / "journal.jsonl").exists()
        assert (mine / "holiday.txt").exists(), "what is not a run's stays"

    def test_earlier_runs_are_counted(self, tmp_path: Path) -> None:
        mine = started(tmp_path / "mine")
        assert set_aside(mine) == mine / "earlier" / "1"
        Journal(mine).close()
        assert set_aside(mine) == mine / "earlier" / "2"

    def test_directory_without_a_run_is_left_as_it_is(self, tmp_path: Path) -> None:
        (tmp_path / "cat.png").touch()
        assert set_aside(tmp_path) is None
        assert (tmp_path / "cat.png").exists()

    def test_live_run_is_an_error(self, tmp_path: Path) -> None:
        mine = started(tmp_path / "mine")
        with (
            held_by_another(mine),
            pytest.raises(RunError, match="is in use"),
            claimed("same", mine, Resume.auto, say=print),
        ):
            pass
