"""The axes of a search, from Hydra's overrides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from pipeline.errors import InvalidSettings, Problem


def axes_of(overrides: Sequence[Any]) -> tuple[dict[str, BaseDistribution], list[str]]:
    """Axes of Hydra's parsed overrides, and those that are told to all trials: of `key=a,b` and choice(...) one is
    drawn, range(...) and interval(...) are searched; tag(log, ...) on a logarithmic scale."""
    axes: dict[str, BaseDistribution] = {}
    shared: list[str] = []
    for each in overrides:
        key = each.get_key_element()
        if each.is_sweep_override():
            axes[key] = _axis(each)
        else:
            shared.append(f"{key}={each.get_value_element_as_str()}")
    if not axes:
        reason = "a search needs something to vary"
        fix = "'optimizer.lr=tag(log, interval(1e-5, 1e-3))'"
        raise InvalidSettings((Problem("hydra/sweeper", "search", reason, fix),))
    return axes, shared


def _axis(override: Any) -> BaseDistribution:
    from hydra.core.override_parser.types import IntervalSweep, RangeSweep

    value = override.value()
    is_log = "log" in getattr(value, "tags", ())
    if isinstance(value, IntervalSweep):
        assert value.start is not None and value.end is not None
        if isinstance(value.start, int) and isinstance(value.end, int):
            return IntDistribution(value.start, value.end, log=is_log)
        return FloatDistribution(float(value.start), float(value.end), log=is_log)
    if isinstance(value, RangeSweep) and all(isinstance(each, int) for each in value.range()):
        steps = list(value.range())
        return IntDistribution(int(steps[0]), int(steps[-1]), step=int(value.step))
    return CategoricalDistribution([str(each) for each in override.sweep_string_iterator()])
