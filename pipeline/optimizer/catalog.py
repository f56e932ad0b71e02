"""What is known of optimizers: the files of `conf/optimizer`, read as they stand there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from pipeline.settings import PROJECT, KnownOptimizer, Optimizer, RateMeaning, Scheduler

OPTIMIZERS = PROJECT / "conf" / "optimizer"
AUTO, AUTO_IS = "auto", "adamw"
"""The option that the profile decides on, and the memory profile; and what it is called where its class is replaced by
one that no option is for."""


@dataclass(frozen=True, slots=True)
class Option:
    """An optimizer with its arguments: an option of the group, or a class that was named by its import path."""

    name: str
    """The option; for a class that no option is for, its import path."""
    target: str
    args: Mapping[str, Any]
    falls_back_to: str | None
    known: KnownOptimizer | None
    """None: nothing is known of the class."""

    @property
    def class_name(self) -> str:
        return self.target.rpartition(".")[2]

    @property
    def package(self) -> str:
        """The top-level module."""
        return self.target.partition(".")[0]

    @property
    def distribution(self) -> str:
        """What pip calls the package; a guess for a class that nothing is known of."""
        return (self.known and self.known.package) or self.package.replace("_", "-")


@cache
def options() -> Mapping[str, Option]:
    """Every option of the group that is an optimizer, by name; auto takes one of them."""
    written = (yaml.safe_load(file.read_text(encoding="utf-8")) for file in sorted(OPTIMIZERS.glob("*.yaml")))
    return {each["name"]: _option(each) for each in written if "target" in each}


def _option(written: Mapping[str, Any]) -> Option:
    known = dict(written["known"])
    known |= {"rate": RateMeaning(known["rate"]), "schedulers": [Scheduler(name) for name in known["schedulers"]]}
    return Option(
        written["name"], written["target"], written["args"], written["falls_back_to"], KnownOptimizer(**known)
    )


def asked_for(optimizer: Optimizer) -> Option:
    """What the settings ask for. Facts are those of the class: `optimizer.target=...` leaves its option's behind."""
    name = behind_auto(optimizer) if optimizer.name == AUTO else optimizer.name
    own = options().get(name)
    if own is None or own.target == optimizer.target:  # None: a file of the user's, with facts of its own
        return Option(name, optimizer.target, optimizer.args, optimizer.falls_back_to, optimizer.known)
    same = next((option for option in options().values() if option.target == optimizer.target), None)
    if same is None:
        return Option(optimizer.target, optimizer.target, optimizer.args, None, None)
    return Option(same.name, same.target, optimizer.args, same.falls_back_to, same.known)


def behind_auto(optimizer: Optimizer) -> str:
    """The option that optimizer=auto is, by its class and facts: one whose target was typed has another's facts."""
    same = (each for each in options().values() if (each.target, each.known) == (optimizer.target, optimizer.known))
    return next((option.name for option in same), AUTO_IS)


def in_8_bits(name: str) -> Option | None:
    """The option that does the same to the weights with a state in 8 bits on the device, and falls back to this one."""
    small = (option for option in options().values() if option.falls_back_to == name and is_in_8_bits(option))
    return next((option for option in small if option.known is not None and not option.known.paged), None)


def is_in_8_bits(option: Option) -> bool:
    return option.known is not None and option.known.twin is not None


def packages_of(optimizer: Optimizer) -> set[str]:
    """Top-level modules that the settings may lead to."""
    small = in_8_bits(behind_auto(optimizer)) if optimizer.name == AUTO else None
    return {option.package for option in chain_of(optimizer)} | ({small.package} if small else set())


def chain_of(optimizer: Optimizer) -> tuple[Option, ...]:
    """What the settings ask for, and all that could take its place, one after the other."""
    option: Option | None = asked_for(optimizer)
    chain: dict[str, Option] = {}
    while option is not None and option.name not in chain:
        chain[option.name] = option
        option = options().get(option.falls_back_to or "")
    return tuple(chain.values())
