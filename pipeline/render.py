"""Stage three: the plan becomes a job, files and a command, by its backend."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipeline.backends.native.render import render as render_native
from pipeline.records import Job, Plan

BACKENDS: dict[str, Callable[[Plan, Path], Job]] = {"native": render_native}


def render(plan: Plan, run_dir: Path) -> Job:
    """Writes the job's files into `run_dir/job` and returns the command that reads them."""
    return BACKENDS[plan.settings.backend.name](plan, run_dir)
