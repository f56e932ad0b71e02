"""What a run's journal and its feed to MLflow take of a training step.

    python -m bench.journal_cost [--steps 100]

The trainer waits for nothing but the line that it appends to the journal. MLflow is fed by the runner, in another
process; that process's time is shown too, for it matters where the trainer needs all of the machine's cores.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from pipeline.journal import Journal
from pipeline.log import Record, log
from pipeline.outcome import recorded
from pipeline.render import render
from pipeline.settings import PROJECT
from pipeline.validate import validate
from tests import given

STEP_SECONDS = 0.1
GOAL = 0.01
ALONE = 2000
"""Lines that are written one after the other, with nobody who reads."""
OPENING_SECONDS = 60.0
FIGURES = {"loss": 0.1234567890123, "lr": 1e-4, "steps_per_second": 9.87654321, "memory_bytes": 2**30}
"""Of an event as the native trainer writes it."""


@dataclass(frozen=True)
class Costs:
    """Seconds a step."""

    alone: float
    fed: float
    feeding: float
    """Of the runner's processor time."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100, help=f"events that MLflow is fed, one every {STEP_SECONDS} s")
    parser.add_argument("--write", type=Path, metavar="RUN_DIR", help="only write events there: the trainer's part")
    options = parser.parse_args()
    if options.write:
        print(median(write_events(options.write, options.steps, pause=STEP_SECONDS)))
        return
    with TemporaryDirectory(prefix="bench-") as folder:
        report(measure(Path(folder), options.steps), options.steps)


def measure(folder: Path, steps: int) -> Costs:
    quiet, run_dir = folder / "quiet", folder / "run"
    quiet.mkdir()
    run_dir.mkdir()
    alone = median(write_events(quiet, ALONE, pause=0.0))
    settings = given.settings("tracking=local", tracking__store_dir=str(folder / "store"))
    plan = validate(settings, given.facts())
    with log(plan, render(plan, run_dir), command="python run.py", began=time.time()) as record:
        wait_for_mlflow(record)
        before = time.process_time()
        trainer = [sys.executable, "-m", "bench.journal_cost", "--steps", str(steps), "--write", str(run_dir)]
        said = subprocess.run(trainer, cwd=PROJECT, capture_output=True, text=True, check=True).stdout
        feeding = (time.process_time() - before) / steps
        record.close_with(recorded(run_dir, "finished", None))
    return Costs(alone=alone, fed=float(said), feeding=feeding)


def write_events(run_dir: Path, count: int, *, pause: float) -> list[float]:
    """Seconds of each call."""
    journal, taken = Journal(run_dir), []
    for step in range(count):
        time.sleep(pause)
        began = time.perf_counter()
        journal.write("step", step=step + 1, steps=count, **FIGURES)
        taken.append(time.perf_counter() - began)
    journal.close()
    return taken


def wait_for_mlflow(record: Record) -> None:
    """Its import and the making of the store come once a run, not once a step."""
    deadline = time.monotonic() + OPENING_SECONDS
    while record.mlflow_run_id is None:
        if time.monotonic() > deadline:
            raise SystemExit(f"MLflow did not begin the run within {OPENING_SECONDS:g} s")
        time.sleep(0.1)


def report(costs: Costs, steps: int) -> None:
    rows = (
        ("a line of the journal", costs.alone, f"median of {ALONE}, nobody reads"),
        ("while MLflow is fed", costs.fed, f"median of {steps}; goal: less than {GOAL:.0%}"),
        ("the runner's feed", costs.feeding, "processor time of the other process, system metrics included"),
    )
    print(f"{'':<24}{'microseconds':>14}{f'of a {STEP_SECONDS * 1000:.0f} ms step':>18}")
    for name, taken, remark in rows:
        print(f"{name:<24}{taken * 1e6:>14.1f}{taken / STEP_SECONDS:>18.3%}   {remark}")


if __name__ == "__main__":
    main()
