"""Time to the first step of a run on a warm cache, as a ratio to the same run on an empty one.

    python -m bench.cache --model PATH                      a Stable Diffusion 1, at full size
    python -m bench.cache --model PATH --pictures 50 --resolution 512

Pictures are made of noise. Nothing is held out and nothing drawn, so that only loading and encoding stand before the
first step; MLflow is left out.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from pipeline.journal import read_journal
from pipeline.settings import PROJECT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=24)
    parser.add_argument("--resolution", type=int, default=256)
    arguments = parser.parse_args()
    with TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        make_pictures(folder / "pictures", arguments.pictures, arguments.resolution)
        for place in ("disk", "empty", "warm"):  # the first only brings the model into the page cache
            cache = folder / ("other" if place == "disk" else "cache")
            seconds = to_first_step(folder, place, cache, arguments)
            if place == "empty":
                empty = seconds
            print(f"{place:<6} {seconds:6.1f} s to the first step")
        print(f"warm / empty = {seconds / empty:.2f} ({arguments.pictures} pictures of {arguments.resolution} px)")


def make_pictures(folder: Path, count: int, side: int) -> None:
    folder.mkdir()
    for number in range(count):
        noise = random.Random(number).randbytes(3 * side * side)
        Image.frombytes("RGB", (side, side), noise).save(folder / f"{number:04}.png")
        (folder / f"{number:04}.txt").write_text(f"picture number {number}")


def to_first_step(folder: Path, name: str, cache: Path, arguments: argparse.Namespace) -> float:
    """From the trainer's start to the end of the first step, without the time of the step itself."""
    run_dir = folder / name
    command = [
        *(sys.executable, str(PROJECT / "run.py"), f"model.path={arguments.model.resolve()}", "tracking=off"),
        *(f"data.dir={folder / 'pictures'}", "data=folder", "data.heldout_fraction=0", "sample.prompts=[]"),
        *(f"train.resolution_px={arguments.resolution}", "train.max_steps=2", "train.effective_batch_size=1"),
        *("train.heldout_every_steps=0", f"cache.dir={cache}", f"hydra.run.dir={run_dir}", "resume=never"),
    ]
    began = time.time()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    steps = [event.time for event in read_journal(run_dir) if event.kind == "step"]
    return steps[0] - began - (steps[1] - steps[0])


if __name__ == "__main__":
    main()
