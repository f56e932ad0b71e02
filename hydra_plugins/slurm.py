"""What Hydra finds by itself: what `launch=slurm` makes of hydra-submitit-launcher, which is an extra.

Hydra runs this file at every start, without entering it among the modules, so that annotations can't be postponed. What
it needs is imported when a sweep begins.
"""

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class SlurmTrialsLauncher(Launcher):
    """Submits, waits, and tells every trial that failed: Hydra by itself leaves at the first."""

    def __init__(self, **params: Any) -> None:
        """`params` are hydra-submitit-launcher's, `hydra.launcher.*`."""
        self.params = params

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra."""
        from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher  # type: ignore[import-not-found, unused-ignore]

        self.jobs = SlurmLauncher(**self.params)
        self.jobs.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Called by Hydra with a grid. Raises SweepFailed when trials failed, after the last has ended."""
        from pipeline.slurm import raise_failures

        returns: Sequence[JobReturn] = self.jobs.launch(job_overrides, initial_job_idx)
        raise_failures(returns, initial_job_idx)
        return returns
