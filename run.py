"""The one command: composes the configuration and runs the stages.   python run.py profile=style hardware=auto"""

from __future__ import annotations

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from omegaconf import DictConfig

from pipeline import runner, settings
from pipeline.errors import RunError


@hydra.main(config_path="conf", config_name="config", version_base="1.3")
def main(config: DictConfig) -> None:
    try:
        run_dir = Path(HydraConfig.get().runtime.output_dir)
        runner.run(settings.from_config(config), run_dir)
    except RunError as error:
        raise CompactHydraException(str(error)) from error


if __name__ == "__main__":
    settings.register()
    sys.exit(main())
