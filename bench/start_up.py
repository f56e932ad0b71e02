"""How long the program takes until it answers, against what importing Hydra alone takes here.

    python -m bench.start_up [--runs 7] [OVERRIDE ...]

Overrides go to the run that stops after `render`, such as model.path=PATH where the demo model is not there. The bounds
are 1.5 x + 0.2 s for `--cfg job`, where x is the import of Hydra and OmegaConf, and twice that for `until=render`. The
machine has been asked what it can drive before the measurement, and where it has no card the answer is remembered.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from pipeline.settings import PROJECT

IMPORT_HYDRA = (sys.executable, "-c", "import hydra, omegaconf")
SHOW_CONFIG = (sys.executable, "run.py", "--cfg", "job")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7, help="of each command, in turn")
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="for until=render")
    options = parser.parse_args()
    with TemporaryDirectory(prefix="bench-") as folder:
        commands = {
            "import hydra": IMPORT_HYDRA,
            "--cfg job": SHOW_CONFIG,
            "until=render": render_command(Path(folder) / "run", options.overrides),
        }
        for command in commands.values():  # fills the file cache, and lets the machine be asked
            seconds(command)
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(options.runs):
            for name, command in commands.items():
                times[name].append(seconds(command))
    report(times)


def render_command(run_dir: Path, overrides: Sequence[str]) -> tuple[str, ...]:
    return (sys.executable, "run.py", "until=render", f"hydra.run.dir={run_dir}", *overrides)


def seconds(command: Sequence[str]) -> float:
    """Raises SystemExit with the command's own words where it fails."""
    began = time.perf_counter()
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    took = time.perf_counter() - began
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command[1:])} failed:\n{done.stderr}")
    return took


def report(times: dict[str, list[float]]) -> None:
    """The bounds follow from the same figure of the import: minimum from minimum, median from median."""
    print(f"{'':<16}{'minimum':>10}{'bound':>10}{'median':>10}{'bound':>10}   seconds, {len(times['--cfg job'])} runs")
    for name, allowed in (("import hydra", None), ("--cfg job", 1.0), ("until=render", 2.0)):
        figures = [f"{name:<16}"]
        for statistic in (min, median):
            bound = "" if allowed is None else f"{allowed * (1.5 * statistic(times['import hydra']) + 0.2):.2f}"
            figures.append(f"{statistic(times[name]):>10.2f}{bound:>10}")
        print("".join(figures).rstrip())


if __name__ == "__main__":
    main()
