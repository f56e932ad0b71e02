"""The border with Hydra's command line: what is typed is completed before Hydra reads it."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from secrets import token_hex

from omegaconf import OmegaConf

from pipeline.errors import InvalidSettings, Problem, UnreadableFile
from pipeline.mistakes import problems_of, refusal
from pipeline.overrides import apart, chosen, groups, keys, split, sweep_choices, sweeps, value_of

PURPOSES = ("-m", "--multirun", "-c", "--cfg", "-i", "--info")
"""Flags of which only one can stand in a command."""
PASSED_ON = ("backend.args.", "backend.network_args.")
"""Sections that hold what a backend's own program is told by its own names."""


def register() -> None:
    """The resolver that keeps two runs started in the same second apart."""
    OmegaConf.register_new_resolver("random_suffix", lambda: token_hex(2), use_cache=True, replace=True)


def complete(typed: Sequence[str]) -> list[str]:
    """The command line with what follows from it. Raises InvalidSettings for additions that would be ignored."""
    overrides, flags = apart([_with_plus(_without_plus(argument)) for argument in typed])
    _refuse_two_purposes(flags)
    overrides = [*_with_model(overrides, sweeping=sweeps(flags)), *_data_group(overrides)]
    argv = [*overrides, *flags, *_resolve_flag(flags)]  # Hydra can't have flags between overrides
    if any(refusal(override) for override in overrides):
        raise InvalidSettings(tuple(problems_of(argv)))
    return argv


def _refuse_two_purposes(flags: Sequence[str]) -> None:
    """Hydra would end in a traceback."""
    purposes = [flag for flag in flags if flag.partition("=")[0] in PURPOSES]
    if len(purposes) > 1:
        reason = "a command either sweeps or shows the configuration"
        raise InvalidSettings((Problem("command line", " ".join(purposes), reason, f"leave {purposes[0]} out"),))


def command_line(typed: Sequence[str], job_overrides: Sequence[str] | None) -> str:
    """What to type to repeat the run; for a job of a sweep with this job's own overrides."""
    if job_overrides is None:
        return shlex.join(["python", "run.py", *typed])
    flags, _ = split(typed)
    return shlex.join(["python", "run.py", *flags, *job_overrides])


def existing_run_dir(typed: Sequence[str]) -> Path | None:
    """The run directory that the command line names, where it is there already."""
    for argument in typed:
        if argument.lstrip("+").startswith("hydra.run.dir="):
            path = Path(value_of(argument)).absolute()
            return path if path.exists() else None
    return None


def remove_if_unused(run_dir: Path) -> None:
    """Removes a run directory that holds nothing but what Hydra put there, and its day's folder if that is empty."""
    if not run_dir.is_dir() or {entry.name for entry in run_dir.iterdir()} - {".hydra", "run.lock"}:
        return
    shutil.rmtree(run_dir)
    if re.fullmatch(r"\d{4}-\d\d-\d\d", run_dir.parent.name) and not any(run_dir.parent.iterdir()):
        run_dir.parent.rmdir()


def _without_plus(argument: str) -> str:
    """People who know Hydra type +experiment=name; every group here is in the defaults list already."""
    group = argument.lstrip("+").partition("=")[0]
    return argument.lstrip("+") if argument.startswith("+") and group in groups() else argument


def _with_plus(argument: str) -> str:
    """What is passed on by another program's names is always new to Hydra."""
    return f"++{argument}" if argument.startswith(PASSED_ON) else argument


def _data_group(argv: Sequence[str]) -> list[str]:
    return ["data=folder"] if "data.dir" in keys(argv) and "data" not in keys(argv) else []


def _with_model(overrides: Sequence[str], *, sweeping: bool) -> list[str]:
    """A model's path without its family, or with model=auto: the header decides. What can't be told is left to
    `validate`. Raises InvalidSettings for a sweep over models of several families: one choice is made for all jobs."""
    if "model.path" not in keys(overrides) or chosen("model", overrides) not in (None, "auto"):
        return list(overrides)
    path = f"model.path={chosen('model.path', overrides)}"
    paths = [value_of(choice) for choice in sweep_choices(path, sweeping=sweeping)]
    models = {each: _model_of(Path(each)) or "auto" for each in paths}
    if len(set(models.values())) > 1:
        told = ", ".join(f"{each} is model={model}" for each, model in models.items())
        reason = f"one sweep has one model for all its jobs, and {told}"
        raise InvalidSettings((Problem("model.path", ",".join(paths), reason, "a sweep for each model"),))
    others = (override for override in overrides if override.lstrip("+") != "model=auto")
    return [*others, f"model={models[paths[-1]]}"]


def _model_of(path: Path) -> str | None:
    """The option of the group `model` that the header shows."""
    from pipeline.checkpoint.identify import identify

    try:
        return identify(path).model
    except UnreadableFile:
        return None


def _resolve_flag(argv: Sequence[str]) -> list[str]:
    """`--cfg job` shows values, not where they are taken from."""
    pairs = set(pairwise(argv))
    shows_job = any((flag, "job") in pairs for flag in ("--cfg", "-c")) or "--cfg=job" in argv
    return ["--resolve"] if shows_job and "--resolve" not in argv else []
