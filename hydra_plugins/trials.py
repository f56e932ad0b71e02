"""What Hydra finds by itself: the launcher of sweeps on this machine, `hydra/launcher=trials`.

Hydra runs this file at every start, without entering it among the modules, so that annotations can't be postponed. What
it needs is imported when a sweep begins.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class TrialsConf:
    """Its settings, `hydra.launcher.*`."""

    _target_: str = "hydra_plugins.trials.TrialsLauncher"
    at_once: Optional[int] = None
    """Trials at once, a card or a share of the cores each; null: one a card, and one on a CPU."""
    prune: bool = False
    """End trials early that are clearly behind the others at the same step."""


ConfigStore.instance().store(group="hydra/launcher", name="trials", node=TrialsConf, provider="lora_easy_pipeline")


class TrialsLauncher(Launcher):
    """Runs each trial as a process of its own."""

    def __init__(self, at_once: int | None, prune: bool) -> None:
        self.at_once = at_once
        self.prune = prune

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra. What a trial does is the whole of run.py, in another process."""
        self.config, self.loader = config, hydra_context.config_loader
        self.in_this_process = BasicLauncher()
        self.in_this_process.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Called by Hydra with a grid. Raises SweepFailed when trials failed, after the last has ended."""
        from pipeline.sweep.launch import launch_grid

        if self.config.until.name != "log" or self.config.explain:  # nothing is trained: there is nothing to keep apart
            return self.in_this_process.launch(job_overrides, initial_job_idx)
        launch_grid(self.config, self.loader, job_overrides, initial_job_idx, at_once=self.at_once, prune=self.prune)
        return []
