"""What it takes to look into a model file of 7 GB, against opening it with the safetensors library.

    python -m bench.detect_cost [--runs 30]

The file has the header of Stable Diffusion XL 1.0, filled up with metadata to its published length, and a hole in the
place of its weights. The library is given what it does fastest: it maps the file and parses the header. The memory is
what Python's allocator gave out at the most during one call; the library has an allocator of its own.
"""

from __future__ import annotations

import argparse
import json
import time
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from safetensors import safe_open

from pipeline.checkpoint.header import digest, read_header
from tests import header_cases

CASE = "sdxl_base_full_fp16"
PUBLISHED_HEADER_BYTES = 401_982
LIBRARY = "safetensors.safe_open"
IDENTIFY = "pipeline.checkpoint.identify"

Calls = Mapping[str, Callable[[], object]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=30, help="of each call, in turn")
    options = parser.parse_args()
    with TemporaryDirectory(prefix="bench-") as folder:
        path = sparse_model(Path(folder))
        calls = calls_on(path)
        first, times = measure(calls, options.runs)
        peaks = {name: peak_bytes(call) for name, call in calls.items() if name != LIBRARY}
        report(path, first, times, peaks)


def sparse_model(folder: Path) -> Path:
    """Its thumbnail, of which the recorded header has none, is what fills the header up."""
    case = header_cases.read(CASE)
    case = replace(case, metadata={**case.metadata, "modelspec.thumbnail": ""})
    lacking = PUBLISHED_HEADER_BYTES - (len(header_cases.header(case)) - 8)
    case.metadata["modelspec.thumbnail"] = "/" * lacking
    return header_cases.write(case, folder)


def calls_on(path: Path) -> Calls:
    calls: dict[str, Callable[[], object]] = {
        LIBRARY: partial(open_and_close, path),
        "json.loads": partial(json.loads, header_text(path)),
        "read_header": partial(read_header, path),
        "digest": partial(digest, path, read_header(path)),
    }
    if find_spec(IDENTIFY) is not None:
        calls["identify"] = partial(import_module(IDENTIFY).identify, path)
    return calls


def open_and_close(path: Path) -> None:
    with safe_open(path, framework="numpy"):
        pass


def header_text(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(8 + read_header(path).header_bytes)[8:]


def measure(calls: Calls, runs: int) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Seconds of the first call, which loads what it needs, and of the others, in turn."""
    first = {name: seconds(call) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs):
        for name, call in calls.items():
            times[name].append(seconds(call))
    return first, times


def seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def peak_bytes(call: Callable[[], object]) -> int:
    tracemalloc.start()
    call()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def report(path: Path, first: Mapping[str, float], times: Mapping[str, list[float]], peaks: Mapping[str, int]) -> None:
    header = read_header(path)
    size = f"{header.file_bytes / 1e9:.2f} GB, header of {header.header_bytes} bytes, {len(header.tensors)} tensors"
    print(f"{path.name}: {size}; {len(times[LIBRARY])} runs\n")
    print(f"{'milliseconds':<24}{'minimum':>10}{'median':>10}{'first':>10}{'x library':>12}{'peak MB':>10}")
    for name, taken in times.items():
        figures = "".join(f"{figure * 1000:>10.2f}" for figure in (min(taken), median(taken), first[name]))
        peak = f"{peaks[name] / 1e6:>10.2f}" if name in peaks else ""
        print(f"{name:<24}{figures}{median(taken) / median(times[LIBRARY]):>12.1f}{peak}".rstrip())


if __name__ == "__main__":
    main()
