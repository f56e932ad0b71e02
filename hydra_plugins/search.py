"""What Hydra finds by itself: the sweeper that searches, `hydra/sweeper=search`.

Hydra runs this file at every start, without entering it among the modules, so that annotations can't be postponed. What
it needs is imported when a sweep begins.
"""

from dataclasses import dataclass
from typing import Any, Dict, List, Optional  # noqa: UP035 (as OmegaConf reads them)

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class SearchConf:
    """Its settings, `hydra.sweeper.*`."""

    _target_: str = "hydra_plugins.search.SearchSweeper"
    trials: int = 20
    """How many there will be, those of an earlier start of the same sweep included."""
    method: str = "tpe"
    """tpe: learns from the trials before; random: does not."""
    seed: int = 0
    """Of what is tried."""
    startup_trials: int = 6
    """The first so many are drawn at random."""
    params: Optional[Dict[str, str]] = None  # noqa: UP006
    """Axes, as they would be typed: for files of whole examples."""


ConfigStore.instance().store(group="hydra/sweeper", name="search", node=SearchConf, provider="lora_easy_pipeline")


class SearchSweeper(Sweeper):
    """Draws each trial from the axes, learning from those before."""

    def __init__(
        self,
        trials: int,
        method: str,
        seed: int,
        startup_trials: int,
        params: Optional[Dict[str, str]],  # noqa: UP006
    ) -> None:
        self.trials, self.method, self.seed, self.startup_trials = trials, method, seed, startup_trials
        self.params = dict(params or {})

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra."""
        self.config, self.hydra_context = config, hydra_context

    def sweep(self, arguments: List[str]) -> Any:  # noqa: UP006
        """Called by Hydra with all that was typed. Raises SweepFailed when trials failed."""
        from pipeline.sweep.launch import SearchSettings, launch_search

        typed = {each.lstrip("+").partition("=")[0] for each in arguments}
        axes = [f"{key}={value}" for key, value in self.params.items() if key not in typed]
        search = SearchSettings(self.trials, self.method, self.seed, self.startup_trials)
        launch_search(self.config, self.hydra_context.config_loader, [*axes, *arguments], search)
