"""The one command: composes the configuration and runs the stages.   python run.py profile=style hardware=auto"""

from __future__ import annotations

import os
import shlex
import signal
import sys
from pathlib import Path
from typing import NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from pipeline import composition, mistakes, settings
from pipeline.errors import RunError, Stopped
from pipeline.origins import origins_of
from pipeline.signals import TIME_IS_UP
from pipeline.tracking.credentials import without_password

TYPED = tuple(sys.argv[1:])
"""The command line as it was typed: sys.argv is completed before Hydra reads it."""

KEPT_DIR = composition.existing_run_dir(TYPED)
"""A run directory that was there before this command, which is never removed."""

IS_TRIAL = bool(os.environ.pop("LORA_EASY_TRIAL", ""))
"""A sweep of this machine started it, and tells of it."""

FULL_ERRORS = os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0")
"""The user wants tracebacks, as everywhere with Hydra."""

failed_jobs: list[str] = []


@hydra.main(config_path="conf", config_name="config", version_base="1.3")
def main(config: DictConfig) -> None:
    from pipeline import runner

    job = HydraConfig.get()
    in_sweep = job.mode is RunMode.MULTIRUN
    is_trial = in_sweep or IS_TRIAL
    command = composition.command_line(TYPED, tuple(job.overrides.task) if is_trial else None)
    run_dir = Path(job.runtime.output_dir)
    if in_sweep:
        sys.stdout.write(f"\njob {job.job.num}: {shlex.join(job.overrides.task)}\n")
        sys.stdout.flush()
    try:
        asked = without_password(settings.from_config(config))
        origins = origins_of(composition.made_of(config, job, TYPED), asked)
        ending = runner.run(asked, run_dir, command=command, origins=origins, once=is_trial)
        if ending is not None and ending.error is not None:
            raise ending.error
    except Stopped as stopped:
        _leave_stopped(stopped)
    except RunError as error:
        if not in_sweep and not FULL_ERRORS:
            _leave(str(error), 1)
        if in_sweep:  # told now: Hydra says it only after the last job
            failed_jobs.append(f"job {job.job.num} failed: {str(error).splitlines()[0]}")
            sys.stderr.write(f"{error}\n")
        raise CompactHydraException(str(error)) from error
    finally:
        if run_dir != KEPT_DIR:
            composition.remove_if_unused(run_dir)


def start() -> None:
    """Runs `main` so that every mistake of the user's ends with a plain message and exit code 1."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing a traceback and exiting
    signal.signal(signal.SIGTERM, lambda *_: _leave("Stopped.", 128 + signal.SIGTERM))
    settings.register()
    composition.register()
    try:
        sys.argv[1:] = composition.complete(TYPED)
        main()
    except KeyboardInterrupt:
        _leave("Stopped.", 128 + signal.SIGINT)
    except Stopped as stopped:
        _leave(str(stopped), stopped.exit_code)
    except mistakes.ERRORS as error:
        message = "\n".join(failed_jobs) or mistakes.explain(error, sys.argv[1:])
        if FULL_ERRORS or message is None:
            raise
        _leave(message, 1)


def _leave_stopped(stopped: Stopped) -> NoReturn:
    if stopped.exit_code == 128 + TIME_IS_UP:  # its checkpoint is there: submitit puts the job into the queue again
        signal.raise_signal(TIME_IS_UP)
    _leave(str(stopped), stopped.exit_code)


def _leave(message: str, exit_code: int) -> NoReturn:
    sys.stderr.write(f"{message}\n")
    raise SystemExit(exit_code)


if __name__ == "__main__":
    start()
