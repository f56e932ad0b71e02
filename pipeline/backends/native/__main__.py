"""The native trainer: `python -m pipeline.backends.native JOB.toml`.

Exit codes: 0 finished weights, 1 a failure that the journal names, 143 stopped after saving a checkpoint.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline.backends.native.job import NativeJob
from pipeline.backends.native.quiet import quieten
from pipeline.errors import Cause, RunError, UnreadableFile
from pipeline.journal import Journal

STOPPED = 143


def main(argv: list[str]) -> int:
    """Runs the job file; what goes wrong is told on stderr and in the journal."""
    if len(argv) != 1:
        print("usage: python -m pipeline.backends.native JOB.toml", file=sys.stderr)  # noqa: T201
        return 2
    try:
        job = NativeJob.read(Path(argv[0]))
    except UnreadableFile as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return _run(job)


def _run(job: NativeJob) -> int:
    quieten()
    from pipeline.backends.native.loop import train
    from pipeline.backends.native.stopping import StopRequested

    try:
        train(job)
    except StopRequested:
        if job.machine_rank:
            message = "the training was stopped, here or on machine 0, which has the checkpoint"
            Journal(Path(job.run_dir)).write("failure", cause=str(Cause.STOPPED_BY_USER), message=message)
        return STOPPED
    except RunError as error:
        cause = Cause.BAD_FILE if isinstance(error, UnreadableFile) else getattr(error, "cause", Cause.UNKNOWN)
        Journal(Path(job.run_dir)).write("failure", cause=str(cause), message=str(error))
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
