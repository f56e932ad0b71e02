"""The learning rate in the form in which recipes can be compared, and the bands that they lie in."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from pipeline.optimizer.catalog import asked_for
from pipeline.records import ComparableRate
from pipeline.settings import Algorithm, Network, RateMeaning, Settings

LIKE_LORA = {Algorithm.lora, Algorithm.locon, Algorithm.dora, Algorithm.dylora, Algorithm.tlora}
"""The algorithms whose recipes the bands are made of; alpha / rank means something else, or nothing, to the others."""
ANY_FINETUNE = (1e-7, 5e-5)
"""Of AdamW's rates; where a family has too few recipes for a band of its own."""
ROUNDING = 1e-9
"""Rates that are the end of a band in decimal may lie beside it in binary."""


def comparable_rate(settings: Settings) -> ComparableRate | None:
    """lr x alpha / rank of an adapter, lr of a finetune, each as AdamW would need it. Under Adam an adapter's first
    steps are in proportion to it (what it adds is alpha / rank x B A; rsLoRA, arXiv 2312.03732, has the root of the
    rank there), so that it is what recipes with other ranks and alphas share. None where nothing can be said: of an
    optimizer that finds its own rate or is not known, and of algorithms to which alpha / rank is something else."""
    network, times = settings.network, _times_adamws(settings)
    if times is None or (network is not None and network.algo not in LIKE_LORA):
        return None
    factor = (1.0 if network is None else _scale(network)) / times
    low, high = _band(settings)
    return ComparableRate(
        value=settings.optimizer.lr * factor, factor=factor, low=low, high=high, made_of=_made_of(settings, times)
    )


def rate_warnings(settings: Settings) -> Iterator[str]:
    """A rate that most recipes for the model do not have, and one that they have."""
    rate = comparable_rate(settings)
    if rate is None or rate.low * (1 - ROUNDING) <= rate.value <= rate.high * (1 + ROUNDING):
        return
    what = "finetunes of" if settings.network is None else "recipes for"
    yield (
        f"{rate.made_of} = {rate.value:.2g} lies outside of what most {what} {settings.model.known.title} use,"
        f" {rate.low:g} to {rate.high:g}; try optimizer.lr={_rounded(rate.low / rate.factor, math.ceil)}"
        f" to {_rounded(rate.high / rate.factor, math.floor)}"
    )


def _times_adamws(settings: Settings) -> float | None:
    known = asked_for(settings.optimizer).known
    return None if known is None or known.rate is not RateMeaning.rate else known.times_adamws


def _scale(network: Network) -> float:
    return network.alpha / (math.sqrt(network.rank) if network.args.get("rs_lora") else network.rank)


def _band(settings: Settings) -> tuple[float, float]:
    rates = settings.model.known.learning_rates
    if settings.network is not None:
        return rates.lora_low, rates.lora_high
    if rates.finetune_low is None or rates.finetune_high is None:
        return ANY_FINETUNE
    return rates.finetune_low, rates.finetune_high


def _made_of(settings: Settings, times: float) -> str:
    """As a formula with its numbers."""
    network, words = settings.network, f"optimizer.lr={settings.optimizer.lr:g}"
    if network is not None:
        rank = f"root of {network.rank}" if network.args.get("rs_lora") else str(network.rank)
        words += f" x network.alpha={network.alpha:g} / network.rank={rank}"
    return words if times == 1 else f"{words} / {times:g} of AdamW's rate"


def _rounded(value: float, towards: Callable[[float], int]) -> str:
    """To three digits, into the band."""
    places = 2 - math.floor(math.log10(value))
    return f"{towards(round(value * 10**places, 6)) / 10**places:g}"
