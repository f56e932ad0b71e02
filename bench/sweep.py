"""A sweep of eight short trials of the demo against the same eight runs typed one after the other, as a ratio.

    python -m bench.sweep                 one trial at a time, and two at a time where there are two cores
    python -m bench.sweep --trials 4      fewer of them

Everything is as a user has it, MLflow included, each way with a store and a cache of its own: also of the runs that are
typed one by one only the first encodes the pictures.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.settings import PROJECT
from pipeline.sweep.results import results_of

STEPS = 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=8)
    trials = parser.parse_args().trials
    with TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        alone = one_after_the_other(folder / "alone", trials)
        print(f"{trials} runs of {STEPS} steps, typed one after the other: {alone:.0f} s")
        for at_once in range(1, min(2, len(os.sched_getaffinity(0))) + 1):
            seconds = as_a_sweep(folder / f"sweep{at_once}", trials, at_once)
            print(f"as a sweep, {at_once} at a time: {seconds:.0f} s, {seconds / alone:.2f} of that", flush=True)


def one_after_the_other(folder: Path, trials: int) -> float:
    began = time.monotonic()
    for seed in range(trials):
        run(folder, f"seed={seed}", f"hydra.run.dir={folder / str(seed)}")
    return time.monotonic() - began


def as_a_sweep(folder: Path, trials: int, at_once: int) -> float:
    seeds = ",".join(map(str, range(trials)))
    began = time.monotonic()
    run(folder, "-m", f"seed={seeds}", f"hydra.sweep.dir={folder / 'sweep'}", f"hydra.launcher.at_once={at_once}")
    seconds = time.monotonic() - began
    assert [each.state for each in results_of(folder / "sweep")] == ["finished"] * trials
    return seconds


def run(folder: Path, *words: str) -> None:
    command = [sys.executable, str(PROJECT / "run.py"), f"train.max_steps={STEPS}", f"tracking.store_dir={folder}"]
    command.append(f"cache.dir={folder / 'cache'}")
    folder.mkdir(exist_ok=True)
    done = subprocess.run([*command, *words], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


if __name__ == "__main__":
    main()
