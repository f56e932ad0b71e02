"""Stage three: the plan becomes a job, files and a command, by its backend."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipeline.records import Job, Plan


def _native(plan: Plan, run_dir: Path) -> Job:
    from pipeline.backends.native.render import render as render_native

    return render_native(plan, run_dir)


def _kohya(plan: Plan, run_dir: Path) -> Job:
    from pipeline.backends.kohya.render import render as render_kohya

    return render_kohya(plan, run_dir)


BACKENDS: dict[str, Callable[[Plan, Path], Job]] = {"native": _native, "kohya": _kohya}
"""Loaded when asked for: a run has one."""


def render(plan: Plan, run_dir: Path) -> Job:
    """Writes the job's files into `run_dir/job` and returns the command that reads them."""
    return BACKENDS[plan.settings.backend.name](plan, run_dir)
