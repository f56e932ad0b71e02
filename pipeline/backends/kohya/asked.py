"""What is asked of a script of sd-scripts, in its own words, before any of it is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.backends.kohya.arguments import Parser
from pipeline.records import Predicted
from pipeline.settings import Settings


@dataclass(frozen=True, slots=True)
class Asked:
    """Everything that decides whether a line has the effect that it says."""

    settings: Settings
    parser: Parser
    """Of the script that trains: the checkout's own, or that of the audited version."""
    is_lora: bool
    """An adapter is trained; else a whole checkpoint."""
    values: Mapping[str, object]
    """Argument -> value: what train.toml and the dataset's file will say, `backend.args` among it."""
    network_args: Mapping[str, object]
    """The network module's own arguments; empty for a checkpoint."""
    predicts: Predicted
    keys: Mapping[str, str]
    """Argument -> the setting that writes it."""

    def value(self, name: str) -> object:
        """As the script will have it: what is written, else its own default; None for what it does not have."""
        if name in self.values:
            return self.values[name]
        argument = self.parser.arguments.get(name)
        return None if argument is None else argument.default

    def key(self, name: str) -> str:
        """The setting to change."""
        return self.keys.get(name, f"backend.args.{name}")
