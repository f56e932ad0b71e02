"""What a scan of a folder of pictures takes, against Pillow's bare decoding of the same files.

    python -m bench.scan [--pictures 1000] [--runs 3] [--memory 1000 10000 100000]

The pictures are JPEGs of a megapixel, shapes on noise, each unlike the others. Both decode with as many threads as the
scan is given, from files that the system has in memory; they take turns, and the best of each is told, for others may
be using the machine. Then the same folder is scanned again, with all that is known of it kept, and unchanged. Memory
is the peak of a process that scans so many small pictures for the first time, less that of one that scans ten.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image, ImageDraw

from pipeline.dataset.kept import RACY_NS
from pipeline.dataset.scan import scan
from pipeline.settings import PROJECT
from tests import given

SIDE_PX = 1000
SMALL_PX = 16
FEW = 10
KINDS_OF_NOISE = 16
RATE_GOAL, AGAIN_GOAL, BYTES_GOAL = 0.8, 50, 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1000, help="of a megapixel, about 0.3 MB each")
    parser.add_argument("--runs", type=int, default=3, help="of each, in turn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory", type=int, nargs="*", default=[1000, 10_000], metavar="PICTURES")
    parser.add_argument("--peak", type=Path, metavar="FOLDER", help="only scan it and print the process's peak memory")
    options = parser.parse_args()
    if options.peak:
        print(peak_bytes(options.peak, options.threads))
        return
    with TemporaryDirectory(prefix="bench-") as folder:
        if options.pictures:
            report_speed(Path(folder), options.pictures, options.runs, options.threads)
        report_memory(Path(folder), options.memory, options.threads)


# ------------------------------------------------------------------------------------------------------------- speed


def report_speed(folder: Path, pictures: int, runs: int, threads: int) -> None:
    large = folder / "large"
    write_pictures(large, pictures, SIDE_PX)
    time.sleep(RACY_NS / 1e9 + 0.5)  # what is newer is read again
    bare = partial(decode_all, sorted(large.glob("*.jpg")), threads)
    decoded, first, again = Taken(), Taken(), Taken()
    for run in range(runs):
        scan_it = partial(scan_folder, large, threads, folder / f"cache{run}")
        decoded.add(bare)
        first.add(scan_it)
        for _ in range(3):
            again.add(scan_it)
    print(
        f"{pictures} JPEGs of {SIDE_PX} x {SIDE_PX} px, {threads} threads, best of {runs} (decoding and scan in turn)"
    )
    print(f"{'':<24}{'seconds':>10}{'processor':>12}{'pictures/s':>12}")
    for name, taken in (("bare decoding", decoded), ("first scan", first), ("scan again", again)):
        print(f"{name:<24}{taken.seconds:>10.3f}{taken.processor_seconds:>12.3f}{pictures / taken.seconds:>12.0f}")
    rate, of_processor = decoded.seconds / first.seconds, decoded.processor_seconds / first.processor_seconds
    print(f"rate of the first scan: {rate:.0%} of bare decoding, {of_processor:.0%} by processor time", end="; ")
    print(f"goal: {RATE_GOAL:.0%}")
    print(f"again: {first.seconds / again.seconds:.0f} times as fast; goal: {AGAIN_GOAL}\n")


def write_pictures(folder: Path, count: int, side_px: int) -> None:
    """A few noises, decided once; shapes, and a corner of noise, of each picture's own."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    shape = (side_px, side_px, 3)
    noises = [random.normal(128, 12, shape).clip(0, 255).astype(np.uint8) for _ in range(KINDS_OF_NOISE)]
    for number in range(count):
        image = Image.fromarray(noises[number % KINDS_OF_NOISE])
        draw = ImageDraw.Draw(image)
        for left, top, right, bottom, *colour in random.integers(0, 256, (12, 7)).tolist():
            box = [edge * side_px // 256 for edge in (*sorted((left, right)), *sorted((top, bottom)))]
            draw.ellipse((box[0], box[2], box[1], box[3]), tuple(colour))
        path = folder / f"{number:06}.jpg"
        image.save(path, quality=88)
        path.with_suffix(".txt").write_text(f"shapes on noise, number {number}")


def decode_all(paths: list[Path], threads: int) -> None:
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(decode, paths):
            pass


def decode(path: Path) -> None:
    with Image.open(path) as image:
        image.load()


def scan_folder(folder: Path, threads: int, cache: Path | None) -> None:
    dataset, problems = scan(given.data(folder, heldout_fraction=0.1), threads=threads, cache_dir=cache)
    if dataset is None or problems:
        raise SystemExit(f"the pictures can't be scanned: {problems}")


@dataclass
class Taken:
    """By the fastest call."""

    seconds: float = math.inf
    processor_seconds: float = math.inf
    """Of all threads; others who use the machine change little in it."""

    def add(self, call: Callable[[], None]) -> None:
        began, processor = time.perf_counter(), time.process_time()
        call()
        self.seconds = min(self.seconds, time.perf_counter() - began)
        self.processor_seconds = min(self.processor_seconds, time.process_time() - processor)


# ------------------------------------------------------------------------------------------------------------ memory


def report_memory(folder: Path, counts: list[int], threads: int) -> None:
    base = peak_of(folder / "small", FEW, threads)
    print(f"{'small pictures':<24}{'peak MB':>10}{'bytes each':>12}   goal: less than {BYTES_GOAL} bytes")
    for count in counts:
        peak = peak_of(folder / f"small{count}", count, threads)
        print(f"{count:<24}{peak / 1e6:>10.1f}{(peak - base) / (count - FEW):>12.0f}")


def peak_of(folder: Path, count: int, threads: int) -> int:
    write_pictures(folder, count, SMALL_PX)
    command = [sys.executable, "-m", "bench.scan", "--threads", str(threads), "--peak", str(folder)]
    return int(subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout)


def peak_bytes(folder: Path, threads: int) -> int:
    scan_folder(folder, threads, folder / "cache")
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024  # getrusage's has the parent's in it


if __name__ == "__main__":
    main()
