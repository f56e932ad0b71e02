"""The watcher of sd-scripts: `python -m pipeline.backends.kohya JOB.toml`.

Exit codes: 0 finished weights, else the command's own; 1 where it ended well without the weights that were asked for,
127 where it could not be started, 128 + n where signal n ended it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline.backends.kohya.cache_keeping import begin, end, read_pictures
from pipeline.backends.kohya.job import KohyaJob
from pipeline.backends.kohya.watch import watch
from pipeline.errors import Cause, RunError, UnreadableFile
from pipeline.features.room import make_room
from pipeline.journal import Journal, read_journal
from pipeline.sample_grid import write_grid
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
            code = _watch(job, journal, stops)
        if code == 0:
            _compare_samples(job, journal)
            if job.cache_dir:
                make_room(Path(job.cache_dir), job.cache_max_bytes)
        return code
    finally:
        journal.close()


def _watch(job: KohyaJob, journal: Journal, stops: list[int]) -> int:
    """Caches that don't fit are gone before, and what the new ones are made from is known after."""
    if job.caches is None:
        return watch(job, journal, stops, sys.stdout.buffer)
    try:
        pictures = read_pictures(Path(job.pictures))
        begin(job.caches, pictures)
        code = watch(job, journal, stops, sys.stdout.buffer)
        if code == 0:
            end(job.caches, pictures)
        return code
    except RunError as error:
        fix = "backend.stale_cache=clear, or backend.cache_latents=memory backend.cache_text=memory"
        journal.write("failure", cause=Cause.BAD_FILE.value, message=str(error), fix=fix)
        return 1


def _compare_samples(job: KohyaJob, journal: Journal) -> None:
    """The first samples, drawn before any step, beside those of the last step."""
    run_dir = Path(job.run_dir)
    drawn: dict[tuple[object, object], Path] = {
        (event.data["step"], event.data["index"]): run_dir / str(event.data["path"])
        for event in read_journal(run_dir)
        if event.kind == "sample"
    }
    before, after = (
        [drawn[step, index] for index in range(len(job.prompts)) if (step, index) in drawn] for step in (0, job.steps)
    )
    try:
        write_grid(run_dir, before, after, job.prompts)
    except OSError as error:  # a training is worth more than its grid
        journal.write("warning", text=f"the samples could not be put side by side: {error}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
