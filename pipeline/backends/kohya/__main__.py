"""The watcher of sd-scripts: `python -m pipeline.backends.kohya JOB.toml`.

Exit codes: 0 finished weights, else the command's own; 1 where it ended well without the weights that were asked for,
127 where it could not be started, 128 + n where signal n ended it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline.backends.kohya.job import KohyaJob
from pipeline.backends.kohya.watch import watch
from pipeline.errors import UnreadableFile
from pipeline.journal import Journal
from pipeline.signals import stop_requests


def main(argv: list[str]) -> int:
    """Runs the job file; what goes wrong is told in the journal."""
    if len(argv) != 1:
        print("usage: python -m pipeline.backends.kohya JOB.toml", file=sys.stderr)  # noqa: T201
        return 2
    try:
        job = KohyaJob.read(Path(argv[0]))
    except UnreadableFile as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    journal = Journal(Path(job.run_dir))
    try:
        with stop_requests() as stops:
            return watch(job, journal, stops, sys.stdout.buffer)
    finally:
        journal.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
